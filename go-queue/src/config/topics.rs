//! `kq`: topics, their servers, security and producer. Read and checked also where the engine is not compiled in; that it is
//! missing is for the app to say.

use std::sync::Arc;
use std::time::Duration;

use super::engines::topic_engine;
use super::fields::{Fields, Reader, join, no_doubles, not_empty, read_scalar};
use super::units::{between, endpoint, name, size_between};
use super::yaml::What;
use super::{EngineKind, Given, Remark, Secret};
use crate::engine::Start;
use crate::engine::reserved::{CONSUMER_RESERVED, PRODUCER_RESERVED};
use crate::name::Name;

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password as it is; only over TLS.
    #[default]
    Plain,
    /// A challenge, SHA-256.
    ScramSha256,
    /// A challenge, SHA-512.
    ScramSha512,
}

/// `kq.security`.
#[derive(Clone, Debug, Default)]
pub struct SecurityConfig {
    /// The user. Default: none, nobody is asked.
    pub username: Option<Given<Arc<str>>>,
    /// The password.
    pub password: Option<Given<Secret>>,
    /// Default: plain.
    pub mechanism: Option<Given<SaslMechanism>>,
    /// TLS with verified certificates. Default: yes if one of the files is given, else no.
    pub tls: Option<Given<bool>>,
    /// A PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<Given<Arc<str>>>,
    /// A PEM file with the certificate of this client.
    pub cert_file: Option<Given<Arc<str>>>,
    /// A PEM file with its key.
    pub key_file: Option<Given<Arc<str>>>,
    /// The password of the key.
    pub key_password: Option<Given<Secret>>,
}

pub(super) const SECURITY: &[&str] = &[
    "username",
    "password",
    "mechanism",
    "tls",
    "ca_file",
    "cert_file",
    "key_file",
    "key_password",
];

pub(super) const MECHANISMS: &[(&str, SaslMechanism)] = &[
    ("plain", SaslMechanism::Plain),
    ("scram-sha-256", SaslMechanism::ScramSha256),
    ("scram-sha-512", SaslMechanism::ScramSha512),
];

impl SecurityConfig {
    fn read(reader: &mut Reader, fields: &Fields<'_>) -> Self {
        let security = Self {
            username: fields.text(reader, "username"),
            password: fields.secret(reader, "password"),
            mechanism: fields.choice(reader, "mechanism", MECHANISMS),
            tls: fields.flag(reader, "tls"),
            ca_file: fields.text(reader, "ca_file"),
            cert_file: fields.text(reader, "cert_file"),
            key_file: fields.text(reader, "key_file"),
            key_password: fields.secret(reader, "key_password"),
        };
        let pairs = [("username", "password"), ("cert_file", "key_file")];
        for (one, other) in pairs {
            for (given, missing) in [(one, other), (other, one)] {
                if fields.raw(given).is_some()
                    && fields.raw(missing).is_none()
                    && let Some(at) = fields.key_at(reader, given)
                {
                    let what = format!("is given without `{missing}`");
                    reader.problem(&at, what, "give both or none");
                }
            }
        }
        if let Some(given) = &security.password
            && !security.tls()
            && security.mechanism() == SaslMechanism::Plain
        {
            let text = "the password goes over the network as it is; add `tls: true`, or use a `scram` mechanism";
            reader.remarks.push(Remark::warning(Some(&given.at), text));
        }
        security
    }

    /// The mechanism in force.
    pub fn mechanism(&self) -> SaslMechanism {
        self.mechanism
            .as_ref()
            .map_or_else(SaslMechanism::default, |given| given.value)
    }

    /// Whether to use TLS.
    pub fn tls(&self) -> bool {
        let files = self.ca_file.is_some() || self.cert_file.is_some();
        self.tls.as_ref().map_or(files, |given| given.value)
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
    /// Smaller, for slow networks.
    Zstd,
    /// As the Go library does.
    Snappy,
    /// Slow; for what reads nothing else.
    Gzip,
}

/// `kq.producer`.
#[derive(Clone, Debug, Default)]
pub struct KafkaProducerConfig {
    /// How long a batch that is not full waits. Default: 0 s.
    pub linger: Option<Given<Duration>>,
    /// How large a batch may get, in bytes. Default: 1 MB.
    pub batch: Option<Given<u64>>,
    /// Default: none.
    pub compression: Option<Given<Compression>>,
    /// How long until a record that was not confirmed is an error. Default: 30 s.
    pub timeout: Option<Given<Duration>>,
    /// Settings of the client library as they are.
    pub properties: Vec<Property>,
}

pub(super) const PRODUCER: &[&str] = &["linger", "batch", "compression", "timeout", "properties"];
/// How large a batch may get, in bytes.
pub const DEFAULT_BATCH_LEN: u64 = 1_000_000;
/// How long until a record that was not confirmed is an error.
pub const DEFAULT_PRODUCE_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) const COMPRESSION: &[(&str, Compression)] = &[
    ("none", Compression::None),
    ("lz4", Compression::Lz4),
    ("zstd", Compression::Zstd),
    ("snappy", Compression::Snappy),
    ("gzip", Compression::Gzip),
];

