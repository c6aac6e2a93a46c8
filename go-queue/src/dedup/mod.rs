//! The contract of the dedup store, in the shape of the engine contract: asks go in, answers come out, in slices.
//!
//! Two phases: a *running* claim that expires unless it is renewed, and *done*, kept for `dedup.keep`. A crash is then a
//! retry and not a loss.

use std::task::{Context, Poll};
use std::time::Duration;

use crate::message::Id;

mod marks;
pub mod memory;
#[cfg(feature = "beanstalkd")]
pub mod redis;

pub use marks::{
    DeadEntry, DeadIndex, GoLock, GoLocked, GoLocks, Mark, MarkWhat, Marked, Marks, StoreDown, Told,
};

/// One end of a dedup store, owned by one lane.
pub trait Claims: Send {
    /// One exchange: takes all of `asks`, appends `answers`. `Ready`: something was appended. `Pending`: the waker is
    /// registered. Claims that were answered `Fresh` are renewed by the store end until they are confirmed, ended or
    /// abandoned.
    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        asks: &mut Vec<Ask>,
        answers: &mut Vec<Answer>,
    ) -> Poll<()>;
}

/// A question to the store. Each but `Abandon` is answered once, unless the store end is dropped; a granted `Claim` may be taken back
/// by [`Verdict::Lost`].
#[derive(Clone, Debug)]
pub struct Ask {
    /// The pump's entry.
    pub ticket: u32,
    /// Which use of the entry: an answer for an earlier one is dropped.
    pub round: u32,
    /// Which message.
    pub id: Id,
    /// What is asked.
    pub what: AskWhat,
}

/// What is asked of the dedup store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskWhat {
    /// May this run start?
    Claim,
    /// It has finished: keep that it is done.
    Confirm,
    /// It failed and will be tried again: free the claim, keep the count.
    Retry {
        /// When the next attempt is due; the count is kept at least as long.
        after: Duration,
    },
    /// It goes to the dead letters: the claim and its count end, so that a replay may run. A store that guards replicas keeps
    /// them from starting while the engine writes the letter, and ends the count with [`MarkWhat::Replay`]; if
    /// [`MarkWhat::Dead`] does not come, because the process has died, the task runs again.
    Dead,
    /// It did not start: free the claim, do not count. Not answered.
    Abandon,
}

/// The store's word.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As in the ask.
    pub ticket: u32,
    /// As in the ask.
    pub round: u32,
    /// What the store says.
    pub verdict: Verdict,
}

/// What the store says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To `Claim`: this run may start; it is this start of the message, from 1.
    Fresh {
        /// Number of this start.
        attempt: u32,
    },
    /// To `Claim`: it is done already.
    Done,
    /// To `Claim`: somebody runs it; ask again after this time.
    Busy(Duration),
    /// To `Confirm`, `Retry` and `Dead`: stored.
    Stored,
    /// The store cannot be reached; ask again after this time.
    Down(Duration),
    /// To `Confirm`, `Retry` and `Dead`: the claim had expired and is somebody else's. Unasked, to a `Claim` that was answered
    /// `Fresh` and of which nothing else was asked yet, as soon as the store end learns it: what has not started must not.
    Lost,
}
