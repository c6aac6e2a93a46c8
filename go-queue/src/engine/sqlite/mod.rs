//! The SQLite engine: tasks and topics on one file, shared by any number of processes of one machine.
//!
//! One thread of each process writes; what callers ask while it works becomes its next transaction. At the level `power`
//! a second thread syncs the write-ahead log behind it, and an answer that promises something waits for that sync.
//! Processes wake each other by datagrams, and look for themselves ten times a second in case one is lost. A process that
//! dies loses its lock file by the kernel's hand, and the others take back what it had.
//!
//! The database and its `-shm` file are opened by SQLite alone: a second file handle on them would drop this process's
//! locks when it is closed.

mod change;
mod claims;
mod dead;
mod failure;
mod group;
mod host;
mod instance;
mod keep;
mod line;
mod mailbox;
mod publish;
mod queue;
mod record;
mod schema;
mod sync;
mod topic_end;
mod tube;
mod tube_end;
mod tx;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::engine::{
    BoxFuture, Capabilities, DeadLetters, Engine, EngineError, MIN_QUOTA, Publish, Receive,
    Subscribe, Tasks, TopicConfig,
};
use crate::name::{Name, Place, Side};
use crate::time::Clock;
use failure::{ENGINE, Failure};
use group::Member;
use instance::Instance;
use line::Line;
use mailbox::Mailbox;
use queue::{Ask, Queue};
pub use sync::SyncFigures;
use tx::Tx;
use writer::{Kind, Shared, Sub, Writer};

/// What an accepted message survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Power cuts: the answer waits until the disk has the log.
    #[default]
    Power,
    /// The death of any process; a power cut may take the last seconds.
    Process,
}

/// How the engine is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database file; made with its folder if it is not there.
    pub path: PathBuf,
    /// What an accepted message survives.
    pub durability: Durability,
    /// The most bytes of the database. `None`: 1 GiB or half of the free disk, whichever is less.
    pub quota: Option<u64>,
    /// Tubes that take more than the other engines would: tasks above 65,535 bytes.
    pub unportable: HashSet<Name>,
    /// Options by topic.
    pub topics: HashMap<Name, TopicConfig>,
    /// Options of every other topic.
    pub topic: TopicConfig,
    /// How long the name of a task that is done stays known, by tube.
    pub keeps: HashMap<Name, Duration>,
    /// As long in every other tube.
    pub keep: Duration,
    /// How often dead processes are looked for.
    pub sweep: Duration,
    /// How often commits of other processes are looked for, in case a nudge is lost.
    pub poll: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data/go-queue.db"),
            durability: Durability::default(),
            quota: None,
            unportable: HashSet::new(),
            topics: HashMap::new(),
            topic: TopicConfig::default(),
            keeps: HashMap::new(),
            keep: Duration::from_secs(24 * 3600),
            sweep: Duration::from_millis(250),
            poll: Duration::from_millis(100),
        }
    }
}

impl Config {
    /// The defaults, on this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }

    fn topic(&self, name: &Name) -> &TopicConfig {
        self.topics.get(name.as_str()).unwrap_or(&self.topic)
    }

    fn is_portable(&self, name: &Name) -> bool {
        !self.unportable.contains(name.as_str())
    }
}

/// The engine on one file. Cheap to clone: all clones share the writer, which ends when the last of them, of their
/// publishers and of their subscriptions is gone, or at [`Engine::close`].
#[derive(Clone, Debug)]
pub struct Sqlite(Arc<Handle>);

/// Keeps the writer at work.
struct Handle {
    shared: Arc<Shared>,
    /// Comes when the threads have ended and the file is closed.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("path", &self.shared.config.path)
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The threads end by themselves when they have done what is queued.
        self.shared.queue.close();
    }
}

impl Handle {
    /// Runs a closure in a transaction of the writer, and answers when it is as durable as configured. It may run twice,
    /// if the first transaction failed.
    async fn ask<F, T>(&self, what: &'static str, run: F) -> Result<T, EngineError>
    where
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (request, answer) = Ask::of(run);
        if self.shared.queue.push(request).is_err() {
            return Err(Failure::Closed.engine(what));
        }
        match answer.await {
            Ok(answer) => answer.map_err(|failure| failure.engine(what)),
            Err(_) => Err(Failure::Closed.engine(what)),
        }
    }
}

