//! One node as the producing side sees it: shared by all callers of the process, served by one task.
//!
//! Callers put what is to be done into the inbox and wait for their own answer; the [driver](super::driver) takes everything that
//! waits, writes it at once and deals the answers out. A node that is away refuses at the inbox, so that nobody waits for it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::ENGINE;
use super::codec::{Answer, Command, EncodeError};
use super::copies::Copies;
use crate::engine::{EngineError, MAX_TASK_LEN};
use crate::name::Name;

/// A node that drains is not asked to store anything for so long: only a restart ends it.
pub(super) const DRAINING: Duration = Duration::from_secs(30);

/// A node that was out of memory or disk is not asked to store anything for so long.
pub(super) const FULL: Duration = Duration::from_secs(1);

/// One command to a node, with everything it takes, as a value that can wait.
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the whole of the protocol, so that the parts of the engine need not come back here"
    )
)]
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Stores a job.
    Put {
        /// Where.
        tube: Name,
        /// Lower goes first.
        priority: u32,
        /// Seconds until it is ready.
        delay: u32,
        /// Seconds that a worker may hold it without a sign of life.
        ttr: u32,
        /// What.
        body: Bytes,
    },
    /// Removes a job that nobody else holds.
    Delete(u64),
    /// Takes a job that nobody holds into the hands of this connection: [`Ask::Release`], [`Ask::Bury`], [`Ask::Touch`] and
    /// [`Ask::Delete`] may follow. If the connection ends, it is ready again.
    ReserveJob(u64),
    /// Gives back a job that was taken.
    Release {
        /// Which.
        id: u64,
        /// Its new priority.
        priority: u32,
        /// Seconds until it is ready.
        delay: u32,
    },
    /// Sets aside a job that was taken.
    Bury {
        /// Which.
        id: u64,
        /// Its new priority.
        priority: u32,
    },
    /// Starts the time to run of a job that was taken anew.
    Touch(u64),
    /// Makes a buried or delayed job ready.
    KickJob(u64),
    /// Shows a job, in whatever state.
    Peek(u64),
    /// Shows the oldest buried job of a tube.
    PeekBuried(Name),
    /// Shows the next ready job of a tube.
    PeekReady(Name),
    /// Shows the delayed job of a tube that is due first.
    PeekDelayed(Name),
    /// What is known of a job.
    StatsJob(u64),
    /// What is known of a tube.
    StatsTube(Name),
    /// Counters and settings of the node.
    Stats,
    /// Stops reserves from a tube for so many seconds; 0 ends a pause.
    PauseTube(Name, u32),
}

impl Ask {
    /// The tube that must be in use.
    pub(super) fn used(&self) -> Option<&Name> {
        match self {
            Self::Put { tube, .. }
            | Self::PeekBuried(tube)
            | Self::PeekReady(tube)
            | Self::PeekDelayed(tube) => Some(tube),
            _ => None,
        }
    }

