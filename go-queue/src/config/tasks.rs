//! `dq`: tasks, their servers and their dedup store. Read and checked also where the engine is not compiled in; that it is missing
//! is for the app to say.

use std::sync::Arc;
use std::time::Duration;

use super::engines::task_engine;
use super::fields::{Fields, Not, Reader, join, no_doubles, not_empty, read_scalar};
use super::units::{endpoint, some_time};
use super::yaml::{Node, What};
use super::{EngineKind, Given, Secret};

/// Where it is kept that a message was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DedupStore {
    /// Nowhere.
    Off,
    /// In the process.
    Memory,
    /// In the file of the `sqlite` section.
    Sqlite,
    /// In the Redis of `dq.redis`.
    Redis,
}

/// What to do while the dedup store cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutage {
    /// Hold messages until it can. Nothing runs twice, nothing is lost.
    #[default]
    Hold,
    /// Run them; what has run before may run again.
    Run,
}

/// `dedup`: `off`, or a mapping.
#[derive(Clone, Debug, Default)]
pub struct DedupConfig {
    /// Default: by engine. Memory and sqlite tasks need none, beanstalkd takes Redis, topics are off.
    pub store: Option<Given<DedupStore>>,
    /// How long it is kept that a message is done. Default: 24 h.
    pub keep: Option<Given<Duration>>,
    /// Default: hold.
    pub on_outage: Option<Given<OnOutage>>,
}

pub(super) const DEDUP: &[&str] = &["store", "keep", "on_outage"];
pub(super) const ON_OUTAGE: &[(&str, OnOutage)] =
    &[("hold", OnOutage::Hold), ("run", OnOutage::Run)];
/// How long it is kept that a message is done.
pub const DEFAULT_DEDUP_KEEP: Duration = Duration::from_secs(86_400);

impl DedupConfig {
    pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Option<Self> {
        let node = fields.raw("dedup")?;
        if let What::Scalar(_) = node.what {
            let store = fields.read(reader, "dedup", |text| {
                if matches!(&*text.to_ascii_lowercase(), "off" | "false" | "none") {
                    Ok(DedupStore::Off)
                } else {
                    Err(Not::new(
                        "is not known here",
                        "write `off`, or `{ store: .. }`",
                    ))
                }
            });
            return Some(Self {
                store,
                ..Self::default()
            });
        }
        let fields = fields.section(reader, "dedup", DEDUP)?;
        Some(Self {
            store: fields.choice(
                reader,
                "store",
                &[
                    ("memory", DedupStore::Memory),
                    ("sqlite", DedupStore::Sqlite),
                    ("redis", DedupStore::Redis),
                    ("off", DedupStore::Off),
                ],
            ),
            keep: fields.read(reader, "keep", some_time),
            on_outage: fields.choice(reader, "on_outage", ON_OUTAGE),
        })
    }

    /// The time in force.
    pub fn keep(&self) -> Duration {
        self.keep
            .as_ref()
            .map_or(DEFAULT_DEDUP_KEEP, |given| given.value)
    }

    /// The rule in force.
    pub fn on_outage(&self) -> OnOutage {
        self.on_outage
            .as_ref()
            .map_or_else(OnOutage::default, |given| given.value)
    }

    /// Whether it was switched off in so many words.
    pub fn is_off(&self) -> bool {
        self.store
            .as_ref()
            .is_some_and(|given| given.value == DedupStore::Off)
    }
}

/// One Redis server, or a cluster of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisKind {
    /// One server.
    #[default]
    Node,
    /// A cluster; `host` names some of its nodes.
    Cluster,
}

/// `dq.redis`.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `host:port`, several for a cluster. At least one.
    pub host: Given<Vec<Given<Arc<str>>>>,
    /// Default: `node`.
    pub kind: Option<Given<RedisKind>>,
    /// The user of the access list. Default: none.
    pub user: Option<Given<Arc<str>>>,
    /// The password. Default: none.
    pub pass: Option<Given<Secret>>,
    /// The number of the database. Default: 0.
    pub db: Option<Given<u32>>,
    /// TLS with verified certificates. Default: no.
    pub tls: Option<Given<bool>>,
    /// A PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<Given<Arc<str>>>,
    /// How long a command may take. Default: 250 ms.
    pub timeout: Option<Given<Duration>>,
}

