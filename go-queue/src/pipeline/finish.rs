//! The end of a run: from outcome to settlement.

use std::collections::hash_map::Entry as MapEntry;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::delivery::{How, Receipt, Settlement};
use crate::engine::BoxFuture;
use crate::message::Message;
use crate::outcome::Outcome;

use super::policy::{Decision, decide};
use super::pump::Pump;
use super::table::{NIL, Stage};

use std::cmp::Reverse;

impl Pump {
    /// A run has ended with this outcome.
    pub(super) fn finish(&mut self, ticket: u32, outcome: Outcome) {
        self.runs.remove(&mut self.table, ticket);
        let entry = &mut self.table[ticket];
        entry.ending = false;
        if entry.more.is_empty() {
            if outcome == Outcome::Done && !entry.claimed {
                self.finish_plainly(ticket);
                return;
            }
            // A batch of one answers with a list of one.
            let outcome = match outcome {
                Outcome::Each(mut each) if each.len() == 1 => each.pop().unwrap_or(Outcome::Done),
                Outcome::Each(each) => crate::outcome::wrong_length(each.len(), 1),
                one => one,
            };
            self.finish_one(ticket, &outcome);
        } else {
            self.finish_batch(ticket, outcome);
        }
    }

    /// The common end, without the detours of all others: done, one message, nobody to tell but the engine.
    fn finish_plainly(&mut self, ticket: u32) {
        self.counts.done += 1;
        self.in_hand -= 1;
        let entry = &self.table[ticket];
        if !entry.lost {
            self.turn.settle.push(Settlement {
                receipt: entry.receipt,
                how: How::Ack,
            });
        }
        self.leave_place(ticket);
        self.pass_key_on(ticket);
        self.table.free(ticket);
    }

    fn finish_one(&mut self, ticket: u32, outcome: &Outcome) {
        let place = self.table[ticket].place;
        let attempt = self.message(place).attempt;
        let decision = decide(&self.plan, outcome, attempt, fastrand::f64());
        self.report(self.message(place), outcome, &decision);
        let divert = matches!(decision, Decision::Divert(_));
        self.count(&decision);
        match decision {
            Decision::Settle(how) | Decision::Divert(how) => {
                self.table[ticket].hows.push(how);
                if divert {
                    self.divert(ticket);
                } else {
                    self.confirm(ticket);
                }
            }
            Decision::Skip => {
                self.table[ticket].hows.push(How::Ack);
                self.confirm(ticket);
            }
            Decision::Backoff(after) if self.table[ticket].lost => {
                // It will be delivered to somebody again: nobody waits for it here.
                self.table[ticket].hows.push(How::Retry { after });
                self.confirm(ticket);
            }
            Decision::Backoff(after) => self.back_off(ticket, after),
        }
    }

    fn finish_batch(&mut self, ticket: u32, outcome: Outcome) {
        let len = self.table[ticket].len();
        let outcomes = match outcome {
            Outcome::Each(each) if each.len() == len => each,
            Outcome::Each(each) => vec![crate::outcome::wrong_length(each.len(), len); len],
            one => vec![one; len],
        };
        let place = self.table[ticket].place;
        let attempts: Vec<u32> = self
            .messages(place)
            .map(|message| message.attempt)
            .collect();
        let mut decisions = Vec::with_capacity(len);
        for (outcome, attempt) in outcomes.iter().zip(attempts) {
            decisions.push(decide(&self.plan, outcome, attempt, fastrand::f64()));
        }
        let failure = self
            .messages(place)
            .zip(outcomes.iter().zip(&decisions))
            .find(|(_, (outcome, _))| !matches!(outcome, Outcome::Done | Outcome::Skip));
        if let Some((message, (outcome, decision))) = failure {
            // One line for a batch: the first failure stands for the others.
            self.report(message, outcome, decision);
        }
        for decision in &decisions {
            self.count(decision);
        }
        if decisions
            .iter()
            .any(|decision| matches!(decision, Decision::Backoff(_)))
        {
            self.split_batch(ticket, decisions);
            return;
        }
        let divert = decisions
            .iter()
            .any(|decision| matches!(decision, Decision::Divert(_)));
        self.table[ticket].hows = decisions
            .into_iter()
            .map(|decision| match decision {
                Decision::Settle(how) | Decision::Divert(how) => how,
                Decision::Skip => How::Ack,
                Decision::Backoff(after) => How::Retry { after },
            })
            .collect();
        if divert {
            self.divert(ticket);
        } else {
            self.confirm(ticket);
        }
    }

