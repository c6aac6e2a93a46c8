//! What the benches of topics on Kafka share: the broker as a contender sees it, and our worker and producer, set up by YAML as a user
//! would.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use go_queue::app::{App, Running};
use go_queue::handler::Registry;
use go_queue::prelude::*;
use tokio::sync::Notify;

use crate::figures::{Figures, Stopwatch, percentile};
use crate::serve::Parameters;

/// The row of the Go library.
pub(super) const GO: &str = "Go library, at its default";

/// The folder of its peer.
pub(super) const GO_PEER: &str = "go-queue";

/// Longer than anything here takes.
const FIVE_MINUTES: Duration = Duration::from_secs(300);

/// How many records have run, how many are to run, and since when.
static RAN: AtomicU64 = AtomicU64::new(0);
static WANTED: AtomicU64 = AtomicU64::new(0);
static ALL_RAN: Notify = Notify::const_new();
static BEGAN: OnceLock<Stopwatch> = OnceLock::new();

/// The first one starts the clock: how long it takes to join a group is not what is measured here.
pub(super) fn one_begins() {
    BEGAN.get_or_init(Stopwatch::start);
}

pub(super) fn one_ran() {
    if RAN.fetch_add(1, Ordering::Relaxed) + 1 == WANTED.load(Ordering::Relaxed) {
        ALL_RAN.notify_one();
    }
}

/// So many are to run. Said before the worker starts.
pub(super) fn want(messages: u64) {
    WANTED.store(messages, Ordering::Relaxed);
}

/// The figures from the first record to the last.
pub(super) async fn until_all_ran(messages: u64) -> Result<Figures, String> {
    tokio::time::timeout(FIVE_MINUTES, ALL_RAN.notified())
        .await
        .map_err(|_| {
            format!(
                "{messages} records, but {} ran",
                RAN.load(Ordering::Relaxed)
            )
        })?;
    let watch = BEGAN.get().ok_or("nothing began")?;
    Ok(watch.figures(messages))
}

/// How long records took from the moment at which they were sent, by a clock that this process alone reads.
#[derive(Clone)]
pub(super) struct Seen {
    began: Instant,
    /// In milliseconds.
    times: Arc<Mutex<Vec<f64>>>,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            times: Arc::default(),
        }
    }

    /// Nanoseconds on its clock: what a record says that is sent now.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// One that was sent then has come.
    pub(super) fn saw(&self, sent: u64) {
        let late = Duration::from_nanos(self.now().saturating_sub(sent));
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.push(late.as_secs_f64() * 1e3);
    }

    /// Adds the percentiles, without the first so many.
    pub(super) fn figures(&self, figures: Figures, skip: u64) -> Figures {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = usize::try_from(skip).unwrap_or(0);
        let share = |share| percentile(times.iter().skip(skip).copied(), share);
        figures
            .with("p50_ms", share(0.5))
            .with("p99_ms", share(0.99))
            .with("max_ms", share(1.0))
    }
}

/// The topic that the driver has prepared for this run.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) brokers: String,
    pub(super) topic: String,
    pub(super) group: String,
}

impl Log {
    pub(super) fn of(parameters: &Parameters) -> Result<Self, String> {
        let said = |name: &str| -> Result<String, String> {
            let said = parameters.list(name).join(",");
            if said.is_empty() {
                return Err(format!("{name}=? was not said"));
            }
            Ok(said)
        };
        Ok(Self {
            brokers: said("kafka")?,
            topic: said("topic")?,
            group: said("group")?,
        })
    }

    fn config(&self, handlers: &str) -> String {
        format!(
            "name: bench\nlog: {{ level: warn }}\ndq: {{ engine: memory }}\nkq:\n  brokers: [\"{}\"]\n  group: {}\n{handlers}\n",
            self.brokers.replace(',', "\", \""),
            self.group
        )
    }

    /// A producer of ours.
    pub(super) async fn producer(&self) -> Result<Producer, String> {
        write("producer.yaml", &self.config(""))?;
        let producer = Producer::open("producer.yaml").await;
        producer.map_err(|error| format!("{error:?}"))
    }

    /// A worker of ours; `handlers` is a section of its configuration, or nothing.
    pub(super) async fn worker(
        &self,
        registry: Registry,
        handlers: &str,
    ) -> Result<Running, String> {
        self.worker_with(registry, handlers, ()).await
    }

    /// The same with a state for its handlers.
    pub(super) async fn worker_with<T: Clone + Send + Sync + 'static>(
        &self,
        registry: Registry,
        handlers: &str,
        state: T,
    ) -> Result<Running, String> {
        write("worker.yaml", &self.config(handlers))?;
        let app = App::new().config("worker.yaml").state(state);
        let started = app.handlers(registry).start().await;
        started.map_err(|error| format!("{error:?}"))
    }
}

/// Ends it in order.
pub(super) async fn stop(worker: Running) -> Result<(), String> {
    let stopped = worker.stop(Duration::from_secs(20)).await;
    stopped.map_err(|error| format!("{error:?}"))
}

fn write(file: &str, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{file}: {error}"))
}
