//! The contract between the framework and a broker or store: one [`Engine`], whose [`Receive`] moves everything in slices
//! through one call, and whose [`Publish`] confirms slices.
//!
//! Rules that the conformance suite holds every engine to:
//!
//! 1. What was delivered and not settled is leased, and the engine renews the lease by itself.
//! 2. A settlement that `turn` has taken is confirmed, or void because its epoch was lost. The pump forgets it.
//! 3. A lost lease is a notice for an epoch; stale settlements are dropped and counted.
//! 4. `Ok` from `publish` means that the engine has confirmed the message by its durability level.
//!
//! These traits may change until 1.0.

pub mod memory;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use crate::delivery::{Delivery, Notice, Settlement};
use crate::message::{Body, ContentType, Flags, Id};
use crate::name::{Name, Place, Side};
use crate::time::WallTime;

/// A future on the heap: one for each slice, never one for each message.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The most deliveries that one turn may bring.
pub const MAX_SLICE: usize = 256;

/// The adapter to a broker or store.
pub trait Engine: Send + Sync + fmt::Debug {
    /// `memory`, `sqlite`, `beanstalkd`, `kafka`.
    fn name(&self) -> &'static str;

    /// What it can do on this side. Constant for the life of the engine; asserted by the conformance suite.
    fn capabilities(&self, side: Side) -> Capabilities;

    /// Opens one end of a subscription. Several ends of one subscription share its messages.
    ///
    /// # Errors
    /// Only what will not pass by itself, such as an unsupported side or an unknown topic.
    ///
    /// # Cancel safety
    /// Dropping the future opens nothing.
    fn subscribe<'a>(
        &'a self,
        to: &'a Subscribe,
    ) -> BoxFuture<'a, Result<Box<dyn Receive>, EngineError>>;

    /// The producing side, shared by all callers.
    fn publisher(&self) -> Arc<dyn Publish>;

    /// Revoke and reschedule, if the engine keeps tasks.
    fn tasks(&self) -> Option<Arc<dyn Tasks>> {
        None
    }

    /// The dead letters, if the engine keeps them.
    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        None
    }

    /// Confirms what was handed over and ends. Called once, after every [`Receive`] was closed. Has a bound of its own.
    fn close(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
}

/// What an engine can do on one side.
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of abilities, each asserted by the conformance suite"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The side exists at all.
    pub supported: bool,
    /// Takes `Release { after > 0 }` and `Retry`. Where not, the pump holds a failed message and its key (`on_retry`).
    pub redeliver: bool,
    /// Takes `Dead` and keeps the message.
    pub dead_letter: bool,
    /// Publishes with a due time in the future.
    pub delayed: bool,
    /// Lower `priority` goes first.
    pub priority: bool,
    /// A log: several groups each see every record, keys keep their order.
    pub log: bool,
    /// Accepted messages survive the process.
    pub durable: bool,
    /// The lease fences by itself, so that no dedup store is needed against replicas.
    pub fenced: bool,
}

/// What an engine may know of a subscription. Not handlers, not concurrency.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// Tube or topic.
    pub place: Place,
    /// The consumer group; `None` for a tube.
    pub group: Option<Name>,
    /// What [`Delivery::order`] is computed from.
    pub order: Order,
    /// Length of a lease (time to run), renewed while the message is in hand.
    pub lease: Duration,
    /// How long a `Leaving` may wait for running handlers.
    pub drain: Duration,
    /// Where a new group begins.
    pub start: Start,
    /// Written into dead letters as the handler that failed.
    pub label: Arc<str>,
}

impl Subscribe {
    /// A tube with the default lease (60 s) and drain bound (5 s).
    pub fn tube(name: Name) -> Self {
        Self {
            label: Arc::from(name.as_str()),
            place: Place::Tube(name),
            group: None,
            order: Order::None,
            lease: Duration::from_secs(60),
            drain: Duration::from_secs(5),
            start: Start::First,
        }
    }

