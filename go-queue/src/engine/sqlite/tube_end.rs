//! One end of a subscription to a tube.

use std::task::{Context, Poll};

use super::line::{Line, order_of};
use super::mailbox::{NAMED, Word};
use super::queue::{Request, TubeTurn};
use crate::delivery::{Delivery, Notice, Receipt, Settlement};
use crate::engine::{EngineError, Order, Receive, Turn};

/// One end of a subscription to a tube. Its epoch is its session in the tables.
#[derive(Debug)]
pub(super) struct TubeEnd {
    line: Line,
    order: Order,
    /// Taken from the pump, not yet sent.
    settle: Vec<Settlement>,
    /// Claimed ahead, to be given back.
    back: Vec<Receipt>,
}

impl TubeEnd {
    pub(super) fn new(line: Line, order: Order) -> Self {
        Self {
            line,
            order,
            settle: Vec::new(),
            back: Vec::new(),
        }
    }

    fn take_settlements(&mut self, turn: &mut Turn) {
        if self.settle.is_empty() {
            std::mem::swap(&mut self.settle, &mut turn.settle);
            if turn.settle.capacity() == 0
                && let Some(spare) = self.line.mailbox.lock().spare.pop()
            {
                turn.settle = spare;
            }
        } else {
            self.settle.append(&mut turn.settle);
        }
    }

    fn hear(&mut self, turn: &mut Turn) -> bool {
        let mut heard = false;
        while let Some(word) = self.line.words.pop_front() {
            if let Word::Lost { epoch } = word {
                self.line.forget(epoch);
                turn.notice.push(Notice::Lost(epoch));
                heard = true;
            }
        }
        heard
    }

    fn deliver(&mut self, turn: &mut Turn) -> usize {
        let order = self.order;
        if self.line.holds_back() {
            return 0;
        }
        let mut n = 0;
        while n < turn.free {
            let next = self.line.next(|slice, row| {
                let message = slice.message(row);
                Delivery {
                    order: order_of(order, &message, None),
                    message,
                    receipt: Receipt {
                        epoch: slice.epoch,
                        group: row.flags & NAMED,
                        token: row.token,
                    },
                }
            });
            let Some(delivery) = next else { break };
            turn.deliver.push(delivery);
            n += 1;
        }
        n
    }

    /// Gives back what was claimed ahead.
    fn hand_back(&mut self) {
        for slice in self.line.take_ahead() {
            self.back.extend(slice.receipts());
        }
    }

    fn send(&mut self, credit: usize, withdraw: bool, end: bool) {
        let request = TubeTurn {
            sub: self.line.sub,
            settle: std::mem::take(&mut self.settle),
            back: std::mem::take(&mut self.back),
            credit,
            withdraw,
            quiet: self.line.quiet,
            end,
            stale: 0,
        };
        self.line.send(Request::Tube(request), credit, withdraw);
    }

    fn has_news(&self) -> bool {
        !(self.settle.is_empty() && self.back.is_empty())
    }
}

impl Receive for TubeEnd {
    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.take_settlements(turn);
        self.line.collect(cx);
        if self.line.closed {
            self.settle.clear();
            self.line.health(turn, true);
            return Poll::Ready(Err(Line::over()));
        }
        let heard = self.hear(turn);
        let mut turned_quiet = false;
        if !turn.open {
            turned_quiet = !std::mem::replace(&mut self.line.quiet, true);
            self.hand_back();
        }
        let delivered = self.deliver(turn);
        // What was just handed out may be done at once: then its settlement rides with the next claim.
        if delivered == 0 && (self.line.may_send() || turned_quiet) {
            let credit = self.line.wanted(turn.free);
            if credit > 0 || turned_quiet || self.has_news() {
                self.send(credit, self.line.withdraws(turn.free), false);
            }
        }
        self.line.health(turn, !self.has_news());
        if delivered > 0 || heard {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn close(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.take_settlements(turn);
        self.line.collect(cx);
        self.hear(turn);
        if self.line.closed {
            return Poll::Ready(Err(Line::over()));
        }
        if !self.line.ended {
            self.line.quiet = true;
            self.hand_back();
            self.line.ended = true;
            self.send(0, false, true);
        }
        self.line.poll_closed(cx)
    }
}

impl Drop for TubeEnd {
    fn drop(&mut self) {
        if !self.line.ended {
            // What came ahead was never started; what was handed out counts as a start.
            self.line.quiet = true;
            self.hand_back();
            self.line.ended = true;
            self.send(0, false, true);
        }
    }
}