pub(super) const REDIS: &[&str] = &[
    "host", "type", "user", "pass", "db", "tls", "ca_file", "timeout",
];
/// How long a command to Redis may take.
pub const DEFAULT_REDIS_TIMEOUT: Duration = Duration::from_millis(250);

impl RedisConfig {
    pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Option<Self> {
        let host = fields.list(reader, "host", endpoint);
        let kind = fields.choice(
            reader,
            "type",
            &[("node", RedisKind::Node), ("cluster", RedisKind::Cluster)],
        );
        let rest = Self {
            host: Given::new(Vec::new(), fields.at.clone()),
            kind,
            user: fields.text(reader, "user"),
            pass: fields.secret(reader, "pass"),
            db: fields.number(reader, "db", 0..=65_535),
            tls: fields.flag(reader, "tls"),
            ca_file: fields.text(reader, "ca_file"),
            timeout: fields.read(reader, "timeout", some_time),
        };
        let Some(host) = host else {
            if fields.raw("host").is_none() {
                reader.problem(
                    &fields.at,
                    "the host is missing",
                    "add `host: \"10.0.0.4:6379\"`",
                );
            }
            return None;
        };
        if not_empty(reader, &host, "host")
            && host.value.len() > 1
            && rest.kind() == RedisKind::Node
        {
            let what = format!("names {} hosts, but one server has one", host.value.len());
            reader.problem(&host.at, what, "add `type: cluster`, or name one");
        }
        Some(Self { host, ..rest })
    }

    /// The kind in force.
    pub fn kind(&self) -> RedisKind {
        self.kind
            .as_ref()
            .map_or_else(RedisKind::default, |given| given.value)
    }

    /// The time in force.
    pub fn timeout(&self) -> Duration {
        self.timeout
            .as_ref()
            .map_or(DEFAULT_REDIS_TIMEOUT, |given| given.value)
    }
}

/// `dq`: tasks.
#[derive(Clone, Debug, Default)]
pub struct DqConfig {
    /// The engine of all tubes that name none. Default: beanstalkd if `beanstalks` are named, else sqlite.
    pub engine: Option<Given<EngineKind>>,
    /// The nodes, each `host:port`. Empty: none named.
    pub beanstalks: Vec<Given<Arc<str>>>,
    /// On how many nodes a task is stored. Default: 3, at most the number of nodes.
    pub replicas: Option<Given<u32>>,
    /// How many nodes must confirm a task before `send` returns. Default: 2, with one node 1.
    pub write_quorum: Option<Given<u32>>,
    /// How long a node may take to confirm. Default: 250 ms.
    pub deadline: Option<Given<Duration>>,
    /// The dedup store of tasks on beanstalkd.
    pub redis: Option<RedisConfig>,
    /// Dedup of all tubes that do not say otherwise.
    pub dedup: Option<DedupConfig>,
}

pub(super) const DQ: &[&str] = &[
    "engine",
    "beanstalks",
    "replicas",
    "write_quorum",
    "deadline",
    "redis",
    "dedup",
];
pub(super) const BEANSTALK: &[&str] = &["endpoint"];
/// On how many nodes a task is stored.
pub const DEFAULT_REPLICAS: u32 = 3;
/// How many nodes must confirm a task.
pub const DEFAULT_WRITE_QUORUM: u32 = 2;
/// How long a node may take to confirm.
pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(250);

impl DqConfig {
    pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Self {
        let redis = fields.section(reader, "redis", REDIS);
        let mut dq = Self {
            engine: fields.read(reader, "engine", task_engine),
            beanstalks: Vec::new(),
            replicas: fields.number(reader, "replicas", 1..=64),
            write_quorum: fields.number(reader, "write_quorum", 1..=64),
            deadline: fields.read(reader, "deadline", some_time),
            redis: redis.and_then(|fields| RedisConfig::read(reader, &fields)),
            dedup: DedupConfig::read(reader, fields),
        };
        if let Some(nodes) = beanstalks(reader, fields) {
            not_empty(reader, &nodes, "endpoint");
            no_doubles(reader, &nodes);
            dq.beanstalks = nodes.value;
        }
        dq
    }