impl KafkaProducerConfig {
    fn read(reader: &mut Reader, fields: &Fields<'_>) -> Self {
        Self {
            linger: fields.read(reader, "linger", |text| {
                between(text, Duration::ZERO, Duration::from_secs(60))
            }),
            batch: fields.read(reader, "batch", |text| {
                size_between(text, 1_000, 100_000_000)
            }),
            compression: fields.choice(reader, "compression", COMPRESSION),
            timeout: fields.read(reader, "timeout", |text| {
                between(
                    text,
                    Duration::from_millis(100),
                    Duration::from_secs(86_400),
                )
            }),
            properties: properties(reader, fields, PRODUCER_RESERVED),
        }
    }

    /// The time in force.
    pub fn linger(&self) -> Duration {
        self.linger
            .as_ref()
            .map_or(Duration::ZERO, |given| given.value)
    }

    /// The size in force, in bytes.
    pub fn batch(&self) -> u64 {
        self.batch
            .as_ref()
            .map_or(DEFAULT_BATCH_LEN, |given| given.value)
    }

    /// The time in force.
    pub fn timeout(&self) -> Duration {
        self.timeout
            .as_ref()
            .map_or(DEFAULT_PRODUCE_TIMEOUT, |given| given.value)
    }
}

/// A setting of a client library as it is. Its value may be a password, so it is never shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Its name, such as `fetch.max.bytes`.
    pub name: Arc<str>,
    /// Its value.
    pub value: Given<Secret>,
}

fn properties(
    reader: &mut Reader,
    fields: &Fields<'_>,
    reserved: &[(&str, &str)],
) -> Vec<Property> {
    let Some(node) = fields.raw("properties") else {
        return Vec::new();
    };
    let path = join(&fields.path, "properties");
    let mut out: Vec<Property> = Vec::new();
    let entries = match &node.what {
        What::Map(entries) => entries,
        What::Null | What::Broken => return out,
        What::Scalar(_) | What::List(_) => {
            let at = reader.at(node.mark, &path);
            let remedy = "write `{ fetch.max.bytes: 1000000 }`";
            reader.problem(&at, "names and values are expected", remedy);
            return out;
        }
    };
    for entry in entries {
        let key = join(&path, &entry.key);
        let at = reader.at(entry.mark, &key);
        if out.iter().any(|known| *known.name == *entry.key) {
            reader.problem(&at, "given twice", "remove one of them");
            continue;
        }
        if let Some((_, why)) = reserved.iter().find(|(name, _)| **name == *entry.key) {
            reader.problem(&at, format!("cannot be set here: {why}"), "remove it");
            continue;
        }
        let value = read_scalar(reader, &entry.value, &key, |text| Ok(Secret::new(text)));
        out.extend(value.map(|value| Property {
            name: Arc::from(&*entry.key),
            value,
        }));
    }
    out
}

/// How the members of a group share its partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupProtocol {
    /// Only what moves is taken away; the rest goes on.
    #[default]
    Cooperative,
    /// Everything is taken away and given out anew, as the Go library does.
    Range,
    /// The brokers assign. Kafka 4.0 or later.
    Consumer,
}

/// `kq`: topics.
#[derive(Clone, Debug, Default)]
pub struct KqConfig {
    /// The engine of all topics that name none. Default: kafka if `brokers` are named, else sqlite.
    pub engine: Option<Given<EngineKind>>,
    /// The servers, each `host:port`. Empty: none named.
    pub brokers: Vec<Given<Arc<str>>>,
    /// The group of handlers that name none. Default: the name of the service.
    pub group: Option<Given<Name>>,
    /// Where a new group begins, for handlers that do not say. Default: first.
    pub offset: Option<Given<Start>>,
    /// How many members of its group one process is. Default: 1.
    pub conns: Option<Given<u32>>,
    /// Whether topics that do not exist are created at start. Default: no.
    pub create_topics: Option<Given<bool>>,
    /// On how many brokers each record of such a topic is kept. Default: what the brokers have as theirs.
    pub replication: Option<Given<u32>>,
    /// How the members of a group share its partitions. Default: cooperative.
    pub protocol: Option<Given<GroupProtocol>>,
    /// A name of this process that stays the same when it is started again: then a restart moves no partition. Default: none.
    pub instance_id: Option<Given<Name>>,
    /// How long a member may be silent before its partitions go to others. Default: 45 s.
    pub session: Option<Given<Duration>>,
    /// How often finished work is written to the brokers. Default: 1 s.
    pub commit_interval: Option<Given<Duration>>,
    /// Memory for records that are fetched ahead, for each connection, in bytes. Default: 64 MiB.
    pub memory: Option<Given<u64>>,
    /// How long the first answer of a broker may take at start. Default: 10 s.
    pub connect_timeout: Option<Given<Duration>>,
    /// How to prove who we are.
    pub security: Option<SecurityConfig>,
    /// Settings of the client library for consumers, as they are.
    pub properties: Vec<Property>,
    /// The producing side.
    pub producer: KafkaProducerConfig,
}

