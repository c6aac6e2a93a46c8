//! Kafka as a subject: one broker for all cases of the process, topics and groups of their own for each.

use std::sync::Arc;
use std::time::Duration;

use go_queue::engine::kafka::{Config, CreateTopics, GroupProtocol, Kafka, Strategy};
use go_queue::engine::{BoxFuture, Capabilities, Engine};
use go_queue::name::Side;
use go_queue::testing::conformance::{DROPPING, SHORT, SINGLE, SMALL, Subject};
use go_queue::time::{Clock, WallTime};
use go_queue_tests::servers::SharedKafka;

use crate::renamed::{Prefix, Renamed};

/// One assigns for all, and only what moves is taken away: the default.
pub(crate) const COOPERATIVE: GroupProtocol = GroupProtocol::Classic {
    strategy: Strategy::CooperativeSticky,
};

/// Everything is taken away and given out anew.
pub(crate) const RANGE: GroupProtocol = GroupProtocol::Classic {
    strategy: Strategy::Range,
};

/// An engine on the broker of this process.
#[derive(Debug)]
pub(crate) struct OnBroker {
    engine: Arc<dyn Engine>,
    config: Config,
    clock: Clock,
    prefix: Prefix,
}

impl OnBroker {
    /// With topics that nobody else has.
    pub(crate) async fn fresh(protocol: GroupProtocol) -> Self {
        // Starting a broker takes seconds.
        let kafka = tokio::task::spawn_blocking(SharedKafka::get);
        let kafka = kafka.await.expect("the broker starts");
        let own = SharedKafka::fresh_name("case");
        let prefix = Prefix(Arc::from(format!("{own}.")));
        let create = CreateTopics {
            partitions: 8,
            replication: Some(1),
        };
        let ones = [SINGLE, SHORT, DROPPING, SMALL];
        let config = Config {
            protocol,
            // A member that vanishes is missed after so long.
            session: Duration::from_secs(3),
            create_topics: Some(create),
            partitions: ones.iter().map(|name| (prefix.name(name), 1)).collect(),
            // The dead letters of other cases are none of ours.
            dead_suffix: Arc::from(format!("-dlt-{own}")),
            ..Config::new([kafka.endpoints()])
        };
        let clock = Clock::system();
        let engine = open(&config, &clock, &prefix).await;
        Self {
            engine,
            config,
            clock,
            prefix,
        }
    }
}

/// As another process would open it.
async fn open(config: &Config, clock: &Clock, prefix: &Prefix) -> Arc<dyn Engine> {
    let engine = Kafka::open(config.clone(), clock.clone()).await;
    Arc::new(Renamed {
        engine: Arc::new(engine.expect("the broker is there")),
        prefix: prefix.clone(),
    })
}

impl Subject for OnBroker {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine)
    }

    fn another(&self) -> BoxFuture<'_, Arc<dyn Engine>> {
        Box::pin(open(&self.config, &self.clock, &self.prefix))
    }

    fn capabilities(&self, side: Side) -> Capabilities {
        if side == Side::Tasks {
            return Capabilities::default();
        }
        Capabilities {
            supported: true,
            redeliver: false,
            dead_letter: true,
            delayed: false,
            priority: false,
            log: true,
            durable: true,
            fenced: true,
        }
    }

    fn lacks(&self, case: &str) -> Option<&'static str> {
        const RETENTION: &str = "the broker removes what is old, whoever has read it";
        const EAGER: &str = "an eager group takes every partition from every member at each change, whoever works on them";
        let eager = self.config.protocol == RANGE;
        match case {
            "a_member_that_does_not_finish_is_bounded"
            | "more_members_than_partitions_wait_their_turn"
                if eager =>
            {
                Some(EAGER)
            }
            case => case.starts_with("retention_").then_some(RETENTION),
        }
    }

    fn now(&self) -> WallTime {
        self.clock.now()
    }

    /// Members hear of each other with their signs of life, one in a second.
    fn silence(&self) -> Duration {
        Duration::from_millis(1500)
    }

    fn sequences(&self) -> u32 {
        4
    }
}
