//! One broker for all tests of a process.

use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{KafkaCluster, KafkaOptions};

/// A broker that lives as long as the process of the tests, and its folder with it. Nobody may stop it: tests that kill brokers
/// start their own.
#[derive(Debug)]
pub struct SharedKafka {
    cluster: KafkaCluster,
    /// Waits for the end of this process, which closes its input, and removes the folder.
    _sweeper: Child,
}

impl SharedKafka {
    /// The one of this process, started when it is first asked for.
    ///
    /// # Panics
    /// If it does not start.
    pub fn get() -> &'static Self {
        static ONE: OnceLock<SharedKafka> = OnceLock::new();
        ONE.get_or_init(Self::start)
    }

    fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("go-queue-kafka-")
            .tempdir()
            .expect("a folder for temporary files")
            .keep();
        // A static is never dropped. The broker dies with this process because the system kills it; a moment later the folder can
        // go.
        let script = "trap '' INT TERM HUP; cat >/dev/null; sleep 1; rm -rf \"$1\" || { sleep 2; rm -rf \"$1\"; }";
        let sweeper = Command::new("sh")
            .args(["-c", script, "sweeper"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let options = KafkaOptions {
            heap: 512,
            ..KafkaOptions::default()
        };
        Self {
            cluster: KafkaCluster::start(&folder, 1, &options),
            _sweeper: sweeper,
        }
    }

    /// A name that nobody in this process has had: tests share a broker, not topics and groups.
    pub fn fresh_name(what: &str) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Deref for SharedKafka {
    type Target = KafkaCluster;

    fn deref(&self) -> &KafkaCluster {
        &self.cluster
    }
}