    /// Hands the command to `send`.
    pub(super) fn with_command<R>(
        &self,
        limit: usize,
        send: impl FnOnce(&Command<'_>) -> Result<R, EncodeError>,
    ) -> Result<R, EncodeError> {
        if let Self::Put {
            priority,
            delay,
            ttr,
            body,
            ..
        } = self
        {
            return send(&Command::Put {
                priority: *priority,
                delay: *delay,
                ttr: *ttr,
                body: &[body],
                limit,
            });
        }
        send(&match self {
            // Above.
            Self::Put { .. } | Self::Stats => Command::Stats,
            Self::Delete(id) => Command::Delete(*id),
            Self::ReserveJob(id) => Command::ReserveJob(*id),
            Self::Release {
                id,
                priority,
                delay,
            } => Command::Release {
                id: *id,
                priority: *priority,
                delay: *delay,
            },
            Self::Bury { id, priority } => Command::Bury {
                id: *id,
                priority: *priority,
            },
            Self::Touch(id) => Command::Touch(*id),
            Self::KickJob(id) => Command::KickJob(*id),
            Self::Peek(id) => Command::Peek(*id),
            Self::PeekBuried(_) => Command::PeekBuried,
            Self::PeekReady(_) => Command::PeekReady,
            Self::PeekDelayed(_) => Command::PeekDelayed,
            Self::StatsJob(id) => Command::StatsJob(*id),
            Self::StatsTube(tube) => Command::StatsTube(tube),
            Self::PauseTube(tube, seconds) => Command::PauseTube {
                tube,
                seconds: *seconds,
            },
        })
    }
}

/// Why there is no answer of a node.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It was not asked.
    #[error("{endpoint} was not asked: {why}")]
    Away {
        /// Which node.
        endpoint: Arc<str>,
        /// Why not.
        why: Arc<str>,
    },
    /// It was asked, and the connection ended before the answer: it may have done it.
    #[error("{endpoint} did not answer: {why}")]
    Unknown {
        /// Which node.
        endpoint: Arc<str>,
        /// What was in the way.
        why: Arc<str>,
    },
    /// The command must not be sent.
    #[error(transparent)]
    Refused(#[from] EncodeError),
    /// The engine was closed.
    #[error("the engine is closed")]
    Closed,
}

impl AskError {
    /// As an error of the engine, which tried to do this.
    pub(crate) fn engine(self, what: impl Into<String>) -> EngineError {
        match self {
            Self::Closed => EngineError::Closed { engine: ENGINE },
            other => EngineError::Unavailable {
                engine: ENGINE,
                what: what.into(),
                why: Arc::from(other.to_string()),
            },
        }
    }
}

/// The answer to an [`Ask`].
pub(super) type Reply = oneshot::Sender<Result<Answer, AskError>>;

/// What waits in an inbox.
#[derive(Debug)]
pub(super) enum Work {
    /// These jobs of a slice are to be stored.
    Put {
        copies: Arc<Copies>,
        from: u32,
        to: u32,
        since: Instant,
    },
    /// Somebody waits for one answer.
    Ask {
        ask: Ask,
        reply: Reply,
        since: Instant,
    },
}

/// Whether work is taken.
#[derive(Clone, Debug)]
pub(super) enum Gate {
    /// There is a connection.
    Open,
    /// There is none, and why.
    Away(Arc<str>),
    /// The engine is closed.
    Closed,
}

#[derive(Debug)]
struct Inbox {
    work: Vec<Work>,
    gate: Gate,
    /// The driver sleeps; whoever brings work wakes it.
    waker: Option<Waker>,
    /// The engine closes: what is here is done first.
    closing: bool,
}

struct Shared {
    index: usize,
    endpoint: Arc<str>,
    inbox: Mutex<Inbox>,
    /// As the gate of the inbox says: looked at by every caller.
    open: AtomicBool,
    /// The largest job it takes, in bytes.
    max_job: AtomicUsize,
    /// Milliseconds after `born` until which it is not asked to store anything.
    closed_for_writes: AtomicU64,
    born: Instant,
    /// Attempts to connect that ended, well or not.
    attempts: AtomicU64,
    /// Those among them that had no answer in time.
    unanswered: AtomicU64,
    /// Told whenever the state of a node changes; shared by all nodes of an engine.
    changed: Arc<Notify>,
}

/// One node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Node(Arc<Shared>);

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("endpoint", &self.0.endpoint)
            .field("gate", &self.gate())
            .finish_non_exhaustive()
    }
}

impl Node {
    pub(super) fn new(index: usize, endpoint: Arc<str>, changed: Arc<Notify>) -> Self {
        Self(Arc::new(Shared {
            index,
            endpoint,
            inbox: Mutex::new(Inbox {
                work: Vec::new(),
                gate: Gate::Away(Arc::from("not connected yet")),
                waker: None,
                closing: false,
            }),
            open: AtomicBool::new(false),
            max_job: AtomicUsize::new(MAX_TASK_LEN),
            closed_for_writes: AtomicU64::new(0),
            born: Instant::now(),
            attempts: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            changed,
        }))
    }

