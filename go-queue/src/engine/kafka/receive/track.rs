//! One partition in hand: its queue, what was handed out of it, and what of that is finished.

use std::collections::{BTreeSet, VecDeque};

use tokio::time::Instant;

use super::super::raw::{Commit, Queue};
use super::super::watermark::Watermark;
use super::beyond::{self, Range};
use super::slice::{Kept, Slice};
use crate::message::Message;

/// The oldest unfinished record stops its partition when what was handed out reaches so many offsets beyond it.
pub(super) const SPAN: i64 = 1 << 16;

/// Of so many records one back it is known whether a record that comes again is the same one.
const RECENT: usize = 512;

/// How a settlement ends a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Finished.
    Done,
    /// Given back, to come again at once.
    Again,
    /// Given back for good: somebody else gets it.
    Gone,
    /// On its way to the dead letters; [`Track::buried`] ends it.
    Dying,
}

/// What a record is whose offset was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// One that is in hand or finished already: librdkafka fetched it twice.
    Twice,
    /// The log begins anew, or lost its end: this offset is another record than the one that we had.
    Rewound,
}

/// One assignment of one partition: an epoch.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug)]
pub(super) struct Track {
    pub(super) epoch: u32,
    pub(super) partition: i32,
    pub(super) queue: Queue,
    marks: Watermark,
    /// In the order of their offsets; those that have ended are taken out.
    slices: VecDeque<Slice>,
    /// The slice that was used last.
    hot: usize,
    /// Given back, to be handed out once more.
    again: BTreeSet<i64>,
    /// Handed out and not settled, dead letters under way included.
    pub(super) out: usize,
    /// Dead letters under way.
    pub(super) dying: Vec<i64>,
    /// The partition goes: until when it may finish what is in hand.
    pub(super) leaving: Option<Instant>,
    /// Where it is read from, if that is known before the first record.
    pub(super) start: Option<i64>,
    /// Where this assignment began: nothing before it is ours to commit.
    first: Option<i64>,
    /// What the broker was told last, and whether it has confirmed that.
    told: Option<Commit>,
    confirmed: bool,
    /// What the one before us had finished beyond where we began.
    finished: VecDeque<Range>,
    /// What the broker has said that it has.
    committed: Option<i64>,
    /// An error came through the queue, after which librdkafka may believe that a record was consumed which was not.
    pub(super) doubt: bool,
    /// The position that the client had when the log began anew: not to be believed until the client has gone back.
    pub(super) outdated: Option<i64>,
    /// The broker has nothing beyond what was drained.
    pub(super) at_end: bool,
    /// Something was drained since the position was asked for.
    pub(super) touched: bool,
    /// When the partition came.
    pub(super) since: Instant,
    /// Fingerprints of the last records.
    recent: Box<[u64; RECENT]>,
    /// Bytes of a record, in the mean of the last ones.
    pub(super) mean: usize,
}

impl Track {
    pub(super) fn new(epoch: u32, partition: i32, queue: Queue, since: Instant) -> Self {
        Self {
            epoch,
            partition,
            queue,
            marks: Watermark::default(),
            slices: VecDeque::new(),
            hot: 0,
            again: BTreeSet::new(),
            out: 0,
            dying: Vec::new(),
            leaving: None,
            start: None,
            first: None,
            told: None,
            confirmed: false,
            finished: VecDeque::new(),
            committed: None,
            doubt: false,
            outdated: None,
            at_end: false,
            touched: true,
            since,
            recent: Box::new([0; RECENT]),
            mean: 0,
        }
    }

    /// The same partition under another epoch, nothing known of it: its log begins anew.
    pub(super) fn begin_anew(&mut self, epoch: u32, spares: &mut Spares) {
        self.epoch = epoch;
        self.marks = Watermark::default();
        self.slices.drain(..).for_each(|slice| spares.take(slice));
        self.again.clear();
        self.dying.clear();
        self.out = 0;
        self.first = None;
        self.told = None;
        self.confirmed = false;
        self.finished.clear();
        self.committed = None;
        self.recent.fill(0);
    }

    /// Its number, as messages have it.
    pub(super) fn place(&self) -> u32 {
        self.partition.cast_unsigned()
    }

    /// Whether more may be handed out.
    pub(super) fn takes_more(&self) -> bool {
        self.leaving.is_none() && self.marks.span() < SPAN
    }

