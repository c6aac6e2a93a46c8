//! Tasks on beanstalkd: one node or several, each task on some of them.
//!
//! The nodes know nothing of each other, so everything that makes them one queue is here: which nodes a task goes to, how many
//! must confirm it, who stands in for a node that is away, and, by way of [marks](crate::dedup::Marks) in the dedup store, that
//! a task which several nodes hold runs once, or not at all when it was revoked.
//!
//! - The consuming side owns one connection for each node and subscription and polls them.
//! - The producing side has one task for each node, shared by all callers.

mod alarm;
mod codec;
mod config;
mod copies;
mod dead;
mod driver;
mod figures;
mod hold;
mod letter;
mod link;
mod node;
mod node_end;
mod placement;
mod publish;
mod receive;
mod replicas;
mod session;
mod tasks;
mod transfer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::dedup::Marks;
use crate::engine::{
    BoxFuture, Capabilities, DeadLetters, Engine, EngineError, Publish, Receive, Subscribe, Tasks,
};
use crate::name::{Place, Side};
use crate::time::Clock;

pub use config::{AtStart, Config, TubeConfig, Wire};
use dead::DeadTubes;
use driver::Settings;
use figures::Figures;
pub use figures::ReplicationFigures;
use node::Node;
use receive::{Framing, Site};
pub use transfer::private_tube;

/// The name of the engine.
pub(crate) const ENGINE: &str = "beanstalkd";

/// So long at least a task that is not done is known after its time. A worker that is later may meet a task whose name was sent
/// anew.
const UNFINISHED: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a consumer waits at least for an answer that is late: it has nobody who waits with it, and to cut a connection gives back
/// everything in hand.
const PATIENCE: Duration = Duration::from_secs(1);

/// The engine on a set of nodes. Cheap to clone: all clones share the connections, which end when the last of them and of what
/// they gave out (publishers, subscriptions, handles to tasks and dead letters) is gone, or at [`Engine::close`].
#[derive(Clone, Debug)]
pub struct Beanstalkd(Arc<Shared>);

/// What all parts of one engine share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    /// What is kept of single tasks beside the nodes.
    pub(crate) marks: Option<Arc<dyn Marks>>,
    /// In the order of the configuration.
    pub(crate) nodes: Arc<Nodes>,
    /// On so many nodes a task is stored.
    replicas: usize,
    /// So many must confirm it.
    quorum: usize,
    figures: Arc<Figures>,
    /// Told whenever the state of a node changes.
    changed: Arc<Notify>,
    /// What was handed over and is not answered by all its nodes.
    window: Arc<Semaphore>,
    /// Makes tasks of the Go library's wire differ in their bytes.
    nth: AtomicU32,
    /// Where this process has moved tasks to, while there is no store to note it.
    moved: tasks::Moved,
    /// What the ends of subscriptions share.
    site: Arc<Site>,
    dead: DeadTubes,
    drivers: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("nodes", &self.nodes)
            .field("replicas", &self.replicas)
            .field("quorum", &self.quorum)
            .finish_non_exhaustive()
    }
}

/// The nodes of an engine in the order of the configuration, held by every part that asks them. Their connections end with the last.
#[derive(Debug)]
pub(crate) struct Nodes(Vec<Node>);

impl Deref for Nodes {
    type Target = [Node];

    fn deref(&self) -> &[Node] {
        &self.0
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // The drivers end by themselves when they have done what waits.
        for node in &self.0 {
            node.close();
        }
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.nodes.iter().all(Node::is_closing)
    }
}

