//! beanstalkd as a subject: each case has nodes of its own, and where there are several a Redis.

use std::sync::Arc;
use std::time::Duration;

use go_queue::dedup::redis::{KeyForm, RedisConfig, RedisScope, RedisStore};
use go_queue::engine::beanstalkd::{Beanstalkd as Tasks, Config};
use go_queue::engine::{BoxFuture, Capabilities, Engine};
use go_queue::name::{Place, Side};
use go_queue::testing::conformance::Subject;
use go_queue::time::{Clock, WallTime};
use go_queue_tests::servers::{Beanstalkd, BeanstalkdOptions, Proxy, Redis, installed};
use go_queue_tests::{Folder, log_if_asked};

use crate::claimed::Claimed;

/// Whether the servers are there; the test is skipped and says so where not.
pub(crate) fn one_node_is_installed() -> bool {
    installed(&[Beanstalkd::PROGRAM])
}

/// As [`one_node_is_installed`], with Redis.
pub(crate) fn all_is_installed() -> bool {
    installed(&[Beanstalkd::PROGRAM, Redis::PROGRAM])
}

/// A replica that is sent away while its task runs comes again after seconds: until then it must be known to be done.
const KEEP: Duration = Duration::from_secs(12);

/// An engine on nodes that go with it. Its connections go through a network of ours, so that they can be cut.
#[derive(Debug)]
pub(crate) struct OnNodes {
    engine: Arc<dyn Engine>,
    config: Config,
    clock: Clock,
    redis: Option<Redis>,
    proxies: Vec<Proxy>,
    _nodes: Vec<Beanstalkd>,
    _folder: Folder,
}

impl OnNodes {
    /// One node that nobody helps.
    pub(crate) async fn alone(binlog: bool) -> Self {
        Self::fresh(1, binlog, false).await
    }

    /// Three nodes and Redis.
    pub(crate) async fn three(binlog: bool) -> Self {
        Self::fresh(3, binlog, true).await
    }

    async fn fresh(count: usize, binlog: bool, with_redis: bool) -> Self {
        log_if_asked();
        let folder = Folder::new("conformance");
        let options = BeanstalkdOptions {
            binlog,
            ..BeanstalkdOptions::default()
        };
        let nodes: Vec<Beanstalkd> = (0..count)
            .map(|n| Beanstalkd::with(folder.path(), &format!("node-{n}"), &options))
            .collect();
        let proxies: Vec<Proxy> = nodes
            .iter()
            .map(|node| Proxy::before(node.address()))
            .collect();
        let redis = with_redis.then(|| Redis::start(folder.path(), "redis"));
        let config = Config {
            keep: KEEP,
            ..Config::new(proxies.iter().map(Proxy::endpoint))
        };
        let clock = Clock::system();
        let engine = open(&config, redis.as_ref(), &clock).await;
        Self {
            engine,
            config,
            clock,
            redis,
            proxies,
            _nodes: nodes,
            _folder: folder,
        }
    }
}

/// As another process would open it, with a store of its own.
async fn open(config: &Config, redis: Option<&Redis>, clock: &Clock) -> Arc<dyn Engine> {
    let store = redis.map(|redis| {
        RedisStore::open(RedisConfig::node(redis.endpoint())).expect("a good configuration")
    });
    let marks = store.as_ref().map(|store| store.marks([]));
    let engine = Tasks::open(config.clone(), marks, clock.clone()).await;
    let engine: Arc<dyn Engine> = Arc::new(engine.expect("the nodes are there"));
    let Some(store) = store else {
        return engine;
    };
    Arc::new(Claimed {
        engine,
        claims: Arc::new(move |to| {
            store.end(&RedisScope {
                scope: to.place.name().to_string(),
                form: KeyForm::Native,
                keep: KEEP,
                replicas: true,
            })
        }),
    })
}

impl Subject for OnNodes {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine)
    }

    fn another(&self) -> BoxFuture<'_, Arc<dyn Engine>> {
        Box::pin(open(&self.config, self.redis.as_ref(), &self.clock))
    }

    fn capabilities(&self, side: Side) -> Capabilities {
        if side == Side::Topics {
            return Capabilities::default();
        }
        Capabilities {
            supported: true,
            redeliver: true,
            dead_letter: true,
            delayed: true,
            priority: true,
            log: false,
            durable: true,
            fenced: self.proxies.len() == 1,
        }
    }

    fn lacks(&self, case: &str) -> Option<&'static str> {
        const FORGETS: &str = "a node knows nothing of a task that is gone, and nobody helps it";
        const HELD: &str = "a task that is due within the second is in the hands of its consumer, and no store can move it there";
        const REPLICAS: &str =
            "the other replicas of a task that is given back may come first, from other nodes";
        const LATE: &str = "a copy that was confirmed after the quorum is in no id: when its task is revoked it stays until its time, and shows it";
        let alone = self.proxies.len() == 1;
        match case {
            "a_named_task_is_stored_once"
            | "a_named_task_is_known_until_keep_is_over"
            | "revoke_tells_the_truth"
            | "reschedule_tells_the_truth"
            | "random_operations_agree_with_the_model"
                if alone =>
            {
                Some(FORGETS)
            }
            "reschedule_moves_a_task_both_ways" if alone => Some(HELD),
            "a_released_task_is_next" | "release_after_is_not_early_and_does_not_count"
                if !alone =>
            {
                Some(REPLICAS)
            }
            "health_knows_what_is_due_next" if !alone => Some(LATE),
            _ => None,
        }
    }

    fn keep(&self) -> Duration {
        KEEP
    }

    fn now(&self) -> WallTime {
        self.clock.now()
    }

    fn cut(&self, _: &Place) -> bool {
        for proxy in &self.proxies {
            proxy.reset_all();
        }
        true
    }
}
