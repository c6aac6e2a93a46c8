//! A running app: its subscriptions, and how they stop: quiet, drain, abort.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::engine::{EngineError, HealthState};
use crate::pipeline::{Control, Counts, LaneStatus, Pump};
use crate::producer::Producer;
use crate::time::{Clock, WallTime};

use super::report::AppError;
use super::watch::Watch;
use super::wiring::Opened;

/// After abort the lanes have so long to hand back what they have.
const ABORT_BOUND: Duration = Duration::from_secs(5);
/// For so long nothing may happen before an app counts as idle.
const IDLE_FOR: Duration = Duration::from_secs(1);
/// How often the idle watch looks.
const IDLE_TICK: Duration = Duration::from_millis(50);

/// Something that runs when the app has stopped.
pub(super) type StopHook = Box<dyn FnOnce() -> crate::engine::BoxFuture<'static, ()> + Send>;

/// An app that runs. Dropping it drops its handlers where they stand; the engines redeliver what they had.
pub struct Running {
    producer: Producer,
    control: Arc<Control>,
    subscriptions: Vec<Subscribed>,
    lanes: JoinSet<(usize, Result<(), EngineError>)>,
    opened: Opened,
    clock: Clock,
    /// Behind a lock that nobody waits for, so that an app can be shared by threads though a hook cannot.
    stop_hooks: Mutex<Vec<StopHook>>,
    failure: Option<AppError>,
    watch: Watch,
    /// Lanes whose handler did not let its thread go when the app stopped.
    stuck: usize,
}

/// One subscription of a running app.
#[derive(Debug)]
struct Subscribed {
    handler: Arc<str>,
    source: Arc<str>,
    lanes: Vec<Arc<LaneStatus>>,
}

/// What one handler of a running app is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HandlerStatus {
    /// The handler's name.
    pub handler: Arc<str>,
    /// Its tube or topic.
    pub source: Arc<str>,
    /// Runs under way.
    pub running: usize,
    /// Messages in hand, running and waiting.
    pub in_hand: usize,
    /// What was counted since the start, over all lanes.
    pub counts: Counts,
    /// Why it is not served, if it is not.
    pub down: Option<Arc<str>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("subscriptions", &self.subscriptions)
            .field("phase", &self.control.phase())
            .finish_non_exhaustive()
    }
}

impl Running {
    pub(super) fn new(
        producer: Producer,
        opened: Opened,
        clock: Clock,
        stop_hooks: Vec<StopHook>,
    ) -> Self {
        Self {
            producer,
            control: Control::new(),
            subscriptions: Vec::new(),
            lanes: JoinSet::new(),
            opened,
            clock,
            stop_hooks: Mutex::new(stop_hooks),
            stuck: 0,
            failure: None,
            watch: Watch::begin(),
        }
    }

    pub(super) fn control(&self) -> Arc<Control> {
        self.control.clone()
    }

    /// Starts the lanes of one subscription.
    pub(super) fn serve(&mut self, handler: Arc<str>, source: Arc<str>, pumps: Vec<Pump>) {
        let index = self.subscriptions.len();
        let lanes: Vec<_> = pumps.iter().map(Pump::status).collect();
        for lane in &lanes {
            self.watch.add(handler.clone(), lane.clone());
        }
        self.subscriptions.push(Subscribed {
            handler,
            source,
            lanes,
        });
        for mut pump in pumps {
            self.lanes.spawn(async move {
                let result = pump.run().await;
                (index, result)
            });
        }
    }

    /// The producer, connected to the engines of this app.
    pub fn producer(&self) -> Producer {
        self.producer.clone()
    }

    /// Whether every subscription is served and the app is not stopping. `Err` names those that are not.
    ///
    /// # Errors
    /// The handlers that are not served, and why.
    pub fn ready(&self) -> Result<(), String> {
        if self.control.phase() != crate::pipeline::control::Phase::Open {
            return Err("the app is stopping".to_owned());
        }
        let down: Vec<String> = self
            .handlers()
            .iter()
            .filter_map(|status| {
                status
                    .down
                    .as_ref()
                    .map(|why| format!("{}: {why}", status.handler))
            })
            .collect();
        if down.is_empty() {
            Ok(())
        } else {
            Err(down.join("; "))
        }
    }

    /// What each handler is doing.
    pub fn handlers(&self) -> Vec<HandlerStatus> {
        self.subscriptions.iter().map(Subscribed::status).collect()
    }

    /// Stops receiving and hands back what has not started; what runs goes on. [`Running::ready`] fails from now on.
    pub fn quiet(&self) {
        self.control.quiet();
    }

    /// Stops: quiet, then waits for what runs until `deadline`, then cancels it and hands it back, uncounted. Returns when
    /// everything is confirmed and the engines are closed.
    ///
    /// # Errors
    /// [`AppError::Deadline`] if work was handed back, [`AppError::Failed`] if a subscription or an engine failed.
    ///
    /// # Cancel safety
    /// Dropping the future drops the app: its handlers end where they stand, and the engines redeliver what they had.
    pub async fn stop(mut self, deadline: Duration) -> Result<(), AppError> {
        self.shut_down(deadline, std::future::pending()).await
    }

