//! The real app in this process, on a clock that the test moves.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::app::{App, AppError, Problem, Running};
use crate::config::Config;
use crate::engine::memory::Memory;
use crate::engine::{DeadLetter, DeadQuery, Engine, EngineError};
use crate::handler::{Registered, Source};
use crate::name::{Name, Place};
use crate::producer::Producer;
use crate::time::{Clock, WallTime, hours, millis};

use super::handled::{Handled, SeenState};
use super::ledger::{Ledger, Observer, What};
use super::observed::Observed;

/// Nothing happened while every task of the runtime had so many turns: then nothing happens before the clock moves.
const CALM: usize = 64;
/// 1 January 2030: where the clock of a test begins, unless it says another time.
const BEGINNING: WallTime = WallTime::from_millis(1_893_456_000_000);

/// An app for a test: everything on one engine in memory, whatever its configuration says of servers, and on a clock that moves only
/// when the test moves it.
///
/// Make it from the same [`App`] that the program runs, so that state, middleware and hooks are the real ones, or fakes where the test
/// wants them. Needs the feature `testing` and a runtime of one thread, as `#[tokio::test]` makes it.
///
/// ```
/// use go_queue::prelude::*;
/// use go_queue::testing::TestApp;
///
/// #[kq_handler(topic = "orders", group = "billing")]
/// async fn charge(order: u32, producer: Producer) -> Result<(), go_queue::engine::PublishError> {
///     remind::delay(order, minutes(15)).send(&producer).await?;
///     Ok(())
/// }
///
/// #[dq_handler(tube = "reminders")]
/// async fn remind(order: u32) {
///     let _ = order;
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let app = TestApp::new(App::new().handlers(handlers![charge, remind])).start().await?;
/// charge::push(7).send(app.producer()).await?;
/// app.run_due().await;
/// app.of::<charge>().assert_done(1);
/// assert_eq!(app.of::<remind>().only().due_in(), minutes(15));
/// app.of::<remind>().assert_pending(1);
///
/// app.advance(minutes(15)).await;
/// app.of::<remind>().assert_done(1);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing runs until `.start().await`"]
#[derive(Debug)]
pub struct TestApp {
    app: App,
    yaml: Option<String>,
    began: WallTime,
    patience: Duration,
}

impl TestApp {
    /// This app. Its engines, its clock and the file that it would find are replaced; a configuration that it was given is kept.
    pub fn new(app: App) -> Self {
        Self {
            app,
            yaml: None,
            began: BEGINNING,
            patience: millis(200),
        }
    }

    /// This configuration instead of its own. `${VAR}` is filled in from the environment.
    pub fn config(mut self, yaml: impl Into<String>) -> Self {
        self.yaml = Some(yaml.into());
        self
    }

    /// Where the clock begins; otherwise at the first moment of 2030. The same at every run, so that a test cannot depend on the day.
    ///
    /// # Panics
    /// Outside of the years 1677 to 2262.
    pub fn starts_at(mut self, time: SystemTime) -> Self {
        self.began =
            WallTime::from_system(time).expect("the time is within the years 1677 to 2262");
        self
    }

    /// How long, in real time, a handler may take for one step of something outside of this process, such as a query, before the kit
    /// takes it to be waiting for the clock. 200 ms.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts it, and stops tokio's clock if the test has not. Retries wait as long at every run: their jitter begins with the same seed.
    ///
    /// # Errors
    /// As [`App::start`]: every problem of the set-up, which a test may want to see too. A runtime of several threads is one, because its
    /// clock cannot be stopped.
    ///
    /// # Cancel safety
    /// Dropping the future starts nothing that stays.
    pub async fn start(self) -> Result<TestRun, AppError> {
        let problem = |problem: Problem| AppError::Setup(vec![problem]);
        if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
            return Err(problem(
                Problem::new("a test app needs a runtime of one thread: the clock of others cannot be stopped")
                    .remedy("write `#[tokio::test]` without `flavor = \"multi_thread\"`"),
            ));
        }
        if !clock_is_stopped() {
            tokio::time::pause();
        }
        align_clock().await;
        fastrand::seed(1);
        let config = match &self.yaml {
            Some(yaml) => {
                let read = Config::from_yaml(yaml, "test.yaml", &|name| std::env::var(name).ok());
                let problems = |error: &_| Problem::new(ToString::to_string(error));
                Some(read.map_err(|errors| AppError::Setup(errors.iter().map(problems).collect()))?)
            }
            None => None,
        };
        let clock = Clock::following_tokio(self.began);
        let ledger = Ledger::new(clock.clone());
        let observer = Arc::new(Observer(Arc::clone(&ledger)));
        let mut made = None;
        let app = self
            .app
            .rehearse(clock.clone(), config, observer, |config| {
                let engine = Observed::new(Memory::with(config), Arc::clone(&ledger));
                made = Some(engine.clone());
                Arc::new(engine)
            })?;
        let engine = made.ok_or_else(|| problem(Problem::new("the app was given no engine")))?;
        let running = app.start().await?;
        Ok(TestRun {
            producer: running.producer(),
            running,
            engine,
            ledger,
            clock,
            patience: self.patience,
        })
    }
}

