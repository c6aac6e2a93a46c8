//! How long it takes from producing a record until its handler starts, at 1,000 records a second, beside `StreamConsumer`.
//!
//! The producer is the same for both: librdkafka in this process, acknowledged by all, without lingering.

use std::time::{Duration, Instant};

use go_queue::handlers;
use go_queue::prelude::*;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _};

use super::kq::{Log, Seen, one_begins, one_ran, stop, until_all_ran, want};
use crate::figures::Figures;
use crate::kafka::KEYS;
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::{Parameters, on_runtime};
use crate::servers::{Records, kafka};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "kq-latency",
    about: "Apache Kafka: from produce to the start of the handler, 1,000 records a second",
    rows: &[
        Row::own(STREAM, "stream messages=10000 rate=1000"),
        Row::own(OURS, "ours messages=10000 rate=1000"),
    ],
    columns: &["p50_ms", "p99_ms", "max_ms"],
    goals,
    work,
    instructions: &[],
    servers: kafka(Records::Nothing),
};

const STREAM: &str = "StreamConsumer::recv";
const OURS: &str = "ours, at its default";

fn goals(medians: &Medians) -> Vec<Goal> {
    ["p50_ms", "p99_ms"]
        .into_iter()
        .map(|column| {
            let of = |label: &str| medians.row(label).more(column);
            let what = format!("{column} of ours over that of StreamConsumer");
            Goal::at_most(&what, of(OURS) / of(STREAM), 1.2, "times")
        })
        .collect()
}

/// When it was produced, by a clock that this process alone reads.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Ping {
    sent: u64,
}

/// The first records wait for members and connections, and are left out.
const WARM_UP: u64 = 500;

#[kq_handler(topic = "bench")]
async fn ping(ping: Ping, State(seen): State<Seen>) {
    one_begins();
    seen.saw(ping.sent);
    one_ran();
}

/// Produces at an even rate, from a thread of its own.
fn produce(log: &Log, seen: &Seen, messages: u64, rate: u64) -> Result<(), String> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &log.brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .create()
        .map_err(|error| error.to_string())?;
    let began = Instant::now();
    for n in 0..messages + WARM_UP {
        let due = began + Duration::from_nanos(n * 1_000_000_000 / rate);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let ping = Ping { sent: seen.now() };
        let payload = serde_json::to_vec(&ping).map_err(|error| error.to_string())?;
        let key = format!("customer-{}", n % KEYS);
        let sent = producer.send(BaseRecord::to(&log.topic).key(&key).payload(&payload));
        sent.map_err(|(error, _)| error.to_string())?;
        producer.poll(Duration::ZERO);
    }
    let flushed = producer.flush(Duration::from_secs(30));
    flushed.map_err(|error| error.to_string())
}

async fn stream(log: Log, seen: Seen, messages: u64) -> Result<(), String> {
    let text = |error: rdkafka::error::KafkaError| error.to_string();
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &log.brokers)
        .set("group.id", &log.group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.offset.store", "false")
        .create()
        .map_err(text)?;
    consumer.subscribe(&[&log.topic]).map_err(text)?;
    for _ in 0..messages {
        let message = consumer.recv().await.map_err(text)?;
        one_begins();
        let payload = message.payload().unwrap_or_default();
        let ping: Ping = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        seen.saw(ping.sent);
        consumer.store_offset_from_message(&message).map_err(text)?;
        one_ran();
    }
    Ok(())
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    let log = Log::of(parameters)?;
    let messages = parameters.number("messages", 10_000)?;
    let rate = parameters.number("rate", 1000)?;
    let seen = Seen::new();
    let ours = match variant {
        "ours" => true,
        "stream" => false,
        other => return Err(format!("no variant {other}")),
    };
    on_runtime(async move {
        let all = messages + WARM_UP;
        want(all);
        let (worker, reading) = if ours {
            let worker = log.worker_with(handlers![ping], "", seen.clone()).await?;
            (Some(worker), None)
        } else {
            let reading = tokio::spawn(stream(log.clone(), seen.clone(), all));
            (None, Some(reading))
        };
        let producing = {
            let (log, seen) = (log.clone(), seen.clone());
            tokio::task::spawn_blocking(move || produce(&log, &seen, messages, rate))
        };
        producing.await.map_err(|error| error.to_string())??;
        let figures = until_all_ran(all).await?;
        if let Some(worker) = worker {
            stop(worker).await?;
        }
        if let Some(reading) = reading {
            reading.await.map_err(|error| error.to_string())??;
        }
        Ok(seen.figures(figures, WARM_UP))
    })
}
