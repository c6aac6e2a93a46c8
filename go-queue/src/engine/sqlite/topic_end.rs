//! One end of a subscription to a topic: keeps which records of each partition are done, and commits the part before the
//! first that is not.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use super::line::{Line, order_of};
use super::mailbox::Word;
use super::queue::{Buried, Request, TopicTurn};
use super::record::REPLAYED;
use crate::delivery::{Delivery, How, Notice, Receipt, Settlement};
use crate::engine::{EngineError, Order, Receive, Turn};

/// One partition in hand.
#[derive(Debug)]
struct Track {
    epoch: u32,
    gid: i64,
    /// Everything before it is done.
    base: i64,
    /// From `base` on: what is done.
    done: VecDeque<bool>,
    /// What the writer was told.
    committed: i64,
    /// Handed out and not settled.
    out: usize,
    leaving: bool,
}

impl Track {
    /// Notes that a record was handed out. What lies between it and the one before is not there any more: done.
    fn handed(&mut self, offset: i64) {
        self.out += 1;
        let next = self.base + len(self.done.len());
        if offset < next {
            // Once more, after a release.
            return;
        }
        self.done.extend((next..offset).map(|_| true));
        self.done.push_back(false);
        self.advance();
    }

    fn finish(&mut self, offset: i64) {
        if let Ok(at) = usize::try_from(offset - self.base)
            && let Some(done) = self.done.get_mut(at)
        {
            *done = true;
        }
        self.advance();
    }

    fn advance(&mut self) {
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.base += 1;
        }
    }
}