/// What the thread that opens the file says to the one that waits for it.
type Opening = oneshot::Sender<Result<Arc<Shared>, EngineError>>;

impl Sqlite {
    /// Opens the file, makes it if it is not there, and starts the writer. What earlier processes that are gone had in
    /// hand is given back.
    ///
    /// # Errors
    /// [`EngineError::Unusable`] says what is wrong with the file and what to do: it is of a newer version, of another
    /// program, damaged, read-only, locked, or on a network file system.
    ///
    /// # Cancel safety
    /// Dropping the future closes the file again.
    pub async fn open(config: Config, clock: Clock) -> Result<Self, EngineError> {
        let (said, opened) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let path = config.path.display().to_string();
        let unusable = |why: String| EngineError::Unusable {
            engine: ENGINE,
            what: format!("open {path}"),
            why: Arc::from(why),
        };
        let (last, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("go-queue-sqlite".to_owned())
            .spawn(move || {
                // A clock that follows tokio's is read here.
                let _runtime = runtime.enter();
                work(config, clock, said);
                // Nobody may wait for it.
                let _ = last.send(());
            })
            .map_err(|error| unusable(format!("no thread could be started: {error}")))?;
        let shared = opened
            .await
            .map_err(|_| unusable("the writer ended without a word".to_owned()))??;
        Ok(Self(Arc::new(Handle {
            shared,
            ended: Mutex::new(Some(ended)),
        })))
    }

    /// How often and how long the disk was waited for: the cost of [`Durability::Power`].
    pub fn syncs(&self) -> SyncFigures {
        self.0.shared.syncer.figures()
    }

    /// Tells this very store apart from all others, also from one that was at the same path before.
    pub fn store_id(&self) -> u64 {
        self.0.shared.store.cast_unsigned()
    }

    async fn join(&self, to: &Subscribe) -> Result<Box<dyn Receive>, EngineError> {
        let mailbox = Arc::new(Mailbox::default());
        let no = self.0.shared.sub();
        let lease = i64::try_from(to.lease.as_millis())
            .unwrap_or(i64::MAX)
            .max(1);
        let line = Line::new(self.0.clone(), no, mailbox.clone(), lease);
        let label = to.label.clone();
        match (&to.place, &to.group) {
            (Place::Tube(name), _) => {
                let name = name.clone();
                // An answer that nobody waits for any more leaves an end that is dropped at once, here or there.
                let end = tube_end::TubeEnd::new(line, to.order);
                self.0
                    .ask("subscribe to a tube", move |tx| {
                        let tube = tx.tube(&name)?;
                        let session = tx.new_session(tube, 0, lease)?;
                        let kind = Kind::Tube(tube);
                        tx.effects.joined.push(Sub::new(
                            no,
                            mailbox.clone(),
                            session,
                            lease,
                            label.clone(),
                            kind,
                        ));
                        Ok(())
                    })
                    .await?;
                Ok(Box::new(end))
            }
            (Place::Topic(name), Some(group)) => {
                let (name, group) = (name.clone(), group.clone());
                let (start, drain) = (to.start, to.drain);
                let end = topic_end::TopicEnd::new(line, to.order);
                self.0
                    .ask("subscribe to a topic", move |tx| {
                        let topic = tx.topic(&name)?.id;
                        let (group, session) = group::join(tx, topic, &group, start, lease)?;
                        let member = Member {
                            group,
                            topic,
                            held: Vec::new(),
                            turn: 0,
                            drain,
                            check: true,
                        };
                        tx.effects.joined.push(Sub::new(
                            no,
                            mailbox.clone(),
                            session,
                            lease,
                            label.clone(),
                            Kind::Topic(member),
                        ));
                        Ok(())
                    })
                    .await?;
                Ok(Box::new(end))
            }
            (Place::Topic(name), None) => Err(EngineError::Unsupported {
                engine: ENGINE,
                what: format!("read topic `{name}` without a group"),
            }),
        }
    }
}

/// The path without symbolic links, also of a file that is not there yet.
fn resolved(path: PathBuf) -> PathBuf {
    let target = match std::fs::read_link(&path) {
        // A link to a file that is not there yet.
        Ok(target) if !path.exists() => path
            .parent()
            .map_or_else(|| target.clone(), |folder| folder.join(&target)),
        _ => path,
    };
    std::fs::canonicalize(&target).unwrap_or(target)
}

/// The life of the writer's thread.
fn work(mut config: Config, clock: Clock, said: Opening) {
    // SQLite follows links; what lies beside the file must lie beside the same one.
    config.path = resolved(config.path);
    let path = config.path.clone();
    let unusable = |why: String| EngineError::Unusable {
        engine: ENGINE,
        what: format!("open {}", path.display()),
        why: Arc::from(why),
    };
    let begun = (|| {
        if let Some(quota) = config.quota.filter(|quota| *quota < MIN_QUOTA) {
            return Err(unusable(format!(
                "its quota of {quota} bytes is too small to work in; `sqlite.quota` is at least 1MiB"
            )));
        }
        let opened = schema::open(&path, config.quota)?;
        let instance = Instance::prepare(&path)
            .map_err(|error| unusable(format!("no lock file can be made beside it: {error}")))?;
        let (bell, ring) = UnixDatagram::pair()
            .and_then(|(bell, ring)| {
                bell.set_nonblocking(true)?;
                ring.set_nonblocking(true)?;
                Ok((bell, ring))
            })
            .map_err(|error| unusable(format!("no socket can be made: {error}")))?;
        // Opening the log by ourselves is safe: SQLite never locks it.
        let log = std::fs::File::options()
            .read(true)
            .write(true)
            .open(schema::beside(&path, "-wal"))
            .map_err(|error| unusable(format!("its write-ahead log cannot be opened: {error}")))?;
        let power = config.durability == Durability::Power;
        let pages = opened.quota / schema::PAGE;
        // What is kept free, so that claims and settlements still have room when producers are refused.
        let soft_pages =
            i64::try_from(pages.saturating_sub((pages / 16).clamp(64, 4096))).unwrap_or(i64::MAX);
        let shared = Arc::new(Shared::new(config, clock, Queue::new(ring), opened.store));
        let mut writer = Writer::new(
            shared.clone(),
            opened.conn,
            opened.checkpointer,
            instance,
            bell,
            soft_pages,
        );
        writer
            .begin()
            .map_err(|failure| failure.engine("enter the file"))?;
        Ok((shared, writer, log, power))
    })();
    let (shared, writer, log, power) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            // Whoever asked may have gone.
            let _ = said.send(Err(error));
            return;
        }
    };
    let syncer = power.then(|| {
        let shared = shared.clone();
        std::thread::Builder::new()
            .name("go-queue-sync".to_owned())
            .spawn(move || shared.syncer.run(&log))
    });
    let syncer = match syncer.transpose() {
        Ok(syncer) => syncer,
        Err(error) => {
            let _ = said.send(Err(unusable(format!(
                "no thread could be started: {error}"
            ))));
            return;
        }
    };
    if said.send(Ok(shared.clone())).is_err() {
        shared.queue.close();
    }
    writer.run();
    if let Some(syncer) = syncer {
        // A panic there was reported by its own hook.
        let _ = syncer.join();
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
    fenced: true,
};

