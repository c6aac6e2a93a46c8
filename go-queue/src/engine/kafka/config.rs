//! What the engine needs to know, and how it becomes settings of the client.

mod reserved;
mod security;
mod settings;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::ENGINE;
use crate::engine::{EngineError, MAX_RECORD_LEN};
use crate::name::Name;

pub use crate::secret::Secret;
pub use reserved::{CONSUMER_RESERVED, PRODUCER_RESERVED};
pub use security::{Sasl, SaslMechanism, Security, Tls};
pub(super) use settings::Member;

/// How the engine is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// Some of the brokers, each `host:port`; they name the others.
    pub brokers: Vec<Arc<str>>,
    /// What the brokers' logs and quotas know us by. The number of the end is added for consumers.
    pub client_id: Arc<str>,
    /// How the members of a group share partitions.
    pub protocol: GroupProtocol,
    /// Static membership: a name of this process that stays the same when it is started again, so that a restart within `session`
    /// moves no partition. It must be unique among the processes of a group. `None`: members come and go.
    pub instance_id: Option<Arc<str>>,
    /// How long a member may be silent before its partitions go to others. With [`GroupProtocol::Consumer`] the brokers say it.
    pub session: Duration,
    /// How long an end may go without a turn before it leaves its group. The pump takes a turn at least every 100 ms, so it tells
    /// that the whole process is stuck, not that a handler is.
    pub max_poll_interval: Duration,
    /// How often finished offsets are written to the broker. What was finished since runs again after a crash.
    pub commit_interval: Duration,
    /// Memory for records that are fetched ahead, in bytes, for each end. It is divided by the partitions of the topic.
    pub memory: usize,
    /// What one request for records brings.
    pub fetch: Fetch,
    /// What one request for records of a topic brings, instead of `fetch`.
    pub fetches: HashMap<Name, Fetch>,
    /// TLS and who we are. `None`: neither.
    pub security: Option<Security>,
    /// Settings of librdkafka for consumers, as they are. Those that carry a promise are refused.
    pub properties: Vec<(Arc<str>, Secret)>,
    /// The producing side.
    pub producer: ProducerConfig,
    /// Topics that do not exist are created at start, if it says how. `None`: a missing topic is an error.
    pub create_topics: Option<CreateTopics>,
    /// How many partitions a topic gets when it is created, instead of what `create_topics` says.
    pub partitions: HashMap<Name, u32>,
    /// What is added to the name of a topic to name the topic of its dead letters.
    pub dead_suffix: Arc<str>,
    /// How long opening waits for the first answer of a broker, and a subscription for what it asks about its topic.
    pub connect_timeout: Duration,
}

/// How the members of a group share its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// One member assigns for all. Every broker knows it.
    Classic {
        /// How it assigns.
        strategy: Strategy,
    },
    /// The brokers assign (KIP-848). Kafka 4.0 or later.
    Consumer,
}

impl Default for GroupProtocol {
    fn default() -> Self {
        Self::Classic {
            strategy: Strategy::CooperativeSticky,
        }
    }
}

/// How partitions are assigned under the classic protocol. Members of one group must agree on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Only what moves is taken away; the rest goes on.
    #[default]
    CooperativeSticky,
    /// Everything is taken away and given out anew: as kafka-go and the Go library do.
    Range,
}

/// What one request for records brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The broker waits until it has so many bytes, or `wait` is over.
    pub min: usize,
    /// How long the broker waits for `min`.
    pub wait: Duration,
    /// At most so many bytes, as they lie on disk, compressed.
    pub max: usize,
    /// At most so many of them of one partition.
    pub partition: usize,
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            min: 1,
            wait: Duration::from_millis(500),
            max: 16 << 20,
            partition: 1 << 20,
        }
    }
}

