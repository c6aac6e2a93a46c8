//! Everything that ends something before its own end: notices of the engine, quiet, abort, timeouts.

use crate::delivery::{How, Notice, Receipt};
use crate::outcome::Outcome;

use super::control::Phase;
use super::pump::Pump;
use super::table::{Entry, NIL, Stage};

use std::time::Duration;

/// Whose leases a notice is about.
#[derive(Clone, Copy)]
enum Concerns {
    Epoch(u32),
    One(Receipt),
    All,
}

impl Concerns {
    fn receipt(self, receipt: Receipt) -> bool {
        match self {
            Self::Epoch(epoch) => receipt.epoch == epoch,
            Self::One(one) => receipt == one,
            Self::All => true,
        }
    }

    fn entry(self, entry: &Entry) -> bool {
        entry.receipts().any(|receipt| self.receipt(receipt))
    }
}

impl Pump {
    /// Follows the control: quiet once, abort once.
    pub(super) fn obey(&mut self) {
        let wanted = self.control.phase();
        if wanted == self.phase {
            return;
        }
        let was = std::mem::replace(&mut self.phase, wanted);
        self.turn.open = false;
        if was == Phase::Open {
            self.give_back(Concerns::All, false);
        }
        if wanted == Phase::Abort {
            self.abort();
        }
        self.begin_waiting();
    }

    pub(super) fn obey_notices(&mut self) {
        if self.turn.notice.is_empty() {
            return;
        }
        let mut notices = std::mem::take(&mut self.turn.notice);
        for notice in notices.drain(..) {
            match notice {
                Notice::Leaving(epoch) => self.leave(Concerns::Epoch(epoch)),
                Notice::Lost(epoch) => self.lose(Concerns::Epoch(epoch)),
                Notice::LostOne(receipt) => self.lose(Concerns::One(receipt)),
            }
        }
        self.turn.notice = notices;
        self.begin_waiting();
    }

    /// Gives back what has not started.
    fn leave(&mut self, concerns: Concerns) {
        // Notices apply to deliveries of this turn as well.
        let mut deliver = std::mem::take(&mut self.turn.deliver);
        deliver.retain(|delivery| {
            let leaves = concerns.receipt(delivery.receipt);
            if leaves {
                self.release(delivery.receipt);
            }
            !leaves
        });
        self.turn.deliver = deliver;
        self.give_back(concerns, false);
    }

    /// Leases are gone: what has not started is forgotten, what runs is told to stop.
    fn lose(&mut self, concerns: Concerns) {
        let before = self.turn.deliver.len();
        self.turn
            .deliver
            .retain(|delivery| !concerns.receipt(delivery.receipt));
        self.counts.lost += (before - self.turn.deliver.len()) as u64;
        self.give_back(concerns, true);
        for ticket in self.table.tickets() {
            let entry = &mut self.table[ticket];
            if !matches!(
                entry.stage,
                Stage::Running | Stage::Detour | Stage::Confirming
            ) || !concerns.entry(entry)
            {
                continue;
            }
            if entry.len() > 1 {
                // The other receipts of a batch may still be ours; the engine drops the stale settlements.
                continue;
            }
            entry.lost = true;
            self.counts.lost += 1;
            if entry.stage == Stage::Running {
                self.stop_with_grace(ticket);
            }
        }
    }

    /// Ends what waits. Queued ones first: what follows passes keys on, and what is behind must be void by then.
    fn give_back(&mut self, concerns: Concerns, lost: bool) {
        for ticket in self.table.tickets() {
            let entry = &mut self.table[ticket];
            match entry.stage {
                Stage::Queued if concerns.entry(entry) => self.void(ticket, concerns, lost),
                Stage::Claiming if concerns.entry(entry) => {
                    entry.back = true;
                    entry.lost |= lost;
                }
                Stage::Gathering if concerns.entry(entry) => self.shrink(ticket, concerns, lost),
                _ => {}
            }
        }
        for ticket in self.table.tickets() {
            let entry = &mut self.table[ticket];
            if !concerns.entry(entry) {
                continue;
            }
            match entry.stage {
                Stage::Ready | Stage::Held | Stage::Backoff => {
                    if entry.len() > 1 {
                        // The rest of a batch that is partly lost goes back as well; it has not started.
                        self.hand_back(ticket);
                    } else {
                        entry.lost |= lost;
                        self.hand_back(ticket);
                    }
                }
                _ => {}
            }
        }
    }

    /// A queued entry is settled now and freed when its key comes to it.
    fn void(&mut self, ticket: u32, concerns: Concerns, lost: bool) {
        self.abandon(ticket);
        let receipts: Vec<Receipt> = self.table[ticket].receipts().collect();
        self.in_hand -= receipts.len();
        for receipt in receipts {
            if lost && concerns.receipt(receipt) {
                self.counts.lost += 1;
            } else {
                self.release(receipt);
            }
        }
        let entry = &mut self.table[ticket];
        entry.stage = Stage::Void;
        entry.message = None;
        entry.others.clear();
        entry.more.clear();
        // A closed batch that waited for nobody has no key that comes to it.
        if self.work.contains(&ticket) || entry.order == 0 {
            self.work.retain(|other| *other != ticket);
            self.pass_key_on(ticket);
            self.table.free(ticket);
        }
    }