    /// A topic read by a group, ordered by key, from the first record.
    pub fn topic(name: Name, group: Name) -> Self {
        Self {
            label: Arc::from(name.as_str()),
            place: Place::Topic(name),
            group: Some(group),
            order: Order::Key,
            ..Self::tube(Name::literal("x"))
        }
    }
}

/// What is kept in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// Nothing.
    #[default]
    None,
    /// Messages of one key; those without a key by partition.
    Key,
    /// Messages of one partition.
    Partition,
}

/// Where a group that has committed nothing begins to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Start {
    /// At the oldest record.
    #[default]
    First,
    /// Behind the newest record.
    Last,
}

/// One end of a subscription, owned by one lane.
pub trait Receive: Send {
    /// One exchange. Never blocks, never waits to fill a slice.
    ///
    /// In: the engine takes *all* of `turn.settle`, in order, also while disconnected; appends at most `turn.free`
    /// deliveries (room that may shrink with the next call); from `turn.open == false` on it hands back what it has
    /// prefetched and takes no more.
    ///
    /// Out: `turn.deliver` and `turn.notice` are appended to, `turn.health` is set. Notices apply to deliveries of
    /// earlier turns and of this one.
    ///
    /// `Ready(Ok)`: something was appended, or calling again at once brings more. `Pending`: the waker is registered for
    /// all that can change that: an arrival, an answer, the engine's own timers. Deliveries may be appended with either.
    /// `Ready(Err)`: this subscription is over for good. What can pass is the engine's to repair, with back-off, and
    /// shown in `turn.health`.
    ///
    /// # Cancel safety
    /// Nothing to cancel: between turns the engine holds no delivery that is not in a `Turn` or prefetched and leased.
    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>>;

    /// Called after the last delivery was settled, until it is ready: every settlement taken is confirmed, or void. Takes
    /// `turn.settle` as `turn` does. Has a bound of its own.
    fn close(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>>;
}

/// One exchange between pump and engine. Kept by the pump and reused: in steady state no turn allocates.
#[derive(Debug)]
pub struct Turn {
    /// The time of this turn; nobody reads the clock for each message.
    pub now: Instant,
    /// In: how deliveries ended.
    pub settle: Vec<Settlement>,
    /// In: room for so many deliveries, at most [`MAX_SLICE`].
    pub free: usize,
    /// In: false from quiet on.
    pub open: bool,
    /// Out: messages with their receipts.
    pub deliver: Vec<Delivery>,
    /// Out: leases that end.
    pub notice: Vec<Notice>,
    /// Out: how the engine is; kept from turn to turn.
    pub health: Health,
}

impl Turn {
    /// An empty, open turn.
    pub fn new(now: Instant) -> Self {
        Self {
            now,
            settle: Vec::with_capacity(MAX_SLICE),
            free: 0,
            open: true,
            deliver: Vec::with_capacity(MAX_SLICE),
            notice: Vec::new(),
            health: Health::default(),
        }
    }
}

/// How one end of a subscription is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether it is connected and served.
    pub state: HealthState,
    /// The engine answered that nothing is waiting, and every settlement taken is confirmed. False while it does not
    /// know.
    pub empty: bool,
    /// When the next message of this place that waits for its time is due, if any and if known.
    pub next_due: Option<WallTime>,
    /// Settlements that came after their lease was lost: dropped, counted.
    pub stale: u64,
}

/// Whether one end of a subscription is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HealthState {
    /// No answer yet.
    #[default]
    Starting,
    /// Served.
    Up,
    /// Not served, and why. The engine goes on trying.
    Down(Arc<str>),
}