    /// The record whose end the partition waits for, if it has stopped for one.
    pub(super) fn stuck(&self) -> Option<i64> {
        self.marks.base().filter(|_| self.marks.span() >= SPAN)
    }

    /// Whether something was given back and waits to be handed out again.
    pub(super) fn has_again(&self) -> bool {
        !self.again.is_empty() && self.leaving.is_none()
    }

    /// The first offset that is not finished.
    #[cfg(test)]
    pub(super) fn base(&self) -> Option<i64> {
        self.marks.base()
    }

    /// Behind what was handed out.
    pub(super) fn next(&self) -> Option<i64> {
        self.marks.next()
    }

    fn fingerprint(offset: i64, at: i64) -> u64 {
        // Not zero, which is no fingerprint.
        (offset.cast_unsigned() << 20 ^ at.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "only the low bits are asked for, and offsets are not negative"
    )]
    fn slot(offset: i64) -> usize {
        offset as usize % RECENT
    }

    /// What a record is that was drained and does not lie behind everything before it.
    pub(super) fn look(&self, offset: i64, at: i64) -> Seen {
        if self.recent[Self::slot(offset)] == Self::fingerprint(offset, at) {
            Seen::Twice
        } else {
            Seen::Rewound
        }
    }

    /// Takes a slice in, whose records are all new: each is handed out now, or finished if it is not for us.
    pub(super) fn take(&mut self, slice: Slice) {
        let count = slice.live;
        if count == 0 {
            return;
        }
        if self.first.is_none() {
            self.first = slice.kept().first().map(|kept| kept.offset);
        }
        let mut run: Option<(i64, i64)> = None;
        for kept in slice.kept() {
            self.recent[Self::slot(kept.offset)] = Self::fingerprint(kept.offset, kept.at());
            // Without gaps it is one run.
            match &mut run {
                Some((_, to)) if *to == kept.offset => *to += 1,
                _ => {
                    let ended = run.replace((kept.offset, kept.offset + 1));
                    ended.inspect(|(from, to)| self.marks.hand_out(*from, *to));
                }
            }
        }
        run.inspect(|(from, to)| self.marks.hand_out(*from, *to));
        self.out += count;
        self.mean = (self.mean * 3 + slice.size() / count) / 4;
        self.slices.push_back(slice);
    }

    /// The record at an offset that has not ended, as it was handed out.
    pub(super) fn message(&mut self, offset: i64) -> Option<Message> {
        let at = self.slice_of(offset)?;
        let slice = &self.slices[at];
        let kept = slice.find(offset)?;
        Some(slice.message(kept, self.place()))
    }

    /// The next that was given back.
    pub(super) fn pop_again(&mut self) -> Option<Message> {
        let offset = self.again.pop_first()?;
        let message = self.message(offset)?;
        self.out += 1;
        Some(message)
    }

    /// Takes one settlement. False if the record is not in hand. Frees into `spares` what is not needed any more.
    #[inline]
    pub(super) fn settle(&mut self, offset: i64, end: End, spares: &mut Spares) -> bool {
        if end == End::Done && self.again.is_empty() && self.dying.is_empty() {
            return self.finish(offset, spares);
        }
        if !self.holds(offset) {
            return false;
        }
        match end {
            End::Done => return self.finish(offset, spares),
            End::Again => {
                self.again.insert(offset);
                self.out -= 1;
            }
            End::Gone => {
                self.out -= 1;
                self.gone(offset);
                self.end(offset, spares);
            }
            End::Dying => self.dying.push(offset),
        }
        true
    }

    #[inline]
    fn finish(&mut self, offset: i64, spares: &mut Spares) -> bool {
        let open = self.marks.finish(offset);
        if open {
            self.out -= 1;
            self.end(offset, spares);
        }
        open
    }

    /// A record that was given back for good stays open, and no settlement fits it any more.
    fn gone(&mut self, offset: i64) {
        // Looked up as one that is given back, but never popped: a track that gives back for good hands nothing out.
        self.again.insert(offset);
    }

    /// A dead letter is stored. False if it is none of ours any more.
    pub(super) fn buried(&mut self, offset: i64, spares: &mut Spares) -> bool {
        let Some(at) = self.dying.iter().position(|dying| *dying == offset) else {
            return false;
        };
        self.dying.swap_remove(at);
        self.finish(offset, spares)
    }

