//! Due times of many tasks: a hierarchical wheel that sorts only what is about to be due.
//!
//! Eight levels of 64 buckets, one tick of 2^20 ns (about a millisecond) at the lowest. Where an entry lies is a pure
//! function of its tick and the cursor: the level is the highest base-64 digit in which the two differ. So setting is one
//! push, cancelling knows its bucket without a back pointer, and all entries of a lower level are due before all of a
//! higher one. When the cursor reaches a bucket of the lowest level, its few entries are sorted to the nanosecond and
//! appended to `run`: nothing is ever early, and equal due times keep the order in which they were set.
//!
//! The cursor never moves back while entries are there. If the wall clock does, what is set before the cursor goes to
//! `late`, a heap, and is as exact there.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

const TICK_BITS: u32 = 20;
const DIGIT_BITS: u32 = 6;
const BUCKETS: usize = 1 << DIGIT_BITS;
/// 64 bits of nanoseconds less 20 of the tick are 44: eight digits of six bits.
const LEVELS: usize = 8;
/// A drained bucket keeps its memory up to so many entries.
const KEPT_CAPACITY: usize = 1024;
/// Cancelled entries are left lying until they are the greater part, and more than this.
const STALE_FLOOR: usize = 16;

/// Names one stay of a task in a queue: its slot, and a stamp that no other stay of any task has for a long time. An
/// entry whose stamp is not that of the slot any more is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    pub(super) slot: u32,
    pub(super) stamp: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    due: i64,
    ticket: Ticket,
}

#[derive(Debug)]
struct Bucket {
    entries: Vec<Entry>,
    /// The earliest due time in here; may be that of a cancelled entry while `stale` is not zero.
    min: i64,
    stale: usize,
}

impl Bucket {
    const fn new() -> Self {
        Self {
            entries: Vec::new(),
            min: i64::MAX,
            stale: 0,
        }
    }

    fn clean(&mut self, live: &impl Fn(Ticket) -> bool) {
        self.entries.retain(|entry| live(entry.ticket));
        self.min = self
            .entries
            .iter()
            .map(|entry| entry.due)
            .min()
            .unwrap_or(i64::MAX);
        self.stale = 0;
    }
}

/// What waits for its time.
#[derive(Debug)]
pub(super) struct Timers {
    /// The tick up to which buckets have been opened.
    cursor: u64,
    /// `LEVELS * BUCKETS` of them; none before the first use.
    buckets: Vec<Bucket>,
    /// A bit for each bucket of a level that has entries.
    occupied: [u64; LEVELS],
    /// Opened: sorted by due time.
    run: VecDeque<Entry>,
    /// Set before the cursor, with the order of setting.
    late: BinaryHeap<Reverse<(i64, u64, Ticket)>>,
    /// Cancelled entries in `run` and `late`.
    near_stale: usize,
    set: u64,
    len: usize,
}

#[expect(clippy::cast_sign_loss, reason = "times before 1970 count as 1970")]
fn tick(due: i64) -> u64 {
    due.max(0) as u64 >> TICK_BITS
}