/// How records are produced.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// How long a batch that is not full waits for more records. Zero: what is there leaves, and what comes meanwhile is the next
    /// batch.
    pub linger: Duration,
    /// The largest batch in bytes.
    pub batch: usize,
    /// How batches are compressed.
    pub compression: Compression,
    /// Numbers on batches, so that a repeated request neither stores a record twice nor changes the order. Without it a broker that
    /// fails may leave both.
    pub idempotent: bool,
    /// How long until a record that was not confirmed is an error.
    pub message_timeout: Duration,
    /// How many records may wait for their confirmation. Callers beyond wait.
    pub queue_messages: u32,
    /// How many bytes of them.
    pub queue_bytes: usize,
    /// Settings of librdkafka for the producer, as they are. Those that carry a promise are refused.
    pub properties: Vec<(Arc<str>, Secret)>,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            linger: Duration::ZERO,
            batch: 1_000_000,
            compression: Compression::None,
            idempotent: true,
            message_timeout: Duration::from_secs(30),
            queue_messages: 100_000,
            queue_bytes: 256 << 20,
            properties: Vec::new(),
        }
    }
}

/// How batches of records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not.
    #[default]
    None,
    /// Little CPU.
    Lz4,
    /// Smaller, for slow networks. Only where librdkafka was built with it.
    Zstd,
    /// As the Go library does.
    Snappy,
    /// Slow; for what reads nothing else.
    Gzip,
}

/// How a topic that does not exist is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateTopics {
    /// How many partitions it gets.
    pub partitions: u32,
    /// On how many brokers each record is kept. `None`: what the brokers have as their default.
    pub replication: Option<u16>,
}

impl Default for CreateTopics {
    fn default() -> Self {
        Self {
            partitions: 8,
            replication: None,
        }
    }
}

impl Config {
    /// The defaults, on these brokers.
    pub fn new<B: Into<Arc<str>>>(brokers: impl IntoIterator<Item = B>) -> Self {
        Self {
            brokers: brokers.into_iter().map(Into::into).collect(),
            client_id: Arc::from("go-queue"),
            protocol: GroupProtocol::default(),
            instance_id: None,
            session: Duration::from_secs(45),
            max_poll_interval: Duration::from_secs(300),
            commit_interval: Duration::from_secs(1),
            memory: 64 << 20,
            fetch: Fetch::default(),
            fetches: HashMap::new(),
            security: None,
            properties: Vec::new(),
            producer: ProducerConfig::default(),
            create_topics: None,
            partitions: HashMap::new(),
            dead_suffix: Arc::from("-dlt"),
            connect_timeout: Duration::from_secs(10),
        }
    }

    /// The topic of the dead letters of a topic.
    ///
    /// # Errors
    /// [`EngineError::Unusable`] if the name would be too long.
    pub fn dead_topic(&self, topic: &Name) -> Result<Name, EngineError> {
        let name = format!("{topic}{}", self.dead_suffix);
        Name::new(&name).map_err(|error| EngineError::Unusable {
            engine: ENGINE,
            what: format!("keep dead letters of topic `{topic}`"),
            why: Arc::from(format!(
                "`{name}` is not a name of a topic: {error}; give the topic a shorter name"
            )),
        })
    }