fn len(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// One end of a subscription to a topic. Each assignment of a partition is an epoch.
#[derive(Debug)]
pub(super) struct TopicEnd {
    line: Line,
    order: Order,
    tracks: Vec<Track>,
    /// The last track that was used.
    hot: usize,
    dead: Vec<Buried>,
    replayed: Vec<(i64, u32, u64)>,
    again: Vec<(i64, u32, u64)>,
}

impl TopicEnd {
    pub(super) fn new(line: Line, order: Order) -> Self {
        Self {
            line,
            order,
            tracks: Vec::new(),
            hot: 0,
            dead: Vec::new(),
            replayed: Vec::new(),
            again: Vec::new(),
        }
    }

    fn track(&mut self, epoch: u32) -> Option<&mut Track> {
        if self
            .tracks
            .get(self.hot)
            .is_none_or(|track| track.epoch != epoch)
        {
            self.hot = self.tracks.iter().position(|track| track.epoch == epoch)?;
        }
        self.tracks.get_mut(self.hot)
    }

    fn settle(&mut self, turn: &mut Turn) {
        for Settlement { receipt, how } in turn.settle.drain(..) {
            let Some(track) = self.track(receipt.epoch) else {
                self.line.stale += 1;
                continue;
            };
            track.out = track.out.saturating_sub(1);
            let (gid, epoch, token) = (track.gid, track.epoch, receipt.token);
            let replay = token & REPLAYED != 0;
            match how {
                How::Ack if replay => self.replayed.push((gid, epoch, token)),
                How::Ack => track.finish(token.cast_signed()),
                How::Dead { reason, attempts } => {
                    if !replay {
                        track.finish(token.cast_signed());
                    }
                    self.dead.push(Buried {
                        gid,
                        epoch,
                        token,
                        reason,
                        attempts,
                    });
                }
                // A log has no later: what is given back while the partition is ours comes once more at once.
                How::Release { .. } | How::Retry { .. } => {
                    if !track.leaving {
                        self.again.push((gid, epoch, token));
                    }
                }
            }
        }
    }

    fn hear(&mut self, turn: &mut Turn) -> bool {
        let mut heard = false;
        while let Some(word) = self.line.words.pop_front() {
            match word {
                Word::Took { epoch, gid, from } => self.tracks.push(Track {
                    epoch,
                    gid,
                    base: from,
                    done: VecDeque::new(),
                    committed: from,
                    out: 0,
                    leaving: false,
                }),
                Word::Leaving { epoch } => {
                    self.line.forget(epoch);
                    if let Some(track) = self.track(epoch) {
                        track.leaving = true;
                        turn.notice.push(Notice::Leaving(epoch));
                        heard = true;
                    }
                }
                Word::Lost { epoch } => {
                    self.line.forget(epoch);
                    self.tracks.retain(|track| track.epoch != epoch);
                    turn.notice.push(Notice::Lost(epoch));
                    heard = true;
                }
            }
        }
        heard
    }

    fn deliver(&mut self, turn: &mut Turn) -> usize {
        let order = self.order;
        let mut n = 0;
        while n < turn.free {
            let next = self.line.next(|slice, row| {
                let message = slice.message(row);
                Delivery {
                    order: order_of(order, &message, Some(slice.part)),
                    message,
                    receipt: Receipt {
                        epoch: slice.epoch,
                        group: slice.part,
                        token: row.token,
                    },
                }
            });
            let Some(delivery) = next else { break };
            let Receipt { epoch, token, .. } = delivery.receipt;
            // Without a track its epoch is over, and the record belongs to somebody else.
            let Some(track) = self.track(epoch) else {
                continue;
            };
            if token & REPLAYED == 0 {
                track.handed(token.cast_signed());
            } else {
                track.out += 1;
            }
            turn.deliver.push(delivery);
            n += 1;
        }
        n
    }

    fn has_news(&self) -> bool {
        !(self.dead.is_empty() && self.replayed.is_empty() && self.again.is_empty())
            || self.tracks.iter().any(|track| track.base > track.committed)
    }

    fn send(&mut self, credit: usize, end: bool) {
        let mut request = TopicTurn {
            sub: self.line.sub,
            dead: std::mem::take(&mut self.dead),
            replayed: std::mem::take(&mut self.replayed),
            again: std::mem::take(&mut self.again),
            credit,
            quiet: self.line.quiet,
            end,
            ..TopicTurn::default()
        };
        for track in &mut self.tracks {
            if track.base > track.committed {
                track.committed = track.base;
                request.commits.push((track.gid, track.epoch, track.base));
            }
        }
        if !end {
            // Drained: the settlements of a leaving partition are in this request or were in an earlier one.
            request.left = self
                .tracks
                .iter()
                .filter(|track| track.leaving && track.out == 0)
                .map(|track| track.epoch)
                .collect();
        }
        self.line.send(Request::Topic(request), credit);
    }

    fn has_drained(&self) -> bool {
        self.tracks
            .iter()
            .any(|track| track.leaving && track.out == 0)
    }
}

impl Receive for TopicEnd {
    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.settle(turn);
        self.line.collect(cx);
        if self.line.closed {
            self.line.health(turn, true);
            return Poll::Ready(Err(Line::over()));
        }
        let heard = self.hear(turn);
        let mut turned_quiet = false;
        if !turn.open {
            turned_quiet = !std::mem::replace(&mut self.line.quiet, true);
            self.line.take_ahead();
        }
        let delivered = self.deliver(turn);
        if delivered == 0 && (self.line.may_send() || turned_quiet) {
            let credit = self.line.wanted(turn.free);
            if credit > 0 || turned_quiet || self.has_news() || self.has_drained() {
                self.send(credit, false);
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
        self.settle(turn);
        if !self.line.ended {
            self.line.quiet = true;
            self.line.ended = true;
            self.send(0, true);
        }
        self.line.poll_closed(cx)
    }
}

impl Drop for TopicEnd {
    fn drop(&mut self) {
        if !self.line.ended {
            self.line.quiet = true;
            self.line.ended = true;
            self.send(0, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn track() -> Track {
        Track {
            epoch: 1,
            gid: 1,
            base: 10,
            done: VecDeque::new(),
            committed: 10,
            out: 0,
            leaving: false,
        }
    }

    #[test]
    fn offsets_that_are_not_there_count_as_done() {
        let mut track = track();
        track.handed(15);
        assert_eq!(track.base, 15);
        track.handed(18);
        track.finish(15);
        assert_eq!(track.base, 18);
        track.finish(18);
        assert_eq!(track.base, 19);
    }

    proptest! {
        #[test]
        fn the_commit_never_passes_an_unfinished_record(order in Just((0..40_i64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut track = track();
            for offset in 0..40 {
                track.handed(10 + offset);
            }
            let mut finished = std::collections::HashSet::new();
            for offset in order {
                track.finish(10 + offset);
                finished.insert(10 + offset);
                let first_open = (10..50).find(|o| !finished.contains(o)).unwrap_or(50);
                prop_assert_eq!(track.base, first_open);
            }
        }
    }
}