    /// Whether a handler keeps its thread, so that the process cannot end by itself.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck > 0
    }

    /// As [`Running::stop`], and `hurry` aborts before the deadline.
    pub(super) async fn shut_down(
        &mut self,
        deadline: Duration,
        hurry: impl Future<Output = ()>,
    ) -> Result<(), AppError> {
        let began = Instant::now();
        let until = began + deadline;
        self.control.quiet();
        let mut waited = deadline;
        let mut aborted = false;
        {
            let mut hurry = std::pin::pin!(hurry);
            loop {
                tokio::select! {
                    // Finished lanes first: a deadline that passes at the same moment has handed nothing back.
                    biased;
                    ended = self.lanes.join_next() => match ended {
                        Some(ended) => self.note_end(ended),
                        None => break,
                    },
                    () = sleep_until(until) => {
                        aborted = true;
                        break;
                    }
                    () = &mut hurry => {
                        waited = began.elapsed();
                        aborted = true;
                        break;
                    }
                }
            }
        }
        if aborted {
            self.control.abort();
            let bound = Instant::now() + ABORT_BOUND;
            while let Ok(Some(ended)) = timeout_at(bound, self.lanes.join_next()).await {
                self.note_end(ended);
            }
            if !self.lanes.is_empty() {
                tracing::error!(
                    lanes = self.lanes.len(),
                    "a handler blocks its thread: what it has in hand comes back when the engine is closed; the process ends when the handler \
                     returns, or by one more signal after the stop"
                );
                self.stuck = self.lanes.len();
                self.lanes.abort_all();
            }
        }
        if timeout(ABORT_BOUND, self.producer.flush()).await.is_err() {
            tracing::warn!(
                "what was enqueued is not confirmed yet: whoever waits for it hears how it ends"
            );
        }
        if let Err(failure) = self.opened.close(ABORT_BOUND).await {
            self.failure.get_or_insert(failure);
        }
        let hooks = self
            .stop_hooks
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for hook in std::mem::take(hooks) {
            hook().await;
        }
        // A lane that never came back from a handler has not said what it runs: it is at least one.
        match (self.failure.take(), self.handed_back().max(self.stuck)) {
            (Some(failure), _) => Err(failure),
            (None, 0) => Ok(()),
            (None, handed_back) => Err(AppError::Deadline {
                handed_back,
                deadline: waited,
            }),
        }
    }

    /// Waits until a subscription is over for good. Pending for ever while all is well.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn failed(&mut self) {
        loop {
            match self.lanes.join_next().await {
                Some(ended) => {
                    self.note_end(ended);
                    if self.failure.is_some() {
                        return;
                    }
                }
                None => std::future::pending::<()>().await,
            }
        }
    }

    fn note_end(
        &mut self,
        ended: Result<(usize, Result<(), EngineError>), tokio::task::JoinError>,
    ) {
        let failure = match ended {
            Ok((_, Ok(()))) => return,
            Ok((index, Err(error))) => {
                let about = &self.subscriptions[index];
                let what = format!(
                    "handler {} is no longer served from {}",
                    about.handler, about.source
                );
                tracing::error!(handler = %about.handler, error = %error, "subscription is over");
                AppError::failed(what, error)
            }
            Err(error) if error.is_cancelled() => return,
            Err(error) => AppError::failed("a lane ended unexpectedly", error),
        };
        self.failure.get_or_insert(failure);
    }

    /// Messages that ran until they were stopped: those of the abort, and the runs of lanes whose thread is blocked.
    fn handed_back(&self) -> usize {
        self.subscriptions
            .iter()
            .flat_map(|sub| &sub.lanes)
            .map(|lane| {
                usize::try_from(lane.counts().aborted).unwrap_or(usize::MAX) + lane.running()
            })
            .sum()
    }

    /// What waits for the app to have nothing to do: for a second nothing ran, waited or was unsettled, every engine said
    /// that it is empty, and nothing is due within the horizon.
    pub(super) fn idle(&self, horizon: Duration) -> impl Future<Output = ()> + Send + use<> {
        let lanes: Vec<_> = self
            .subscriptions
            .iter()
            .flat_map(|sub| sub.lanes.clone())
            .collect();
        let clock = self.clock.clone();
        async move {
            let mut since = Instant::now();
            let mut before = 0;
            loop {
                sleep(IDLE_TICK).await;
                let received: u64 = lanes.iter().map(|lane| lane.counts().received).sum();
                let until = clock.now().saturating_add(horizon);
                if received != before || !lanes.iter().all(|lane| is_idle(lane, until)) {
                    before = received;
                    since = Instant::now();
                } else if since.elapsed() >= IDLE_FOR {
                    return;
                }
            }
        }
    }
}

fn is_idle(lane: &LaneStatus, until: WallTime) -> bool {
    let health = lane.health();
    lane.in_hand() == 0 && health.empty && health.next_due.is_none_or(|due| due > until)
}

impl Subscribed {
    fn status(&self) -> HandlerStatus {
        let mut status = HandlerStatus {
            handler: self.handler.clone(),
            source: self.source.clone(),
            running: 0,
            in_hand: 0,
            counts: Counts::default(),
            down: None,
        };
        for lane in &self.lanes {
            status.running += lane.running();
            status.in_hand += lane.in_hand();
            status.counts.add(&lane.counts());
            if lane.is_stalled() {
                status.down = Some("a handler blocks its thread".into());
                continue;
            }
            match lane.health().state {
                HealthState::Up => {}
                HealthState::Starting => {
                    status
                        .down
                        .get_or_insert("no answer from the engine yet".into());
                }
                HealthState::Down(why) => status.down = Some(why),
            }
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::Running;

    #[test]
    fn a_running_app_can_be_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Running>();
    }
}