    /// Its place in the configuration.
    pub(crate) fn index(&self) -> usize {
        self.0.index
    }

    /// `host:port`, as configured.
    pub(crate) fn endpoint(&self) -> &Arc<str> {
        &self.0.endpoint
    }

    /// The largest job it takes, in bytes.
    pub(crate) fn max_job(&self) -> usize {
        self.0.max_job.load(Ordering::Relaxed)
    }

    /// Whether it is connected.
    pub(crate) fn is_up(&self) -> bool {
        self.0.open.load(Ordering::Acquire)
    }

    /// Why it is not connected; `None` if it is.
    pub(crate) fn away(&self) -> Option<Arc<str>> {
        match self.gate() {
            Gate::Open => None,
            Gate::Away(why) => Some(why),
            Gate::Closed => Some(Arc::from("the engine is closed")),
        }
    }

    /// Whether it is connected and takes jobs.
    pub(super) fn is_writable(&self, now: Instant) -> bool {
        let until = self.0.closed_for_writes.load(Ordering::Relaxed);
        self.is_up() && (until == 0 || millis(now.saturating_duration_since(self.0.born)) >= until)
    }

    /// Sends one command and waits for its answer.
    ///
    /// # Errors
    /// At once if the node is away, else when its connection ends; never later than about the deadline of the engine.
    ///
    /// # Cancel safety
    /// If the future is dropped the command may or may not be carried out. Nobody else is disturbed.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, AskError> {
        let mut answers = self.ask_all(vec![ask]).await;
        answers.pop().unwrap_or(Err(AskError::Closed))
    }

    /// Sends commands in one write; one answer for each, in order. As [`Node::ask`] otherwise. They keep their order at the node,
    /// but for what was taken from a connection: after an [`AskError`] it is not in hand any more.
    pub(crate) fn ask_all(
        &self,
        asks: Vec<Ask>,
    ) -> impl Future<Output = Vec<Result<Answer, AskError>>> + Send + use<> {
        let since = Instant::now();
        let mut answers = Vec::new();
        let work = asks.into_iter().map(|ask| {
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            Work::Ask { ask, reply, since }
        });
        let work: Vec<Work> = work.collect();
        for refused in self.hand_over(work) {
            self.refuse(refused);
        }
        async move {
            let mut said = Vec::with_capacity(answers.len());
            for answer in answers {
                // The driver answers everything; without an answer its task was ended by the run-time.
                said.push(answer.await.unwrap_or(Err(AskError::Closed)));
            }
            said
        }
    }

    /// Puts work into the inbox, all of it or nothing: then it comes back.
    pub(super) fn hand_over(&self, work: impl IntoIterator<Item = Work>) -> Vec<Work> {
        let mut inbox = self.inbox();
        if !matches!(inbox.gate, Gate::Open) || inbox.closing {
            drop(inbox);
            return work.into_iter().collect();
        }
        inbox.work.extend(work);
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
        Vec::new()
    }

    /// Tells whoever waits for it that nothing was asked.
    pub(super) fn refuse(&self, work: Work) {
        match work {
            Work::Put {
                copies, from, to, ..
            } => {
                use super::copies::{PutOutcome, Refusal};
                let refused = PutOutcome::Refused(Refusal::NotAsked);
                copies.report(self.index(), (from..to).map(|job| (job, refused)));
            }
            Work::Ask { reply, .. } => {
                let error = match self.gate() {
                    Gate::Closed => AskError::Closed,
                    Gate::Away(why) => AskError::Away {
                        endpoint: self.endpoint().clone(),
                        why,
                    },
                    Gate::Open => AskError::Away {
                        endpoint: self.endpoint().clone(),
                        why: Arc::from("it is busy"),
                    },
                };
                // Whoever asked may have gone.
                let _ = reply.send(Err(error));
            }
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Nothing that can panic runs while it is held.
        self.0.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self) -> Gate {
        self.inbox().gate.clone()
    }
}