/// What a producer hands to an engine. Cheap to clone: the body is shared.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub place: Place,
    /// Identity; the same id in the same tube is stored once.
    pub id: Id,
    /// Whether the producer chose the id: then it stays known for `dedup.keep` after the task is done.
    pub named: bool,
    /// Key, headers, payload.
    pub body: Body,
    /// Null key, null payload.
    pub flags: Flags,
    /// How the payload is encoded.
    pub content: ContentType,
    /// Not before this time; [`WallTime::EPOCH`] is now.
    pub due: WallTime,
    /// Tasks only: lower goes first.
    pub priority: u32,
}

/// The default priority, as in beanstalkd's clients.
pub const DEFAULT_PRIORITY: u32 = 1024;

/// The largest task in bytes, on every engine: beanstalkd's default limit.
pub const MAX_TASK_LEN: usize = 65_535;

/// The largest record in bytes, on every engine: just below Kafka's default limit.
pub const MAX_RECORD_LEN: usize = 1_000_000;

/// Fixed part of the native envelope of a task in bytes; see the layout in the design of the wire format: mark 2, version 1, flags
/// 1, id 16, due 8, enqueued 8, parked attempt 2, content type 1, key length 2, headers length 2.
pub const ENVELOPE_LEN: usize = 43;

impl Outgoing {
    /// Checks what every engine would refuse: size and lengths that have no place in the envelope.
    ///
    /// # Errors
    /// [`PublishError::TooLarge`], before any byte leaves.
    pub fn check_size(&self, portable: bool) -> Result<(), PublishError> {
        let (size, limit) = match self.place {
            Place::Tube(_) if portable => (self.body.len() + ENVELOPE_LEN, MAX_TASK_LEN),
            Place::Topic(_) => (self.body.len(), MAX_RECORD_LEN),
            // SQLite's own limit is 1 GB; a quarter of it leaves room for the row around the body.
            Place::Tube(_) => (self.body.len(), 256 << 20),
        };
        let part = usize::from(u16::MAX);
        if size > limit {
            Err(PublishError::TooLarge {
                place: self.place.clone(),
                size,
                limit,
            })
        } else if self.body.key_len() > part || self.body.head_len() > part {
            let size = self.body.key_len().max(self.body.head_len());
            Err(PublishError::TooLarge {
                place: self.place.clone(),
                size,
                limit: part,
            })
        } else {
            Ok(())
        }
    }
}

/// What the engine confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The id under which it is stored.
    pub id: Id,
    /// It was there already, stored, running, dead, or done within `dedup.keep`; nothing new was stored.
    pub existed: bool,
    /// What the engine needs to find a task again; goes into the [`TaskId`].
    pub token: Option<Arc<str>>,
    /// Partition of a record.
    pub partition: u32,
    /// Offset of a record.
    pub offset: i64,
}

/// The producing side of an engine.
pub trait Publish: Send + Sync {
    /// One completion for the slice, one result for each, in order.
    ///
    /// # Cancel safety
    /// Dropping the future leaves what was already handed over: it may or may not be stored. Other callers are never
    /// disturbed.
    fn publish(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<Published, PublishError>>>;
}

/// Changes to tasks that have not started.
pub trait Tasks: Send + Sync {
    /// Takes tasks back. One truth for each, in order.
    fn revoke(&self, tasks: Vec<TaskId>) -> BoxFuture<'_, Vec<Result<Revoked, EngineError>>>;

    /// Moves tasks to another time. One truth for each, in order.
    fn reschedule(
        &self,
        tasks: Vec<(TaskId, WallTime)>,
    ) -> BoxFuture<'_, Vec<Result<Rescheduled, EngineError>>>;
}

/// What became of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It can no longer start anywhere.
    Revoked,
    /// It has been started and is not waiting for a retry: finished, or among the dead letters.
    AlreadyRun,
    /// It is in the hands of a worker now.
    Running,
    /// Not known here: never accepted, revoked before, or forgotten.
    Unknown,
}

/// What became of a change of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rescheduled {
    /// It is due at the new time.
    Rescheduled,
    /// It has been started and is not waiting for a retry.
    AlreadyRun,
    /// It is in the hands of a worker now.
    Running,
    /// Not known here.
    Unknown,
}

