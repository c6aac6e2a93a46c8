//! `dq`: tasks, their servers and their dedup store. Read and checked also where the engine is not compiled in; that it is missing
//! is for the app to say.

use std::sync::Arc;
use std::time::Duration;

use super::engines::task_engine;
use super::fields::{Fields, Not, Reader, join, no_doubles, not_empty, read_scalar};
use super::redis::{REDIS, RedisConfig};
use super::units::{endpoint, some_time};
use super::yaml::{Node, What};
use super::{At, EngineKind, Given, Remark};
use crate::time::format_duration;

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

    /// What is said here, and for the rest what `base` says.
    #[must_use]
    pub fn over(&self, base: Option<&Self>) -> Self {
        let Some(base) = base else {
            return self.clone();
        };
        Self {
            store: self.store.clone().or_else(|| base.store.clone()),
            keep: self.keep.clone().or_else(|| base.keep.clone()),
            on_outage: self.on_outage.clone().or_else(|| base.on_outage.clone()),
        }
    }

    /// Whether it was switched off in so many words.
    pub fn is_off(&self) -> bool {
        self.store
            .as_ref()
            .is_some_and(|given| given.value == DedupStore::Off)
    }
}

/// The time to run of a job: the server speaks in seconds and warns in the last of them.
fn job_lease(text: &str) -> Result<Duration, Not> {
    within(text, Duration::from_secs(3), Duration::from_secs(86_400))
}

pub(super) fn within(text: &str, least: Duration, most: Duration) -> Result<Duration, Not> {
    let time = some_time(text)?;
    if (least..=most).contains(&time) {
        return Ok(time);
    }
    let (least, most) = (format_duration(least), format_duration(most));
    Err(Not::new(
        "is out of range",
        format!("write a time from `{least}` to `{most}`"),
    ))
}

/// What starting does while no node can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtStart {
    /// It fails and says why, so that whoever starts programs sees it.
    #[default]
    Fail,
    /// It waits for the first node.
    Wait,
}

pub(super) const AT_START: &[(&str, AtStart)] = &[("fail", AtStart::Fail), ("wait", AtStart::Wait)];

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
    /// How long connecting to a node may take. Default: 1 s.
    pub connect_timeout: Option<Given<Duration>>,
    /// How long a node waits for a sign of life of whoever has a task in hand. Default: 60 s.
    pub lease: Option<Given<Duration>>,
    /// What starting does while no node can be reached. Default: it fails.
    pub at_start: Option<Given<AtStart>>,
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
    "connect_timeout",
    "lease",
    "at_start",
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
/// How long connecting to a node may take.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a node waits for a sign of life of whoever has a task in hand.
pub const DEFAULT_JOB_LEASE: Duration = Duration::from_secs(60);

impl DqConfig {
    pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Self {
        let redis = fields.section(reader, "redis", REDIS);
        let mut dq = Self {
            engine: fields.read(reader, "engine", task_engine),
            beanstalks: Vec::new(),
            replicas: fields.number(reader, "replicas", 1..=64),
            write_quorum: fields.number(reader, "write_quorum", 1..=64),
            deadline: fields.read(reader, "deadline", some_time),
            connect_timeout: fields.read(reader, "connect_timeout", some_time),
            lease: fields.read(reader, "lease", job_lease),
            at_start: fields.choice(reader, "at_start", AT_START),
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
        if nodes == 0 && self.engine.is_none() {
            for at in self.options_of_nodes() {
                let text = "has no effect: no node is named in `dq.beanstalks`";
                reader.remarks.push(Remark::warning(Some(at), text));
            }
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

    /// Where something is said that only nodes can do.
    fn options_of_nodes(&self) -> impl Iterator<Item = &At> {
        fn at<T>(given: Option<&Given<T>>) -> Option<&At> {
            given.map(|given| &given.at)
        }
        [
            at(self.replicas.as_ref()),
            at(self.write_quorum.as_ref()),
            at(self.deadline.as_ref()),
            at(self.connect_timeout.as_ref()),
            at(self.lease.as_ref()),
            at(self.at_start.as_ref()),
        ]
        .into_iter()
        .flatten()
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

    /// The time in force.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
            .as_ref()
            .map_or(DEFAULT_CONNECT_TIMEOUT, |given| given.value)
    }

    /// The time in force.
    pub fn lease(&self) -> Duration {
        self.lease
            .as_ref()
            .map_or(DEFAULT_JOB_LEASE, |given| given.value)
    }

    /// What is in force.
    pub fn at_start(&self) -> AtStart {
        self.at_start
            .as_ref()
            .map_or_else(AtStart::default, |given| given.value)
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
