//! One end of a subscription to a topic: keeps which records of each partition are done, and commits the part before the
//! first that is not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::line::{Line, order_of};
use super::mailbox::Word;
use super::queue::{Buried, Commit, Request, TopicTurn};
use super::record::{REPLAYED, SPAN};
use crate::delivery::{Delivery, How, Notice, Receipt, Settlement};
use crate::engine::{EngineError, HealthState, Order, Receive, Turn};

/// How far one record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Out,
    /// Given back; comes again.
    Back,
    Done,
}

/// One partition in hand.
#[derive(Debug)]
struct Track {
    epoch: u32,
    gid: i64,
    /// Its number among the partitions of its topic.
    part: u32,
    /// Everything before it is done.
    base: i64,
    /// From `base` on.
    states: VecDeque<State>,
    /// Replayed dead letters in hand.
    replays: Vec<u64>,
    /// Something is done that the writer was not told.
    news: bool,
    /// Handed out and not settled.
    out: usize,
    leaving: bool,
}

impl Track {
    fn new(epoch: u32, gid: i64, part: u32, from: i64, done: &[u8]) -> Self {
        let bits = done
            .iter()
            .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        let mut states: VecDeque<State> = bits
            .map(|done| if done { State::Done } else { State::Back })
            .collect();
        while states.back() == Some(&State::Back) {
            states.pop_back();
        }
        Self {
            epoch,
            gid,
            part,
            base: from,
            states,
            replays: Vec::new(),
            news: false,
            out: 0,
            leaving: false,
        }
    }

    /// Notes that a record was handed out. What lies between it and the one before is not there any more: done.
    fn handed(&mut self, token: u64) {
        self.out += 1;
        if token & REPLAYED != 0 {
            self.replays.push(token);
            return;
        }
        let offset = token.cast_signed();
        let next = self.base + len(self.states.len());
        if offset < next {
            self.set(offset, State::Out);
            return;
        }
        self.states.extend((next..offset).map(|_| State::Done));
        self.states.push_back(State::Out);
        self.advance();
    }

    /// Takes one settlement. False if the record is not in hand.
    fn settle(&mut self, token: u64, to: State) -> bool {
        let held = if token & REPLAYED != 0 {
            let found = self.replays.iter().position(|replay| *replay == token);
            found.map(|at| self.replays.swap_remove(at)).is_some()
        } else {
            let held = self.state(token.cast_signed()) == Some(State::Out);
            if held {
                self.set(token.cast_signed(), to);
                self.news |= to == State::Done;
                self.advance();
            }
            held
        };
        self.out -= usize::from(held);
        held
    }

    /// What is done from `base` on, one bit for each record.
    fn bits(&self) -> Vec<u8> {
        let mut bits = Vec::new();
        for (at, _) in self
            .states
            .iter()
            .enumerate()
            .filter(|(_, state)| **state == State::Done)
        {
            bits.resize(at / 8 + 1, 0);
            bits[at / 8] |= 1 << (at % 8);
        }
        bits
    }

    fn state(&self, offset: i64) -> Option<State> {
        usize::try_from(offset - self.base)
            .ok()
            .and_then(|at| self.states.get(at))
            .copied()
    }

    fn set(&mut self, offset: i64, to: State) {
        if let Some(state) = usize::try_from(offset - self.base)
            .ok()
            .and_then(|at| self.states.get_mut(at))
        {
            *state = to;
        }
    }

