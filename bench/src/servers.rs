//! The servers of a scenario: real ones on ports of loopback, started by the driver and gone with it.

use std::fmt;
use std::process::Command;

use go_queue_tests::Folder;
use go_queue_tests::servers::{Beanstalkd, Redis, Server};

/// Which servers a scenario needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// beanstalkd nodes, without a binlog.
    pub(crate) nodes: usize,
    /// Whether Redis, without persistence.
    pub(crate) redis: bool,
}

pub(crate) const NO_SERVERS: Wanted = Wanted {
    nodes: 0,
    redis: false,
};

/// The setting of the Go library.
pub(crate) const CLUSTER: Wanted = Wanted {
    nodes: 3,
    redis: true,
};

/// One node, and nothing that remembers what has run.
pub(crate) const ONE_NODE: Wanted = Wanted {
    nodes: 1,
    redis: false,
};

/// Servers that run.
#[derive(Debug)]
pub(crate) struct Servers {
    nodes: Vec<Beanstalkd>,
    redis: Option<Redis>,
    _folder: Folder,
}

impl Servers {
    /// Starts them.
    pub(crate) fn start(wanted: Wanted) -> Result<Self, String> {
        let mut programs = Vec::new();
        if wanted.nodes > 0 {
            programs.push(Beanstalkd::PROGRAM);
        }
        if wanted.redis {
            programs.push(Redis::PROGRAM);
        }
        if !go_queue_tests::servers::installed(&programs) {
            return Err(format!("this needs {}", programs.join(" and ")));
        }
        let folder = Folder::new("bench");
        let nodes = (1..=wanted.nodes)
            .map(|n| Beanstalkd::start(folder.path(), &format!("node-{n}")))
            .collect();
        let redis = wanted.redis.then(|| Redis::start(folder.path(), "redis"));
        Ok(Self {
            nodes,
            redis,
            _folder: folder,
        })
    }

    /// Starts them anew, so that each run finds empty servers with young heaps, and says where they are.
    pub(crate) fn fresh(&mut self) -> &Self {
        for node in &mut self.nodes {
            node.restart();
        }
        if let Some(redis) = &mut self.redis {
            redis.restart();
        }
        self
    }

    /// What they are.
    pub(crate) fn versions(&self) -> Vec<String> {
        let node = (!self.nodes.is_empty()).then(|| version(Beanstalkd::PROGRAM, "-v"));
        let redis = self
            .redis
            .as_ref()
            .map(|_| version(Redis::PROGRAM, "--version"));
        node.into_iter().chain(redis).collect()
    }
}

/// ` nodes=ENDPOINT,.. node_pids=PID,.. redis=ENDPOINT redis_pid=PID`: parameters of a run.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = |server: &Server| server.pid().map_or_else(String::new, |pid| pid.to_string());
        if !self.nodes.is_empty() {
            let endpoints: Vec<String> = self.nodes.iter().map(|node| node.endpoint()).collect();
            let pids: Vec<String> = self.nodes.iter().map(|node| pid(node)).collect();
            write!(
                f,
                " nodes={} node_pids={}",
                endpoints.join(","),
                pids.join(",")
            )?;
        }
        if let Some(redis) = &self.redis {
            write!(f, " redis={} redis_pid={}", redis.endpoint(), pid(redis))?;
        }
        Ok(())
    }
}

/// The first words of what a program says of itself.
fn version(program: &str, option: &str) -> String {
    let said = Command::new(program).arg(option).output();
    let said = said.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    let words: Vec<&str> = said.split_whitespace().take(3).collect();
    if words.is_empty() {
        program.to_owned()
    } else {
        words.join(" ")
    }
}
