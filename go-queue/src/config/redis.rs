//! `dq.redis`: the server, or the servers, that make tasks unique.

use std::sync::Arc;
use std::time::Duration;

use super::fields::{Fields, Not, Reader, not_empty};
use super::tasks::within;
use super::units::endpoint;
use super::{Given, Secret};

/// One Redis server, a cluster of them, or sentinels that know which one it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisKind {
    /// One server.
    #[default]
    Node,
    /// A cluster; `host` names some of its nodes.
    Cluster,
    /// Sentinels; `host` names them, `master` the server they watch.
    Sentinel,
}

pub(super) const REDIS_KINDS: &[(&str, RedisKind)] = &[
    ("node", RedisKind::Node),
    ("cluster", RedisKind::Cluster),
    ("sentinel", RedisKind::Sentinel),
];

/// `dq.redis`.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `host:port`, several for a cluster or sentinels. At least one.
    pub host: Given<Vec<Given<Arc<str>>>>,
    /// Default: `node`.
    pub kind: Option<Given<RedisKind>>,
    /// The name of the server among the sentinels.
    pub master: Option<Given<Arc<str>>>,
    /// The user of the sentinels themselves. Default: none.
    pub sentinel_user: Option<Given<Arc<str>>>,
    /// Their password. Default: none.
    pub sentinel_pass: Option<Given<Secret>>,
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
    /// How long connecting may take. Default: 1 s.
    pub connect_timeout: Option<Given<Duration>>,
    /// Begins every key but those of the Go library. Default: `gq`.
    pub prefix: Option<Given<Arc<str>>>,
    /// How long a claim is held without a sign of life of its process. Default: 15 s.
    pub lease: Option<Given<Duration>>,
}

pub(super) const REDIS: &[&str] = &[
    "host",
    "type",
    "master",
    "sentinel_user",
    "sentinel_pass",
    "user",
    "pass",
    "db",
    "tls",
    "ca_file",
    "timeout",
    "connect_timeout",
    "prefix",
    "lease",
];
/// How long connecting to Redis may take.
pub const DEFAULT_REDIS_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How keys begin.
pub const DEFAULT_REDIS_PREFIX: &str = "gq";
/// How long a claim is held without a sign of life of its process.
pub const DEFAULT_REDIS_LEASE: Duration = Duration::from_secs(15);
/// How long a command to Redis may take.
pub const DEFAULT_REDIS_TIMEOUT: Duration = Duration::from_millis(250);

impl RedisConfig {
    pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Option<Self> {
        let host = fields.list(reader, "host", endpoint);
        let kind = fields.choice(reader, "type", REDIS_KINDS);
        let rest = Self {
            kind,
            master: fields.text(reader, "master"),
            sentinel_user: fields.text(reader, "sentinel_user"),
            sentinel_pass: fields.secret(reader, "sentinel_pass"),
            user: fields.text(reader, "user"),
            pass: fields.secret(reader, "pass"),
            db: fields.number(reader, "db", 0..=65_535),
            tls: fields.flag(reader, "tls"),
            ca_file: fields.text(reader, "ca_file"),
            timeout: fields.read(reader, "timeout", redis_time),
            connect_timeout: fields.read(reader, "connect_timeout", redis_time),
            prefix: fields.read(reader, "prefix", key_prefix),
            lease: fields.read(reader, "lease", claim_lease),
            ..Self::at(Given::new(Vec::new(), fields.at.clone()))
        };
        rest.check(reader, fields);
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
            let remedy = "add `type: cluster` or `type: sentinel`, or name one";
            reader.problem(&host.at, what, remedy);
        }
        Some(Self { host, ..rest })
    }

    /// These hosts, and nothing else said.
    pub(super) fn at(host: Given<Vec<Given<Arc<str>>>>) -> Self {
        Self {
            host,
            kind: None,
            master: None,
            sentinel_user: None,
            sentinel_pass: None,
            user: None,
            pass: None,
            db: None,
            tls: None,
            ca_file: None,
            timeout: None,
            connect_timeout: None,
            prefix: None,
            lease: None,
        }
    }

    /// What does not go together.
    fn check(&self, reader: &mut Reader, fields: &Fields<'_>) {
        if self.kind() == RedisKind::Sentinel {
            if self.master.is_none() && fields.raw("master").is_none() {
                let at = self.kind.as_ref().map_or(&fields.at, |given| &given.at);
                reader.problem(
                    at,
                    "the sentinels must be told which server is meant",
                    "add `master: NAME`, as in `sentinel monitor NAME`",
                );
            }
        } else {
            let texts = [&self.master, &self.sentinel_user]
                .map(|given| given.as_ref().map(|given| &given.at));
            let secret = self.sentinel_pass.as_ref().map(|given| &given.at);
            for at in texts.into_iter().flatten().chain(secret) {
                reader.problem(
                    at,
                    "only sentinels use this",
                    "add `type: sentinel`, or remove it",
                );
            }
        }
        if let (RedisKind::Cluster, Some(db)) = (self.kind(), &self.db)
            && db.value != 0
        {
            let remedy = "remove `db`, and tell services apart with `prefix`";
            reader.problem(&db.at, "a cluster has only database 0", remedy);
        }
        if let (Some(ca), false) = (&self.ca_file, self.tls()) {
            reader.problem(
                &ca.at,
                "authorities are named, but TLS is off",
                "add `tls: true`, or remove it",
            );
        }
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

    /// The time in force.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
            .as_ref()
            .map_or(DEFAULT_REDIS_CONNECT_TIMEOUT, |given| given.value)
    }

    /// The prefix in force.
    pub fn prefix(&self) -> &str {
        self.prefix
            .as_ref()
            .map_or(DEFAULT_REDIS_PREFIX, |given| &given.value)
    }

    /// The time in force.
    pub fn lease(&self) -> Duration {
        self.lease
            .as_ref()
            .map_or(DEFAULT_REDIS_LEASE, |given| given.value)
    }

    /// Whether TLS is in force.
    pub fn tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|given| given.value)
    }
}

/// A time that a request to Redis may take.
fn redis_time(text: &str) -> Result<Duration, Not> {
    within(text, Duration::from_millis(1), Duration::from_secs(60))
}

/// A lease of a claim: renewed at a third of it, over a network.
fn claim_lease(text: &str) -> Result<Duration, Not> {
    within(text, Duration::from_millis(300), Duration::from_secs(3600))
}

/// The beginning of keys, which tools show and patterns match.
fn key_prefix(text: &str) -> Result<Arc<str>, Not> {
    let good = |c: u8| c.is_ascii_alphanumeric() || b"._-:".contains(&c);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(good) {
        return Err(Not::new(
            "is not a prefix of keys",
            "write 1 to 64 letters, digits, `.`, `_`, `-` and `:`",
        ));
    }
    Ok(text.into())
}
