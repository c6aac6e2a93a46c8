//! What both kinds of ends have in common: the way to the writer and back.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::mailbox::{Mailbox, Slice, Word};
use super::queue::Request;
use super::{Handle, failure::ENGINE};
use crate::engine::{EngineError, HealthState, MAX_SLICE, Order, Turn};
use crate::message::{Flags, Message};
use crate::time::WallTime;

/// The most requests of one end under way: one that runs, and one that forms meanwhile.
pub(super) const UNDER_WAY: u32 = 2;

/// How long `close` waits for the last settlements.
const CLOSE: Duration = Duration::from_secs(5);

/// The way of one end to the writer.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a step of its life, or a word of the writer"
)]
#[derive(Debug)]
pub(super) struct Line {
    pub(super) handle: Arc<Handle>,
    pub(super) sub: u32,
    pub(super) mailbox: Arc<Mailbox>,
    /// Length of the lease in milliseconds.
    lease: i64,
    /// Slices that came and were not handed out yet.
    pub(super) ahead: VecDeque<Slice>,
    pub(super) words: VecDeque<Word>,
    /// Room that was granted and not filled yet.
    credit: usize,
    /// Messages in `ahead`.
    waiting: usize,
    sent: u32,
    committed: u32,
    confirmed: u32,
    /// Came too late, counted here and by the writer.
    pub(super) stale: u64,
    empty: bool,
    next_due: Option<WallTime>,
    down: Option<Arc<str>>,
    up: bool,
    pub(super) quiet: bool,
    pub(super) closed: bool,
    closing: Option<Pin<Box<Sleep>>>,
    pub(super) ended: bool,
}

impl Line {
    pub(super) fn new(handle: Arc<Handle>, sub: u32, mailbox: Arc<Mailbox>, lease: i64) -> Self {
        Self {
            handle,
            sub,
            mailbox,
            lease,
            ahead: VecDeque::new(),
            words: VecDeque::new(),
            credit: 0,
            waiting: 0,
            sent: 0,
            committed: 0,
            confirmed: 0,
            stale: 0,
            empty: false,
            next_due: None,
            down: None,
            up: false,
            quiet: false,
            closed: false,
            closing: None,
            ended: false,
        }
    }

    /// Takes what the writer left, and asks to be woken by the next.
    pub(super) fn collect(&mut self, cx: &Context<'_>) {
        let mut inbox = self.mailbox.lock();
        inbox.register(cx);
        // Once the end was announced, what still comes belongs to the writer: it gives back what was never collected,
        // uncounted. Taken here it would count as started.
        if !self.ended {
            for slice in inbox.slices.drain(..) {
                self.credit = self.credit.saturating_sub(slice.rows.len());
                self.waiting += slice.rows.len();
                self.ahead.push_back(slice);
            }
        }
        self.words.extend(inbox.words.drain(..));
        self.committed = inbox.committed;
        self.confirmed = inbox.confirmed;
        self.stale += std::mem::take(&mut inbox.stale);
        self.empty = inbox.empty;
        self.next_due = inbox.next_due;
        self.down.clone_from(&inbox.down);
        self.closed = inbox.closed;
        self.up = true;
        inbox.wants_confirmation = self.sent != self.confirmed;
    }

    /// Whether another request may go.
    pub(super) fn may_send(&self) -> bool {
        !self.closed && self.sent.wrapping_sub(self.committed) < UNDER_WAY
    }

    /// How much more room to grant for so many free places.
    pub(super) fn wanted(&self, free: usize) -> usize {
        if self.quiet {
            0
        } else {
            free.min(MAX_SLICE)
                .saturating_sub(self.credit + self.waiting)
        }
    }

    /// Whether room was granted that is not there any more. Said with the next request that goes anyway.
    pub(super) fn withdraws(&self, free: usize) -> bool {
        free == 0 && self.credit > 0
    }

    /// Sends a request with so much new room in it.
    pub(super) fn send(&mut self, request: Request, credit: usize, withdraw: bool) {
        match self.handle.shared.queue.push(request) {
            Ok(()) => {
                self.sent = self.sent.wrapping_add(1);
                self.credit = if withdraw {
                    credit
                } else {
                    self.credit + credit
                };
                self.mailbox.lock().wants_confirmation = true;
            }
            // The writer has ended: everything here is void, the leases go back with the session.
            Err(_) => self.closed = true,
        }
    }

