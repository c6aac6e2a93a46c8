//! Batches: open ones gather messages of one order value, and start when they are full, when their time is over, or when
//! there is no room for more.

use crate::delivery::Delivery;

use super::pump::Pump;
use super::table::Stage;

impl Pump {
    /// Puts a delivery into the open batch of its order value.
    pub(super) fn gather(&mut self, delivery: Delivery) {
        let size = self.plan.batch.map_or(1, |batch| batch.size);
        let order = delivery.order;
        let ticket = if let Some(&ticket) = self.gathers.get(&order) {
            let Delivery {
                message, receipt, ..
            } = delivery;
            let entry = &mut self.table[ticket];
            entry.others.push(message);
            entry.more.push(receipt);
            self.in_hand += 1;
            ticket
        } else {
            let ticket = self.take(delivery, Stage::Gathering);
            self.gathers.insert(order, ticket);
            self.gather_ages
                .push_back((ticket, self.table[ticket].round));
            ticket
        };
        if self.table[ticket].len() >= size {
            self.gathered(ticket);
            self.begin_waiting();
        }
    }

    /// A claimed message joins the open batch; its key passes on.
    pub(super) fn gather_claimed(&mut self, ticket: u32) {
        let entry = &mut self.table[ticket];
        let message = entry
            .message
            .take()
            .expect("an entry without a place has its message");
        let delivery = Delivery {
            message,
            receipt: entry.receipt,
            order: entry.order,
        };
        self.forget(ticket);
        let order = delivery.order;
        self.gather(delivery);
        if let Some(&open) = self.gathers.get(&order) {
            self.table[open].claimed = true;
        }
    }

    /// A batch is closed: it begins when its key is free.
    fn gathered(&mut self, ticket: u32) {
        let order = self.table[ticket].order;
        self.gathers.remove(&order);
        if self.claims.is_some() {
            self.table[ticket].claimed = true;
        }
        if order != 0
            && let Some(tail) = self.busy.insert(order, ticket)
        {
            self.table[tail].next = ticket;
            self.table[ticket].stage = Stage::Queued;
            return;
        }
        // No longer gathering, not yet ready.
        self.table[ticket].stage = Stage::Queued;
        self.work.push(ticket);
    }

    /// Closes the batches whose time is over. Answers whether there were any.
    pub(super) fn begin_lingering(&mut self) -> bool {
        let Some(batch) = self.plan.batch else {
            return false;
        };
        let mut begun = false;
        while let Some(&(ticket, round)) = self.gather_ages.front() {
            let entry = &self.table[ticket];
            if entry.round == round && entry.stage == Stage::Gathering {
                if entry.since + batch.linger > self.turn.now {
                    break;
                }
                self.gathered(ticket);
                begun = true;
            }
            self.gather_ages.pop_front();
        }
        begun
    }

    /// Without room for more, waiting cannot fill a batch: the oldest begin while there are places.
    pub(super) fn begin_full_gathers(&mut self) {
        if self.gathers.is_empty() || self.in_hand + self.least <= self.room {
            return;
        }
        while self.running < self.plan.concurrency && self.ready_len == 0 {
            let Some((ticket, round)) = self.gather_ages.pop_front() else {
                return;
            };
            let entry = &self.table[ticket];
            if entry.round == round && entry.stage == Stage::Gathering {
                self.gathered(ticket);
                self.begin_waiting();
            }
        }
    }
}
