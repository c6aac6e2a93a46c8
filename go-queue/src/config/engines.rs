//! Which engine serves a tube or a topic.

use super::fields::{Not, choice};
use super::{At, Config, ConfigError};
use crate::name::{Place, Side};

/// The engines by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EngineKind {
    /// In the process; nothing survives it.
    Memory,
    /// One file.
    Sqlite,
    /// Tasks on beanstalkd servers.
    Beanstalkd,
    /// Topics on a Kafka cluster.
    Kafka,
}

impl EngineKind {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Beanstalkd => "beanstalkd",
            Self::Kafka => "kafka",
        }
    }

    /// The cargo feature that brings it; `None` for what is always there.
    pub const fn feature(self) -> Option<&'static str> {
        match self {
            Self::Memory => None,
            other => Some(other.as_str()),
        }
    }
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An engine for tasks.
pub(super) fn task_engine(text: &str) -> Result<EngineKind, Not> {
    if text.eq_ignore_ascii_case("kafka") {
        return Err(Not::new(
            "keeps no tasks",
            "write `sqlite`, `beanstalkd` or `memory`",
        ));
    }
    choice(text, TASK_ENGINES)
}

/// The engines that keep tasks.
pub(super) const TASK_ENGINES: &[(&str, EngineKind)] = &[
    ("sqlite", EngineKind::Sqlite),
    ("beanstalkd", EngineKind::Beanstalkd),
    ("memory", EngineKind::Memory),
];

/// An engine for topics.
pub(super) fn topic_engine(text: &str) -> Result<EngineKind, Not> {
    if text.eq_ignore_ascii_case("beanstalkd") {
        return Err(Not::new(
            "keeps no topics",
            "write `sqlite`, `kafka` or `memory`",
        ));
    }
    choice(text, TOPIC_ENGINES)
}

/// The engines that keep topics.
pub(super) const TOPIC_ENGINES: &[(&str, EngineKind)] = &[
    ("sqlite", EngineKind::Sqlite),
    ("kafka", EngineKind::Kafka),
    ("memory", EngineKind::Memory),
];

/// The engine of a place, and where that was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineChoice {
    /// Which.
    pub kind: EngineKind,
    /// What in the configuration chose it; `None`: nothing is configured, so it is the embedded one.
    pub at: Option<At>,
}

impl EngineChoice {
    /// The problem to report if this engine is not part of the program.
    pub fn not_compiled_in(&self) -> ConfigError {
        let kind = self.kind;
        let what = format!("the {kind} engine is not part of this program");
        let error = match &self.at {
            Some(at) => ConfigError::at(at, what),
            None => ConfigError::of("", what),
        };
        match kind.feature() {
            Some(feature) => error.remedy(format!(
                "build go-queue with its feature `{feature}`, or choose another engine"
            )),
            None => error,
        }
    }
}

impl Config {
    /// Which engine serves this place: what its own entry says, then its side, then the servers that are named; where nothing names a
    /// server it is sqlite.
    ///
    /// # Errors
    /// If only the other side names servers: nothing may land on a local disk by accident. If a place chooses an engine for which no
    /// server is named.
    pub fn engine_for(&self, place: &Place) -> Result<EngineChoice, ConfigError> {
        let own = match place {
            Place::Tube(name) => self.tube(name).and_then(|tube| tube.engine.as_ref()),
            Place::Topic(name) => self.topic(name).and_then(|topic| topic.engine.as_ref()),
        };
        let choice = match own {
            Some(given) => EngineChoice {
                kind: given.value,
                at: Some(given.at.clone()),
            },
            None => self.engine_of_side(place)?,
        };
        let missing = match choice.kind {
            EngineKind::Beanstalkd if self.dq.beanstalks.is_empty() => {
                "add `dq: { beanstalks: [{ endpoint: \"10.0.0.1:11300\" }] }`"
            }
            EngineKind::Kafka if self.kq.brokers.is_empty() => {
                "add `kq: { brokers: [\"10.0.0.5:9092\"] }`"
            }
            _ => return Ok(choice),
        };
        let what = format!("{place} is on {}, but no server is named", choice.kind);
        Err(match &choice.at {
            Some(at) => ConfigError::at(at, what),
            None => ConfigError::of("", what),
        }
        .remedy(missing))
    }

    fn engine_of_side(&self, place: &Place) -> Result<EngineChoice, ConfigError> {
        let side = place.side();
        let (engine, server, served_by) = match side {
            Side::Tasks => (
                &self.dq.engine,
                self.dq.beanstalks.first(),
                EngineKind::Beanstalkd,
            ),
            Side::Topics => (&self.kq.engine, self.kq.brokers.first(), EngineKind::Kafka),
        };
        if let Some(given) = engine {
            return Ok(EngineChoice {
                kind: given.value,
                at: Some(given.at.clone()),
            });
        }
        if let Some(server) = server {
            return Ok(EngineChoice {
                kind: served_by,
                at: Some(server.at.clone()),
            });
        }
        match self.names_servers(side) {
            None => Ok(EngineChoice {
                kind: EngineKind::Sqlite,
                at: None,
            }),
            Some(other) => {
                // The place is not named: one problem for all of its side.
                let (named, missing, used, remedy) = match side {
                    Side::Tasks => (
                        "kq",
                        "dq",
                        "tubes",
                        "add `dq: { beanstalks: [..] }`, or `dq: { engine: sqlite }` if the local disk is meant",
                    ),
                    Side::Topics => (
                        "dq",
                        "kq",
                        "topics",
                        "add `kq: { brokers: [..] }`, or `kq: { engine: sqlite }` if the local disk is meant",
                    ),
                };
                let what = format!(
                    "`{named}` names servers, but `{missing}` names none, and {used} are used here"
                );
                Err(ConfigError::at(&other, what).remedy(remedy))
            }
        }
    }

    /// Where the side other than `side` names servers, if it does.
    fn names_servers(&self, side: Side) -> Option<At> {
        let (engine, server, kind) = match side {
            Side::Tasks => (&self.kq.engine, self.kq.brokers.first(), EngineKind::Kafka),
            Side::Topics => (
                &self.dq.engine,
                self.dq.beanstalks.first(),
                EngineKind::Beanstalkd,
            ),
        };
        match engine {
            Some(given) if given.value == kind => Some(given.at.clone()),
            Some(_) => None,
            None => server.map(|server| server.at.clone()),
        }
    }
}
