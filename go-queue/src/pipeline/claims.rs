//! The stage between receive and start, where a dedup store is asked whether this run may start, and between the run and
//! its settlement, where the store is told how it ended.

use std::task::{Context, Poll};

use crate::dedup::{Answer, Ask, AskWhat, Verdict};
use crate::delivery::{How, Settlement};
use crate::message::Id;

use super::control::Phase;
use super::pump::Pump;
use super::table::Stage;

impl Pump {
    /// Gives asks to the store and takes its answers. Answers whether there were any.
    pub(super) fn exchange_claims(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(claims) = &mut self.claims else {
            return false;
        };
        let more = claims.turn(cx, &mut self.asks, &mut self.answers);
        let answered = !self.answers.is_empty();
        let mut answers = std::mem::take(&mut self.answers);
        // Work is taken from the end, and who asked first starts first.
        for answer in answers.drain(..).rev() {
            self.take_answer(&answer);
        }
        self.answers = answers;
        self.begin_waiting();
        answered || more == Poll::Ready(())
    }

    pub(super) fn ask_claim(&mut self, ticket: u32) {
        let entry = &mut self.table[ticket];
        entry.stage = Stage::Claiming;
        let id = entry
            .message
            .as_ref()
            .map_or_else(Id::default, |message| message.id);
        self.asks.push(Ask {
            ticket,
            round: entry.round,
            id,
            what: AskWhat::Claim,
        });
    }

    /// Tells the store how each message of the entry ended; completes when all is stored.
    pub(super) fn ask_confirm(&mut self, ticket: u32) {
        let place = self.table[ticket].place;
        let context = self.places[place as usize].slot.context();
        let entry = &mut self.table[ticket];
        entry.stage = Stage::Confirming;
        entry.asks = 0;
        for (message, how) in context.messages().zip(&entry.hows) {
            let what = told(how);
            entry.asks += u32::from(what != AskWhat::Abandon);
            self.asks.push(Ask {
                ticket,
                round: entry.round,
                id: message.id,
                what,
            });
        }
        if entry.asks == 0 {
            self.complete(ticket);
        }
    }

    /// Tells the store of one message, without waiting for the answer.
    pub(super) fn tell_claim(&mut self, ticket: u32, id: Id, how: &How) {
        let round = self.table[ticket].round.wrapping_sub(1);
        self.asks.push(Ask {
            ticket,
            round,
            id,
            what: told(how),
        });
    }

    /// Frees the claims of an entry that has not started.
    pub(super) fn abandon(&mut self, ticket: u32) {
        let entry = &mut self.table[ticket];
        if !std::mem::take(&mut entry.claimed) {
            return;
        }
        for message in entry.message.iter().chain(&entry.others) {
            self.asks.push(Ask {
                ticket,
                round: entry.round,
                id: message.id,
                what: AskWhat::Abandon,
            });
        }
    }

    fn take_answer(&mut self, answer: &Answer) {
        let Answer {
            ticket,
            round,
            verdict,
        } = *answer;
        if self.table[ticket].round != round {
            // For an earlier use of the entry. A claim that nobody waits for any more is abandoned by its life.
            return;
        }
        match (self.table[ticket].stage, verdict) {
            (Stage::Claiming, Verdict::Fresh { attempt }) => {
                let entry = &mut self.table[ticket];
                entry.claimed = true;
                if let Some(message) = &mut entry.message {
                    message.attempt = attempt;
                }
                self.work.push(ticket);
            }
            (Stage::Claiming, Verdict::Done) => {
                self.counts.duplicates += 1;
                let entry = &self.table[ticket];
                if !entry.lost {
                    let receipt = entry.receipt;
                    self.turn.settle.push(Settlement {
                        receipt,
                        how: How::Ack,
                    });
                }
                self.forget(ticket);
            }
            (Stage::Claiming, Verdict::Busy(after)) => {
                let entry = &self.table[ticket];
                if self.phase != Phase::Open || entry.back {
                    self.hand_back(ticket);
                } else if self.plan.capabilities.redeliver && entry.order == 0 {
                    let receipt = entry.receipt;
                    self.counts.released += 1;
                    self.turn.settle.push(Settlement {
                        receipt,
                        how: How::Release { after },
                    });
                    self.forget(ticket);
                } else {
                    self.wait_for(ticket, Stage::Held, after);
                }
            }
            (Stage::Claiming, Verdict::Down(after)) => {
                if self.phase != Phase::Open || self.table[ticket].back {
                    self.hand_back(ticket);
                } else if self.plan.run_on_outage {
                    // Without a claim there is nothing to confirm; `unclaimed` runs are what the policy asks for.
                    self.table[ticket].claimed = true;
                    self.work.push(ticket);
                } else {
                    self.wait_for(ticket, Stage::Held, after);
                }
            }
            // Somebody else has it, so it waits for a place in vain.
            (Stage::Ready, Verdict::Lost) => self.hand_back(ticket),
            (Stage::Confirming, Verdict::Stored | Verdict::Lost) => {
                let entry = &mut self.table[ticket];
                entry.asks = entry.asks.saturating_sub(1);
                if entry.asks == 0 {
                    self.complete(ticket);
                }
            }
            (Stage::Confirming, Verdict::Down(after)) => {
                if self.plan.run_on_outage || self.phase == Phase::Abort {
                    self.complete(ticket);
                } else {
                    // Confirming is idempotent: all of it is told again.
                    self.wait_for(ticket, Stage::Confirming, after);
                }
            }
            _ => {}
        }
    }

    /// Ends an entry without a place whose settlement is on its way.
    pub(super) fn forget(&mut self, ticket: u32) {
        self.in_hand -= self.table[ticket].len();
        self.pass_key_on(ticket);
        self.table.free(ticket);
    }
}

/// What a settlement means to the dedup store.
fn told(how: &How) -> AskWhat {
    match how {
        How::Ack => AskWhat::Confirm,
        How::Retry { after } => AskWhat::Retry { after: *after },
        How::Dead { .. } => AskWhat::Dead,
        How::Release { .. } => AskWhat::Abandon,
    }
}