    /// Some of a batch are settled, the others wait together and run again. What would be diverted waits with them: it
    /// fails again, and then stands alone.
    fn split_batch(&mut self, ticket: u32, decisions: Vec<Decision>) {
        let place = self.table[ticket].place;
        let messages: Vec<Message> = self.messages(place).cloned().collect();
        let receipts: Vec<Receipt> = self.table[ticket].receipts().collect();
        let mut wait = Duration::ZERO;
        let mut kept: Vec<(Message, Receipt)> = Vec::new();
        for ((message, receipt), decision) in messages.into_iter().zip(receipts).zip(decisions) {
            let settled = match decision {
                Decision::Settle(how) => how,
                Decision::Skip => How::Ack,
                Decision::Backoff(after) => {
                    wait = wait.max(after);
                    kept.push((message, receipt));
                    continue;
                }
                Decision::Divert(_) => {
                    kept.push((message, receipt));
                    continue;
                }
            };
            if self.table[ticket].claimed {
                self.tell_claim(ticket, message.id, &settled);
            }
            self.turn.settle.push(Settlement {
                receipt,
                how: settled,
            });
            self.in_hand -= 1;
        }
        let mut kept = kept.into_iter();
        let entry = &mut self.table[ticket];
        entry.more.clear();
        entry.others.clear();
        if let Some((message, receipt)) = kept.next() {
            entry.receipt = receipt;
            entry.message = Some(again(message));
        }
        for (message, receipt) in kept {
            entry.others.push(again(message));
            entry.more.push(receipt);
        }
        self.leave_place(ticket);
        self.wait_for(ticket, Stage::Backoff, wait);
    }

    /// Failed on an engine that does not redeliver: the entry keeps its key and a waiting place, not a running one.
    fn back_off(&mut self, ticket: u32, after: Duration) {
        let place = self.table[ticket].place;
        let message = self.message(place).clone();
        self.table[ticket].message = Some(again(message));
        self.leave_place(ticket);
        self.wait_for(ticket, Stage::Backoff, after);
    }

    /// Looks at this entry again after a time.
    pub(super) fn wait_for(&mut self, ticket: u32, stage: Stage, after: Duration) {
        let entry = &mut self.table[ticket];
        entry.stage = stage;
        let round = entry.round;
        // A year is as good as for ever, and cannot overflow.
        let after = after.min(Duration::from_secs(365 * 86_400));
        self.later
            .push(Reverse((self.turn.now + after, ticket, round)));
    }

