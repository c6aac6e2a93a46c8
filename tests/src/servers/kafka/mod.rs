//! Apache Kafka, the real one: brokers in `KRaft` mode, each of them broker and controller.

mod jars;
mod raw;
mod shared;

use std::fmt::Write as _;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::server::{Greeting, Server, free_server_port};
use super::{installed, missing};

pub use raw::{Raw, RawRecord};
pub use shared::SharedKafka;

/// `ApiVersions`, version 0, without the name of a client. The answer begins with its length, which is less than 65,536.
const GREETING: Greeting = Greeting {
    question: b"\0\0\0\x0a\0\x12\0\0\0\0\0\x07\xff\xff",
    answer: b"\0\0",
};

/// Any name of a cluster, in the form that Kafka wants; those of all tests are the same, because none hears of another.
const CLUSTER_ID: &str = "Z28tcXVldWUtdGVzdHMtMA";

/// Whether brokers can be started: Java is on the path, and the jars are here or can be fetched. If not, the test says so and
/// ends; in CI that is a failure.
///
/// # Panics
/// If something is missing and `CI` is set: there nothing is skipped.
#[must_use]
pub fn kafka_is_installed() -> bool {
    installed(&["java"]) && jars::folder().map_err(|why| missing(&why)).is_ok()
}

/// How brokers are started.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// The largest heap of each, in MiB.
    pub heap: u32,
    /// Whether the Java machine compiles only quickly: up sooner, and slower where much is moved.
    pub quick: bool,
    /// More lines of `server.properties`; a later one replaces an earlier one.
    pub properties: Vec<(String, String)>,
    /// More listeners on loopback, by the names that `properties` set up.
    pub listeners: Vec<(String, u16)>,
    /// Users with their passwords, for SCRAM-SHA-512.
    pub users: Vec<(String, String)>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            heap: 256,
            quick: true,
            properties: Vec::new(),
            listeners: Vec::new(),
            users: Vec::new(),
        }
    }
}

/// One broker. Everything of [`Server`] can be done to it; what it has stored survives its death.
#[derive(Debug)]
pub struct Broker(Server);

impl Deref for Broker {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Broker {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

/// Brokers that know each other.
#[derive(Debug)]
pub struct KafkaCluster {
    /// Their ids count from 1, in this order.
    pub brokers: Vec<Broker>,
}

impl KafkaCluster {
    /// One broker in `folder`.
    ///
    /// # Panics
    /// If it does not start.
    pub fn single(folder: &Path) -> Self {
        Self::start(folder, 1, &KafkaOptions::default())
    }

    /// `count` brokers in `folder`. Their group sessions may be as short as 2 s, a dead broker is noticed within 4 s, and topics
    /// are not created by whoever asks for them.
    ///
    /// # Panics
    /// If they do not start.
    pub fn start(folder: &Path, count: usize, options: &KafkaOptions) -> Self {
        let controllers: Vec<u16> = (0..count).map(|_| free_server_port()).collect();
        // One after the other they would wait for a majority that never comes.
        let brokers = std::thread::scope(|scope| {
            let starting: Vec<_> = (1..=count)
                .map(|id| {
                    let controllers = &controllers;
                    scope.spawn(move || start(folder, id, controllers, options))
                })
                .collect();
            starting
                .into_iter()
                .map(|one| one.join().expect("the broker starts"))
                .collect()
        });
        Self { brokers }
    }

    /// Where they listen, as configurations name it, with commas.
    pub fn endpoints(&self) -> String {
        let endpoints: Vec<String> = self.brokers.iter().map(|one| one.endpoint()).collect();
        endpoints.join(",")
    }

    /// What a test says to them itself.
    pub fn raw(&self) -> Raw {
        Raw::to(&self.endpoints())
    }