impl Beanstalkd {
    /// Connects to the nodes. Those that are away are connected when they come back, and said so in the log.
    ///
    /// `marks` is what makes several nodes one queue; without it every replica of a task is run, a named task is not recognised,
    /// and a task can be revoked only while all its nodes are there.
    ///
    /// # Errors
    /// [`EngineError::Unusable`] for a configuration that cannot be. [`EngineError::Unavailable`] if no node can be reached, unless
    /// it is to [wait](AtStart::Wait) for one.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was connected.
    pub async fn open(
        config: Config,
        marks: Option<Arc<dyn Marks>>,
        clock: Clock,
    ) -> Result<Self, EngineError> {
        config.check()?;
        let (replicas, quorum) = config.copies();
        let changed = Arc::new(Notify::new());
        let nodes: Vec<Node> = config
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| Node::new(index, endpoint.clone(), changed.clone()))
            .collect();
        let settings = Settings {
            deadline: config.deadline,
            connect_timeout: config.connect_timeout,
            clock: clock.clone(),
        };
        let drivers = nodes.iter().map(|node| {
            #[expect(
                clippy::disallowed_methods,
                reason = "`close` waits for them, and they end when the engine is dropped"
            )]
            tokio::spawn(driver::run(node.clone(), settings.clone()))
        });
        let drivers = Mutex::new(drivers.collect());
        let nodes = Arc::new(Nodes(nodes));
        let dead = DeadTubes::new(nodes.clone(), config.clone(), marks.clone(), clock.clone());
        let site = Arc::new(Site {
            endpoints: config.endpoints.clone(),
            connect: config.connect_timeout,
            patience: config.deadline.max(PATIENCE),
            lease: config.lease,
            quorum,
            unacked: config.unacked,
            clock: clock.clone(),
            letters: Some(Arc::new(dead.clone())),
            epochs: AtomicU32::new(1),
        });
        let engine = Self(Arc::new(Shared {
            clock,
            marks,
            nodes,
            replicas,
            quorum,
            figures: Arc::new(Figures::default()),
            changed,
            window: replicas::window(),
            nth: AtomicU32::new(fastrand::u32(..)),
            moved: tasks::Moved::default(),
            site,
            dead,
            drivers,
            config,
        }));
        engine.0.begin().await?;
        Ok(engine)
    }

    /// How replication has gone since the engine was opened.
    pub fn replication(&self) -> ReplicationFigures {
        self.0.figures.read()
    }
}

impl Shared {
    /// Waits until every node was tried, and while none has answered until they are given up, or for the first that answers.
    async fn begin(&self) -> Result<(), EngineError> {
        loop {
            let changed = self.changed.notified();
            let up = self.nodes.iter().filter(|node| node.is_up()).count();
            let tried = self.nodes.iter().all(Node::was_tried);
            let given_up = self.nodes.iter().all(Node::is_given_up);
            if given_up && up == 0 && self.config.at_start == AtStart::Fail {
                return Err(EngineError::Unavailable {
                    engine: ENGINE,
                    what: "reach any of its nodes".to_owned(),
                    why: Arc::from(self.why_away()),
                });
            }
            if tried && up > 0 {
                if up < self.quorum {
                    tracing::warn!(
                        up,
                        write_quorum = self.quorum,
                        "too few beanstalkd nodes are there: tasks are taken from them, but none can be stored"
                    );
                }
                return Ok(());
            }
            changed.await;
        }
    }

    async fn close(&self) {
        for node in self.nodes.iter() {
            node.close();
        }
        let drivers =
            std::mem::take(&mut *self.drivers.lock().unwrap_or_else(PoisonError::into_inner));
        for driver in drivers {
            // It has a bound of its own; if it was ended by the run-time there is nothing to wait for.
            let _ = driver.await;
        }
    }
}

/// What the engine can do with tasks.
const TASKS: Capabilities = Capabilities {
    supported: true,
    redeliver: true,
    dead_letter: true,
    delayed: true,
    priority: true,
    log: false,
    durable: true,
    fenced: false,
};

impl Engine for Beanstalkd {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn capabilities(&self, side: Side) -> Capabilities {
        match side {
            // One node needs no store against replicas: a job is in the hands of one connection.
            Side::Tasks => Capabilities {
                fenced: self.0.replicas == 1,
                ..TASKS
            },
            Side::Topics => Capabilities::default(),
        }
    }

    fn subscribe<'a>(
        &'a self,
        to: &'a Subscribe,
    ) -> BoxFuture<'a, Result<Box<dyn Receive>, EngineError>> {
        Box::pin(async move {
            let wire = match &to.place {
                Place::Tube(tube) => {
                    dead::dead_tube(tube)?;
                    let options = self.0.config.tube(tube);
                    if options.mixed_fleet {
                        return transfer::open(&self.0, to);
                    }
                    options.wire
                }
                Place::Topic(_) => Wire::Native,
            };
            let framing = match wire {
                Wire::Native => Framing::Native,
                Wire::GoQueue { late } => Framing::GoQueue { late },
            };
            receive::open(Arc::clone(&self.0.site), to, framing)
        })
    }

    fn publisher(&self) -> Arc<dyn Publish> {
        Arc::new(publish::Publisher(self.0.clone()))
    }

    fn tasks(&self) -> Option<Arc<dyn Tasks>> {
        Some(Arc::new(tasks::Changes(self.0.clone())))
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::new(self.0.dead.clone()))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async {
            self.0.close().await;
            Ok(())
        })
    }
}