    fn advance(&mut self) {
        while self.states.front() == Some(&State::Done) {
            self.states.pop_front();
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
        let open = turn.open;
        for Settlement { receipt, how } in turn.settle.drain(..) {
            let Some(track) = self.track(receipt.epoch) else {
                self.line.stale += 1;
                continue;
            };
            let (gid, epoch, token) = (track.gid, track.epoch, receipt.token);
            let to = match how {
                How::Ack | How::Dead { .. } => State::Done,
                How::Release { .. } | How::Retry { .. } => State::Back,
            };
            let leaving = track.leaving;
            if !track.settle(token, to) {
                self.line.stale += 1;
                continue;
            }
            match how {
                How::Ack if token & REPLAYED != 0 => self.replayed.push((gid, epoch, token)),
                How::Ack => {}
                How::Dead { reason, attempts } => {
                    self.dead.push(Buried {
                        gid,
                        epoch,
                        token,
                        reason,
                        attempts,
                    });
                }
                // A log has no later: what is given back while the partition is ours comes once more at once.
                How::Release { .. } | How::Retry { .. } if leaving || !open => {}
                How::Release { .. } | How::Retry { .. } => self.again.push((gid, epoch, token)),
            }
        }
    }

    fn hear(&mut self, turn: &mut Turn) -> bool {
        let mut heard = false;
        while let Some(word) = self.line.words.pop_front() {
            match word {
                Word::Took {
                    epoch,
                    gid,
                    part,
                    from,
                    done,
                } => {
                    self.tracks.push(Track::new(epoch, gid, part, from, &done));
                }
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
        if self.line.holds_back() {
            return 0;
        }
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
            track.handed(token);
            turn.deliver.push(delivery);
            n += 1;
        }
        n
    }

    fn has_news(&self) -> bool {
        !(self.dead.is_empty() && self.replayed.is_empty() && self.again.is_empty())
            || self.tracks.iter().any(|track| track.news)
    }

    fn send(&mut self, credit: usize, withdraw: bool, end: bool) {
        let mut request = TopicTurn {
            sub: self.line.sub,
            dead: std::mem::take(&mut self.dead),
            replayed: std::mem::take(&mut self.replayed),
            again: std::mem::take(&mut self.again),
            credit,
            withdraw,
            quiet: self.line.quiet,
            end,
            ..TopicTurn::default()
        };
        for track in &mut self.tracks {
            if std::mem::take(&mut track.news) {
                request.commits.push(Commit {
                    gid: track.gid,
                    epoch: track.epoch,
                    base: track.base,
                    done: track.bits(),
                });
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
        self.line.send(Request::Topic(request), credit, withdraw);
    }

    /// A record that does not end stops its partition at the bound: said, because nobody else knows.
    fn say_what_is_stuck(&self, turn: &mut Turn) {
        let bound = usize::try_from(SPAN).unwrap_or(usize::MAX);
        if let Some(track) = self.tracks.iter().find(|track| track.states.len() >= bound) {
            turn.health.state = HealthState::Down(Arc::from(format!(
                "partition {} waits for the record at offset {}, which has not ended; {SPAN} records behind it were handed out",
                track.part, track.base
            )));
        }
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
                self.send(credit, self.line.withdraws(turn.free), false);
            }
        }
        self.line.health(turn, !self.has_news());
        self.say_what_is_stuck(turn);
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
            self.send(0, false, true);
        }
        self.line.poll_closed(cx)
    }
}

impl Drop for TopicEnd {
    fn drop(&mut self) {
        if !self.line.ended {
            self.line.quiet = true;
            self.line.ended = true;
            self.send(0, false, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_that_are_not_there_count_as_done() {
        let mut track = Track::new(1, 1, 0, 10, &[]);
        track.handed(15);
        assert_eq!(track.base, 15);
        track.handed(18);
        assert!(track.settle(15, State::Done));
        assert_eq!(track.base, 18);
        assert!(track.settle(18, State::Done));
        assert_eq!((track.base, track.out), (19, 0));
    }

    #[test]
    fn what_is_done_behind_an_open_record_stays_done_with_the_next_owner() {
        let mut track = Track::new(1, 1, 0, 10, &[]);
        for offset in 10..40 {
            track.handed(offset);
        }
        for offset in (11..40).step_by(2) {
            assert!(track.settle(offset, State::Done));
        }
        let bits = track.bits();
        let mut next = Track::new(2, 1, 0, track.base, &bits);
        assert_eq!((next.base, next.bits()), (10, bits));
        for offset in (10..40).step_by(2) {
            next.handed(offset);
            assert!(next.settle(offset, State::Done));
        }
        assert_eq!((next.base, next.bits()), (40, Vec::new()));
    }

    #[test]
    fn what_is_settled_twice_is_stale() {
        let mut track = Track::new(1, 1, 0, 0, &[]);
        for token in [0, 1, REPLAYED | 7] {
            track.handed(token);
        }
        for token in [1, REPLAYED | 7] {
            assert!(track.settle(token, State::Done));
            assert!(!track.settle(token, State::Done));
        }
        assert!(track.settle(0, State::Back));
        assert!(!track.settle(0, State::Done));
        track.handed(0);
        assert!(track.settle(0, State::Done));
        assert!(!track.settle(0, State::Done));
        assert_eq!((track.base, track.out), (2, 0));
    }

    proptest! {
        #[test]
        fn the_commit_never_passes_an_unfinished_record(order in Just((0..40_u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut track = Track::new(1, 1, 0, 10, &[]);
            for offset in 0..40 {
                track.handed(10 + offset);
            }
            let mut finished = std::collections::HashSet::new();
            for offset in order {
                prop_assert!(track.settle(10 + offset, State::Done));
                finished.insert(10 + offset.cast_signed());
                let first_open = (10..50).find(|o| !finished.contains(o)).unwrap_or(50);
                prop_assert_eq!(track.base, first_open);
            }
        }
    }
}