/// What only the driver does.
impl Node {
    /// Moves everything that waits behind `to`. `None`: nothing is here, and the waker is registered. `Some(true)`: the engine
    /// closes, nothing more will come.
    pub(super) fn take(&self, to: &mut Vec<Work>, waker: &Waker) -> Option<bool> {
        let mut inbox = self.inbox();
        if inbox.work.is_empty() && !inbox.closing {
            match &mut inbox.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            return None;
        }
        // In steady state two buffers change places and nothing is allocated.
        if to.is_empty() {
            std::mem::swap(to, &mut inbox.work);
        } else {
            to.append(&mut inbox.work);
        }
        Some(inbox.closing)
    }

    /// Whether something waits; else the waker is registered.
    pub(super) fn has_work(&self, waker: &Waker) -> bool {
        let mut inbox = self.inbox();
        if !inbox.work.is_empty() || inbox.closing {
            return true;
        }
        match &mut inbox.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        false
    }

    /// A connection stands.
    pub(super) fn up(&self) {
        self.inbox().gate = Gate::Open;
        self.0.open.store(true, Ordering::Release);
        self.0.closed_for_writes.store(0, Ordering::Relaxed);
        self.0.attempts.fetch_add(1, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    /// There is no connection. What waits is answered: it was not asked. Whether the node was connected before.
    pub(super) fn down(&self, why: &Arc<str>) -> bool {
        let mut inbox = self.inbox();
        let was = std::mem::replace(&mut inbox.gate, Gate::Away(why.clone()));
        self.0.open.store(false, Ordering::Release);
        let work = std::mem::take(&mut inbox.work);
        drop(inbox);
        for work in work {
            self.refuse(work);
        }
        self.0.attempts.fetch_add(1, Ordering::Release);
        self.0.changed.notify_waiters();
        matches!(was, Gate::Open)
    }

    /// The driver ends.
    pub(super) fn over(&self) {
        let mut inbox = self.inbox();
        inbox.gate = Gate::Closed;
        self.0.open.store(false, Ordering::Release);
        let work = std::mem::take(&mut inbox.work);
        drop(inbox);
        for work in work {
            self.refuse(work);
        }
        self.0.changed.notify_waiters();
    }

    /// The node takes no jobs for a while.
    pub(super) fn close_for_writes(&self, time: Duration) {
        let until = millis(self.0.born.elapsed() + time).max(1);
        self.0.closed_for_writes.fetch_max(until, Ordering::Relaxed);
    }

    pub(super) fn set_max_job(&self, bytes: usize) {
        self.0.max_job.store(bytes, Ordering::Relaxed);
    }

    /// Nothing more is taken; what is here is done first.
    pub(super) fn close(&self) {
        let mut inbox = self.inbox();
        inbox.closing = true;
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.0.changed.notify_waiters();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.inbox().closing
    }

    /// Whether the first attempt to connect has ended.
    pub(super) fn was_tried(&self) -> bool {
        self.0.attempts.load(Ordering::Acquire) > 0
    }

    /// The attempt that ends now had no answer in time.
    pub(super) fn had_no_answer(&self) {
        self.0.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it is known that the node is away. An answer that comes too late may be the fault of a machine that is busy, so one
    /// alone says nothing.
    pub(super) fn is_given_up(&self) -> bool {
        let attempts = self.0.attempts.load(Ordering::Acquire);
        attempts > self.0.unanswered.load(Ordering::Relaxed) || attempts >= PATIENCE
    }

    pub(super) fn changed(&self) -> &Arc<Notify> {
        &self.0.changed
    }
}

/// After so many attempts without an answer in time a node is away.
const PATIENCE: u64 = 3;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