/// Names one accepted task: what `send` returned, to revoke or reschedule it. Opaque; one string in logs and databases.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TaskId {
    tube: Name,
    id: Id,
    token: Option<Arc<str>>,
    existed: bool,
}

impl TaskId {
    /// From what the engine confirmed.
    pub fn new(tube: Name, published: &Published) -> Self {
        Self {
            tube,
            id: published.id,
            token: published.token.clone(),
            existed: published.existed,
        }
    }

    /// The tube it was sent to.
    pub fn tube(&self) -> &Name {
        &self.tube
    }

    /// Its id.
    pub fn id(&self) -> Id {
        self.id
    }

    /// What the engine wrote into it.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Whether a task with this id was there already, so that nothing new was stored. Not part of the text form.
    pub fn existed(&self) -> bool {
        self.existed
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.tube, self.id)?;
        match &self.token {
            Some(token) => write!(f, ":{token}"),
            None => Ok(()),
        }
    }
}

/// A text that is not a [`TaskId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a task id: it should look like `tube:01890a5d-ac96-774b-bcce-b302099a8057`")]
pub struct TaskIdError;

impl FromStr for TaskId {
    type Err = TaskIdError;
    fn from_str(text: &str) -> Result<Self, TaskIdError> {
        let mut parts = text.splitn(3, ':');
        let (Some(tube), Some(id)) = (parts.next(), parts.next()) else {
            return Err(TaskIdError);
        };
        Ok(Self {
            tube: Name::new(tube).map_err(|_| TaskIdError)?,
            id: id.parse().map_err(|_| TaskIdError)?,
            token: parts.next().map(Arc::from),
            existed: false,
        })
    }
}

impl Serialize for TaskId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A message that was set aside, with everything that is known of it.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Names it among the dead letters of its engine; lists are in this order.
    pub cursor: u64,
    /// Where it came from.
    pub place: Place,
    /// The group that gave it up; `None` for a tube.
    pub group: Option<Name>,
    /// The handler that gave it up.
    pub handler: Arc<str>,
    /// Its id.
    pub id: Id,
    /// Key, headers and payload as they were.
    pub body: Body,
    /// Null key, null payload, malformed.
    pub flags: Flags,
    /// How the payload is encoded.
    pub content: ContentType,
    /// How often it was started.
    pub attempts: u32,
    /// Why, at most 1 KB, control characters escaped.
    pub reason: Arc<str>,
    /// When it was accepted.
    pub at: WallTime,
    /// When it was set aside.
    pub died: WallTime,
}

/// Which dead letters. The default is the first page of all.
#[derive(Clone, Debug)]
pub struct DeadQuery {
    /// Only of this tube or topic.
    pub place: Option<Place>,
    /// Only of this group.
    pub group: Option<Name>,
    /// Only behind this [`DeadLetter::cursor`].
    pub after: Option<u64>,
    /// At most so many; engines cap it at 1000, which is the default.
    pub limit: usize,
}

impl Default for DeadQuery {
    fn default() -> Self {
        Self {
            place: None,
            group: None,
            after: None,
            limit: 1000,
        }
    }
}

/// The dead letters of an engine, for people and their tools.
pub trait DeadLetters: Send + Sync {
    /// A page of them, in the order of their cursors.
    fn list(&self, query: DeadQuery) -> BoxFuture<'_, Result<Vec<DeadLetter>, EngineError>>;

    /// One of them.
    fn show(&self, cursor: u64) -> BoxFuture<'_, Result<Option<DeadLetter>, EngineError>>;

