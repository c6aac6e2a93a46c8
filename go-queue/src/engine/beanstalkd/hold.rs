//! What waits here for its time: tasks that came in the last second before they are due, and settled jobs whose return is less
//! than whole seconds away. All of it is leased; nothing of it is handed out early.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::Receipt;
use crate::message::Message;
use crate::time::WallTime;

/// A step of the wall clock is noticed within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A message that was not handed out yet, and the proof of its lease.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) message: Message,
    pub(super) receipt: Receipt,
}

/// A settled job that goes back to its node at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    /// When.
    pub(super) until: Instant,
    /// Which.
    pub(super) receipt: Receipt,
    /// Seconds that are left then, for the node to wait.
    pub(super) seconds: u32,
    /// Whether its return counts as an attempt.
    pub(super) counted: bool,
}

/// By due time, the earliest on top of the heap.
#[derive(Debug)]
struct Held(Parcel);

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Held {}
impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        let of = |held: &Self| (held.0.message.due, held.0.receipt.token);
        of(other).cmp(&of(self))
    }
}

/// By time, the earliest on top of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Paused(Pause);

impl PartialOrd for Paused {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Paused {
    fn cmp(&self, other: &Self) -> Ordering {
        let of = |paused: &Self| {
            (
                paused.0.until,
                paused.0.receipt.epoch,
                paused.0.receipt.token,
            )
        };
        of(other).cmp(&of(self))
    }
}

/// Everything that waits for its time.
#[derive(Debug, Default)]
pub(super) struct Hold {
    held: BinaryHeap<Held>,
    pauses: BinaryHeap<Paused>,
}

impl Hold {
    /// Keeps a task until it is due.
    pub(super) fn keep(&mut self, parcel: Parcel) {
        self.held.push(Held(parcel));
    }

    /// Keeps a settled job until its time.
    pub(super) fn pause(&mut self, pause: Pause) {
        self.pauses.push(Paused(pause));
    }

    /// The next task that is due now.
    pub(super) fn due(&mut self, wall: WallTime) -> Option<Parcel> {
        if self.held.peek()?.0.message.due > wall {
            return None;
        }
        self.held.pop().map(|held| held.0)
    }

    /// The next settled job whose time is over.
    pub(super) fn over(&mut self, now: Instant) -> Option<Pause> {
        if self.pauses.peek()?.0.until > now {
            return None;
        }
        self.pauses.pop().map(|pause| pause.0)
    }

    /// When to look again.
    pub(super) fn next(&self, wall: WallTime, now: Instant) -> Option<Instant> {
        let due = self.held.peek().map(|held| {
            let rest = held.0.message.due.since(wall);
            now + rest.min(LONGEST_WAIT)
        });
        let over = self.pauses.peek().map(|pause| pause.0.until);
        due.into_iter().chain(over).min()
    }

    /// When the first held task is due.
    pub(super) fn next_due(&self) -> Option<WallTime> {
        self.held.peek().map(|held| held.0.message.due)
    }

    /// How many settled jobs wait.
    pub(super) fn pauses(&self) -> usize {
        self.pauses.len()
    }

    /// Takes everything that is held.
    pub(super) fn take_held(&mut self) -> impl Iterator<Item = Parcel> + use<> {
        std::mem::take(&mut self.held)
            .into_iter()
            .map(|held| held.0)
    }

    /// Takes every settled job that waits.
    pub(super) fn take_pauses(&mut self) -> impl Iterator<Item = Pause> + use<> {
        std::mem::take(&mut self.pauses)
            .into_iter()
            .map(|pause| pause.0)
    }

    /// One lease is over. False if nothing is held for it.
    pub(super) fn forget_one(&mut self, receipt: Receipt) -> bool {
        let before = self.held.len() + self.pauses.len();
        self.held.retain(|held| held.0.receipt != receipt);
        self.pauses.retain(|pause| pause.0.receipt != receipt);
        self.held.len() + self.pauses.len() < before
    }

    /// The leases of an epoch are lost.
    pub(super) fn forget(&mut self, epoch: u32) {
        self.held.retain(|held| held.0.receipt.epoch != epoch);
        self.pauses.retain(|pause| pause.0.receipt.epoch != epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(due: i64, epoch: u32) -> Parcel {
        Parcel {
            message: Message {
                due: WallTime::from_nanos(due),
                ..Message::default()
            },
            receipt: Receipt {
                epoch,
                group: 0,
                token: 0,
            },
        }
    }

    #[test]
    fn what_is_due_first_comes_first_and_nothing_comes_early() {
        let mut hold = Hold::default();
        for due in [30, 10, 20] {
            hold.keep(parcel(due, 1));
        }
        assert_eq!(hold.next_due(), Some(WallTime::from_nanos(10)));
        assert!(hold.due(WallTime::from_nanos(9)).is_none());
        let mut seen = Vec::new();
        while let Some(parcel) = hold.due(WallTime::from_nanos(25)) {
            seen.push(parcel.message.due.as_nanos());
        }
        assert_eq!(seen, [10, 20]);
    }

    #[test]
    fn a_lost_epoch_takes_what_it_held_with_it() {
        let mut hold = Hold::default();
        hold.keep(parcel(1, 1));
        hold.keep(parcel(2, 2));
        hold.forget(1);
        let left = hold.due(WallTime::from_nanos(9)).expect("one is left");
        assert_eq!(left.receipt.epoch, 2);
        assert!(hold.due(WallTime::from_nanos(9)).is_none());
    }

    #[test]
    fn a_far_due_time_is_looked_at_again_within_a_second() {
        let mut hold = Hold::default();
        hold.keep(parcel(i64::MAX, 1));
        let now = Instant::now();
        assert_eq!(hold.next(WallTime::EPOCH, now), Some(now + LONGEST_WAIT));
    }
}