    /// The topic whose dead letters this topic keeps, if it is one of dead letters.
    pub(super) fn source_of<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let source = topic.strip_suffix(&*self.dead_suffix)?;
        (!source.is_empty()).then_some(source)
    }

    /// What one request for records of this topic brings.
    pub(super) fn fetch(&self, topic: &str) -> Fetch {
        self.fetches.get(topic).copied().unwrap_or(self.fetch)
    }

    /// Says what cannot be.
    ///
    /// # Errors
    /// [`EngineError::Unusable`] with the first thing that is wrong and what would be right.
    pub fn check(&self) -> Result<(), EngineError> {
        match self.problem() {
            None => Ok(()),
            Some(why) => Err(unusable(why)),
        }
    }

    fn problem(&self) -> Option<String> {
        let mut seen = HashSet::new();
        if self.brokers.is_empty() {
            return Some("no broker is named; name at least one `host:port`".to_owned());
        }
        for broker in &self.brokers {
            if !is_address(broker) {
                let shown: String = broker.escape_debug().take(80).collect();
                return Some(format!(
                    "`{shown}` is not the address of a broker; write `host:port`"
                ));
            }
            if !seen.insert(broker) {
                return Some(format!("the broker `{broker}` is named twice"));
            }
        }
        self.wrong_times()
            .or_else(|| self.wrong_sizes())
            .or_else(|| self.wrong_topics())
            .or_else(|| self.security.as_ref().and_then(Security::problem))
            .or_else(|| reserved::problem(&self.properties, CONSUMER_RESERVED))
            .or_else(|| reserved::problem(&self.producer.properties, PRODUCER_RESERVED))
    }

    fn wrong_times(&self) -> Option<String> {
        let second = Duration::from_secs(1);
        let day = Duration::from_secs(86_400);
        let bounds = [
            ("session", self.session, second, second * 3600),
            ("max_poll_interval", self.max_poll_interval, second, day),
            (
                "commit_interval",
                self.commit_interval,
                Duration::from_millis(10),
                day,
            ),
            (
                "connect_timeout",
                self.connect_timeout,
                Duration::from_millis(1),
                day,
            ),
            (
                "fetch.wait",
                self.fetch.wait,
                Duration::ZERO,
                Duration::from_secs(300),
            ),
            (
                "producer.linger",
                self.producer.linger,
                Duration::ZERO,
                second * 900,
            ),
            (
                "producer.message_timeout",
                self.producer.message_timeout,
                Duration::from_millis(1),
                day,
            ),
        ];
        for (name, given, least, most) in bounds {
            if given < least || given > most {
                return Some(format!(
                    "`{name}` is {given:?}; it is between {least:?} and {most:?}"
                ));
            }
        }
        if self.max_poll_interval < self.session {
            return Some("`max_poll_interval` is shorter than `session`".to_owned());
        }
        (self.producer.message_timeout < self.producer.linger).then(|| {
            "`producer.message_timeout` is shorter than `producer.linger`: every record would be late"
                .to_owned()
        })
    }

    fn wrong_sizes(&self) -> Option<String> {
        let most = 1_000_000_000;
        let every = self.fetches.values().chain([&self.fetch]);
        let mut bounds = vec![
            ("memory", self.memory, 1 << 20, 2_000_000_000),
            ("producer.batch", self.producer.batch, 1, most),
            (
                "producer.queue_bytes",
                self.producer.queue_bytes,
                2 * MAX_RECORD_LEN,
                most,
            ),
            (
                "producer.queue_messages",
                self.producer.queue_messages as usize,
                1,
                10_000_000,
            ),
        ];
        for fetch in every {
            bounds.extend([
                ("fetch.min", fetch.min, 1, 100_000_000),
                ("fetch.max", fetch.max, 1, most),
                ("fetch.partition", fetch.partition, 1, most),
            ]);
        }
        bounds
            .into_iter()
            .find(|(_, given, least, most)| given < least || given > most)
            .map(|(name, given, least, most)| {
                format!("`{name}` is {given}; it is between {least} and {most}")
            })
    }

    fn wrong_topics(&self) -> Option<String> {
        if crate::name::check_name(&format!("x{}", self.dead_suffix)).is_err()
            || self.dead_suffix.is_empty()
        {
            return Some(
                "`dead_suffix` is empty, or has bytes that no topic may have; write for example `-dlt`"
                    .to_owned(),
            );
        }
        let create = self.create_topics?;
        let partitions = self.partitions.values().chain([&create.partitions]);
        if partitions
            .into_iter()
            .any(|partitions| !(1..=100_000).contains(partitions))
        {
            return Some("a topic has between 1 and 100000 partitions".to_owned());
        }
        (create.replication == Some(0))
            .then(|| "`replication` is 0; a record is kept on at least 1 broker".to_owned())
    }
}

/// That this engine cannot be opened as it is configured.
fn unusable(why: impl fmt::Display) -> EngineError {
    EngineError::Unusable {
        engine: ENGINE,
        what: "be opened as configured".to_owned(),
        why: Arc::from(why.to_string()),
    }
}

/// `host:port`, where the host may be an address in brackets.
fn is_address(broker: &str) -> bool {
    broker.rsplit_once(':').is_some_and(|(host, port)| {
        // A comma would make it several addresses, a slash a protocol.
        let clean = !host.contains([',', '/', ' ']) && !host.is_empty();
        clean && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests;
