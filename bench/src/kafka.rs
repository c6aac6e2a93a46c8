//! A broker with one topic, filled with the same records for everybody.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use go_queue_tests::servers::{KafkaCluster, KafkaOptions, Raw};
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde::{Deserialize, Serialize};

use crate::servers::Records;
use crate::terminal::fail;

/// The topic. One of the peers knows no other.
pub(crate) const TOPIC: &str = "bench";

/// Its partitions.
const PARTITIONS: i32 = 8;

/// So many records a broker has taken, fifty at a time, before anybody is measured who writes: what it does often is counted in
/// requests.
const WARM_UP: u64 = 3_000_000;

/// How many keys there are, over all partitions.
pub(crate) const KEYS: u64 = 5000;

/// The same work for everybody: about 95 bytes as JSON, three texts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) text: String,
}

impl Order {
    pub(crate) fn number(n: u64) -> Self {
        Self {
            id: format!("order-{n:010}"),
            customer: format!("customer-{}", n % KEYS),
            text: "two books, one lamp, as a gift".to_owned(),
        }
    }
}

/// A broker that runs.
#[derive(Debug)]
pub(crate) struct Broker {
    cluster: KafkaCluster,
    raw: Raw,
    records: Records,
    runs: usize,
}

impl Broker {
    /// As an operator has it who has a gigabyte for it.
    pub(crate) fn start(folder: &Path, records: Records) -> Result<Self, String> {
        let options = KafkaOptions {
            heap: 1024,
            quick: false,
            ..KafkaOptions::default()
        };
        let cluster = KafkaCluster::start(folder, 1, &options);
        let raw = cluster.raw();
        raw.create(TOPIC, PARTITIONS);
        // A worker of ours does not start without it; it stays empty.
        raw.create(&format!("{TOPIC}-dlt"), PARTITIONS);
        if records == Records::Nothing {
            // A broker that has just started translates itself to machine code while it is measured, whoever writes first.
            fail(format_args!(
                "{WARM_UP} records, so that the broker is warm"
            ));
            fill(&cluster.endpoints(), WARM_UP, "none", 50)?;
            raw.delete(TOPIC);
            raw.create(TOPIC, PARTITIONS);
        }
        let backlog = match records {
            Records::Nothing => None,
            // Compressed as most of what lies in brokers is.
            Records::Backlog(count) => Some((count, "snappy")),
            Records::Plain(count) => Some((count, "none")),
        };
        if let Some((count, compression)) = backlog {
            fail(format_args!("a backlog of {count} records"));
            fill(&cluster.endpoints(), count, compression, 10_000)?;
            let stored = raw.len(TOPIC);
            if u64::try_from(stored) != Ok(count) {
                return Err(format!("{count} records were sent, {stored} are stored"));
            }
        }
        Ok(Self {
            cluster,
            raw,
            records,
            runs: 0,
        })
    }

    /// A backlog is read anew by every run, by a group of its own. Where there is none, what the last run has left goes.
    pub(crate) fn next_run(&mut self) {
        if self.records == Records::Nothing && self.runs > 0 {
            self.raw.delete(TOPIC);
            self.raw.create(TOPIC, PARTITIONS);
        }
        self.runs += 1;
    }
}

/// `kafka=ENDPOINT topic=NAME group=NAME`
impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoints, runs) = (self.cluster.endpoints(), self.runs);
        write!(f, "kafka={endpoints} topic={TOPIC} group=run-{runs}")
    }
}

fn fill(brokers: &str, count: u64, compression: &str, batch: u32) -> Result<(), String> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", compression)
        .set("linger.ms", "50")
        .set("batch.num.messages", batch.to_string())
        .set("queue.buffering.max.messages", "500000")
        .create()
        .map_err(|error| error.to_string())?;
    for n in 0..count {
        let order = Order::number(n);
        let payload = serde_json::to_vec(&order).map_err(|error| error.to_string())?;
        let mut record = BaseRecord::to(TOPIC).key(&order.customer).payload(&payload);
        while let Err((error, again)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error.to_string());
            }
            producer.poll(Duration::from_millis(10));
            record = again;
        }
    }
    let flushed = producer.flush(Duration::from_secs(120));
    flushed.map_err(|error| error.to_string())
}
