//! How the engine is opened, and what of it cannot be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::ENGINE;
use crate::engine::EngineError;
use crate::name::Name;

/// The most nodes of one engine: a set of them is one number.
pub(super) const MAX_NODES: usize = 64;

/// How the engine is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// The nodes, each `host:port`, as configured: this very text goes into the ids of tasks.
    pub endpoints: Vec<Arc<str>>,
    /// On how many nodes a task is stored; at most the number of nodes counts.
    pub replicas: usize,
    /// How many nodes must confirm a task before `send` returns; at most `replicas` counts.
    pub write_quorum: usize,
    /// How long a node may take to answer one command. A node that does not is cut off and connected anew.
    pub deadline: Duration,
    /// How long connecting to a node and the first exchange with it may take.
    pub connect_timeout: Duration,
    /// The time to run that tasks are stored with: how long a worker may hold one without a sign of life. At least 3 s, because the
    /// server speaks in seconds and warns in the last of them.
    pub lease: Duration,
    /// How long the store remembers a task that is done.
    pub keep: Duration,
    /// Options by tube.
    pub tubes: HashMap<Name, TubeConfig>,
    /// Options of every other tube.
    pub tube: TubeConfig,
    /// What opening does while no node can be reached.
    pub at_start: AtStart,
    /// The most jobs in hand on one connection; more connections are made beyond. The server looks through all of them with each
    /// delete.
    pub unacked: usize,
}

/// Options of one tube.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TubeConfig {
    /// What stands in the bodies of its jobs.
    pub wire: Wire,
    /// Workers of the Go library take from it as well.
    pub mixed_fleet: bool,
    /// Instead of [`Config::keep`].
    pub keep: Option<Duration>,
}

/// What stands in the body of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// The envelope of this library, with id, headers and content type.
    #[default]
    Native,
    /// What the Go library writes and reads: the due time and the payload. No key, no headers, no id of one's own.
    GoQueue {
        /// A task met so long after its due time is a dead letter, as it would be dropped in Go. `None`: it runs.
        late: Option<Duration>,
    },
}

impl Wire {
    /// Whether it is that of the Go library.
    pub fn is_go_queue(self) -> bool {
        matches!(self, Self::GoQueue { .. })
    }
}

/// What opening does while no node can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtStart {
    /// Fails, and says why of each node.
    #[default]
    Fail,
    /// Waits for the first of them.
    Wait,
}