/// Whether tokio's clock is paused. Tokio does not say; a clock that goes has gone on after a moment.
#[expect(
    clippy::disallowed_methods,
    reason = "the question is whether tokio's clock is another one than this"
)]
fn clock_is_stopped() -> bool {
    let (began, real) = (Instant::now(), std::time::Instant::now());
    while real.elapsed() < Duration::from_micros(200) {
        std::hint::spin_loop();
    }
    Instant::now() == began
}

/// Moves the paused clock to where tokio's timers tick, once a millisecond, so that whatever is measured by it comes out exact.
async fn align_clock() {
    const TICK: u64 = 1_000_000;
    // The largest sleep that ends with the next tick is as long as the way to it. The clock jumps by whole ticks: by one if the next
    // tick is not before the end of the sleep, else by two.
    let (mut low, mut high) = (0, TICK);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let began = Instant::now();
        tokio::time::sleep(Duration::from_nanos(middle)).await;
        if began.elapsed() > Duration::from_nanos(TICK) {
            high = middle - 1;
        } else {
            low = middle;
        }
    }
    tokio::time::advance(Duration::from_nanos(low)).await;
}

/// A running [`TestApp`]. Dropping it ends its handlers where they stand.
///
/// Tokio's clock stands still while handlers work. Between the calls of this type, tokio's own rule holds: if the test itself waits for a
/// timer, the clock jumps to it.
pub struct TestRun {
    producer: Producer,
    running: Running,
    engine: Observed,
    ledger: Arc<Ledger>,
    clock: Clock,
    patience: Duration,
}

