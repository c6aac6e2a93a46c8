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

#[cfg(feature = "beanstalkd")]
pub mod beanstalkd;
mod dead;
mod error;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod memory;
pub mod reserved;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod tasks;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::{Delivery, Notice, Settlement};
use crate::message::envelope;
use crate::message::{Body, ContentType, Flags, Id};
use crate::name::{Name, Place, Side};
use crate::time::WallTime;

pub use dead::{DeadLetter, DeadLetters, DeadQuery};
pub use error::{EngineError, PublishError};
pub use tasks::{Rescheduled, Revoked, TaskId, TaskIdError, Tasks};

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
    /// A claim in a dedup store guards every start: it counts the attempts, and knows what was done if a settlement comes too late.
    pub claimed: bool,
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
            claimed: false,
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
pub const DEFAULT_PRIORITY: u32 = envelope::DEFAULT_PRIORITY;

/// The smallest quota of the file of `sqlite`, in bytes: below it there is no room for the tables and for what is kept free.
pub(crate) const MIN_QUOTA: u64 = 1 << 20;

/// The largest task in bytes, on every engine: beanstalkd's default limit.
pub const MAX_TASK_LEN: usize = 65_535;

/// The largest record in bytes, on every engine: just below Kafka's default limit.
pub const MAX_RECORD_LEN: usize = 1_000_000;

impl Outgoing {
    /// Checks what every engine would refuse: size and lengths that have no place in the envelope.
    ///
    /// # Errors
    /// [`PublishError::TooLarge`], before any byte leaves.
    pub fn check_size(&self, portable: bool) -> Result<(), PublishError> {
        let (size, limit) = match self.place {
            Place::Tube(_) if portable => (
                envelope::encoded_len(self.priority, &self.body),
                MAX_TASK_LEN,
            ),
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

/// What became of a slice: one result for each message, in order.
pub type Answers = Vec<Result<Published, PublishError>>;

/// A slice that an engine has taken and not answered yet.
pub struct Taken<'a>(BoxFuture<'a, Answers>);

impl<'a> Taken<'a> {
    /// Answered by this future.
    pub fn new(answers: BoxFuture<'a, Answers>) -> Self {
        Self(answers)
    }

    /// The answers, when they are there.
    pub fn answers(self) -> BoxFuture<'a, Answers> {
        self.0
    }
}

impl fmt::Debug for Taken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").finish_non_exhaustive()
    }
}

/// The producing side of an engine.
pub trait Publish: Send + Sync {
    /// One completion for the slice.
    ///
    /// # Cancel safety
    /// Dropping the future leaves what was already handed over: it may or may not be stored. Other callers are never
    /// disturbed, also not by a future that nobody polls.
    fn publish(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Answers>;

    /// The same in two steps, for callers with several slices under way: when this is ready the slice is taken, and what is given
    /// afterwards lies behind it. Engines that take a slice at the first poll of [`Publish::publish`] have this for nothing; one
    /// whose callers wait for room must say when that is over.
    ///
    /// # Cancel safety
    /// As [`Publish::publish`].
    fn take(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Taken<'_>> {
        let mut answers = self.publish(slice);
        Box::pin(async move {
            let first = poll_fn(|cx| Poll::Ready(answers.as_mut().poll(cx))).await;
            Taken(match first {
                Poll::Ready(answered) => Box::pin(std::future::ready(answered)),
                Poll::Pending => answers,
            })
        })
    }
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
