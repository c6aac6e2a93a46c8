//! Brokers under a site.

use std::time::{Duration, Instant};

use go_queue_tests::servers::{KafkaCluster, KafkaOptions, Raw, kafka_is_installed};
use go_queue_tests::{Folder, Process, Report, until};

use crate::site::{PATIENCE, Site, print};

/// The topic of the worker, and its group.
pub(crate) const TOPIC: &str = "steps";
pub(crate) const GROUP: &str = "faults";

/// What a worker has in hand at most: 16 that run, as its attribute says, and what may wait for a busy key.
pub(crate) const IN_HAND: usize = 16 + 1024;

/// What a test runs on.
#[derive(Clone, Debug)]
pub(crate) struct KafkaSetup {
    /// How many brokers; each record is on all of them.
    pub(crate) brokers: usize,
    /// Partitions of the topic.
    pub(crate) partitions: i32,
    /// How members share them: `cooperative-sticky`, `range` or `consumer`.
    pub(crate) protocol: &'static str,
    /// How long a member may go without a turn.
    pub(crate) max_poll: Duration,
    /// Settings of the client.
    pub(crate) properties: &'static [(&'static str, &'static str)],
    /// More of the configuration.
    pub(crate) extra: &'static str,
}

impl Default for KafkaSetup {
    fn default() -> Self {
        Self {
            brokers: 1,
            partitions: 8,
            protocol: "cooperative-sticky",
            max_poll: Duration::from_secs(300),
            properties: &[],
            extra: "",
        }
    }
}

/// Brokers, and the processes that use them.
pub(crate) struct OnKafka {
    pub(crate) site: Site,
    pub(crate) cluster: KafkaCluster,
    pub(crate) raw: Raw,
    on: String,
}

impl OnKafka {
    /// Starts the brokers and creates the topic and that of its dead letters; `None` where Kafka is not installed, which is said.
    pub(crate) fn start(name: &str, setup: &KafkaSetup) -> Option<Self> {
        if !kafka_is_installed() {
            return None;
        }
        let folder = Folder::new(name);
        let cluster = KafkaCluster::start(folder.path(), setup.brokers, &KafkaOptions::default());
        let raw = cluster.raw();
        let copies = i32::try_from(setup.brokers).expect("a few brokers");
        for topic in [TOPIC, "steps-dlt"] {
            raw.create_with(topic, setup.partitions, copies, &[]);
        }
        let brokers: Vec<String> = cluster.brokers.iter().map(|one| one.endpoint()).collect();
        let on = serde_json::json!({
            "brokers": brokers,
            "protocol": setup.protocol,
            "session_ms": 6000,
            "max_poll_ms": u64::try_from(setup.max_poll.as_millis()).expect("a short time"),
            "properties": setup.properties,
        });
        let yaml = format!(
            "dq: {{ engine: memory }}\nkq: {{ engine: memory }}\n{}",
            setup.extra
        );
        Some(Self {
            site: Site::in_folder(folder, &yaml),
            cluster,
            raw,
            on: on.to_string(),
        })
    }

    fn process(&mut self, mode: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Process {
        let on = self.on.clone();
        let mut environment = vec![("LEDGER_WORKER_KAFKA", &*on)];
        environment.extend(settings);
        self.site.start_with(mode, arguments, &environment)
    }

    /// A worker, which may not have joined yet.
    pub(crate) fn worker(&mut self) -> Process {
        self.process("worker", &[], &[])
    }

    /// A worker that fails all records of this key.
    pub(crate) fn poisoned_worker(&mut self, key: &str) -> Process {
        self.process("worker", &[], &[("LEDGER_WORKER_POISON", key)])
    }

    /// A worker that has started, and will soon have joined.
    pub(crate) fn ready_worker(&mut self) -> Process {
        let before = self.site.marks();
        let worker = self.worker();
        self.site.until("the worker is ready", |ledger| {
            ledger.marks("ready") > before
        });
        worker
    }

    /// Pushes `count` records for each of `keys` keys.
    pub(crate) fn records(&mut self, prefix: &str, count: u64, keys: u64, work_us: u64) -> Process {
        let [count, keys, work] = [count, keys, work_us].map(|number| number.to_string());
        self.process("records", &[prefix, &count, &keys, &work], &[])
    }

    /// Pushes `rate` records a second over `keys` keys until SIGTERM, and goes on when one is refused.
    pub(crate) fn flow(&mut self, prefix: &str, keys: u64, rate: u64, work_us: u64) -> Process {
        let [keys, rate, work] = [keys, rate, work_us].map(|number| number.to_string());
        let arguments = [prefix, &keys, &rate, &work];
        self.process("flow", &arguments, &[("LEDGER_WORKER_KEEP_GOING", "1")])
    }

    /// Waits until so many more runs have finished than now.
    #[track_caller]
    pub(crate) fn more_finished(&mut self, count: usize) {
        self.site.ledger.update().expect("readable journals");
        let finished = self.site.ledger.finished_so_far();
        self.site.until("more is finished", |ledger| {
            ledger.finished_so_far() >= finished + count
        });
    }

    /// Waits until everything that was accepted has finished, then ends the workers in order, and counts. The partitions of a dead
    /// member wait for the end of its session, so a rest of half a minute says that something is lost.
    #[track_caller]
    pub(crate) fn settle(&mut self, workers: &mut [Process]) -> Report {
        let folder = self.site.folder.path().to_owned();
        let ledger = &mut self.site.ledger;
        let (mut last, mut since) = (0, Instant::now());
        until("all that was accepted has ended", 3 * PATIENCE, || {
            ledger.update().expect("readable journals");
            let finished = ledger.finished_so_far();
            if finished != last {
                (last, since) = (finished, Instant::now());
            }
            let (all, rest) = (finished >= ledger.accepted_so_far(), since.elapsed());
            let complete = all && rest > Duration::from_millis(500);
            (complete && ledger.report().expect("readable journals").lost.is_empty())
                || rest > Duration::from_secs(30)
        });
        for worker in workers.iter_mut() {
            worker.terminate();
        }
        for worker in workers.iter_mut() {
            worker.wait_success(PATIENCE);
        }
        let report = self.site.ledger.report().expect("readable journals");
        print(&format!("{}\n{report}", folder.display()));
        report
    }
}
