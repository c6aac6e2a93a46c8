//! Where one group stands in one partition: what is committed, what is in hand, what came back.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::delivery::{Delivery, Receipt};
use crate::message::Message;

/// The oldest unfinished record stops its partition for the group when so many later ones have been handed out.
const SPAN: usize = 100_000;

/// Two bits of state, above them how often the record was started.
#[derive(Clone, Copy, Debug)]
struct Mark(u16);

impl Mark {
    const OUT: u16 = 0;
    const DONE: u16 = 1;
    const BACK: u16 = 2;
    const STATE: u16 = 3;

    fn state(self) -> u16 {
        self.0 & Self::STATE
    }

    fn set(&mut self, state: u16) {
        self.0 = self.0 & !Self::STATE | state;
    }

    fn starts(self) -> u16 {
        self.0 >> 2
    }

    fn count_start(&mut self) {
        // Counting stops at 16,383; the state must stay what it is.
        self.0 = self.0.checked_add(4).unwrap_or(self.0);
    }
}

/// A dead letter that was replayed: it is delivered outside of the partition, which may have lost it long ago.
#[derive(Debug)]
struct Replayed {
    message: Message,
    starts: u32,
}

/// Marks the tokens of replayed dead letters; offsets are positive.
const REPLAYED: u64 = 1 << 63;

#[derive(Debug)]
pub(super) struct Cursor {
    /// The offset below which everything is done.
    committed: i64,
    /// From the committed offset to the next one to be handed out.
    window: VecDeque<Mark>,
    /// Records that came back.
    back: usize,
    replayed: VecDeque<Replayed>,
    replayed_out: Vec<(u64, Replayed)>,
    replays: u64,
    /// Deliveries in hand.
    pub(super) out: usize,
    /// The member that holds the partition.
    pub(super) owner: Option<usize>,
    /// Of this holding.
    pub(super) epoch: u32,
    /// Until when the owner may finish what it has in hand.
    pub(super) leaving: Option<Instant>,
}

/// What a settlement met.
#[derive(Debug)]
pub(super) enum Met {
    /// Nothing in hand.
    Stale,
    /// A record of the partition.
    Record,
    /// A dead letter that was replayed, which is in no partition.
    Replayed(Message),
}

/// How one settlement changes a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Finished.
    Done,
    /// Not started; it comes again.
    Back,
}

impl Cursor {
    pub(super) fn new(committed: i64) -> Self {
        Self {
            committed,
            window: VecDeque::new(),
            back: 0,
            replayed: VecDeque::new(),
            replayed_out: Vec::new(),
            replays: 0,
            out: 0,
            owner: None,
            epoch: 0,
            leaving: None,
        }
    }

    /// The next offset that was never handed out.
    fn next(&self) -> i64 {
        self.committed + i64::try_from(self.window.len()).unwrap_or(i64::MAX)
    }

    /// Below which offset retention may remove records: never what is in hand, and what is unread only if it is said.
    pub(super) fn may_remove_below(&self, drop_unread: bool) -> i64 {
        if drop_unread && self.window.is_empty() {
            i64::MAX
        } else {
            self.committed
        }
    }

    /// Records below this are gone.
    pub(super) fn skip_to(&mut self, first: i64) {
        if self.window.is_empty() {
            self.committed = self.committed.max(first);
        }
    }

    /// Whether nothing waits to be handed out, `end` being the next offset of the partition.
    pub(super) fn is_read(&self, end: i64) -> bool {
        self.back == 0 && self.replayed.is_empty() && self.next() >= end
    }

    /// Puts a dead letter in front of everything.
    pub(super) fn replay(&mut self, message: Message) {
        self.replayed.push_back(Replayed { message, starts: 0 });
    }

    /// Hands out at most `room` messages; `record` gives those of the partition.
    pub(super) fn deliver<'a>(
        &mut self,
        partition: u32,
        room: usize,
        end: i64,
        record: impl Fn(i64) -> Option<&'a Message>,
        order: impl Fn(&Message) -> u64,
        into: &mut Vec<Delivery>,
    ) {
        let before = into.len();
        let limit = before + room;
        let epoch = self.epoch;
        let mut hand_out = |message: Message, token: u64| {
            let order = order(&message);
            into.push(Delivery {
                message,
                receipt: Receipt {
                    epoch,
                    group: partition,
                    token,
                },
                order,
            });
            into.len() < limit
        };
        let mut more = room > 0;
        while more && let Some(replayed) = self.replayed.pop_front() {
            self.replays += 1;
            let token = REPLAYED | self.replays;
            let attempt = replayed.starts.saturating_add(1);
            more = hand_out(
                Message {
                    attempt,
                    ..replayed.message.clone()
                },
                token,
            );
            self.replayed_out.push((token, replayed));
        }
        if more && self.back > 0 {
            for (offset, mark) in (self.committed..).zip(&mut self.window) {
                if mark.state() == Mark::BACK
                    && let Some(message) = record(offset)
                {
                    mark.set(Mark::OUT);
                    self.back -= 1;
                    let attempt = u32::from(mark.starts()) + 1;
                    more = hand_out(
                        Message {
                            attempt,
                            ..message.clone()
                        },
                        offset.cast_unsigned(),
                    );
                    if !more || self.back == 0 {
                        break;
                    }
                }
            }
        }
        let mut offset = self.next();
        while more && offset < end && self.window.len() < SPAN {
            let Some(message) = record(offset) else { break };
            self.window.push_back(Mark(Mark::OUT));
            more = hand_out(message.clone(), offset.cast_unsigned());
            offset += 1;
        }
        self.out += into.len() - before;
    }

    /// Takes one settlement.
    pub(super) fn settle(&mut self, token: u64, end: End) -> Met {
        if token & REPLAYED != 0 {
            return self.settle_replayed(token, end);
        }
        let at = usize::try_from(token.cast_signed() - self.committed).unwrap_or(usize::MAX);
        let Some(mark) = self
            .window
            .get_mut(at)
            .filter(|mark| mark.state() == Mark::OUT)
        else {
            return Met::Stale;
        };
        self.out -= 1;
        match end {
            End::Back => {
                mark.set(Mark::BACK);
                self.back += 1;
            }
            End::Done => {
                mark.set(Mark::DONE);
                while self
                    .window
                    .front()
                    .is_some_and(|mark| mark.state() == Mark::DONE)
                {
                    self.window.pop_front();
                    self.committed += 1;
                }
            }
        }
        Met::Record
    }

    fn settle_replayed(&mut self, token: u64, end: End) -> Met {
        let Some(place) = self.replayed_out.iter().position(|(out, _)| *out == token) else {
            return Met::Stale;
        };
        let (_, replayed) = self.replayed_out.swap_remove(place);
        self.out -= 1;
        let message = replayed.message.clone();
        if end == End::Back {
            self.replayed.push_front(replayed);
        }
        Met::Replayed(message)
    }

    /// Ends the holding: what is in hand counts as started, and comes again. What was done beyond the committed offset
    /// stays done.
    pub(super) fn release(&mut self) {
        self.owner = None;
        self.leaving = None;
        if self.out > 0 {
            for mark in self
                .window
                .iter_mut()
                .filter(|mark| mark.state() == Mark::OUT)
            {
                mark.set(Mark::BACK);
                mark.count_start();
                self.back += 1;
            }
            self.replayed_out
                .sort_unstable_by_key(|(token, _)| std::cmp::Reverse(*token));
            for (_, mut replayed) in self.replayed_out.drain(..) {
                replayed.starts = replayed.starts.saturating_add(1);
                self.replayed.push_front(replayed);
            }
            self.out = 0;
        }
    }
}