pub(super) const KQ: &[&str] = &[
    "engine",
    "brokers",
    "group",
    "offset",
    "conns",
    "create_topics",
    "replication",
    "protocol",
    "instance_id",
    "session",
    "commit_interval",
    "memory",
    "connect_timeout",
    "security",
    "properties",
    "producer",
];
pub(super) const OFFSET: &[(&str, Start)] = &[("first", Start::First), ("last", Start::Last)];
pub(super) const PROTOCOL: &[(&str, GroupProtocol)] = &[
    ("cooperative", GroupProtocol::Cooperative),
    ("range", GroupProtocol::Range),
    ("consumer", GroupProtocol::Consumer),
];
/// How long a member may be silent.
pub const DEFAULT_SESSION: Duration = Duration::from_secs(45);
/// How often finished work is written to the brokers.
pub const DEFAULT_COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Memory for records that are fetched ahead, in bytes.
pub const DEFAULT_FETCH_MEMORY: u64 = 64 << 20;
/// How long the first answer of a broker may take at start.
pub const DEFAULT_BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many members of its group one process is.
pub const DEFAULT_CONNS: u32 = 1;

impl KqConfig {
    pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Self {
        let security = fields.section(reader, "security", SECURITY);
        let producer = fields.section(reader, "producer", PRODUCER);
        let mut kq = Self {
            engine: fields.read(reader, "engine", topic_engine),
            brokers: Vec::new(),
            group: fields.read(reader, "group", name),
            offset: fields.choice(reader, "offset", OFFSET),
            conns: fields.number(reader, "conns", 1..=256),
            create_topics: fields.flag(reader, "create_topics"),
            replication: fields.number(reader, "replication", 1..=1000),
            protocol: fields.choice(reader, "protocol", PROTOCOL),
            instance_id: fields.read(reader, "instance_id", name),
            session: fields.read(reader, "session", |text| {
                between(text, Duration::from_secs(1), Duration::from_secs(300))
            }),
            commit_interval: fields.read(reader, "commit_interval", |text| {
                between(text, Duration::from_millis(10), Duration::from_secs(3600))
            }),
            memory: fields.read(reader, "memory", |text| {
                size_between(text, 1 << 20, 2_000_000_000)
            }),
            connect_timeout: fields.read(reader, "connect_timeout", |text| {
                between(text, Duration::from_millis(100), Duration::from_secs(600))
            }),
            security: security.map(|fields| SecurityConfig::read(reader, &fields)),
            properties: properties(reader, fields, CONSUMER_RESERVED),
            producer: producer
                .map(|fields| KafkaProducerConfig::read(reader, &fields))
                .unwrap_or_default(),
        };
        if let Some(brokers) = fields.list(reader, "brokers", endpoint) {
            not_empty(reader, &brokers, "broker");
            no_doubles(reader, &brokers);
            kq.brokers = brokers.value;
        }
        if let Some(given) = &kq.engine
            && given.value == EngineKind::Kafka
            && kq.brokers.is_empty()
            && !reader.has_problem_below("kq.brokers")
        {
            reader.problem(
                &given.at,
                "kafka is chosen, but no server is named",
                "add `brokers: [\"10.0.0.5:9092\"]`",
            );
        }
        if let (Some(given), false) = (&kq.replication, kq.create_topics()) {
            let text = "has no effect without `create_topics: true`";
            reader.remarks.push(Remark::warning(Some(&given.at), text));
        }
        if let (Some(given), GroupProtocol::Consumer) = (&kq.session, kq.protocol()) {
            let text = "has no effect with `protocol: consumer`: the brokers say it (`group.consumer.session.timeout.ms`)";
            reader.remarks.push(Remark::warning(Some(&given.at), text));
        }
        kq
    }

    /// The protocol in force.
    pub fn protocol(&self) -> GroupProtocol {
        self.protocol
            .as_ref()
            .map_or_else(GroupProtocol::default, |given| given.value)
    }

    /// The time in force.
    pub fn session(&self) -> Duration {
        self.session
            .as_ref()
            .map_or(DEFAULT_SESSION, |given| given.value)
    }

    /// The time in force.
    pub fn commit_interval(&self) -> Duration {
        self.commit_interval
            .as_ref()
            .map_or(DEFAULT_COMMIT_INTERVAL, |given| given.value)
    }

    /// The size in force, in bytes.
    pub fn memory(&self) -> u64 {
        self.memory
            .as_ref()
            .map_or(DEFAULT_FETCH_MEMORY, |given| given.value)
    }

    /// The time in force.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
            .as_ref()
            .map_or(DEFAULT_BROKER_TIMEOUT, |given| given.value)
    }

    /// The number in force.
    pub fn conns(&self) -> u32 {
        self.conns
            .as_ref()
            .map_or(DEFAULT_CONNS, |given| given.value)
    }

    /// Whether topics that do not exist are created at start.
    pub fn create_topics(&self) -> bool {
        self.create_topics.as_ref().is_some_and(|given| given.value)
    }
}
