//! What an engine keeps of single tasks beside its nodes.
//!
//! The nodes of a replicated engine know nothing of each other. Whether a named task is stored, that a revoked one may no
//! longer start, that a moved one may not start yet: each is one mark in the dedup store, under the same key as the claim of
//! the task, so that a mark and a claim exclude each other in one atomic step.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::BoxFuture;
use crate::message::Id;
use crate::name::Name;
use crate::time::WallTime;

/// The marks of a dedup store, shared by everybody in the process.
pub trait Marks: Send + Sync + fmt::Debug {
    /// One answer for each, in order.
    ///
    /// # Errors
    /// [`StoreDown`] if the store did not answer in time. The mark may have been set: every mark can be set again.
    ///
    /// # Cancel safety
    /// If the future is dropped the marks may or may not have been set.
    fn mark(&self, marks: Vec<Mark>) -> BoxFuture<'_, Vec<Result<Told, StoreDown>>>;

    /// The index of the dead letters.
    fn dead_index(&self) -> Arc<dyn DeadIndex>;

    /// The locks of the Go library, if the store is one that Go workers use as well.
    fn go_locks(&self) -> Option<Arc<dyn GoLocks>> {
        None
    }
}

/// The locks by which workers of the Go library decide who runs a task, for tubes that both kinds of workers watch.
pub trait GoLocks: Send + Sync + fmt::Debug {
    /// Runs the lock script of the Go library for each, as one request; one answer for each, in order.
    ///
    /// The script is re-entrant for the same claim and extends its time. An error is *indeterminate*: the lock may be ours.
    /// Ask again with the same claim until there is an answer.
    ///
    /// # Errors
    /// [`StoreDown`] if the store did not answer in time.
    ///
    /// # Cancel safety
    /// If the future is dropped the locks may or may not have been taken.
    fn lock(&self, locks: Vec<GoLock>) -> BoxFuture<'_, Vec<Result<GoLocked, StoreDown>>>;

    /// Keeps the lock of a task that was done for so long, where it is still that of the claim, so that replicas that Go
    /// workers meet later are not run. A lock that is somebody else's or has ended answers `Theirs`.
    ///
    /// # Errors
    /// [`StoreDown`] if the store did not answer in time.
    fn keep(
        &self,
        locks: Vec<GoLock>,
        keep: Duration,
    ) -> BoxFuture<'_, Vec<Result<GoLocked, StoreDown>>>;
}

/// One lock of the Go library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoLock {
    /// MD5 of the exact bytes of the job; its key in the store is the same in hex.
    pub id: Id,
    /// Names the claim: 16 characters, as the Go library makes them. Made by [`GoLock::new_claim`].
    pub claim: [u8; 16],
}

impl GoLock {
    /// What every claim of ours begins with. Go workers take random letters and digits and never look into a claim, so a
    /// dash tells a task that we have taken from one that a Go worker has.
    pub const OURS: &[u8; 3] = b"gq-";

    /// A new claim. It tells claims apart and keeps no secret.
    pub fn new_claim() -> [u8; 16] {
        let mut bits = Id::of_raw_body(&Id::unique().0.to_be_bytes()).0;
        std::array::from_fn(|at| {
            if let Some(mark) = Self::OURS.get(at) {
                return *mark;
            }
            let digit = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                [usize::try_from(bits % 62).unwrap_or(0)];
            bits /= 62;
            digit
        })
    }
}

/// Whose a lock of the Go library is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoLocked {
    /// Ours: this claim may run the task.
    Ours,
    /// Another worker has it, or the task was revoked: drop the replica.
    Theirs,
}

/// What is to be marked.
#[derive(Clone, Debug)]
pub struct Mark {
    /// The tube of the task.
    pub tube: Name,
    /// The task.
    pub id: Id,
    /// How.
    pub what: MarkWhat,
    /// How long the mark is kept.
    pub keep: Duration,
}

