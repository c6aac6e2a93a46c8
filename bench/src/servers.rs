//! The servers of a scenario: real ones on ports of loopback, started by the driver and gone with it.

use std::fmt;
use std::process::Command;

use go_queue_tests::Folder;
use go_queue_tests::servers::{Beanstalkd, Redis, Server, kafka_is_installed};

use crate::kafka::Broker;

/// Which servers a scenario needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// beanstalkd nodes, without a binlog.
    pub(crate) nodes: usize,
    /// Whether Redis, without persistence.
    pub(crate) redis: bool,
    /// Whether Apache Kafka, and what its topic holds.
    pub(crate) kafka: Option<Records>,
}

/// What the topic `bench` of a broker holds when a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Records {
    /// Nothing.
    Nothing,
    /// So many, which every run reads from the start.
    Backlog(u64),
    /// The same, not compressed.
    Plain(u64),
}

pub(crate) const NO_SERVERS: Wanted = Wanted {
    nodes: 0,
    redis: false,
    kafka: None,
};

/// Apache Kafka whose topic holds this.
pub(crate) const fn kafka(records: Records) -> Wanted {
    Wanted {
        kafka: Some(records),
        ..NO_SERVERS
    }
}

/// The setting of the Go library.
pub(crate) const CLUSTER: Wanted = Wanted {
    nodes: 3,
    redis: true,
    ..NO_SERVERS
};

/// One node, and nothing that remembers what has run.
pub(crate) const ONE_NODE: Wanted = Wanted {
    nodes: 1,
    ..NO_SERVERS
};

/// Servers that run.
#[derive(Debug)]
pub(crate) struct Servers {
    nodes: Vec<Beanstalkd>,
    redis: Option<Redis>,
    kafka: Option<Broker>,
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
        if wanted.kafka.is_some() && !kafka_is_installed() {
            return Err("this needs Java, and Maven to fetch Apache Kafka".to_owned());
        }
        let folder = Folder::new("bench");
        let kafka = wanted
            .kafka
            .map(|records| Broker::start(folder.path(), records))
            .transpose()?;
        let nodes = (1..=wanted.nodes)
            .map(|n| Beanstalkd::start(folder.path(), &format!("node-{n}")))
            .collect();
        let redis = wanted.redis.then(|| Redis::start(folder.path(), "redis"));
        Ok(Self {
            nodes,
            redis,
            kafka,
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
        if let Some(kafka) = &mut self.kafka {
            kafka.next_run();
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
        let kafka = self.kafka.as_ref().map(|_| "Apache Kafka 4.1.0".to_owned());
        node.into_iter().chain(redis).chain(kafka).collect()
    }
}

/// ` nodes=ENDPOINT,.. node_pids=PID,.. redis=ENDPOINT redis_pid=PID kafka=ENDPOINT topic=NAME group=NAME`: parameters of a run.
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
        if let Some(kafka) = &self.kafka {
            write!(f, " {kafka}")?;
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