    /// Whether a record is in hand, and nothing was decided about it yet.
    #[inline]
    fn holds(&self, offset: i64) -> bool {
        self.marks.is_open(offset)
            && (self.again.is_empty() || !self.again.contains(&offset))
            && (self.dying.is_empty() || !self.dying.contains(&offset))
    }

    #[inline]
    fn slice_of(&mut self, offset: i64) -> Option<usize> {
        if self
            .slices
            .get(self.hot)
            .is_none_or(|hot| !hot.spans(offset))
        {
            let at = self.slices.partition_point(|slice| slice.last() < offset);
            self.slices.get(at).filter(|slice| slice.spans(offset))?;
            self.hot = at;
        }
        Some(self.hot)
    }

    #[inline]
    fn end(&mut self, offset: i64, spares: &mut Spares) {
        let Some(at) = self.slice_of(offset) else {
            return;
        };
        let slice = &mut self.slices[at];
        slice.live -= 1;
        if slice.live == 0
            && let Some(ended) = self.slices.remove(at)
        {
            spares.take(ended);
        }
    }

    /// Gives up everything that is in hand, because the partition is no longer ours.
    pub(super) fn give_up(self, spares: &mut Spares) {
        for slice in self.slices {
            spares.take(slice);
        }
    }

    /// What is to be committed now; `None` as long as nothing is known.
    pub(super) fn commit(&self) -> Option<Commit> {
        let offset = self.marks.base()?;
        let mut beyond = self.marks.beyond();
        let next = self.marks.next().unwrap_or(offset);
        // What the one before had finished, and we have not come to yet.
        beyond.extend(self.finished.iter().filter(|range| range.0 >= next));
        Some(Commit {
            partition: self.partition,
            offset,
            text: beyond::encode(offset, &beyond),
        })
    }

    /// The same, if the broker was not told yet.
    pub(super) fn news(&mut self) -> Option<Commit> {
        let commit = self.commit()?;
        (self.told.as_ref() != Some(&commit)).then(|| {
            self.confirmed = false;
            self.told = Some(commit.clone());
            commit
        })
    }

    /// What was told was not taken: it is told again.
    pub(super) fn untold(&mut self) {
        self.told = None;
    }

    /// The broker has it.
    pub(super) fn confirm(&mut self, offset: i64) {
        if self.told.as_ref().is_some_and(|told| told.offset == offset) {
            self.confirmed = true;
            self.committed = Some(offset);
        }
    }

    /// Whether the broker has confirmed all there is to commit.
    pub(super) fn is_confirmed(&self) -> bool {
        let now = self.commit();
        now.is_none() || self.confirmed && self.told == now
    }

    /// What the one before us has finished beyond the offset from where we read.
    pub(super) fn know_finished(&mut self, commit: &Commit) {
        self.finished = beyond::decode(commit.offset, &commit.text).into();
    }

    /// Whether a record was finished by the one before us. To be asked in the order of the offsets.
    #[inline]
    pub(super) fn was_finished(&mut self, offset: i64) -> bool {
        while let Some((from, to)) = self.finished.front() {
            if offset < *from {
                return false;
            }
            if offset < *to {
                return true;
            }
            self.finished.pop_front();
        }
        false
    }

    /// Whether something is finished that the broker has not confirmed.
    pub(super) fn is_behind(&self) -> bool {
        // What the group had committed before is not asked for: it is where this assignment began.
        self.marks.base() > self.committed.max(self.first)
    }

    /// Nothing is there before this offset that was not handed out. True if that is new.
    pub(super) fn pass(&mut self, position: i64) -> bool {
        let new =
            self.outdated != Some(position) && self.marks.next().is_none_or(|next| next < position);
        if new {
            self.first = self.first.or(Some(position));
            self.marks.pass(position);
        }
        new
    }
}

/// Lists and counts that are used again.
#[derive(Debug, Default)]
pub(super) struct Spares {
    lists: Vec<Vec<Kept>>,
    /// Bytes of the slices that are in hand.
    pub(super) held: usize,
}

impl Spares {
    pub(super) fn list(&mut self) -> Vec<Kept> {
        self.lists.pop().unwrap_or_default()
    }

    fn take(&mut self, slice: Slice) {
        self.held = self.held.saturating_sub(slice.size());
        if self.lists.len() < 16 {
            self.lists.push(slice.into_spare());
        }
    }
}