impl Timers {
    pub(super) const fn new() -> Self {
        Self {
            cursor: 0,
            buckets: Vec::new(),
            occupied: [0; LEVELS],
            run: VecDeque::new(),
            late: BinaryHeap::new(),
            near_stale: 0,
            set: 0,
            len: 0,
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Sets one. `now` places the wheel when nothing waits.
    pub(super) fn set(&mut self, due: i64, ticket: Ticket, now: i64) {
        if self.len == 0 {
            self.clear();
            self.cursor = tick(now);
        }
        self.len += 1;
        self.place(Entry { due, ticket });
    }

    fn place(&mut self, entry: Entry) {
        let Some((level, bucket)) = self.locate(entry.due) else {
            self.set += 1;
            self.late.push(Reverse((entry.due, self.set, entry.ticket)));
            return;
        };
        if self.buckets.is_empty() {
            self.buckets.resize_with(LEVELS * BUCKETS, Bucket::new);
        }
        let place = &mut self.buckets[level * BUCKETS + bucket];
        place.min = place.min.min(entry.due);
        place.entries.push(entry);
        self.occupied[level] |= 1 << bucket;
    }

    /// Level and bucket of a due time, or `None` if the cursor has reached its tick.
    fn locate(&self, due: i64) -> Option<(usize, usize)> {
        let tick = tick(due);
        if tick <= self.cursor {
            return None;
        }
        let level = (tick ^ self.cursor).ilog2() / DIGIT_BITS;
        let bucket = (tick >> (level * DIGIT_BITS)) & (BUCKETS as u64 - 1);
        Some((level as usize, usize::try_from(bucket).unwrap_or(0)))
    }

    /// Takes one back that was set for `due`; its ticket must be stale for `live` by now.
    pub(super) fn cancel(&mut self, due: i64, live: &impl Fn(Ticket) -> bool) {
        self.len -= 1;
        if let Some((level, bucket)) = self.locate(due) {
            let place = &mut self.buckets[level * BUCKETS + bucket];
            place.stale += 1;
            if place.stale * 2 > place.entries.len() + STALE_FLOOR {
                place.clean(live);
                if place.entries.is_empty() {
                    self.occupied[level] &= !(1 << bucket);
                }
            }
        } else {
            self.near_stale += 1;
            if self.near_stale * 2 > self.run.len() + self.late.len() + STALE_FLOOR {
                self.run.retain(|entry| live(entry.ticket));
                self.late.retain(|Reverse((_, _, ticket))| live(*ticket));
                self.near_stale = 0;
            }
        }
    }

    /// Opens all buckets up to `now`.
    pub(super) fn advance(&mut self, now: i64, live: &impl Fn(Ticket) -> bool) {
        let target = tick(now);
        while self.cursor < target {
            let Some((level, bucket)) = self.first_bucket() else {
                break;
            };
            let shift = u32::try_from(level).unwrap_or(0) * DIGIT_BITS;
            let above = self.cursor >> (shift + DIGIT_BITS) << (shift + DIGIT_BITS);
            let start = above | (bucket as u64) << shift;
            if start > target {
                break;
            }
            self.cursor = start;
            self.open(level, bucket, live);
        }
        self.cursor = self.cursor.max(target);
    }

    /// The bucket with the earliest entries of the wheel.
    fn first_bucket(&self) -> Option<(usize, usize)> {
        let level = self.occupied.iter().position(|bits| *bits != 0)?;
        Some((level, self.occupied[level].trailing_zeros() as usize))
    }

    /// Spreads a bucket whose first tick is the cursor over the lower levels, and what is in that tick goes to `run`.
    fn open(&mut self, level: usize, bucket: usize, live: &impl Fn(Ticket) -> bool) {
        self.occupied[level] &= !(1 << bucket);
        let place = &mut self.buckets[level * BUCKETS + bucket];
        if place.stale > 0 {
            place.clean(live);
        }
        place.min = i64::MAX;
        let mut entries = std::mem::take(&mut place.entries);
        let from = self.run.len();
        for entry in entries.drain(..) {
            if tick(entry.due) == self.cursor {
                self.run.push_back(entry);
            } else {
                self.place(entry);
            }
        }
        // What was opened before has an earlier tick, so sorting the new part sorts all of it. Stable: ties keep their order.
        self.run.make_contiguous()[from..].sort_by_key(|entry| entry.due);
        if entries.capacity() <= KEPT_CAPACITY {
            self.buckets[level * BUCKETS + bucket].entries = entries;
        }
    }

    /// Takes the earliest one out if it is due. Only after [`advance`](Self::advance) to the same time.
    pub(super) fn pop(&mut self, now: i64, live: &impl Fn(Ticket) -> bool) -> Option<Ticket> {
        loop {
            let late = self.late.peek().map_or(i64::MAX, |Reverse((due, ..))| *due);
            let ticket = match self.run.front() {
                Some(entry) if entry.due <= late => {
                    if entry.due > now {
                        return None;
                    }
                    self.run.pop_front()?.ticket
                }
                _ if late <= now => self.late.pop()?.0.2,
                _ => return None,
            };
            // Without cancelled ones there is nothing to look up.
            if self.near_stale == 0 || live(ticket) {
                self.len -= 1;
                return Some(ticket);
            }
            self.near_stale -= 1;
        }
    }

    /// When the earliest one is due.
    pub(super) fn next(&mut self, live: &impl Fn(Ticket) -> bool) -> Option<i64> {
        if self.len == 0 {
            return None;
        }
        while self.near_stale > 0 {
            let late = self
                .late
                .peek()
                .map(|Reverse((due, _, ticket))| (*due, *ticket));
            let (run_is_first, ticket) = match (self.run.front(), late) {
                (Some(entry), Some((due, ticket))) => {
                    if entry.due <= due {
                        (true, entry.ticket)
                    } else {
                        (false, ticket)
                    }
                }
                (Some(entry), None) => (true, entry.ticket),
                (None, Some((_, ticket))) => (false, ticket),
                (None, None) => break,
            };
            if live(ticket) {
                break;
            }
            if run_is_first {
                self.run.pop_front();
            } else {
                self.late.pop();
            }
            self.near_stale -= 1;
        }
        let run = self.run.front().map(|entry| entry.due);
        let late = self.late.peek().map(|Reverse((due, ..))| *due);
        if let Some(near) = run.into_iter().chain(late).min() {
            return Some(near);
        }
        while let Some((level, bucket)) = self.first_bucket() {
            let place = &mut self.buckets[level * BUCKETS + bucket];
            if place.stale > 0 {
                place.clean(live);
            }
            if !place.entries.is_empty() {
                return Some(place.min);
            }
            self.occupied[level] &= !(1 << bucket);
        }
        None
    }

    fn clear(&mut self) {
        while let Some((level, bucket)) = self.first_bucket() {
            self.occupied[level] &= !(1 << bucket);
            self.buckets[level * BUCKETS + bucket] = Bucket::new();
        }
        self.run.clear();
        self.late.clear();
        self.near_stale = 0;
        self.len = 0;
    }

    /// Gives back what memory a burst has taken.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set { in_nanos: i64 },
        Cancel { nth: usize },
        Wait { nanos: i64 },
    }

    fn span() -> impl Strategy<Value = i64> {
        // Below a tick, some ticks, and up to years: all levels.
        prop_oneof![
            0..3_000_000_i64,
            0..500_000_000_i64,
            0..4_000_000_000_000_i64,
            0..90_000_000_000_000_000_i64
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => span().prop_map(|in_nanos| Step::Set { in_nanos }),
            1 => any::<usize>().prop_map(|nth| Step::Cancel { nth }),
            2 => span().prop_map(|nanos| Step::Wait { nanos }),
            // The wall clock is stepped back.
            1 => span().prop_map(|nanos| Step::Wait { nanos: -nanos / 4 }),
        ]
    }

    proptest! {
        #[test]
        fn timers_agree_with_a_sorted_map(
            start in prop_oneof![Just(0_i64), Just(1_700_000_000_000_000_000_i64)],
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let mut timers = Timers::new();
            let mut model: BTreeMap<(i64, u32), Ticket> = BTreeMap::new();
            let mut gone: HashSet<u32> = HashSet::new();
            let mut now = start;
            let mut count = 0;
            for step in steps {
                match step {
                    Step::Set { in_nanos } => {
                        count += 1;
                        let ticket = Ticket { slot: count, stamp: count };
                        timers.set(now + in_nanos, ticket, now);
                        model.insert((now + in_nanos, count), ticket);
                    }
                    Step::Cancel { nth } => {
                        if model.is_empty() { continue; }
                        let key = *model.keys().nth(nth % model.len()).expect("not empty");
                        model.remove(&key);
                        gone.insert(key.1);
                        timers.cancel(key.0, &|ticket| !gone.contains(&ticket.slot));
                    }
                    Step::Wait { nanos } => now = (now + nanos).max(0),
                }
                let live = |ticket: Ticket| !gone.contains(&ticket.slot);
                prop_assert_eq!(timers.next(&live), model.keys().next().map(|key| key.0));
                timers.advance(now, &live);
                let mut fired = Vec::new();
                while let Some(ticket) = timers.pop(now, &live) { fired.push(ticket.slot); }
                let mut due = Vec::new();
                while let Some(first) = model.first_entry().filter(|first| first.key().0 <= now) {
                    due.push(first.remove().slot);
                }
                prop_assert_eq!(fired, due);
                prop_assert_eq!(timers.len(), model.len());
            }
        }
    }

    #[test]
    fn cancelled_timers_do_not_pile_up() {
        let mut timers = Timers::new();
        let minute = 60_000_000_000;
        timers.set(minute, Ticket { slot: 0, stamp: 0 }, 0);
        for slot in 1..100_000 {
            timers.set(minute, Ticket { slot, stamp: 0 }, 0);
            timers.cancel(minute, &|ticket| ticket.slot == 0);
        }
        let held: usize = timers
            .buckets
            .iter()
            .map(|bucket| bucket.entries.len())
            .sum();
        assert!((1..100).contains(&held), "{held}");
        assert_eq!(timers.next(&|ticket| ticket.slot == 0), Some(minute));
    }
}