impl fmt::Debug for TestRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestRun")
            .field("now", &self.clock.now())
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl TestRun {
    /// The producer of the app.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// The app itself: whether it is [ready](Running::ready), what its handlers are doing.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The time of the test.
    pub fn now(&self) -> SystemTime {
        self.clock.now().to_system()
    }

    /// The clock, for code that takes one.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Runs everything that is due now, and what follows from it, until nothing more happens without the clock. The clock does not
    /// move: a batch that is not full waits for its `linger`, a failed message for its back-off, a handler that sleeps for its timer.
    ///
    /// # Cancel safety
    /// The app goes on.
    pub async fn run_due(&self) {
        let mut changes = self.ledger.changes();
        let mut waited = Duration::ZERO;
        loop {
            let mut calm = 0;
            while calm < CALM {
                yield_now().await;
                calm += 1;
                if changes.has_changed().unwrap_or(false) {
                    changes.mark_unchanged();
                    (calm, waited) = (0, Duration::ZERO);
                }
            }
            if !self.is_busy() || waited >= self.patience {
                return;
            }
            // Somebody waits for something outside: real time passes, and while this thread is out tokio's clock stands.
            let pause = millis(1);
            outside(pause).await;
            waited += pause;
        }
    }

    /// Moves the clock. Everything that is due on the way runs at its time, in order, and what follows from it; at the end nothing is
    /// left to run that is due.
    ///
    /// # Cancel safety
    /// The clock stays where it has come to.
    pub async fn advance(&self, by: Duration) {
        self.run_due().await;
        let until = Instant::now() + by;
        let mut changes = self.ledger.changes();
        loop {
            changes.mark_unchanged();
            tokio::select! {
                // What happens at the end of the way has happened on the way.
                biased;
                _ = changes.changed() => self.run_due().await,
                () = sleep_until(until) => break,
            }
        }
        self.run_due().await;
    }

    fn is_busy(&self) -> bool {
        self.ledger.running() > 0 || self.running.handlers().iter().any(|one| one.running > 0)
    }

    /// What this handler was sent, and what it did: `app.of::<charge>()`. Also for a handler that the app does not serve.
    pub fn of<H: Registered>(&self) -> Handled {
        let def = H::DEF;
        let mut served = self.engine.served_by(def.name);
        served.retain(|(place, _)| def.source.names().contains(&place.name().as_str()));
        if served.is_empty() {
            served = places(&def.source);
        }
        Handled::new(format!("`{}`", def.name), &self.ledger, &served, def.when)
    }

    /// What was sent to a tube, whoever serves it.
    ///
    /// # Panics
    /// If this is not a name.
    pub fn tube(&self, name: &str) -> Handled {
        let place = Place::Tube(Name::new(name).expect("it is the name of a tube"));
        Handled::new(place.to_string(), &self.ledger, &[(place, None)], None)
    }

    /// What was pushed to a topic, whoever reads it.
    ///
    /// # Panics
    /// If this is not a name.
    pub fn topic(&self, name: &str) -> Handled {
        let place = Place::Topic(Name::new(name).expect("it is the name of a topic"));
        Handled::new(place.to_string(), &self.ledger, &[(place, None)], None)
    }

    /// Delivers once more everything that is done, as it was, and runs it: as if the engine had not heard that it is done. This is what
    /// at-least-once means, so a handler should leave the world as it is the second time. Answers how many messages.
    ///
    /// # Cancel safety
    /// The app goes on.
    pub async fn redeliver_all(&self) -> usize {
        let count = self.engine.redeliver_all();
        self.run_due().await;
        count
    }

    /// The worker dies when the `runs`th run from now has ended, before the engine hears of it: what it had in hand is lost and is
    /// delivered again, that run too, as to another worker. Runs that wait for something are told to stop ([`Cancel`]) and dropped.
    ///
    /// [`Cancel`]: crate::handler::extract::Cancel
    pub fn crash_after(&self, runs: usize) {
        self.engine.die_after(runs);
    }

    /// For so long the engine accepts nothing, delivers nothing and hears nothing: sending fails with
    /// [`PublishError::Unavailable`](crate::engine::PublishError::Unavailable), and the app is not [ready](Running::ready).
    pub fn engine_down(&self, time: Duration) {
        self.engine.down_for(time);
    }

    /// The dead letters, oldest first.
    ///
    /// # Errors
    /// If they cannot be listed.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, EngineError> {
        match self.engine.dead_letters() {
            Some(letters) => letters.list(DeadQuery::default()).await,
            None => Ok(Vec::new()),
        }
    }

    /// Makes all dead letters deliverable again, as an operator would after the cause is mended, and runs them. Answers how many.
    ///
    /// # Errors
    /// If they cannot be listed or replayed.
    ///
    /// # Cancel safety
    /// They may or may not have been replayed.
    pub async fn replay_dead_letters(&self) -> Result<usize, EngineError> {
        let letters = self.dead_letters().await?;
        let cursors = letters.iter().map(|letter| letter.cursor).collect();
        for letter in &letters {
            let (place, group) = (&letter.place, letter.group.as_ref());
            self.ledger.note_id(place, group, letter.id, What::Replayed);
        }
        let count = match self.engine.dead_letters() {
            Some(engine) => engine.replay(cursors).await?,
            None => 0,
        };
        self.run_due().await;
        Ok(count)
    }

    /// Asserts that every message that was sent is done, and that nothing waits, runs, or is among the dead letters.
    ///
    /// # Panics
    /// If not, with the history of each message that is not done.
    #[track_caller]
    pub fn assert_all_done(&self) {
        let mut open: Vec<String> = Vec::new();
        for handler in self.running.handlers() {
            for (place, group) in self.engine.served_by(&handler.handler) {
                let view = Handled::new(String::new(), &self.ledger, &[(place, group)], None);
                let of_it = view.messages().into_iter().filter(|seen| {
                    !matches!(
                        seen.state(),
                        SeenState::Done | SeenState::Skipped | SeenState::Revoked
                    )
                });
                open.extend(of_it.map(|seen| seen.to_string()));
            }
        }
        assert!(
            open.is_empty(),
            "{} not done (what waits for time, a retry or a sleep in a handler, goes on with `advance`):\n{}",
            if open.len() == 1 {
                "1 message is".to_owned()
            } else {
                format!("{} messages are", open.len())
            },
            open.join("\n")
        );
    }

    /// Stops the app in order, as a signal would: what runs has an hour of the test's time to finish.
    ///
    /// # Errors
    /// As [`Running::stop`].
    ///
    /// # Cancel safety
    /// As [`Running::stop`].
    pub async fn stop(self) -> Result<(), AppError> {
        self.running.stop(hours(1)).await
    }
}

/// The places that a handler names.
fn places(source: &Source) -> Vec<(Place, Option<Name>)> {
    let names = source
        .names()
        .iter()
        .filter_map(|name| Name::new(name).ok());
    let place = |name| match source {
        Source::Tube(_) => Place::Tube(name),
        Source::Topics { .. } => Place::Topic(name),
    };
    names.map(|name| (place(name), None)).collect()
}

/// Lets real time pass.
#[expect(
    clippy::disallowed_methods,
    reason = "tokio's clock does not move by itself while a blocking task runs, which is what this is for"
)]
async fn outside(pause: Duration) {
    let _ = tokio::task::spawn_blocking(move || std::thread::sleep(pause)).await;
}
