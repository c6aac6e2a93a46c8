//! How fast records are accepted, beside the Go library's pusher, which waits for no acknowledgement, and franz-go, which does.
//!
//! The pusher says nothing when a record is stored, or lost, so its clock runs until all of them are in the topic. Ours and franz-go
//! are idempotent and confirmed by all replicas in sync.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use go_queue::prelude::*;

use super::kq::{GO, GO_PEER, Log};
use crate::figures::{Figures, Stopwatch, percentile};
use crate::kafka::Order;
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::{Parameters, on_runtime};
use crate::servers::{Records, kafka};

pub(crate) const MANY: Scenario = Scenario {
    name: "kq-push-1000",
    about: "Apache Kafka: records of 93 bytes from 1,000 callers, each awaiting acks=all",
    rows: &[
        Row::peer(GO, GO_PEER, "kq-push messages=60000 callers=1000"),
        Row::peer(FRANZ, "franz-go", "push messages=400000 callers=1000"),
        Row::own(OURS, "push messages=400000 callers=1000"),
    ],
    columns: &["p50_us", "p99_us", "rss_mb"],
    goals: |medians| vec![faster(medians, GO, 30.0)],
    work,
    instructions: &[],
    servers: kafka(Records::Nothing),
};

pub(crate) const BULK: Scenario = Scenario {
    name: "kq-push-bulk",
    about: "Apache Kafka: records of 93 bytes in bulk, acks=all",
    rows: &[
        Row::peer(GO, GO_PEER, "kq-push messages=60000 callers=1"),
        Row::peer(FRANZ, "franz-go", "push messages=2000000"),
        Row::own(OURS, "send-all messages=2000000"),
        Row::own("ours, one by one by `enqueue`", "enqueue messages=2000000"),
    ],
    columns: &["rss_mb"],
    goals: |medians| vec![faster(medians, GO, 50.0), faster(medians, FRANZ, 1.0)],
    work,
    instructions: &[],
    servers: kafka(Records::Nothing),
};

const FRANZ: &str = "franz-go";
const OURS: &str = "ours";
const BENCH: Topic<Order> = Topic::new("bench");

/// So many records go into one call of `send_all`.
const CHUNK: u64 = 10_000;

/// So many of these calls are under way: while one is confirmed the next is written.
const ABREAST: u64 = 4;

fn faster(medians: &Medians, theirs: &str, times: f64) -> Goal {
    let rate = |label: &str| medians.row(label).per_second();
    let what = format!("rate of ours over `{theirs}`");
    Goal::at_least(&what, rate(OURS) / rate(theirs), times, "times")
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    let log = Log::of(parameters)?;
    let messages = parameters.number("messages", 400_000)?;
    let how = match variant {
        "push" => How::Awaiting(parameters.number("callers", 1000)?),
        "send-all" => How::InBulk,
        "enqueue" => How::Enqueued,
        other => return Err(format!("no variant {other}")),
    };
    with(log, messages, how)
}

/// How records are handed over.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// By so many callers that await each.
    Awaiting(u64),
    InBulk,
    /// By one caller that awaits what it has handed over a while ago.
    Enqueued,
}

/// So many records.
pub(super) fn with(log: Log, messages: u64, how: How) -> Result<Figures, String> {
    on_runtime(async move {
        let producer = log.producer().await?;
        let watch = Stopwatch::start();
        let took = match how {
            How::Awaiting(callers) => push(&producer, messages, callers).await?,
            How::InBulk => {
                send_all(&producer, messages).await?;
                return Ok(watch.figures(messages));
            }
            How::Enqueued => {
                enqueue(&producer, messages).await?;
                return Ok(watch.figures(messages));
            }
        };
        Ok(watch
            .figures(messages)
            .with("p50_us", percentile(took.iter().copied(), 0.5))
            .with("p99_us", percentile(took, 0.99)))
    })
}

async fn send_all(producer: &Producer, messages: u64) -> Result<(), String> {
    let next = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..ABREAST {
        let (producer, next) = (producer.clone(), Arc::clone(&next));
        callers.spawn(async move {
            loop {
                let from = next.fetch_add(CHUNK, Ordering::Relaxed);
                if from >= messages {
                    return Ok::<_, String>(());
                }
                let orders = (from..messages.min(from + CHUNK)).map(Order::number);
                let all = orders.map(|order| {
                    let key = order.customer.clone();
                    BENCH.push(order).key(key)
                });
                for result in producer.send_all(all).await {
                    result.map_err(|error| error.to_string())?;
                }
            }
        });
    }
    callers.join_all().await.into_iter().collect()
}

async fn enqueue(producer: &Producer, messages: u64) -> Result<(), String> {
    let mut unconfirmed = VecDeque::new();
    for order in (0..messages).map(Order::number) {
        let key = order.customer.clone();
        let handed = BENCH.push(order).key(key).enqueue(producer).await;
        unconfirmed.push_back(handed.map_err(|error| error.to_string())?);
        if unconfirmed.len() as u64 == CHUNK
            && let Some(first) = unconfirmed.pop_front()
        {
            first.await.map_err(|error| error.to_string())?;
        }
    }
    for rest in unconfirmed {
        rest.await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// So many callers, each awaiting every call. Says how long each call took, in microseconds.
async fn push(producer: &Producer, messages: u64, callers: u64) -> Result<Vec<f64>, String> {
    let next = Arc::new(AtomicU64::new(0));
    let mut pushing = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let (producer, next) = (producer.clone(), Arc::clone(&next));
        pushing.spawn(async move {
            let mut took = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= messages {
                    return Ok::<_, String>(took);
                }
                let order = Order::number(n);
                let key = order.customer.clone();
                let began = Instant::now();
                let sent = BENCH.push(order).key(key).send(&producer).await;
                sent.map_err(|error| error.to_string())?;
                took.push(began.elapsed().as_secs_f64() * 1e6);
            }
        });
    }
    let mut all = Vec::new();
    for took in pushing.join_all().await {
        all.extend(took?);
    }
    Ok(all)
}
