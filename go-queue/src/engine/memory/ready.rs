//! Tasks that may start now: by priority, then first in first out.

use std::collections::{BTreeMap, VecDeque};

use super::timer::Ticket;

/// Empty queues of priorities are kept for their memory, up to so many.
const KEPT_QUEUES: usize = 16;

/// Tasks that may start now. What was taken back lies there as a stale ticket until it is met.
#[derive(Debug, Default)]
pub(super) struct Ready {
    queues: BTreeMap<u32, VecDeque<Ticket>>,
    len: usize,
    stale: usize,
}

impl Ready {
    /// How many may start.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push_back(&mut self, priority: u32, ticket: Ticket) {
        self.len += 1;
        self.queues.entry(priority).or_default().push_back(ticket);
    }

    pub(super) fn push_front(&mut self, priority: u32, ticket: Ticket) {
        self.len += 1;
        self.queues.entry(priority).or_default().push_front(ticket);
    }

    /// Takes one back whose ticket is stale for `live` by now.
    pub(super) fn cancel(&mut self, live: impl Fn(Ticket) -> bool) {
        self.len -= 1;
        self.stale += 1;
        if self.stale > self.len + 64 {
            self.queues
                .values_mut()
                .for_each(|queue| queue.retain(|ticket| live(*ticket)));
            self.queues.retain(|_, queue| !queue.is_empty());
            self.stale = 0;
        }
    }

    /// Takes out the next `room` of them, and hands each to `take`, which answers whether it was still there.
    pub(super) fn take(&mut self, mut room: usize, mut take: impl FnMut(Ticket) -> bool) {
        while room > 0 && self.len > 0 {
            let Some((&priority, queue)) =
                self.queues.iter_mut().find(|(_, queue)| !queue.is_empty())
            else {
                break;
            };
            while room > 0
                && let Some(ticket) = queue.pop_front()
            {
                if take(ticket) {
                    self.len -= 1;
                    room -= 1;
                } else {
                    self.stale -= 1;
                }
            }
            if queue.is_empty() && self.queues.len() > KEPT_QUEUES {
                self.queues.remove(&priority);
            }
        }
    }

    /// Gives back what memory a burst has taken.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}
