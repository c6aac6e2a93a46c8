//! What the benches of topics on Kafka share: the broker as a contender sees it, and our worker and producer, set up by YAML as a user
//! would.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use go_queue::app::{App, Running};
use go_queue::handler::Registry;
use go_queue::prelude::*;
use tokio::sync::Notify;

use crate::figures::{Figures, Stopwatch};
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

/// Runs the work of a variant on a runtime as an app has it.
pub(super) fn on_runtime<F>(work: F) -> Result<Figures, String>
where
    F: Future<Output = Result<Figures, String>> + Send + 'static,
{
    let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        tokio::spawn(work)
            .await
            .map_err(|error| error.to_string())?
    })
}