    fn divert(&mut self, ticket: u32) {
        let index = self.table[ticket].place;
        let hows = std::mem::take(&mut self.table[ticket].hows);
        let Some(detour) = self.plan.detour.clone() else {
            // The plan was refused at start if this could happen; the message goes back rather than get lost.
            tracing::error!(handler = %self.plan.about.handler, "no place for dead letters, the message goes back");
            self.table[ticket].hows = vec![How::RELEASE; hows.len()];
            self.confirm(ticket);
            return;
        };
        let futures: Vec<Result<How, BoxFuture<'static, How>>> = self
            .messages(index)
            .zip(hows)
            .map(|(message, how)| match how {
                How::Dead { .. } => Err(detour.divert(message, how)),
                other => Ok(other),
            })
            .collect();
        let mut future: BoxFuture<'static, Vec<How>> = Box::pin(async move {
            let mut hows = Vec::with_capacity(futures.len());
            for one in futures {
                hows.push(match one {
                    Ok(how) => how,
                    Err(future) => future.await,
                });
            }
            hows
        });
        self.table[ticket].stage = Stage::Detour;
        let place = &mut self.places[index as usize];
        match future.as_mut().poll(&mut Context::from_waker(&place.waker)) {
            Poll::Ready(hows) => {
                self.table[ticket].hows = hows;
                self.confirm(ticket);
            }
            Poll::Pending => place.detour = Some(future),
        }
    }

    /// Tells the dedup store how it ended, if it was asked whether it may start; then settles.
    pub(super) fn confirm(&mut self, ticket: u32) {
        if self.table[ticket].claimed && self.claims.is_some() {
            self.ask_confirm(ticket);
        } else {
            self.complete(ticket);
        }
    }

    /// Settles, and passes place and key on.
    pub(super) fn complete(&mut self, ticket: u32) {
        let entry = &mut self.table[ticket];
        let len = entry.len();
        if entry.lost {
            entry.hows.clear();
        } else {
            let receipts = std::iter::once(entry.receipt).chain(entry.more.drain(..));
            let settled = receipts.zip(entry.hows.drain(..));
            self.turn
                .settle
                .extend(settled.map(|(receipt, how)| Settlement { receipt, how }));
        }
        self.in_hand -= len;
        self.leave_place(ticket);
        self.pass_key_on(ticket);
        self.table.free(ticket);
    }

    /// Gives the running place back, if there is one.
    pub(super) fn leave_place(&mut self, ticket: u32) {
        let index = std::mem::replace(&mut self.table[ticket].place, NIL);
        if index != NIL {
            let place = &mut self.places[index as usize];
            place.owner = NIL;
            place.detour = None;
            self.idle.push(index);
            self.running -= 1;
        }
    }

    /// The next of its key may begin; without a next the key is free.
    pub(super) fn pass_key_on(&mut self, ticket: u32) {
        let (order, next) = (self.table[ticket].order, self.table[ticket].next);
        if order == 0 {
            return;
        }
        if next != NIL {
            self.table[ticket].next = NIL;
            self.work.push(next);
        } else if let MapEntry::Occupied(last) = self.busy.entry(order)
            && *last.get() == ticket
        {
            last.remove();
        }
    }

    /// Back to the engine, uncounted.
    pub(super) fn release(&mut self, receipt: Receipt) {
        self.counts.released += 1;
        self.turn.settle.push(Settlement {
            receipt,
            how: How::RELEASE,
        });
    }

    pub(super) fn message(&self, place: u32) -> &Message {
        self.places[place as usize].slot.context().message()
    }

    fn messages(&self, place: u32) -> impl Iterator<Item = &Message> {
        self.places[place as usize].slot.context().messages()
    }

    fn count(&mut self, decision: &Decision) {
        let counts = &mut self.counts;
        match decision {
            Decision::Settle(How::Ack) => counts.done += 1,
            Decision::Settle(How::Retry { .. }) | Decision::Backoff(_) => counts.retried += 1,
            Decision::Settle(How::Dead { .. }) | Decision::Divert(_) => counts.dead += 1,
            Decision::Settle(How::Release { .. }) => counts.released += 1,
            Decision::Skip => counts.skipped += 1,
        }
    }

    /// One line for each failure. Never the payload.
    fn report(&self, message: &Message, outcome: &Outcome, decision: &Decision) {
        let (what, error) = match outcome {
            Outcome::Retry { error, .. } | Outcome::Dead { error } => ("handler failed", &**error),
            Outcome::Undecodable { error } => ("payload does not decode", &**error),
            Outcome::Each(_) => (
                "handler failed",
                "the handler returned several outcomes for one message",
            ),
            Outcome::Done | Outcome::Skip => return,
        };
        let handler = &*self.plan.about.handler;
        let (id, attempt) = (message.id, message.attempt);
        match decision {
            Decision::Settle(How::Retry { after }) | Decision::Backoff(after) => {
                tracing::warn!(handler, %id, attempt, error, ?after, "{what}, will run again");
            }
            Decision::Settle(How::Dead { .. }) | Decision::Divert(_) => {
                tracing::error!(handler, %id, attempt, error, "{what}, message set aside");
            }
            _ => tracing::warn!(handler, %id, attempt, error, "{what}, message skipped"),
        }
    }
}

/// The same message at its next attempt, where the engine does not count.
fn again(message: Message) -> Message {
    Message {
        attempt: message.attempt.saturating_add(1),
        ..message
    }
}