    /// Whether every request is confirmed.
    pub(super) fn is_confirmed(&self) -> bool {
        self.sent == self.confirmed
    }

    /// Whether the last request, which ends the session, is confirmed. Has a bound.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EngineError>> {
        self.collect(cx);
        if self.is_confirmed() {
            return Poll::Ready(Ok(()));
        }
        if self.closed {
            return Poll::Ready(Err(Self::over()));
        }
        let bound = self.closing.get_or_insert_with(|| Box::pin(sleep(CLOSE)));
        bound.as_mut().poll(cx).map(|()| {
            Err(EngineError::Unavailable {
                engine: ENGINE,
                what: "confirm the last settlements".to_owned(),
                why: self
                    .down
                    .clone()
                    .unwrap_or_else(|| Arc::from("the store did not answer in time")),
            })
        })
    }

    /// Whether something came ahead that may be somebody else's by now: this process stood still for longer than its lease. The writer
    /// looks what was lost, says so, and wakes this end.
    pub(super) fn holds_back(&self) -> bool {
        self.waiting > 0 && self.handle.shared.lease_age() >= self.lease
    }

    /// The next message that came ahead, with the epoch of its slice and whatever the caller makes of its row.
    pub(super) fn next<T>(
        &mut self,
        make: impl FnOnce(&Slice, &super::mailbox::Row) -> T,
    ) -> Option<T> {
        loop {
            let slice = self.ahead.front_mut()?;
            if let Some(taken) = slice.rows.pop_front() {
                self.waiting -= 1;
                let value = make(slice, &taken);
                if slice.rows.is_empty() {
                    self.ahead.pop_front();
                }
                return Some(value);
            }
            self.ahead.pop_front();
        }
    }

    /// Drops what came ahead of an epoch that is over.
    pub(super) fn forget(&mut self, epoch: u32) {
        self.ahead.retain(|slice| slice.epoch != epoch);
        self.waiting = self.ahead.iter().map(|slice| slice.rows.len()).sum();
    }

    /// Drops all that came ahead.
    pub(super) fn take_ahead(&mut self) -> VecDeque<Slice> {
        self.waiting = 0;
        std::mem::take(&mut self.ahead)
    }

    /// Writes down how this end is. `settled`: nothing is held here that the writer does not know.
    pub(super) fn health(&self, turn: &mut Turn, settled: bool) {
        let health = &mut turn.health;
        health.stale = self.stale;
        health.next_due = self.next_due;
        health.empty = self.empty
            && settled
            && self.waiting == 0
            && self.sent == self.committed
            && self.is_confirmed();
        let down = match (&self.down, self.closed) {
            (Some(why), _) => Some(why.clone()),
            (None, true) => Some(Arc::from("the engine was closed")),
            (None, false) => None,
        };
        match (&health.state, down) {
            (HealthState::Down(old), Some(new)) if *old == new => {}
            (_, Some(new)) => health.state = HealthState::Down(new),
            (HealthState::Up, None) => {}
            (_, None) if self.up => health.state = HealthState::Up,
            (_, None) => {}
        }
    }

    /// The error of an end whose engine is gone.
    pub(super) fn over() -> EngineError {
        EngineError::Closed { engine: ENGINE }
    }
}

/// What deliveries of one message's key or partition have in common.
pub(super) fn order_of(order: Order, message: &Message, partition: Option<u32>) -> u64 {
    use std::hash::BuildHasher;
    let of_partition = || {
        partition.map_or(0, |part| {
            // Odd, so never zero, and far from the hashes of short keys.
            (u64::from(part) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
        })
    };
    match order {
        Order::None => 0,
        Order::Partition => of_partition(),
        Order::Key if message.flags.contains(Flags::NULL_KEY) => of_partition(),
        Order::Key => foldhash::fast::FixedState::default()
            .hash_one(message.body.key())
            .max(1),
    }
}