    /// Called when all sections that can name servers were read.
    pub(super) fn check(&self, reader: &mut Reader) {
        let nodes = self.beanstalks.len();
        if let Some(given) = &self.replicas
            && nodes > 0
            && given.value as usize > nodes
        {
            let what = format!(
                "`{}` is more than the number of nodes in `beanstalks` ({nodes})",
                given.value
            );
            reader.problem(
                &given.at,
                what,
                "name more nodes, or ask for fewer replicas",
            );
        }
        if let Some(given) = &self.write_quorum
            && nodes > 0
            && given.value > self.replicas()
        {
            let what = format!(
                "`{}` is more than the number of replicas ({})",
                given.value,
                self.replicas()
            );
            reader.problem(
                &given.at,
                what,
                "a quorum is at most the number of replicas",
            );
        }
        if self
            .engine
            .as_ref()
            .is_some_and(|given| given.value == EngineKind::Beanstalkd)
            && nodes == 0
            && let Some(given) = &self.engine
            && !reader.has_problem_below("dq.beanstalks")
        {
            reader.problem(
                &given.at,
                "beanstalkd is chosen, but no server is named",
                "add `beanstalks: [{ endpoint: \"10.0.0.1:11300\" }]`",
            );
        }
        let off = self.dedup.as_ref().is_some_and(DedupConfig::is_off);
        let other = self
            .engine
            .as_ref()
            .is_some_and(|given| given.value != EngineKind::Beanstalkd);
        if let [_, second, ..] = &self.beanstalks[..]
            && self.redis.is_none()
            && !off
            && !other
            && !reader.has_problem_below("dq.redis")
        {
            reader.problem(
                &second.at,
                "with more than one node every task has replicas, and only Redis can tell that one of them has run",
                "add `dq.redis`, or write `dedup: off` under `dq` and expect a task to run once for each replica",
            );
        }
    }

    /// The number in force, at most that of the nodes.
    pub fn replicas(&self) -> u32 {
        let nodes = u32::try_from(self.beanstalks.len())
            .unwrap_or(u32::MAX)
            .max(1);
        self.replicas
            .as_ref()
            .map_or(DEFAULT_REPLICAS, |given| given.value)
            .min(nodes)
    }

    /// The number in force, at most that of the replicas.
    pub fn write_quorum(&self) -> u32 {
        self.write_quorum
            .as_ref()
            .map_or(DEFAULT_WRITE_QUORUM, |given| given.value)
            .min(self.replicas())
    }

    /// The time in force.
    pub fn deadline(&self) -> Duration {
        self.deadline
            .as_ref()
            .map_or(DEFAULT_DEADLINE, |given| given.value)
    }
}

/// `[{ endpoint: "a:1" }]`, `["a:1"]`, or `a:1,b:1`.
fn beanstalks(reader: &mut Reader, fields: &Fields<'_>) -> Option<Given<Vec<Given<Arc<str>>>>> {
    let node = fields.raw("beanstalks")?;
    let What::List(items) = &node.what else {
        return fields.list(reader, "beanstalks", endpoint);
    };
    let path = join(&fields.path, "beanstalks");
    let mut nodes = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        nodes.extend(beanstalk(reader, item, &path));
    }
    Some(Given::new(nodes, reader.at(node.mark, &path)))
}

fn beanstalk(reader: &mut Reader, item: &Node, path: &str) -> Option<Given<Arc<str>>> {
    if !matches!(item.what, What::Map(_)) {
        return read_scalar(reader, item, path, endpoint);
    }
    let before = reader.problems.len();
    let fields = Fields::open(reader, item, path, BEANSTALK);
    let found = fields.read(reader, "endpoint", endpoint);
    if found.is_none() && reader.problems.len() == before {
        reader.problem(
            &fields.at,
            "the endpoint is missing",
            "add `endpoint: \"10.0.0.1:11300\"`",
        );
    }
    found
}
