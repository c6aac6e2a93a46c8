//! Topics on Kafka, through librdkafka.
//!
//! Each end of a subscription is a member of its group, with a client of its own. What is fetched ahead lies in one queue for each
//! partition, drained in turn. Only what is finished without a hole is committed, so that a crash repeats records and loses none.
//!
//! A failed record that is to be tried again stays with the pump. One that is given up goes to the topic `<topic>-dlt`, and is
//! committed only after the brokers have it there.

mod config;
mod dead;
mod publish;
mod raw;
mod receive;
mod record;
mod topics;
mod watermark;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{
    BoxFuture, Capabilities, DeadLetters, Engine, EngineError, Publish, Receive, Start, Subscribe,
};
use crate::name::{Place, Side};
use crate::time::Clock;

pub use config::{
    CONSUMER_RESERVED, Compression, Config, CreateTopics, Fetch, GroupProtocol, PRODUCER_RESERVED,
    ProducerConfig, Sasl, SaslMechanism, Secret, Security, Strategy, Tls,
};

use config::Member;
use dead::{Dead, Outbox};
use publish::Publisher;
use receive::{Leavers, Seats, TopicEnd};

/// The name of the engine.
pub(crate) const ENGINE: &str = "kafka";

/// How long the clients of closed ends may take to end.
const LAST_BOUND: Duration = Duration::from_secs(10);

/// Topics on a Kafka cluster. Cheap to share; one for each cluster and process.
pub struct Kafka {
    config: Arc<Config>,
    publisher: Arc<Publisher>,
    dead: Arc<Dead>,
    leavers: Leavers,
    seats: Seats,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Kafka {
    /// Connects the producing side. Ends connect when they are opened.
    ///
    /// # Errors
    /// [`EngineError::Unusable`] if the configuration cannot be, or the brokers refuse the credentials;
    /// [`EngineError::Unavailable`] if no broker answers within [`Config::connect_timeout`].
    ///
    /// # Cancel safety
    /// Dropping the future opens nothing.
    pub async fn open(config: Config, clock: Clock) -> Result<Self, EngineError> {
        config.check()?;
        let config = Arc::new(config);
        let publisher = Arc::new(Publisher::open(Arc::clone(&config), clock).await?);
        Ok(Self {
            dead: Arc::new(Dead::new(Arc::clone(&publisher))),
            config,
            publisher,
            leavers: Leavers::default(),
            seats: Seats::default(),
        })
    }

    async fn open_end(&self, to: &Subscribe) -> Result<TopicEnd, EngineError> {
        let (Place::Topic(topic), Some(group)) = (&to.place, &to.group) else {
            return Err(EngineError::Unsupported {
                engine: ENGINE,
                what: format!("serve {}", to.place),
            });
        };
        let layout = topics::ready(&self.publisher.client(), &self.config, topic).await?;
        let seat = self.seats.take(topic, group);
        let member = Member {
            group,
            topic,
            start: to.start,
            index: seat.number,
            partitions: layout.partitions as usize,
        };
        let mut settings = self.config.consumer_settings(&member);
        if to.start == Start::Last {
            let (asking, name) = (settings.clone(), topic.clone());
            let (partitions, bound) = (layout.partitions, self.config.connect_timeout);
            let pinned = topics::blocking(move || {
                receive::pin_start(&asking, &name, partitions, bound).map_err(|error| {
                    EngineError::Unavailable {
                        engine: ENGINE,
                        what: format!("find where topic `{name}` ends"),
                        why: Arc::from(error.to_string()),
                    }
                })
            });
            if pinned.await? {
                settings.set("auto.offset.reset", "earliest");
            }
        }
        let outbox = Outbox::new(
            Arc::clone(&self.publisher),
            self.config.dead_topic(topic)?,
            layout.dead_partitions,
        );
        let memory = self.config.memory;
        let interval = self.config.commit_interval;
        let leavers = self.leavers.clone();
        TopicEnd::join(&settings, to, memory, interval, outbox, leavers, seat)
    }
}

impl Engine for Kafka {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn capabilities(&self, side: Side) -> Capabilities {
        match side {
            Side::Tasks => Capabilities::default(),
            Side::Topics => Capabilities {
                supported: true,
                redeliver: false,
                dead_letter: true,
                delayed: false,
                priority: false,
                log: true,
                durable: true,
                fenced: true,
            },
        }
    }

    /// Looks at the topics first: that of the subscription and that of its dead letters must be there, or are created where the
    /// configuration says so.
    ///
    /// # Errors
    /// [`EngineError::Unusable`] with everything that is missing; [`EngineError::Unavailable`] if the brokers do not tell.
    fn subscribe<'a>(
        &'a self,
        to: &'a Subscribe,
    ) -> BoxFuture<'a, Result<Box<dyn Receive>, EngineError>> {
        Box::pin(async { Ok(Box::new(self.open_end(to).await?) as Box<dyn Receive>) })
    }

    fn publisher(&self) -> Arc<dyn Publish> {
        Arc::clone(&self.publisher) as Arc<dyn Publish>
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::clone(&self.dead) as Arc<dyn DeadLetters>)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async {
            let closed = self.publisher.close().await;
            if !self.leavers.wait(LAST_BOUND).await {
                tracing::warn!(
                    "clients of the Kafka engine did not end within {LAST_BOUND:?}; they end with the process"
                );
            }
            closed
        })
    }
}