    /// Takes what is concerned out of an open batch.
    fn shrink(&mut self, ticket: u32, concerns: Concerns, lost: bool) {
        let claimed = self.table[ticket].claimed;
        let entry = &mut self.table[ticket];
        let messages: Vec<_> = entry
            .message
            .take()
            .into_iter()
            .chain(entry.others.drain(..))
            .collect();
        let receipts: Vec<_> = std::iter::once(entry.receipt)
            .chain(entry.more.drain(..))
            .collect();
        let mut kept = Vec::new();
        for (message, receipt) in messages.into_iter().zip(receipts) {
            if !concerns.receipt(receipt) {
                kept.push((message, receipt));
                continue;
            }
            self.in_hand -= 1;
            if claimed {
                self.tell_claim(ticket, message.id, &How::RELEASE);
            }
            if lost {
                self.counts.lost += 1;
            } else {
                self.release(receipt);
            }
        }
        let mut kept = kept.into_iter();
        if let Some((message, receipt)) = kept.next() {
            let entry = &mut self.table[ticket];
            entry.message = Some(message);
            entry.receipt = receipt;
            for (message, receipt) in kept {
                entry.others.push(message);
                entry.more.push(receipt);
            }
        } else {
            let order = self.table[ticket].order;
            self.gathers.remove(&order);
            self.table.free(ticket);
        }
    }

    /// Back to the engine, uncounted, from a stage without a place.
    pub(super) fn hand_back(&mut self, ticket: u32) {
        self.abandon(ticket);
        let entry = &mut self.table[ticket];
        if entry.stage == Stage::Ready {
            self.ready_len -= 1;
        }
        if entry.lost {
            self.counts.lost += entry.len() as u64;
        } else {
            let receipts: Vec<Receipt> = entry.receipts().collect();
            for receipt in receipts {
                self.release(receipt);
            }
        }
        self.forget(ticket);
    }

    /// Cancels everything that has a place, and hands it back uncounted.
    fn abort(&mut self) {
        for ticket in self.table.tickets() {
            let entry = &self.table[ticket];
            if !matches!(
                entry.stage,
                Stage::Running | Stage::Detour | Stage::Confirming
            ) {
                continue;
            }
            let (stage, len) = (entry.stage, entry.len());
            if stage == Stage::Confirming {
                // It has finished and the store may know it: settle what was decided.
                self.complete(ticket);
                continue;
            }
            self.stop_slot(ticket);
            self.table[ticket].hows = vec![How::RELEASE; len];
            self.counts.released += len as u64;
            self.counts.aborted += len as u64;
            // Its claims are abandoned; nobody waits for an answer.
            self.confirm(ticket);
        }
    }

    fn stop_slot(&mut self, ticket: u32) {
        self.runs.remove(&mut self.table, ticket);
        let place = self.table[ticket].place;
        if place != NIL {
            let place = &mut self.places[place as usize];
            place.slot.context().cancel();
            place.slot.clear();
            place.detour = None;
        }
    }

    /// A run took too long.
    pub(super) fn time_out(&mut self, ticket: u32, timeout: Duration) {
        self.counts.timeouts += 1;
        let place = self.table[ticket].place;
        if self.places[place as usize].slot.context().listens() {
            self.stop_with_grace(ticket);
        } else {
            self.places[place as usize].slot.context().cancel();
            self.places[place as usize].slot.clear();
            self.finish(ticket, timed_out(timeout));
        }
    }

    /// Tells a run to stop and gives it a grace; its key and place are taken until then.
    fn stop_with_grace(&mut self, ticket: u32) {
        self.runs.remove(&mut self.table, ticket);
        let entry = &mut self.table[ticket];
        let (place, round) = (entry.place, entry.round);
        self.places[place as usize].slot.context().cancel();
        if !std::mem::replace(&mut entry.ending, true) {
            self.ending
                .push_back((self.turn.now + self.plan.grace, ticket, round));
        }
    }

    /// The grace is over.
    pub(super) fn end_grace(&mut self, ticket: u32) {
        let place = self.table[ticket].place;
        self.places[place as usize].slot.clear();
        if self.table[ticket].lost {
            // Somebody else will run it. Its claim, if any, is not ours to confirm.
            let len = self.table[ticket].len();
            self.table[ticket].hows = vec![How::RELEASE; len];
            self.confirm(ticket);
        } else {
            let timeout = self.plan.timeout.unwrap_or_default();
            self.finish(ticket, timed_out(timeout));
        }
    }

    /// The subscription is over for good: every lease is void.
    pub(super) fn drop_everything(&mut self) {
        for ticket in self.table.tickets() {
            if self.table[ticket].place != NIL {
                self.stop_slot(ticket);
            }
        }
        self.counts.lost += self.in_hand as u64;
        self.in_hand = 0;
        self.running = 0;
        self.turn.settle.clear();
    }
}

fn timed_out(timeout: Duration) -> Outcome {
    Outcome::retry(format_args!(
        "timeout: the handler ran longer than {}",
        crate::time::format_duration(timeout)
    ))
}
