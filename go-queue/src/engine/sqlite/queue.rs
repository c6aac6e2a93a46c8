//! The way to the writer: a queue, a bell that wakes it, and what may be asked.

use std::collections::VecDeque;
use std::fmt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::failure::Failure;
use super::sync::Reply;
use super::tube::Stored;
use super::tx::Tx;
use crate::delivery::Settlement;
use crate::engine::{Outgoing, PublishError};

/// What producers are answered, one for each message.
pub(super) type Answers = Vec<Result<Stored, PublishError>>;

/// Messages to store.
pub(super) struct Put {
    pub(super) slice: Vec<Outgoing>,
    pub(super) answers: Answers,
    pub(super) reply: Reply,
}

/// One exchange with an end of a tube.
#[derive(Debug, Default)]
pub(super) struct TubeTurn {
    pub(super) sub: u32,
    pub(super) settle: Vec<Settlement>,
    /// Claimed ahead and never handed out.
    pub(super) back: Vec<crate::delivery::Receipt>,
    /// Room for so many more.
    pub(super) credit: usize,
    /// Room that was granted before is not there any more.
    pub(super) withdraw: bool,
    /// Take no more for this end.
    pub(super) quiet: bool,
    /// The end is gone: its session is over.
    pub(super) end: bool,
    pub(super) stale: u64,
}

/// One exchange with an end of a topic.
#[derive(Debug, Default)]
pub(super) struct TopicTurn {
    pub(super) sub: u32,
    pub(super) commits: Vec<Commit>,
    pub(super) dead: Vec<Buried>,
    /// Replayed dead letters that are done: partition, epoch, token.
    pub(super) replayed: Vec<(i64, u32, u64)>,
    /// Records to hand out once more: partition, epoch, token.
    pub(super) again: Vec<(i64, u32, u64)>,
    /// Epochs that are drained.
    pub(super) left: Vec<u32>,
    pub(super) credit: usize,
    pub(super) withdraw: bool,
    pub(super) quiet: bool,
    pub(super) end: bool,
    pub(super) stale: u64,
}

/// How far an end is with one partition.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) gid: i64,
    pub(super) epoch: u32,
    /// Everything before it is done.
    pub(super) base: i64,
    /// What is done from there on, one bit for each record, lowest bit first.
    pub(super) done: Vec<u8>,
}

/// A record that goes to the dead letters of a group.
#[derive(Debug)]
pub(super) struct Buried {
    pub(super) gid: i64,
    pub(super) epoch: u32,
    pub(super) token: u64,
    pub(super) reason: Arc<str>,
    pub(super) attempts: u32,
}

/// A rare request.
pub(super) trait Job: Send {
    /// Does it. Called again, from the beginning, if the transaction failed.
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    /// Answers it, after the sync.
    fn finish(self: Box<Self>, end: Result<(), Failure>);
}

/// A request to the writer.
pub(super) enum Request {
    Put(Put),
    Tube(TubeTurn),
    Topic(TopicTurn),
    Job(Box<dyn Job>),
}

impl Request {
    /// How much it adds to a transaction, in messages.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Put(put) => put.slice.len(),
            Self::Tube(turn) => turn.settle.len() + turn.back.len() + 1,
            Self::Topic(turn) => turn.commits.len() + turn.dead.len() + 1,
            Self::Job(_) => 16,
        }
    }

    /// Whether it must be repeated until it is done.
    pub(super) fn must_happen(&self) -> bool {
        matches!(self, Self::Tube(_) | Self::Topic(_))
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put(_) => "Put",
            Self::Tube(_) => "Tube",
            Self::Topic(_) => "Topic",
            Self::Job(_) => "Job",
        })
    }
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Request>,
    /// The writer sleeps until the bell rings.
    asleep: bool,
    /// No more requests; the writer ends when it has done those that are here.
    closed: bool,
    /// The writer has ended.
    ended: bool,
}

/// The queue of one writer.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    bell: UnixDatagram,
}

impl Queue {
    /// A queue that rings this bell.
    pub(super) fn new(bell: UnixDatagram) -> Self {
        Self {
            waiting: Mutex::default(),
            bell,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // A full buffer is a bell that rings already.
        let _ = self.bell.send(&[1]);
    }

    /// Hands a request over, or gives it back if the engine was closed.
    #[expect(
        clippy::result_large_err,
        reason = "what is not taken goes back to who has it, once at the end"
    )]
    pub(super) fn push(&self, request: Request) -> Result<(), Request> {
        let wake = {
            let mut waiting = self.lock();
            if waiting.ended || (waiting.closed && !request.must_happen()) {
                return Err(request);
            }
            waiting.requests.push_back(request);
            std::mem::take(&mut waiting.asleep)
        };
        if wake {
            self.ring();
        }
        Ok(())
    }

    /// Moves what one transaction may hold. Answers whether more is there.
    pub(super) fn take(&self, into: &mut Vec<Request>, weight: usize) -> bool {
        let mut waiting = self.lock();
        waiting.asleep = false;
        let mut sum = 0;
        while let Some(next) = waiting.requests.front() {
            sum += next.weight();
            if sum > weight && !into.is_empty() {
                return true;
            }
            into.extend(waiting.requests.pop_front());
        }
        false
    }

    /// Whether the writer may sleep now. From a `true` on the next request rings the bell.
    pub(super) fn doze(&self) -> bool {
        let mut waiting = self.lock();
        waiting.asleep = waiting.requests.is_empty() && !waiting.closed;
        waiting.asleep
    }

    /// No more requests. The writer ends when it has done those that are here.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ring();
    }

    /// Whether `close` was called.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The writer says that it has ended; what is still here is given back. `None` while requests wait.
    pub(super) fn end(&self, force: bool) -> Option<Vec<Request>> {
        let mut waiting = self.lock();
        if !force && !waiting.requests.is_empty() {
            return None;
        }
        waiting.ended = true;
        waiting.closed = true;
        Some(waiting.requests.drain(..).collect())
    }
}

/// A closure as a [`Job`], answered through a channel.
pub(super) struct Ask<F, T> {
    run: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, Failure>>,
}

impl<F, T> Ask<F, T>
where
    F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    T: Send + 'static,
{
    /// The request, and where its answer comes.
    pub(super) fn of(run: F) -> (Request, oneshot::Receiver<Result<T, Failure>>) {
        let (reply, answer) = oneshot::channel();
        (
            Request::Job(Box::new(Self {
                run,
                value: None,
                reply,
            })),
            answer,
        )
    }
}

impl<F, T> Job for Ask<F, T>
where
    F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.value = Some((self.run)(tx)?);
        Ok(())
    }

    fn finish(self: Box<Self>, end: Result<(), Failure>) {
        let Self { value, reply, .. } = *self;
        let answer = end.and_then(|()| value.ok_or(Failure::Closed));
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }
}
