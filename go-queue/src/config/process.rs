//! The sections of the process itself: `sqlite`, `admin`, `shutdown` and `log`.

use std::sync::Arc;
use std::time::Duration;

use super::fields::{Fields, Not, Reader};
use super::units::{duration, endpoint, size};
use super::yaml::What;
use super::{Given, Secret};
use crate::engine::MIN_QUOTA;

/// How much an accepted message survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A power cut: synced to the disk before `send` returns.
    #[default]
    Power,
    /// The end of the process, however it ends: written, and synced by the system in its own time.
    Process,
}

/// `sqlite`: the file that serves everything for which no server is named.
#[derive(Clone, Debug, Default)]
pub struct SqliteConfig {
    /// The database file. Default: `data/<name>.db`.
    pub path: Option<Given<Arc<str>>>,
    /// Default: `power`.
    pub durability: Option<Given<Durability>>,
    /// Largest size of the file in bytes; `None` inside is `auto`, the default: 1 GiB or half of the free disk, whichever is less. There
    /// is always a limit, because a full disk stops consumers too, and a quota only producers.
    pub quota: Option<Given<Option<u64>>>,
}

pub(super) const SQLITE: &[&str] = &["path", "durability", "quota"];
pub(super) const DURABILITY: &[(&str, Durability)] = &[
    ("power", Durability::Power),
    ("process", Durability::Process),
];

impl SqliteConfig {
    pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Self {
        Self {
            path: fields.text(reader, "path"),
            durability: fields.choice(reader, "durability", DURABILITY),
            quota: fields.read(reader, "quota", quota),
        }
    }

    /// The limit in force; `None`: the engine chooses.
    pub fn quota(&self) -> Option<u64> {
        self.quota.as_ref().and_then(|given| given.value)
    }

    /// The level in force.
    pub fn durability(&self) -> Durability {
        self.durability
            .as_ref()
            .map_or_else(Durability::default, |given| given.value)
    }
}

/// `shutdown`.
#[derive(Clone, Debug, Default)]
pub struct ShutdownConfig {
    /// How long the whole stop may take. Default: 25 s.
    pub deadline: Option<Given<Duration>>,
    /// How long a partition that moves away waits for its running handlers. Default: 5 s.
    pub drain: Option<Given<Duration>>,
}

pub(super) const SHUTDOWN: &[&str] = &["deadline", "drain"];
/// How long the whole stop may take.
pub const DEFAULT_SHUTDOWN_DEADLINE: Duration = Duration::from_secs(25);
/// How long a partition that moves away waits for its running handlers.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(5);

impl ShutdownConfig {
    pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Self {
        Self {
            deadline: fields.read(reader, "deadline", duration),
            drain: fields.read(reader, "drain", duration),
        }
    }

    /// The time in force.
    pub fn deadline(&self) -> Duration {
        self.deadline
            .as_ref()
            .map_or(DEFAULT_SHUTDOWN_DEADLINE, |given| given.value)
    }

    /// The time in force.
    pub fn drain(&self) -> Duration {
        self.drain
            .as_ref()
            .map_or(DEFAULT_DRAIN, |given| given.value)
    }
}

fn quota(text: &str) -> Result<Option<u64>, Not> {
    if text.eq_ignore_ascii_case("auto") {
        Ok(None)
    } else {
        let quota = size(text)?;
        if quota < MIN_QUOTA {
            return Err(Not::new("is too small to work in", "write at least `1MiB`"));
        }
        Ok(Some(quota))
    }
}

/// `admin`: the port for people and their tools.
#[derive(Clone, Debug, Default)]
pub struct AdminConfig {
    /// The address to listen on. Default: none, nothing listens.
    pub listen: Option<Given<Arc<str>>>,
    /// What a caller must show. Required unless `listen` is a loopback address.
    pub token: Option<Given<Secret>>,
}

pub(super) const ADMIN: &[&str] = &["listen", "token"];

impl AdminConfig {
    pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Self {
        let admin = Self {
            listen: fields.read(reader, "listen", endpoint),
            token: fields.secret(reader, "token"),
        };
        if let Some(given) = &admin.listen
            && admin.token.is_none()
            && !is_loopback(&given.value)
            && fields
                .raw("token")
                .is_none_or(|node| !matches!(node.what, What::Broken))
        {
            reader.problem(
                &given.at,
                format!("`{}` can be reached from other machines", given.value),
                "add a `token`, or listen on `127.0.0.1`",
            );
        }
        admin
    }
}

fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What needs a person.
    Error,
    /// And what is tried again or set aside.
    Warn,
    /// And start, stop and change.
    #[default]
    Info,
    /// And every message.
    Debug,
    /// Everything.
    Trace,
}

/// How it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// For machines, one object in each line.
    Json,
}

/// `log`: what `App::run` installs if the program has not installed a subscriber.
#[derive(Clone, Debug, Default)]
pub struct LogConfig {
    /// Default: info.
    pub level: Option<Given<LogLevel>>,
    /// Default: auto.
    pub format: Option<Given<LogFormat>>,
}

pub(super) const LOG: &[&str] = &["level", "format"];
pub(super) const LEVELS: &[(&str, LogLevel)] = &[
    ("off", LogLevel::Off),
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];
pub(super) const FORMATS: &[(&str, LogFormat)] = &[
    ("auto", LogFormat::Auto),
    ("text", LogFormat::Text),
    ("json", LogFormat::Json),
];

impl LogConfig {
    pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Self {
        Self {
            level: fields.choice(reader, "level", LEVELS),
            format: fields.choice(reader, "format", FORMATS),
        }
    }

    /// The level in force.
    pub fn level(&self) -> LogLevel {
        self.level
            .as_ref()
            .map_or_else(LogLevel::default, |given| given.value)
    }

    /// The format in force.
    pub fn format(&self) -> LogFormat {
        self.format
            .as_ref()
            .map_or_else(LogFormat::default, |given| given.value)
    }
}
