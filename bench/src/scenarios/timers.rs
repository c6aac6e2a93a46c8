//! Two million tasks that fall due within one second, set and fired through the whole pipeline.
//!
//! go-zero's `TimingWheel` alone takes 2.5 µs for each timer set and fired; here each is a task with a payload, a handler and a
//! settlement.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use go_queue::engine::memory::Memory;
use go_queue::engine::{DEFAULT_PRIORITY, Engine, Outgoing, Subscribe};
use go_queue::handler::Registered;
use go_queue::handler::context::{About, Env};
use go_queue::message::{Body, ContentType, Flags, Id};
use go_queue::name::Name;
use go_queue::pipeline::{Control, Plan, Pump};
use go_queue::prelude::*;
use go_queue::time::{Clock, WallTime};

use crate::figures::{Figures, Stopwatch, count, percentile};
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::Parameters;
use crate::servers::NO_SERVERS;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "timers",
    about: "memory engine, 2 million tasks due within one second, set and fired through the pipeline",
    rows: &[
        Row::own("2,000,000 within 1 s", "fire messages=2000000"),
        Row::own("20,000 within 1 s", "fire messages=20000"),
    ],
    columns: &["set_cpu_s/M", "fire_cpu_s/M", "p50_ms", "p99_ms", "early"],
    goals,
    work,
    instructions: &[],
    servers: NO_SERVERS,
};

fn goals(medians: &Medians) -> Vec<Goal> {
    let many = medians.row("2,000,000 within 1 s");
    let few = medians.row("20,000 within 1 s");
    // A single early one makes the ratio small; none makes it 99.
    let early = many.more("early") + few.more("early");
    vec![
        Goal::at_most(
            "set and fired",
            many.cpu_seconds_per_million(),
            2.5,
            "µs of CPU each",
        ),
        Goal::at_most("started before their time", early, 0.5, "tasks"),
        Goal::at_most(
            "late, 20,000 within 1 s, p50",
            few.more("p50_ms"),
            2.0,
            "ms",
        ),
        Goal::at_most(
            "late, 20,000 within 1 s, p99",
            few.more("p99_ms"),
            25.0,
            "ms",
        ),
    ]
}

/// What the handlers saw.
#[derive(Clone)]
struct Seen(Arc<SeenInner>);

struct SeenInner {
    clock: Clock,
    early: AtomicU64,
    done: AtomicU64,
    all: u64,
    /// Every 64th lateness in milliseconds.
    late: Mutex<Vec<f64>>,
    control: Arc<Control>,
}

#[dq_handler(tube = "timers")]
async fn fire(task: u64, meta: Meta, State(seen): State<Seen>) {
    let seen = &seen.0;
    let now = seen.clock.now();
    if now < meta.due {
        seen.early.fetch_add(1, Ordering::Relaxed);
    }
    if task.is_multiple_of(64) {
        let late = now.since(meta.due).as_secs_f64() * 1e3;
        seen.late
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(late);
    }
    if seen.done.fetch_add(1, Ordering::Relaxed) + 1 == seen.all {
        seen.control.quiet();
    }
}

fn work(_: &str, parameters: &Parameters) -> Result<Figures, String> {
    let messages = parameters.number("messages", 2_000_000)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(fire_all(messages))
}

async fn fire_all(messages: u64) -> Result<Figures, String> {
    let clock = Clock::system();
    let engine = Memory::new(clock.clone());
    let tube = Subscribe::tube(Name::literal("timers"));
    let control = Control::new();
    let seen = Seen(Arc::new(SeenInner {
        clock: clock.clone(),
        early: AtomicU64::new(0),
        done: AtomicU64::new(0),
        all: messages,
        late: Mutex::default(),
        control: Arc::clone(&control),
    }));

    let watch = Stopwatch::start();
    // Far enough away that all are set before the first is due, also where the machine is busy.
    let base = clock
        .now()
        .saturating_add(Duration::from_micros(2_000_000 + 4 * messages));
    set(&engine, &tube, base, messages).await?;
    let set = watch.figures(messages);
    if clock.now() >= base {
        return Err(format!(
            "setting took {:?}, longer than the head start",
            set.wall
        ));
    }

    let mut env = Env::new();
    env.insert(seen.clone());
    let about = Arc::new(About::default());
    let bound =
        (fire::DEF.bind)(&env, Arc::clone(&about)).map_err(|missing| format!("{missing:?}"))?;
    let mut plan = Plan::new(about, bound, engine.capabilities(tube.place.side()));
    plan.concurrency = 1000;
    plan.clock = clock;
    let end = engine
        .subscribe(&tube)
        .await
        .map_err(|error| error.to_string())?;
    let mut pump = Pump::new(Arc::new(plan), end, None, control);
    pump.run().await.map_err(|error| error.to_string())?;
    let all = watch.figures(messages);

    let done = seen.0.done.load(Ordering::Relaxed);
    if done != messages {
        return Err(format!("{messages} tasks, but {done} ran"));
    }
    let late = std::mem::take(&mut *seen.0.late.lock().unwrap_or_else(PoisonError::into_inner));
    let set_each = set.cpu_seconds_per_million();
    let fire_each = all.cpu_seconds_per_million() - set_each;
    Ok(all
        .with("set_cpu_s/M", set_each)
        .with("fire_cpu_s/M", fire_each)
        .with("p50_ms", percentile(late.iter().copied(), 0.5))
        .with("p99_ms", percentile(late, 0.99))
        .with("early", count(seen.0.early.load(Ordering::Relaxed))))
}

/// Spreads the tasks evenly over one second from `base` on, in an order that is not that of their times.
async fn set(
    engine: &Memory,
    tube: &Subscribe,
    base: WallTime,
    messages: u64,
) -> Result<(), String> {
    // A step that shares no factor with the number walks over all places once.
    const STEP: u64 = 1_000_003;
    let publisher = engine.publisher();
    let mut number = 0;
    while number < messages {
        let slice: Vec<Outgoing> = (number..messages.min(number + 1000))
            .map(|id| {
                let place = id.wrapping_mul(STEP) % messages;
                Outgoing {
                    place: tube.place.clone(),
                    id: Id(u128::from(id) + 1),
                    named: false,
                    body: Body::pack(b"", b"", id.to_string().as_bytes()),
                    flags: Flags::NULL_KEY,
                    content: ContentType::Json,
                    due: base
                        .saturating_add(Duration::from_nanos(place * 1_000_000_000 / messages)),
                    priority: DEFAULT_PRIORITY,
                }
            })
            .collect();
        number += slice.len() as u64;
        for result in publisher.publish(slice).await {
            result.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