/// What the engine can do with topics.
const TOPICS: Capabilities = Capabilities {
    supported: true,
    redeliver: false,
    dead_letter: true,
    delayed: false,
    priority: false,
    log: true,
    durable: true,
    fenced: true,
};

impl Engine for Sqlite {
    fn name(&self) -> &'static str {
        ENGINE
    }

    fn capabilities(&self, side: Side) -> Capabilities {
        match side {
            Side::Tasks => TASKS,
            Side::Topics => TOPICS,
        }
    }

    fn subscribe<'a>(
        &'a self,
        to: &'a Subscribe,
    ) -> BoxFuture<'a, Result<Box<dyn Receive>, EngineError>> {
        Box::pin(self.join(to))
    }

    fn publisher(&self) -> Arc<dyn Publish> {
        Arc::new(publish::Publisher(self.0.clone()))
    }

    fn tasks(&self) -> Option<Arc<dyn Tasks>> {
        Some(Arc::new(change::Changes(self.0.clone())))
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::new(dead::Dead(self.0.clone())))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async {
            self.0.shared.queue.close();
            let ended = self
                .0
                .ended
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            match ended {
                // Closed before, or being closed by somebody else.
                None => Ok(()),
                Some(ended) => ended.await.map_err(|_| EngineError::Unavailable {
                    engine: ENGINE,
                    what: "close the file".to_owned(),
                    why: Arc::from("its writer had failed"),
                }),
            }
        })
    }
}
