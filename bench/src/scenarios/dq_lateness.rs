//! How late tasks on three beanstalkd nodes start, beside the Go library.
//!
//! Producer and worker are one process. Lateness is by the wall clock of the machine, as the due time is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use go_queue::app::App;
use go_queue::handlers;
use go_queue::prelude::*;

use super::dq::{Cluster, GO, GO_PEER, TUBE};
use crate::figures::{Figures, count, percentile};
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::{Parameters, on_runtime};
use crate::servers::CLUSTER;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "dq-lateness",
    about: "3 beanstalkd nodes and Redis: 2,000 tasks due over 5 s, from their due time to the start of the handler",
    rows: &[
        Row::peer(GO, GO_PEER, "lateness messages=2000"),
        Row::own(OURS, "lateness messages=2000"),
        // Tells what is the client's and what is three servers' on too few cores.
        Row::own("ours, on one of the nodes", "one_node messages=2000"),
    ],
    columns: &[
        "p50_ms", "p99_ms", "max_ms", "min_ms", "early", "again", "nodes/M",
    ],
    goals,
    work,
    instructions: &[],
    servers: CLUSTER,
};

const OURS: &str = "ours, at its default";

fn goals(medians: &Medians) -> Vec<Goal> {
    let ours = medians.row(OURS);
    vec![
        Goal::at_most(
            "started before their time",
            ours.more("early"),
            0.5,
            "tasks",
        ),
        Goal::at_most("late, p50", ours.more("p50_ms"), 1.0, "ms"),
        Goal::at_most("late, p99", ours.more("p99_ms"), 5.0, "ms"),
    ]
}

/// When it is due, in nanoseconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
struct Planned {
    due: u64,
}

const PLANNED: Tube<Planned> = Tube::new(TUBE);

/// By how many milliseconds each was late; negative is early.
static LATE: Mutex<Vec<f64>> = Mutex::new(Vec::new());

#[dq_handler(tube = "bench")]
async fn planned(task: Planned) {
    let now = nanos(SystemTime::now());
    #[expect(clippy::cast_precision_loss, reason = "a difference of seconds")]
    let late = (i128::from(now) - i128::from(task.due)) as f64 / 1e6;
    let mut all = LATE.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(late);
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    let mut cluster = Cluster::of(parameters)?;
    match variant {
        "lateness" => {}
        "one_node" => cluster.keep_one_node(),
        _ => return Err(format!("no variant {variant}")),
    }
    let messages = parameters.number("messages", 2000)?;
    on_runtime(run(cluster, messages))
}

async fn run(cluster: Cluster, messages: u64) -> Result<Figures, String> {
    let producer = cluster.producer("").await?;
    // The worker's configuration is the producer's.
    let app = App::new()
        .config("producer.yaml")
        .handlers(handlers![planned]);
    let running = app.start().await.map_err(|error| format!("{error:?}"))?;
    let watch = cluster.watch()?;
    let began = SystemTime::now();
    for _ in 0..messages {
        let within = Duration::from_nanos(fastrand::u64(..5_000_000_000));
        let due = began + Duration::from_secs(1) + within;
        let sent = PLANNED.at(Planned { due: nanos(due) }, due).send(&producer);
        sent.await.map_err(|error| error.to_string())?;
    }
    let end = began + Duration::from_secs(7);
    tokio::time::sleep(end.duration_since(SystemTime::now()).unwrap_or_default()).await;
    let figures = watch.figures(messages)?;
    let stopped = running.stop(Duration::from_secs(10)).await;
    stopped.map_err(|error| format!("{error:?}"))?;
    let late = std::mem::take(&mut *LATE.lock().unwrap_or_else(PoisonError::into_inner));
    let ran = late.len() as u64;
    if ran < messages {
        return Err(format!("{messages} tasks, but {ran} ran"));
    }
    let early = late.iter().filter(|late| **late < 0.0).count() as u64;
    let share = |share: f64| percentile(late.iter().copied(), share);
    Ok(figures
        .with("p50_ms", share(0.5))
        .with("p99_ms", share(0.99))
        .with("max_ms", share(1.0))
        .with("min_ms", share(0.0))
        .with("early", count(early))
        .with("again", count(ran - messages)))
}
