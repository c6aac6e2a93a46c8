//! How fast tasks are accepted by three beanstalkd nodes, beside the Go library.
//!
//! Each task is due in an hour, and each caller awaits every `send`. The Go library waits for all three nodes and says success from two
//! on; its callers have a producer (three connections) each, which is its fastest way. Ours share one producer. A `write_quorum` of 3 waits
//! for all and is more than the Go library promises; the default of 2 promises the same and does not wait for the third.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use go_queue::prelude::*;

use super::dq::{Cluster, GO, GO_PEER, MAILS, mail};
use crate::figures::{Figures, count, percentile};
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::{Parameters, on_runtime};
use crate::servers::CLUSTER;

pub(crate) const ONE: Scenario = Scenario {
    name: "dq-send-1",
    about: "3 beanstalkd nodes: tasks accepted from one awaiting caller",
    rows: &[
        Row::peer(GO, GO_PEER, "send messages=20000 callers=1"),
        Row::own(ALL_THREE, "send messages=20000 callers=1 quorum=3"),
        Row::own(TWO, "send messages=20000 callers=1 quorum=2"),
    ],
    columns: COLUMNS,
    goals: |medians| vec![faster(medians, ALL_THREE, 1.2)],
    work,
    instructions: &[],
    servers: CLUSTER,
};

pub(crate) const MANY: Scenario = Scenario {
    name: "dq-send-64",
    about: "3 beanstalkd nodes: tasks accepted from 64 awaiting callers",
    rows: &[
        Row::peer(GO, GO_PEER, "send messages=100000 callers=64"),
        Row::own(ALL_THREE, "send messages=100000 callers=64 quorum=3"),
        Row::own(TWO, "send messages=100000 callers=64 quorum=2"),
        Row::own(
            "send_all, all 3 confirm",
            "send-all messages=100000 quorum=3",
        ),
        Row::own(
            "send_all, 2 confirm, the 3rd behind (default)",
            "send-all messages=100000 quorum=2",
        ),
    ],
    columns: COLUMNS,
    goals: |medians| {
        let cpu = |label: &str| medians.row(label).cpu_seconds_per_million();
        vec![
            faster(medians, ALL_THREE, 2.0),
            Goal::at_least(
                "client CPU of the Go library over ours",
                cpu(GO) / cpu(ALL_THREE),
                3.0,
                "times",
            ),
        ]
    },
    work,
    instructions: &[],
    servers: CLUSTER,
};

/// The delay of every task.
const AN_HOUR: Duration = Duration::from_secs(3600);

const COLUMNS: &[&str] = &["p50_us", "p99_us", "nodes/M", "copies"];
const ALL_THREE: &str = "all 3 confirm (write_quorum: 3)";
const TWO: &str = "2 confirm, the 3rd behind (default)";

fn faster(medians: &Medians, label: &str, times: f64) -> Goal {
    let rate = |label: &str| medians.row(label).per_second();
    let what = format!("{label}, over the Go library");
    Goal::at_least(&what, rate(label) / rate(GO), times, "times")
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    let bulk = match variant {
        "send" => false,
        "send-all" => true,
        other => return Err(format!("no variant {other}")),
    };
    let cluster = Cluster::of(parameters)?;
    let messages = parameters.number("messages", 50_000)?;
    let callers = parameters.number("callers", 64)?;
    let quorum = parameters.number("quorum", 2)?;
    on_runtime(async move {
        let producer = cluster.producer(&format!("write_quorum: {quorum}")).await?;
        let watch = cluster.watch()?;
        let took = if bulk {
            send_all(&producer, messages).await?;
            Vec::new()
        } else {
            send(&producer, messages, callers).await?
        };
        let figures = watch.figures(messages)?;
        // What is written behind gets a moment to arrive; what does not is missing in `copies`.
        tokio::task::block_in_place(|| {
            let _ = cluster.until_jobs(messages * 3, Duration::from_secs(5));
        });
        let copies = count(cluster.jobs()?) / count(messages);
        let figures = figures.with("copies", copies);
        if bulk {
            return Ok(figures);
        }
        Ok(figures
            .with("p50_us", percentile(took.iter().copied(), 0.5))
            .with("p99_us", percentile(took, 0.99)))
    })
}

async fn send_all(producer: &Producer, messages: u64) -> Result<(), String> {
    let all = (0..messages).map(|user| MAILS.delay(mail(user), AN_HOUR));
    for result in producer.send_all(all).await {
        result.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// So many callers, each awaiting every call. Says how long each call took, in microseconds.
async fn send(producer: &Producer, messages: u64, callers: u64) -> Result<Vec<f64>, String> {
    let next = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let (producer, next) = (producer.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut took = Vec::new();
                loop {
                    let user = next.fetch_add(1, Ordering::Relaxed);
                    if user >= messages {
                        return Ok::<_, String>(took);
                    }
                    let began = Instant::now();
                    MAILS
                        .delay(mail(user), AN_HOUR)
                        .send(&producer)
                        .await
                        .map_err(|error| error.to_string())?;
                    took.push(began.elapsed().as_secs_f64() * 1e6);
                }
            })
        })
        .collect();
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await.map_err(|error| error.to_string())??);
    }
    Ok(all)
}
