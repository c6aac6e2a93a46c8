//! The copies of one task: they lie on several nodes and are met by several connections of one process within milliseconds.
//! They share a claim and a record.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::dedup::GoLock;
use crate::message::Id;

/// How many tasks are remembered. Forgetting one costs a second record, nothing else.
const MOST: usize = 65_536;

/// How long one is remembered.
const KEPT: Duration = Duration::from_secs(600);

/// What a copy meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twin {
    /// It is to be stored, under this claim.
    Ours([u8; 16]),
    /// It is stored, under this claim.
    Stored([u8; 16]),
    /// Another connection stores it now.
    Elsewhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A connection is storing it.
    Held,
    /// The connection that was storing it is gone; it may be stored or not.
    Left,
    Stored,
}

/// The tasks that were met not long ago.
#[derive(Debug, Default)]
pub(super) struct Twins {
    known: HashMap<Id, ([u8; 16], State)>,
    order: VecDeque<(Instant, Id)>,
}

impl Twins {
    /// A copy of this task is in hand. After `Ours` one of [`stored`](Self::stored) and [`leave`](Self::leave) follows.
    pub(super) fn meet(&mut self, id: Id) -> Twin {
        if let Some((claim, state)) = self.known.get_mut(&id) {
            return match state {
                State::Stored => Twin::Stored(*claim),
                State::Held => Twin::Elsewhere,
                State::Left => {
                    *state = State::Held;
                    Twin::Ours(*claim)
                }
            };
        }
        let now = Instant::now();
        self.forget(now);
        let claim = GoLock::new_claim();
        self.known.insert(id, (claim, State::Held));
        self.order.push_back((now, id));
        Twin::Ours(claim)
    }

    /// Its record is stored.
    pub(super) fn stored(&mut self, id: Id) {
        self.set(id, State::Stored);
    }

    /// Nobody is storing it any more. Its claim stays: a record may be there.
    pub(super) fn leave(&mut self, id: Id) {
        self.set(id, State::Left);
    }

    fn set(&mut self, id: Id, to: State) {
        if let Some((_, state)) = self.known.get_mut(&id) {
            *state = to;
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some(&(since, id)) = self.order.front() {
            let held = matches!(self.known.get(&id), Some((_, State::Held)));
            let stays = held || (self.order.len() < MOST && now < since + KEPT);
            if stays {
                break;
            }
            self.order.pop_front();
            self.known.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_one_claim_and_one_record() {
        let mut twins = Twins::default();
        let Twin::Ours(claim) = twins.meet(Id(1)) else {
            unreachable!("the first copy is ours");
        };
        assert_eq!(twins.meet(Id(1)), Twin::Elsewhere);
        twins.leave(Id(1));
        assert_eq!(twins.meet(Id(1)), Twin::Ours(claim));
        twins.stored(Id(1));
        assert_eq!(twins.meet(Id(1)), Twin::Stored(claim));
        assert!(matches!(twins.meet(Id(2)), Twin::Ours(other) if other != claim));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_met_long_ago_is_forgotten() {
        let mut twins = Twins::default();
        twins.meet(Id(1));
        twins.stored(Id(1));
        tokio::time::advance(KEPT).await;
        twins.meet(Id(2));
        assert!(matches!(twins.meet(Id(1)), Twin::Ours(_)));
        assert_eq!(twins.order.len(), 2);
    }

    #[test]
    fn it_does_not_grow_beyond_its_bound() {
        let mut twins = Twins::default();
        for n in 0..MOST as u128 + 100 {
            twins.meet(Id(n));
            twins.stored(Id(n));
        }
        assert!(twins.known.len() <= MOST && twins.order.len() <= MOST);
    }
}