/// The marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkWhat {
    /// A named task is about to be stored by the holder of this token. Unless it is known to be stored, running, done or dead the
    /// answer is `Set`: then it is to be stored, also if another producer has announced it, because that one may have died.
    /// The answer says under which id: that of the [generation](Id::generation) that has the name, which is a new one if the last
    /// was revoked.
    Announce {
        /// Of this attempt to store it.
        token: u64,
    },
    /// The announced task is stored.
    Stored {
        /// What the engine needs to find it again.
        place: Arc<str>,
    },
    /// The announced task was not stored: takes back `Announce` of this token, and nothing else. With a token that nobody has used it
    /// is a question: `Set` says that nothing is known of the task, any other answer what is.
    Withdraw {
        /// As announced.
        token: u64,
    },
    /// It may not start any more.
    Revoke,
    /// It may not start before this time, whatever its nodes say.
    NotBefore {
        /// The new time.
        due: WallTime,
    },
    /// Its dead letter is kept: no replica may start any more. Set by the engine once the letter is stored, not by the lane
    /// that gave the task up: a process that dies between the two must leave a task that runs again, never one that is
    /// neither run nor found among the dead letters. Not set where the letter was replayed or purged meanwhile, or somebody
    /// else has run the task.
    Dead {
        /// How often it was started.
        attempts: u32,
    },
    /// A dead letter is to run again: its end is forgotten. From then on it is a task that is about to be stored.
    Replay,
    /// A dead letter was thrown away: no copy of it may start any more, and its name is free.
    Purge,
    /// Takes back a `Revoke` or `NotBefore` that turned out to concern nothing.
    Forget,
}

/// The answer to a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What the store says.
    pub marked: Marked,
    /// Of which task: another generation of the name than was asked for, where `Announce` found one.
    pub id: Id,
}

/// What the store says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marked {
    /// The mark is set.
    Set,
    /// Not set: the task is stored; this is its place, if it was noted. Also what was taken from a tube that Go workers share, and
    /// waits in our own.
    Stored(Option<Arc<str>>),
    /// Not set: it runs now.
    Running,
    /// Not set: it has run.
    Done,
    /// Not set: it was given up, and its dead letter is being written.
    Dying,
    /// Not set: it is among the dead letters.
    Dead,
    /// Not set: it was revoked.
    Revoked,
}

/// The dedup store did not answer, or not in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the dedup store did not answer: {why}")]
pub struct StoreDown {
    /// What was in the way.
    pub why: Arc<str>,
}

/// Where dead letters are found again. The letters themselves are kept by the engine.
pub trait DeadIndex: Send + Sync + fmt::Debug {
    /// Adds one, or renews it: the same tube and id is one entry, with one cursor. Answers the cursor.
    fn put(&self, entry: DeadEntry) -> BoxFuture<'_, Result<u64, StoreDown>>;

    /// A page in the order of the cursors, behind `after`, of one tube or of all.
    fn list(
        &self,
        tube: Option<Name>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(u64, DeadEntry)>, StoreDown>>;

    /// One of them.
    fn get(&self, cursor: u64) -> BoxFuture<'_, Result<Option<DeadEntry>, StoreDown>>;

    /// The one of a task, with its cursor. Stores that can find it directly do.
    fn find(
        &self,
        tube: Name,
        id: Id,
    ) -> BoxFuture<'_, Result<Option<(u64, DeadEntry)>, StoreDown>> {
        Box::pin(async move {
            let mut after = None;
            loop {
                let page = self.list(Some(tube.clone()), after, 1000).await?;
                let Some((last, _)) = page.last() else {
                    return Ok(None);
                };
                after = Some(*last);
                if let Some(found) = page.into_iter().find(|(_, entry)| entry.id == id) {
                    return Ok(Some(found));
                }
            }
        })
    }

    /// Removes one. Answers whether this call removed it: of two that try, one is told so.
    fn remove(&self, cursor: u64) -> BoxFuture<'_, Result<bool, StoreDown>>;

    /// Those of these tubes whose letters the index may lack: nobody has trusted it for them since it lost everything.
    fn doubted(&self, tubes: Vec<Name>) -> BoxFuture<'_, Result<Vec<Name>, StoreDown>>;

    /// The index has all letters of this tube.
    fn trust(&self, tube: Name) -> BoxFuture<'_, Result<(), StoreDown>>;

    /// How many there are.
    fn count(&self, tube: Option<Name>) -> BoxFuture<'_, Result<u64, StoreDown>>;
}

/// One dead letter in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadEntry {
    /// The tube it came from.
    pub tube: Name,
    /// The task.
    pub id: Id,
    /// Where the engine keeps it, in its own words.
    pub place: Arc<str>,
    /// When it was set aside.
    pub died: WallTime,
}