impl Config {
    /// The defaults, on these nodes.
    pub fn new<E: Into<Arc<str>>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            replicas: 3,
            write_quorum: 2,
            deadline: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(1),
            lease: Duration::from_secs(60),
            keep: Duration::from_secs(24 * 3600),
            tubes: HashMap::new(),
            tube: TubeConfig::default(),
            at_start: AtStart::default(),
            unacked: 256,
        }
    }

    /// The options of a tube.
    pub fn tube(&self, name: &str) -> &TubeConfig {
        if self.tubes.is_empty() {
            &self.tube
        } else {
            self.tubes.get(name).unwrap_or(&self.tube)
        }
    }

    /// How long the store remembers a task of this tube that is done.
    pub fn keep(&self, tube: &str) -> Duration {
        self.tube(tube).keep.unwrap_or(self.keep)
    }

    /// Replicas and quorum with these nodes.
    pub(super) fn copies(&self) -> (usize, usize) {
        let replicas = self.replicas.min(self.endpoints.len());
        (replicas, self.write_quorum.min(replicas))
    }

    /// Says what cannot be.
    ///
    /// # Errors
    /// [`EngineError::Unusable`] with the first thing that is wrong and what would be right.
    pub fn check(&self) -> Result<(), EngineError> {
        match self.problem() {
            None => Ok(()),
            Some(why) => Err(EngineError::Unusable {
                engine: ENGINE,
                what: "be opened as configured".to_owned(),
                why: Arc::from(why),
            }),
        }
    }

    fn problem(&self) -> Option<String> {
        let mut seen = HashSet::new();
        if self.endpoints.is_empty() {
            return Some("no node is named; name at least one `host:port`".to_owned());
        }
        if self.endpoints.len() > MAX_NODES {
            let n = self.endpoints.len();
            return Some(format!("{n} nodes are named, at most {MAX_NODES} can be"));
        }
        for endpoint in &self.endpoints {
            let port = endpoint.rsplit_once(':');
            let good = port.is_some_and(|(host, port)| {
                // The other bytes stand between the parts of a task's id.
                !host.is_empty() && !host.contains(['/', ',']) && port.parse::<u16>().is_ok()
            });
            if !good {
                let shown: String = endpoint.escape_debug().take(80).collect();
                return Some(format!(
                    "`{shown}` is not the address of a node; write `host:port`"
                ));
            }
            if !seen.insert(endpoint) {
                return Some(format!(
                    "the node `{endpoint}` is named twice; its copies of a task would be one"
                ));
            }
        }
        if self.replicas == 0 || self.write_quorum == 0 {
            return Some("`replicas` and `write_quorum` are at least 1".to_owned());
        }
        for (name, time) in [
            ("deadline", self.deadline),
            ("connect_timeout", self.connect_timeout),
        ] {
            if time.is_zero() {
                return Some(format!(
                    "`{name}` is zero; no node can answer in no time, write for example `250ms`"
                ));
            }
        }
        if self.lease < Duration::from_secs(3) {
            return Some(
                "`lease` is less than 3s; the server counts in seconds and warns in the last"
                    .to_owned(),
            );
        }
        if self.unacked == 0 {
            return Some("`unacked` is zero, so that nothing could be taken".to_owned());
        }
        let all = || std::iter::once(&self.tube).chain(self.tubes.values());
        if all().any(|tube| tube.mixed_fleet) && self.tube != TubeConfig::default() {
            return Some(
                "a tube is shared with Go workers, so that private tubes of ours have the options of all other tubes; give these options to tubes by name"
                    .to_owned(),
            );
        }
        self.tubes
            .iter()
            .find(|(_, tube)| tube.mixed_fleet && !tube.wire.is_go_queue())
            .map(|(name, _)| {
                format!("tube `{name}` is shared with Go workers, which read only `wire: go-queue`")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::new(["a:1", "b:2"]);
        change(&mut config);
        config.check().expect_err("it cannot be opened").to_string()
    }

    #[test]
    fn what_cannot_be_is_said() {
        Config::new(["a:1", "[::1]:2"]).check().expect("good");
        for (text, part) in [
            (why(|c| c.endpoints.clear()), "no node is named"),
            (why(|c| c.endpoints.push("a:1".into())), "named twice"),
            (why(|c| c.endpoints.push("a".into())), "host:port"),
            (why(|c| c.endpoints.push("a/b:1".into())), "host:port"),
            (why(|c| c.endpoints.push("a,b:1".into())), "host:port"),
            (why(|c| c.endpoints.push(":1".into())), "host:port"),
            (why(|c| c.endpoints.push("a:65536".into())), "host:port"),
            (
                why(|c| c.endpoints = (0..65).map(|n| format!("a:{n}").into()).collect()),
                "at most 64",
            ),
            (why(|c| c.replicas = 0), "at least 1"),
            (why(|c| c.write_quorum = 0), "at least 1"),
            (why(|c| c.deadline = Duration::ZERO), "`deadline`"),
            (
                why(|c| c.connect_timeout = Duration::ZERO),
                "`connect_timeout`",
            ),
            (why(|c| c.lease = Duration::from_secs(2)), "`lease`"),
            (why(|c| c.unacked = 0), "`unacked`"),
            (
                why(|c| {
                    let tube = TubeConfig {
                        mixed_fleet: true,
                        ..TubeConfig::default()
                    };
                    c.tubes.insert(Name::literal("t"), tube);
                }),
                "tube `t`",
            ),
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn replicas_and_quorum_fit_the_nodes() {
        assert_eq!(Config::new(["a:1"]).copies(), (1, 1));
        assert_eq!(Config::new(["a:1", "b:1"]).copies(), (2, 2));
        assert_eq!(Config::new(["a:1", "b:1", "c:1", "d:1"]).copies(), (3, 2));
    }
}
