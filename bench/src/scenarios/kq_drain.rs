//! How fast a backlog of a topic runs, beside the Go library, the Go clients, `RustStream`, and librdkafka without a framework.
//!
//! Everybody decodes each record into three owned texts and commits what is done each second. The clock runs from the first record
//! to the last. The Go library and franz-go keep no order at more than one worker and commit what their loop has passed; ours and the
//! bare lane run the records of a key one at a time, and commit only what is finished.

use go_queue::handlers;
use go_queue::prelude::*;

use super::kq::{GO, GO_PEER, Log, one_begins, one_ran, stop, until_all_ran, want};
use crate::figures::Figures;
use crate::kafka::Order;
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::{Parameters, on_runtime};
use crate::servers::{Records, kafka};

pub(crate) const JSON: Scenario = Scenario {
    name: "kq-json",
    about: "Apache Kafka, 8 partitions, 4 million records of 93 bytes: decode and a handler that does nothing",
    rows: &[
        Row::peer(GO, GO_PEER, "kq-drain messages=4000000"),
        Row::peer(KAFKA_GO, GO_PEER, "kafka-go-drain messages=4000000"),
        Row::peer(FRANZ, "franz-go", "drain messages=4000000"),
        Row::peer(DOCUMENTED, "ruststream", "as-documented messages=4000000"),
        Row::peer(TUNED, "ruststream", "tuned messages=4000000"),
        Row::peer(BY_KEY, "ruststream", "by-key messages=4000000"),
        Row::peer(RECV, "rdkafka", "recv-tuned messages=4000000"),
        Row::peer(LANE, "rdkafka", "lane messages=4000000"),
        Row::own(OURS, "drain messages=4000000"),
        Row::peer(TUNED_M, "ruststream-mimalloc", "tuned messages=4000000"),
        Row::peer(LANE_M, "rdkafka-mimalloc", "lane messages=4000000"),
        Row::mimalloc(OURS_M, "drain messages=4000000"),
    ],
    columns: COLUMNS,
    goals: |medians| {
        vec![
            faster(medians, OURS, LANE, 0.85),
            faster(medians, OURS, GO, 4.5),
            faster(medians, OURS, FRANZ, 2.0),
            faster(medians, OURS, TUNED, 1.5),
            cheaper(medians, OURS, GO, 6.0),
            faster(medians, OURS_M, GO, 6.5),
            faster(medians, OURS_M, FRANZ, 2.8),
            faster(medians, OURS_M, TUNED_M, 1.5),
        ]
    },
    work,
    instructions: &[],
    servers: kafka(Records::Backlog(4_000_000)),
};

pub(crate) const ONE_MILLISECOND: Scenario = Scenario {
    name: "kq-1ms",
    about: "Apache Kafka, 8 partitions, records of 93 bytes: decode and a handler that sleeps for 1 ms",
    rows: &[
        Row::peer(GO, GO_PEER, "kq-drain messages=60000 micros=1000"),
        Row::peer(
            GO_1000,
            GO_PEER,
            "kq-drain messages=2000000 micros=1000 processors=1000",
        ),
        Row::peer(BY_KEY, "ruststream", "by-key-1ms messages=400000"),
        Row::own(OURS_DEFAULT, "drain messages=2000000 sleeps=1"),
        Row::own(
            OURS_2000,
            "drain messages=2000000 sleeps=1 concurrency=2000",
        ),
    ],
    columns: COLUMNS,
    goals: |medians| {
        vec![
            faster(medians, OURS_DEFAULT, GO, 40.0),
            faster(medians, OURS_DEFAULT, GO_1000, 1.1),
            faster(medians, OURS_2000, GO_1000, 2.0),
            cheaper(medians, OURS_DEFAULT, GO_1000, 3.0),
            cheaper(medians, OURS_2000, GO_1000, 3.0),
        ]
    },
    work,
    instructions: &[],
    servers: kafka(Records::Backlog(4_000_000)),
};

const COLUMNS: &[&str] = &["rss_mb"];
const KAFKA_GO: &str = "kafka-go, fetch loop";
const FRANZ: &str = "franz-go, poll loop";
const DOCUMENTED: &str = "RustStream, as documented";
const TUNED: &str = "RustStream, tuned";
const BY_KEY: &str = "RustStream, tuned, order by key";
const RECV: &str = "StreamConsumer::recv, tuned";
const LANE: &str = "bare lane by hand";
const OURS: &str = "ours, at its default, order by key";
const TUNED_M: &str = "mimalloc: RustStream, tuned";
const LANE_M: &str = "mimalloc: bare lane by hand";
const OURS_M: &str = "mimalloc: ours, order by key";
const GO_1000: &str = "Go library, 1,000 processors, no order";
const OURS_DEFAULT: &str = "ours, at its default (1,000), order by key";
const OURS_2000: &str = "ours, concurrency 2,000, order by key";

fn faster(medians: &Medians, ours: &str, theirs: &str, times: f64) -> Goal {
    let rate = |label: &str| medians.row(label).per_second();
    let what = format!("rate of `{ours}` over `{theirs}`");
    Goal::at_least(&what, rate(ours) / rate(theirs), times, "times")
}

fn cheaper(medians: &Medians, ours: &str, theirs: &str, times: f64) -> Goal {
    let cpu = |label: &str| medians.row(label).cpu_seconds_per_million();
    let what = format!("CPU of `{theirs}` over `{ours}`");
    Goal::at_least(&what, cpu(theirs) / cpu(ours), times, "times")
}

#[kq_handler(topic = "bench")]
async fn nothing(order: Order) {
    one_begins();
    std::hint::black_box(&order);
    one_ran();
}

#[kq_handler(topic = "bench")]
async fn one_millisecond(order: Order) {
    one_begins();
    std::hint::black_box(&order);
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    one_ran();
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    if variant != "drain" {
        return Err(format!("no variant {variant}"));
    }
    let log = Log::of(parameters)?;
    let messages = parameters.number("messages", 4_000_000)?;
    let sleeps = parameters.number("sleeps", 0)? > 0;
    let concurrency = parameters.number("concurrency", 0)?;
    on_runtime(async move {
        let (name, registry) = if sleeps {
            ("one_millisecond", handlers![one_millisecond])
        } else {
            ("nothing", handlers![nothing])
        };
        let section = match concurrency {
            0 => String::new(),
            said => format!("handlers: {{ {name}: {{ concurrency: {said} }} }}"),
        };
        want(messages);
        let worker = log.worker(registry, &section).await?;
        let figures = until_all_ran(messages).await?;
        stop(worker).await?;
        Ok(figures)
    })
}
