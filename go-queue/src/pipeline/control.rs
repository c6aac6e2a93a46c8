//! The way to the lanes of a subscription from outside: quiet, abort, and what they are doing.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::Health;

use super::wake::WakeSet;

/// Stops lanes: open, quiet, abort, never back.
#[derive(Debug, Default)]
pub struct Control {
    phase: AtomicU8,
    lanes: Mutex<Vec<Arc<WakeSet>>>,
}

/// How far a lane has been stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Receiving.
    #[default]
    Open,
    /// Receiving no more, running ones finish, what waits goes back.
    Quiet,
    /// Running ones are cancelled and go back.
    Abort,
}

impl Control {
    /// An open one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Stop receiving; hand back what has not started; let the rest finish.
    pub fn quiet(&self) {
        self.raise(Phase::Quiet);
    }

    /// Cancel what runs and hand it back, uncounted.
    pub fn abort(&self) {
        self.raise(Phase::Abort);
    }

    /// How far it has gone.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Open,
            1 => Phase::Quiet,
            _ => Phase::Abort,
        }
    }

    fn raise(&self, to: Phase) {
        self.phase.fetch_max(to as u8, Ordering::SeqCst);
        for lane in self
            .lanes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            lane.rouse();
        }
    }

    pub(super) fn join(&self, lane: Arc<WakeSet>) {
        self.lanes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(lane);
    }
}

/// What a lane has counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages taken in hand.
    pub received: u64,
    /// Handlers started.
    pub started: u64,
    /// Messages done.
    pub done: u64,
    /// Messages given back to run again later, or kept to.
    pub retried: u64,
    /// Messages set aside.
    pub dead: u64,
    /// Messages removed as not wanted.
    pub skipped: u64,
    /// Messages given back uncounted.
    pub released: u64,
    /// Messages that a dedup store knew as done.
    pub duplicates: u64,
    /// Leases lost while in hand.
    pub lost: u64,
    /// Runs that took too long.
    pub timeouts: u64,
    /// Messages whose run was cancelled by an abort; they are among the released ones.
    pub aborted: u64,
}

macro_rules! shared_counts {
    ($($name:ident),*) => {
        #[derive(Debug, Default)]
        struct SharedCounts { $($name: AtomicU64),* }
        impl Counts {
            /// Adds what another lane has counted.
            pub fn add(&mut self, other: &Self) { $(self.$name += other.$name;)* }
        }
        impl SharedCounts {
            fn store(&self, counts: &Counts) { $(self.$name.store(counts.$name, Ordering::Relaxed);)* }
            fn load(&self) -> Counts { Counts { $($name: self.$name.load(Ordering::Relaxed)),* } }
        }
    };
}

shared_counts!(
    received, started, done, retried, dead, skipped, released, duplicates, lost, timeouts, aborted
);

/// What a lane is doing, readable from anywhere. Written once for each round of the pump, never for each message.
#[derive(Debug, Default)]
pub struct LaneStatus {
    running: AtomicUsize,
    in_hand: AtomicUsize,
    counts: SharedCounts,
    health: Mutex<Health>,
    /// Odd while the pump is in a round, one more at each beginning and end.
    round: AtomicU64,
    stalled: AtomicBool,
}

impl LaneStatus {
    /// Runs under way.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Messages in hand, running and waiting.
    pub fn in_hand(&self) -> usize {
        self.in_hand.load(Ordering::Acquire)
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts.load()
    }

    /// What the engine says of this end.
    pub fn health(&self) -> Health {
        self.health
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The number of the round that the lane is in; `None` while it sleeps or lets others run. A number that does not change is a handler that
    /// does not come back from one poll.
    pub(crate) fn round(&self) -> Option<u64> {
        let round = self.round.load(Ordering::Relaxed);
        (round % 2 == 1).then_some(round)
    }

    /// A round begins or ends. Written by the lane alone.
    pub(super) fn turn_over(&self, round: u64) {
        self.round.store(round, Ordering::Relaxed);
    }

    /// Whether a handler blocks the thread of this lane.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    pub(super) fn publish(&self, running: usize, in_hand: usize, counts: &Counts) {
        self.running.store(running, Ordering::Relaxed);
        self.counts.store(counts);
        self.in_hand.store(in_hand, Ordering::Release);
    }

    pub(super) fn publish_health(&self, health: &Health) {
        self.health
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(health);
    }
}
