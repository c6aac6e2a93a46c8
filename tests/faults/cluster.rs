//! Nodes and Redis under a site.

use std::time::Duration;

use go_queue_tests::servers::{Beanstalkd, BeanstalkdOptions, Proxy, Redis, installed};
use go_queue_tests::{Folder, Report};

use crate::claims::{Beside, RedisSetup};
use crate::site::{Site, from_environment};

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// How many nodes.
    pub(crate) nodes: usize,
    /// Whether their jobs survive them.
    pub(crate) binlog: bool,
    /// Whether what Redis knows survives it.
    pub(crate) durable_redis: bool,
    /// What stands for Redis.
    pub(crate) redis: RedisSetup,
    /// Whether all connections to nodes go through a network of ours.
    pub(crate) proxied: bool,
    /// The largest job of the nodes.
    pub(crate) max_job_size: Option<u32>,
    /// How long Redis holds a claim without a sign of life. Short: what a killed worker had in hand is free when it ends.
    pub(crate) lease: &'static str,
    /// More of `dq`, each entry ended by a comma.
    pub(crate) dq: &'static str,
    /// More of the configuration.
    pub(crate) extra: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            nodes: 3,
            binlog: false,
            durable_redis: false,
            redis: RedisSetup::Single,
            proxied: false,
            max_job_size: None,
            lease: "2s",
            dq: "",
            extra: "",
        }
    }
}

/// Many more attempts than faults, and soon: a task that is cut off again and again must not end among the dead letters.
pub(crate) const ENDURING: &str =
    "handlers: { work: { retry: { max: 100000, backoff: 1ms..10ms } } }\n";

/// Servers, and the processes that use them.
pub(crate) struct Cluster {
    pub(crate) site: Site,
    pub(crate) nodes: Vec<Beanstalkd>,
    pub(crate) proxies: Vec<Proxy>,
    /// The only one, or the first.
    pub(crate) redis: Redis,
    beside: Beside,
}

impl Cluster {
    /// Starts the servers; `None` where they are not installed, which is said.
    pub(crate) fn start(name: &str, setup: &Setup) -> Option<Self> {
        if !installed(&[Beanstalkd::PROGRAM, Redis::PROGRAM]) {
            return None;
        }
        let folder = Folder::new(name);
        let options = BeanstalkdOptions {
            binlog: setup.binlog,
            max_job_size: setup.max_job_size,
        };
        let nodes: Vec<Beanstalkd> = (1..=setup.nodes)
            .map(|n| Beanstalkd::with(folder.path(), &format!("node-{n}"), &options))
            .collect();
        let proxies: Vec<Proxy> = nodes
            .iter()
            .filter(|_| setup.proxied)
            .map(|node| Proxy::before(node.address()))
            .collect();
        let (redis, beside, host) = setup.redis.start(&folder, setup.durable_redis);
        let endpoints: Vec<String> = if setup.proxied {
            proxies.iter().map(Proxy::endpoint).collect()
        } else {
            nodes.iter().map(|node| node.endpoint()).collect()
        };
        let yaml = format!(
            "dq: {{ beanstalks: [{}], {} redis: {{ {host}, lease: {} }} }}\nkq: {{ engine: memory }}\n{}",
            endpoints
                .iter()
                .map(|endpoint| format!("\"{endpoint}\""))
                .collect::<Vec<_>>()
                .join(", "),
            setup.dq,
            setup.lease,
            setup.extra,
        );
        Some(Self {
            site: Site::in_folder(folder, &yaml),
            nodes,
            proxies,
            redis,
            beside,
        })
    }

    /// Waits until the sentinel has made the replica the server.
    #[track_caller]
    pub(crate) fn until_the_replica_leads(&self) {
        self.beside.until_the_replica_leads();
    }

    /// Waits until so many more runs have finished than now.
    #[track_caller]
    pub(crate) fn more_finished(&mut self, count: usize) {
        let finished = self.site.ledger.finished_so_far();
        self.site.until("more is finished", |ledger| {
            ledger.finished_so_far() >= finished + count
        });
    }

    /// Waits until so many more were accepted than now.
    #[track_caller]
    pub(crate) fn more_accepted(&mut self, count: usize) {
        let accepted = self.site.ledger.accepted_so_far();
        self.site.until("more is accepted", |ledger| {
            ledger.accepted_so_far() >= accepted + count
        });
    }
}

/// So many messages two workers can have in hand: 16 that run and 16 that wait, each.
pub(crate) const IN_HAND: usize = 2 * 32;

/// How often a fault is repeated.
pub(crate) fn rounds(short: usize) -> usize {
    from_environment("GO_QUEUE_TEST_ROUNDS", short)
}

/// How long what is stopped stands still.
pub(crate) fn stall() -> Duration {
    let seconds = from_environment("GO_QUEUE_TEST_STALL", 3);
    Duration::from_secs(seconds.try_into().expect("a small number"))
}

/// Everything but that nothing ran twice: for faults that take the memory of what has run.
#[track_caller]
pub(crate) fn assert_nothing_lost(report: &Report) {
    let broken = report.broken_promises();
    let broken: Vec<_> = broken
        .iter()
        .filter(|promise| **promise != "run twice without cause")
        .collect();
    assert!(broken.is_empty(), "broken: {broken:?}\n{report}");
}
