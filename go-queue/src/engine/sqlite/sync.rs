//! The `power` level: answers that wait until the disk has the write-ahead log.
//!
//! A thread of its own, so that the next transaction runs while the last one is being synced, and one sync confirms all
//! that was committed before it began.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::failure::Failure;
use super::mailbox::Mailbox;
use super::queue::{Answers, Job};
use crate::engine::Outgoing;
use tokio::sync::oneshot;

/// What a producer waits for.
pub(super) type Reply = oneshot::Sender<(Vec<Outgoing>, Answers)>;

/// An answer that is ready to leave.
pub(super) enum Answer {
    /// The messages go back with it, so that their memory is freed by who had it.
    Put(Reply, Vec<Outgoing>, Answers),
    Confirm(Arc<Mailbox>, u32),
    Job(Box<dyn Job>),
}

impl Answer {
    /// Sends it.
    pub(super) fn send(self, end: Result<(), &Failure>) {
        match self {
            Self::Put(reply, slice, mut answers) => {
                if let Err(failure) = end {
                    for answer in &mut answers {
                        if answer.is_ok() {
                            *answer = Err(failure.publish());
                        }
                    }
                }
                // Whoever asked may have gone.
                let _ = reply.send((slice, answers));
            }
            // After a failed sync the settlement is in the log all the same, and the log is written again with the next
            // checkpoint: what a power cut may undo is a second run, not a loss.
            Self::Confirm(mailbox, n) => mailbox.post_if(|inbox| {
                inbox.confirmed = inbox.confirmed.wrapping_add(n);
                inbox.wants_confirmation
            }),
            Self::Job(job) => job.finish(end.map_err(Clone::clone)),
        }
    }
}

#[derive(Default)]
struct Waiting {
    answers: Vec<Answer>,
    closed: bool,
}

/// How often and how long the disk was waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncFigures {
    /// Syncs of the write-ahead log.
    pub count: u64,
    /// Time spent in them.
    pub time: Duration,
}

/// Shared by the writer and the thread that syncs.
#[derive(Default)]
pub(super) struct Syncer {
    waiting: Mutex<Waiting>,
    bell: Condvar,
    count: AtomicU64,
    nanos: AtomicU64,
    /// A sync failed: nothing is confirmed until a checkpoint has put the pages into the database.
    broken: AtomicBool,
}

impl std::fmt::Debug for Syncer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Syncer")
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}

impl Syncer {
    /// Hands answers over.
    pub(super) fn push(&self, answers: &mut Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.answers.append(answers);
        drop(waiting);
        self.bell.notify_one();
    }

    /// No more answers: the thread ends when it has sent those that are here.
    pub(super) fn close(&self) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.bell.notify_one();
    }

    pub(super) fn figures(&self) -> SyncFigures {
        SyncFigures {
            count: self.count.load(Ordering::Relaxed),
            time: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }

    /// Whether the disk has refused a sync since the last repair.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// The pages are in the database, which was synced.
    pub(super) fn repaired(&self) {
        self.broken.store(false, Ordering::Release);
    }

    /// Syncs and answers until closed.
    pub(super) fn run(&self, log: &File) {
        let mut answers = Vec::new();
        loop {
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                while waiting.answers.is_empty() {
                    if waiting.closed {
                        return;
                    }
                    waiting = self
                        .bell
                        .wait(waiting)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                std::mem::swap(&mut waiting.answers, &mut answers);
            }
            let began = super::host::monotonic();
            let synced = log.sync_data();
            self.count.fetch_add(1, Ordering::Relaxed);
            let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.nanos.fetch_add(nanos, Ordering::Relaxed);
            let end = match synced {
                Ok(()) if !self.is_broken() => Ok(()),
                Ok(()) => Err(Failure::Unsynced(Arc::from(
                    "an earlier sync of the log failed",
                ))),
                Err(error) => {
                    self.broken.store(true, Ordering::Release);
                    tracing::error!(%error, "the disk did not confirm the write-ahead log");
                    Err(Failure::Unsynced(Arc::from(format!(
                        "the disk did not confirm it: {error}"
                    ))))
                }
            };
            for answer in answers.drain(..) {
                answer.send(end.as_ref().copied());
            }
        }
    }
}