    /// The broker with this id, as partitions name their leaders.
    ///
    /// # Panics
    /// If there is none.
    pub fn broker(&mut self, id: i32) -> &mut Broker {
        let at = usize::try_from(id - 1).expect("ids count from 1");
        &mut self.brokers[at]
    }
}

fn start(folder: &Path, id: usize, controllers: &[u16], options: &KafkaOptions) -> Broker {
    let jars = jars::folder().unwrap_or_else(|why| unreachable!("{why}; ask first"));
    let classes = format!("{}/*", jars.display());
    // Written anew when the port was taken, and that more than one test may want to see.
    let formatted = Mutex::new(());
    let server = Server::start(
        "java",
        folder,
        &format!("broker-{id}"),
        GREETING,
        |port, home| {
            let _one = formatted.lock();
            let file = home.join("server.properties");
            let text = properties(id, port, controllers, home, options);
            std::fs::write(&file, text).expect("the folder of the test is writable");
            format(&classes, &file, &options.users);
            java(&classes, options, "kafka.Kafka", &[&file.to_string_lossy()])
        },
    );
    Broker(server)
}

fn java(classes: &str, options: &KafkaOptions, main: &str, rest: &[&str]) -> Vec<String> {
    let heap = format!("-Xmx{}m", options.heap);
    let mut arguments = vec![&*heap, "-XX:+UseSerialGC", "-Dlog4j2.level=WARN"];
    if options.quick {
        arguments.push("-XX:TieredStopAtLevel=1");
    }
    arguments.extend(["-cp", classes, main]);
    arguments.extend(rest);
    arguments.into_iter().map(str::to_owned).collect()
}

/// Makes the folder of a broker what a broker expects.
fn format(classes: &str, file: &Path, users: &[(String, String)]) {
    let file = file.to_string_lossy();
    let users: Vec<String> = users
        .iter()
        .map(|(name, password)| format!("SCRAM-SHA-512=[name={name},password={password}]"))
        .collect();
    let mut rest = vec![
        "format",
        "--ignore-formatted",
        "-t",
        CLUSTER_ID,
        "-c",
        &file,
    ];
    for user in &users {
        rest.extend(["--add-scram", user]);
    }
    let output = Command::new("java")
        .args(java(
            classes,
            &KafkaOptions::default(),
            "kafka.tools.StorageTool",
            &rest,
        ))
        .stdin(Stdio::null())
        .output()
        .expect("java was found");
    assert!(
        output.status.success(),
        "the folder of a broker cannot be formatted: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Small, quick to agree, and as strict as a careful operator has it.
const PROPERTIES: &[(&str, &str)] = &[
    ("process.roles", "broker,controller"),
    ("controller.listener.names", "CONTROLLER"),
    (
        "listener.security.protocol.map",
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    ),
    ("auto.create.topics.enable", "false"),
    // A dead broker is noticed after so long.
    ("broker.session.timeout.ms", "4000"),
    ("broker.heartbeat.interval.ms", "500"),
    // Groups form at once, and a dead member is noticed after so long.
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "2000"),
    ("group.coordinator.rebalance.protocols", "classic,consumer"),
    ("group.consumer.min.session.timeout.ms", "6000"),
    ("group.consumer.session.timeout.ms", "6000"),
    ("group.consumer.min.heartbeat.interval.ms", "500"),
    ("group.consumer.heartbeat.interval.ms", "500"),
    // Small.
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.num.partitions", "2"),
    ("share.coordinator.state.topic.num.partitions", "2"),
    ("num.network.threads", "2"),
    ("num.io.threads", "4"),
    ("background.threads", "2"),
    ("log.cleaner.dedupe.buffer.size", "4194304"),
    ("log.index.size.max.bytes", "1048576"),
];

fn properties(
    id: usize,
    port: u16,
    controllers: &[u16],
    home: &Path,
    options: &KafkaOptions,
) -> String {
    let (mut text, copies) = (String::new(), controllers.len().min(3));
    let voters: Vec<String> = (1..)
        .zip(controllers)
        .map(|(id, port)| format!("{id}@127.0.0.1:{port}"))
        .collect();
    let own = controllers[id - 1];
    let mut line = |name: &str, value: &str| {
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{name}={value}");
    };
    for (name, value) in PROPERTIES {
        line(name, value);
    }
    line("node.id", &id.to_string());
    line("controller.quorum.voters", &voters.join(","));
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{own}");
    for (name, port) in &options.listeners {
        let _ = write!(listeners, ",{name}://127.0.0.1:{port}");
    }
    line("listeners", &listeners);
    line("log.dirs", &home.join("data").to_string_lossy());
    for topic in [
        "offsets.topic",
        "transaction.state.log",
        "share.coordinator.state.topic",
    ] {
        line(&format!("{topic}.replication.factor"), &copies.to_string());
    }
    for topic in ["transaction.state.log", "share.coordinator.state.topic"] {
        line(&format!("{topic}.min.isr"), &copies.min(2).to_string());
    }
    line("min.insync.replicas", &copies.min(2).to_string());
    for (name, value) in &options.properties {
        line(name, value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Folder;

    #[test]
    fn a_broker_keeps_its_records_and_its_port_when_it_is_killed() {
        if !kafka_is_installed() {
            return;
        }
        let folder = Folder::new("broker");
        let mut cluster = KafkaCluster::single(folder.path());
        let raw = cluster.raw();
        raw.create("kept", 1);
        raw.produce("kept", (0..10).map(|n| RawRecord::new("k", format!("{n}"))));
        cluster.broker(1).kill();
        assert_eq!(cluster.broker(1).pid(), None);
        cluster.broker(1).restart();
        raw.until_ready("kept", 1, 1);
        assert_eq!(raw.records("kept").len(), 10);
    }

    #[test]
    fn three_brokers_go_on_with_two() {
        if !kafka_is_installed() {
            return;
        }
        let folder = Folder::new("three-brokers");
        let mut cluster = KafkaCluster::start(folder.path(), 3, &KafkaOptions::default());
        let raw = cluster.raw();
        raw.create_with("led", 1, 3, &[]);
        raw.produce("led", [RawRecord::new("k", "before")]);
        let leader = raw.leaders("led")[0];
        cluster.broker(leader).kill();
        crate::until("another leader", std::time::Duration::from_secs(60), || {
            let now = raw.leaders("led");
            now.len() == 1 && now[0] > 0 && now[0] != leader
        });
        raw.produce("led", [RawRecord::new("k", "after")]);
        assert_eq!(raw.records("led").len(), 2);
        cluster.broker(leader).restart();
        raw.until_ready("led", 1, 3);
    }
}