    /// Makes them deliverable again, with the same id and attempt 1, to the group that gave them up. Answers how many of
    /// them were there.
    fn replay(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>>;

    /// Removes them for good. Answers how many of them were there.
    fn purge(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>>;

    /// How many there are; `None` counts all places.
    fn count(&self, place: Option<Place>) -> BoxFuture<'_, Result<u64, EngineError>>;
}

/// How a topic is kept by the engines that keep it themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// How many partitions; may grow, not shrink.
    pub partitions: u32,
    /// Records older than this may go. `None`: never.
    pub age: Option<Duration>,
    /// Beyond so many bytes the oldest may go. `None`: no limit.
    pub size: Option<u64>,
    /// Whether retention may remove what a known group has not committed.
    pub drop_unread: bool,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            partitions: 8,
            age: Some(Duration::from_secs(7 * 86_400)),
            size: None,
            drop_unread: false,
        }
    }
}

/// Why an engine cannot do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine does not serve this.
    #[error("the {engine} engine cannot {what}")]
    Unsupported {
        /// Which engine.
        engine: &'static str,
        /// What was asked, as a verb phrase.
        what: String,
    },
    /// The store or server cannot be used as it is; waiting does not help.
    #[error("the {engine} engine cannot {what}: {why}")]
    Unusable {
        /// Which engine.
        engine: &'static str,
        /// What was tried, as a verb phrase with the place (`open /data/x.db`).
        what: String,
        /// What is wrong and what to do.
        why: Arc<str>,
    },
    /// It did not work this time; waiting may help.
    #[error("the {engine} engine could not {what}: {why}")]
    Unavailable {
        /// Which engine.
        engine: &'static str,
        /// What was tried, as a verb phrase.
        what: String,
        /// What was in the way.
        why: Arc<str>,
    },
    /// The engine was closed.
    #[error("the {engine} engine is closed")]
    Closed {
        /// Which engine.
        engine: &'static str,
    },
}

impl EngineError {
    /// Whether waiting may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Why a message was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Larger than every engine takes; see the limits in the guide.
    #[error("a message for {place} has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Where it should have gone.
        place: Place,
        /// Bytes with the envelope.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The store has reached its quota, or the disk is full. Nothing was stored; consumers go on.
    #[error("the {engine} engine is full: {why}")]
    Full {
        /// Which engine.
        engine: &'static str,
        /// Which limit, and how to raise it.
        why: Arc<str>,
    },
    /// Fewer nodes confirmed than asked. The message may run.
    #[error("{confirmed} of {wanted} nodes confirmed the message in time")]
    UnderReplicated {
        /// Confirmations.
        confirmed: usize,
        /// Confirmations asked.
        wanted: usize,
    },
    /// The engine could not be reached or failed; nothing was stored, unless `maybe_stored`.
    #[error("the {engine} engine did not accept the message: {why}")]
    Unavailable {
        /// Which engine.
        engine: &'static str,
        /// What was in the way.
        why: Arc<str>,
        /// The answer was lost, not the message: it may be stored.
        maybe_stored: bool,
    },
    /// The engine does not serve this place, or not with a delay.
    #[error("the {engine} engine cannot {what}")]
    Unsupported {
        /// Which engine.
        engine: &'static str,
        /// What was asked, as a verb phrase.
        what: String,
    },
    /// The due time is beyond the year 2262.
    #[error("a delay of {delay:?} ends beyond the year 2262")]
    DelayOutOfRange {
        /// The delay asked.
        delay: Duration,
    },
    /// The payload could not be encoded.
    #[error("the payload for {place} could not be encoded: {why}")]
    Encode {
        /// Where it should have gone.
        place: Place,
        /// What the encoder said.
        why: Arc<str>,
    },
    /// The tube or topic has a name that is none.
    #[error("`{name}` is not a name of a tube or topic: {error}")]
    Name {
        /// The beginning of the name, control characters escaped.
        name: String,
        /// What is wrong with it.
        error: crate::name::NameError,
    },
    /// A header has no place in the format.
    #[error("a header cannot be sent: {0}")]
    Header(#[from] crate::message::HeadersError),
    /// The engine was closed.
    #[error("the {engine} engine is closed")]
    Closed {
        /// Which engine.
        engine: &'static str,
    },
}
