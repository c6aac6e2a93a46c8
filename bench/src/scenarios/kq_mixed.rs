//! Whether a key that is busy makes the others wait: handlers of 0, 1, 8 and 40 ms mixed, with and without one key that has a fifth
//! of the traffic, which is four times what it can run.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use go_queue::handlers;
use go_queue::prelude::*;

use super::kq::{Log, Seen, one_begins, one_ran, stop, until_all_ran, want};
use crate::figures::Figures;
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::{Parameters, on_runtime};
use crate::servers::{Records, kafka};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "kq-8ms-mixed",
    about: "Apache Kafka: handlers of 0, 1, 8 and 40 ms, 1,500 records a second of 500 keys; how long the other keys wait beside a hot one",
    rows: &[
        Row::own(EVEN, "mixed messages=6000 rate=1500 hot=0"),
        Row::own(HOT, "mixed messages=6000 rate=1500 hot=20"),
    ],
    columns: &["p50_ms", "p99_ms", "max_ms"],
    goals,
    work,
    instructions: &[],
    servers: kafka(Records::Nothing),
};

const EVEN: &str = "even keys";
const HOT: &str = "one key has 20 %";

fn goals(medians: &Medians) -> Vec<Goal> {
    let p99 = |label: &str| medians.row(label).more("p99_ms");
    let what = "p99 of the other keys, beside a hot one over without it";
    vec![Goal::at_most(what, p99(HOT) / p99(EVEN), 1.5, "times")]
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Work {
    sent: u64,
    hot: bool,
    millis: u64,
}

#[kq_handler(topic = "bench")]
async fn mixed(work: Work, State(seen): State<Seen>) {
    one_begins();
    if !work.hot {
        seen.saw(work.sent);
    }
    if work.millis > 0 {
        tokio::time::sleep(Duration::from_millis(work.millis)).await;
    }
    one_ran();
}

const BENCH: Topic<Work> = Topic::new("bench");

/// The n-th record: its key, and whether that is the hot one. The same for every run.
fn record(n: u64, hot: u64) -> (String, Work) {
    let mut hasher = DefaultHasher::new();
    n.hash(&mut hasher);
    let random = hasher.finish();
    let is_hot = random % 100 < hot;
    let key = if is_hot {
        "hot".to_owned()
    } else {
        format!("key-{}", (random >> 16) % 500)
    };
    let millis = [0, 1, 8, 40][usize::try_from((random >> 40) % 4).unwrap_or(0)];
    let work = Work {
        sent: 0,
        hot: is_hot,
        millis,
    };
    (key, work)
}

async fn produce(log: &Log, seen: &Seen, messages: u64, rate: u64, hot: u64) -> Result<(), String> {
    let producer = log.producer().await?;
    let began = tokio::time::Instant::now();
    let mut sending = tokio::task::JoinSet::new();
    for n in 0..messages {
        tokio::time::sleep_until(began + Duration::from_nanos(n * 1_000_000_000 / rate)).await;
        let (key, work) = record(n, hot);
        let sent = seen.now();
        let (producer, work) = (producer.clone(), Work { sent, ..work });
        sending.spawn(async move { BENCH.push(work).key(&key).send(&producer).await.map(drop) });
        while let Some(sent) = sending.try_join_next() {
            sent.map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
        }
    }
    for sent in sending.join_all().await {
        sent.map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    if variant != "mixed" {
        return Err(format!("no variant {variant}"));
    }
    let log = Log::of(parameters)?;
    let messages = parameters.number("messages", 6000)?;
    let rate = parameters.number("rate", 1500)?;
    let hot = parameters.number("hot", 0)?;
    let seen = Seen::new();
    on_runtime(async move {
        want(messages);
        let worker = log.worker_with(handlers![mixed], "", seen.clone()).await?;
        // A member that still joins would let all of them wait.
        tokio::time::sleep(Duration::from_secs(4)).await;
        produce(&log, &seen, messages, rate, hot).await?;
        let figures = until_all_ran(messages).await?;
        stop(worker).await?;
        Ok(seen.figures(figures, 0))
    })
}
