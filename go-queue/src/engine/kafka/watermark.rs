//! Up to where the work on a partition is finished without a hole.
//!
//! Only that may be committed: whoever reads on from there finds everything that is not finished. Offsets that are not there (records
//! for transactions, what was compacted away) count as finished, or the watermark would wait for them for ever.

use std::collections::VecDeque;

/// A gap behind unfinished work that is larger than this begins a new window, so that no gap costs memory.
const LONG_GAP: i64 = 1 << 16;

/// One partition: which offsets were handed out, and which of them are finished. One bit for each.
#[derive(Clone, Debug, Default)]
pub(super) struct Watermark {
    /// In order, with long gaps between them. All but the last have unfinished work. Empty: nothing is known of the partition yet.
    windows: VecDeque<Window>,
}

/// Offsets from `base` to `next`.
#[derive(Clone, Debug)]
struct Window {
    /// The first that is not finished.
    base: i64,
    /// Behind the last that was handed out.
    next: i64,
    /// The offset of the first bit, a multiple of 64.
    start: i64,
    /// Finished or not there.
    bits: VecDeque<u64>,
}

impl Window {
    fn new(at: i64) -> Self {
        Self {
            base: at,
            next: at,
            start: at & !63,
            bits: VecDeque::new(),
        }
    }

    /// Word and bit of an offset that is not before the first bit.
    #[inline]
    #[expect(
        clippy::cast_sign_loss,
        reason = "not negative, and what does not fit is in no list"
    )]
    fn place(&self, offset: i64) -> (usize, u32) {
        let at = (offset - self.start) as u64;
        ((at >> 6) as usize, (at & 63) as u32)
    }

    /// Moves `next` on. What is jumped over counts as finished if `gap`.
    fn extend(&mut self, next: i64, gap: bool) {
        let (last, _) = self.place(next - 1);
        while self.bits.len() <= last {
            self.bits.push_back(0);
        }
        if gap {
            for offset in self.next..next {
                let (word, bit) = self.place(offset);
                self.bits[word] |= 1 << bit;
            }
        }
        self.next = next;
    }

    #[inline]
    fn is_open(&self, offset: i64) -> bool {
        if offset < self.base || offset >= self.next {
            return false;
        }
        let (word, bit) = self.place(offset);
        self.bits.get(word).is_some_and(|bits| bits >> bit & 1 == 0)
    }

    /// Marks an offset. False if it is not open.
    #[inline]
    fn finish(&mut self, offset: i64) -> bool {
        if offset < self.base || offset >= self.next {
            return false;
        }
        let (word, bit) = self.place(offset);
        let Some(bits) = self.bits.get_mut(word) else {
            return false;
        };
        if *bits >> bit & 1 == 1 {
            return false;
        }
        *bits |= 1 << bit;
        if offset == self.base {
            // It lies in the first word, always.
            let run = (*bits >> bit).trailing_ones();
            self.base = (offset + i64::from(run)).min(self.next);
            if bit + run == 64 {
                self.drop_word();
            }
        }
        true
    }

    /// The first word is finished: so may be what follows.
    fn drop_word(&mut self) {
        self.bits.pop_front();
        self.start += 64;
        while self.base < self.next {
            let run = self.bits.front().map_or(0, |bits| bits.trailing_ones());
            self.base = (self.base + i64::from(run)).min(self.next);
            if run < 64 {
                break;
            }
            self.bits.pop_front();
            self.start += 64;
        }
    }

    /// The first offset from here on that is finished or not, as asked; `next` if there is none.
    fn find(&self, from: i64, finished: bool) -> i64 {
        let mut at = from;
        while at < self.next {
            let (word, bit) = self.place(at);
            let bits = self.bits.get(word).copied().unwrap_or(0);
            let wanted = if finished { bits } else { !bits } >> bit;
            if wanted != 0 {
                return (at + i64::from(wanted.trailing_zeros())).min(self.next);
            }
            at += 64 - i64::from(bit);
        }
        self.next
    }
}

impl Watermark {
    /// The first offset that is not finished: what may be committed. `None` until something is known.
    #[inline]
    pub(super) fn base(&self) -> Option<i64> {
        self.windows.front().map(|window| window.base)
    }

    /// Behind the last offset that was handed out or passed.
    #[inline]
    pub(super) fn next(&self) -> Option<i64> {
        self.windows.back().map(|window| window.next)
    }

    /// How far what was handed out reaches beyond what is finished, gaps included.
    #[inline]
    pub(super) fn span(&self) -> i64 {
        match (self.next(), self.base()) {
            (Some(next), Some(base)) => next - base,
            _ => 0,
        }
    }

    /// Notes that records were handed out: all from this offset to before that one. They must not lie before [`next`](Self::next).
    /// What lies between is not there, or there any more.
    #[inline]
    pub(super) fn hand_out(&mut self, from: i64, to: i64) {
        self.pass(from);
        if let Some(window) = self.windows.back_mut() {
            window.extend(to, false);
        }
    }

    /// Notes that nothing is there before this offset that was not handed out.
    #[inline]
    pub(super) fn pass(&mut self, offset: i64) {
        match self.windows.back_mut() {
            Some(window) if window.next == offset => {}
            Some(window) if window.next > offset => {}
            Some(window) if window.base == window.next => *window = Window::new(offset),
            Some(window) if offset - window.next <= LONG_GAP => window.extend(offset, true),
            _ => self.windows.push_back(Window::new(offset)),
        }
    }

    /// What is finished, or not there, beyond [`base`](Self::base): from, to before.
    pub(super) fn beyond(&self) -> Vec<(i64, i64)> {
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        let mut push = |from: i64, to: i64| match ranges.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ if from < to => ranges.push((from, to)),
            _ => {}
        };
        let mut end = None;
        for window in &self.windows {
            if let Some(end) = end {
                // Between two windows nothing is there.
                push(end, window.base);
            }
            let mut from = window.find(window.base, true);
            while from < window.next {
                let to = window.find(from, false);
                push(from, to);
                from = window.find(to, true);
            }
            end = Some(window.next);
        }
        ranges
    }

    /// Whether it was handed out and is not finished.
    #[inline]
    pub(super) fn is_open(&self, offset: i64) -> bool {
        self.windows
            .iter()
            .rev()
            .any(|window| window.is_open(offset))
    }

    /// Marks a record as finished. False if it is not open.
    #[inline]
    pub(super) fn finish(&mut self, offset: i64) -> bool {
        match self.windows.back_mut() {
            // Nearly always: no gap is so long that there is another.
            Some(last) if offset >= last.base => {
                if !last.finish(offset) {
                    return false;
                }
            }
            _ => {
                let mut earlier = self.windows.iter_mut().rev().skip(1);
                if !earlier.any(|window| window.finish(offset)) {
                    return false;
                }
            }
        }
        if self.windows.len() > 1 {
            self.drop_finished();
        }
        true
    }

    /// Windows in front of which nothing is open are over; the last one stays.
    fn drop_finished(&mut self) {
        let over = |window: &Window| window.base == window.next;
        while self.windows.len() > 1 && self.windows.front().is_some_and(over) {
            self.windows.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The same, as one would write it down: every offset that was handed out, and whether it is finished.
    #[derive(Default)]
    struct Model {
        handed: BTreeMap<i64, bool>,
        next: Option<i64>,
    }

    impl Model {
        fn base(&self) -> Option<i64> {
            let open = self.handed.iter().find(|(_, finished)| !**finished);
            open.map(|(offset, _)| *offset).or(self.next)
        }

        /// What is finished beyond the base.
        fn beyond(&self) -> Vec<(i64, i64)> {
            let (Some(base), Some(next)) = (self.base(), self.next) else {
                return Vec::new();
            };
            let mut ranges = Vec::new();
            let mut from = base;
            for open in self.open().into_iter().chain([next]) {
                if from < open {
                    ranges.push((from, open));
                }
                from = open + 1;
            }
            ranges
        }

        fn open(&self) -> Vec<i64> {
            let open = self.handed.iter().filter(|(_, finished)| !**finished);
            open.map(|(offset, _)| *offset).collect()
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        HandOut { behind: i64, count: i64 },
        Pass { by: i64 },
        Finish(prop::sample::Index),
        FinishAgain(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let gap = prop_oneof![
            20 => Just(0_i64),
            4 => 1_i64..200,
            1 => Just(LONG_GAP),
            1 => LONG_GAP + 1..LONG_GAP * 4,
        ];
        prop_oneof![
            8 => (gap.clone(), prop_oneof![6 => Just(1), 2 => 2_i64..200])
                .prop_map(|(behind, count)| Step::HandOut { behind, count }),
            1 => gap.prop_map(|by| Step::Pass { by }),
            8 => any::<prop::sample::Index>().prop_map(Step::Finish),
            1 => any::<prop::sample::Index>().prop_map(Step::FinishAgain),
        ]
    }

    proptest! {
        #[test]
        fn it_is_what_one_would_write_down(
            first in 0_i64..10_000_000_000,
            steps in prop::collection::vec(step(), 0..400),
        ) {
            let mut model = Model::default();
            let mut marks = Watermark::default();
            for step in steps {
                match step {
                    Step::HandOut { behind, count } => {
                        let from = model.next.map_or(first, |next| next + behind);
                        marks.hand_out(from, from + count);
                        model.handed.extend((from..from + count).map(|offset| (offset, false)));
                        model.next = Some(from + count);
                    }
                    Step::Pass { by } => {
                        let offset = model.next.map_or(first, |next| next + by);
                        marks.pass(offset);
                        model.next = Some(offset);
                    }
                    Step::Finish(which) => {
                        let open = model.open();
                        if !open.is_empty() {
                            let offset = *which.get(&open);
                            prop_assert!(marks.is_open(offset));
                            prop_assert!(marks.finish(offset));
                            model.handed.insert(offset, true);
                        }
                    }
                    Step::FinishAgain(which) => {
                        let done: Vec<i64> = model.handed.iter().filter(|(_, done)| **done).map(|(o, _)| *o).collect();
                        if !done.is_empty() {
                            prop_assert!(!marks.finish(*which.get(&done)));
                        }
                    }
                }
                prop_assert_eq!(marks.base(), model.base());
                prop_assert_eq!(marks.next(), model.next);
                prop_assert_eq!(marks.beyond(), model.beyond());
            }
            for offset in model.open() {
                prop_assert!(marks.finish(offset));
            }
            prop_assert_eq!(marks.base(), model.next);
            prop_assert_eq!(marks.span(), 0);
            prop_assert!(marks.windows.len() <= 1);
        }
    }

    #[test]
    fn what_was_never_handed_out_cannot_be_finished() {
        let mut marks = Watermark::default();
        assert!(!marks.finish(0));
        marks.hand_out(70, 71);
        marks.hand_out(75, 76);
        for offset in [0, 69, 71, 74, 76, i64::MAX] {
            assert!(!marks.finish(offset), "{offset}");
        }
        assert_eq!((marks.base(), marks.next()), (Some(70), Some(76)));
        assert!(marks.finish(75) && marks.finish(70));
        assert_eq!(marks.base(), Some(76));
    }

    #[test]
    fn a_gap_of_billions_costs_no_memory() {
        let mut marks = Watermark::default();
        marks.hand_out(5, 6);
        marks.hand_out(4_000_000_000_000, 4_000_000_000_001);
        assert!(marks.windows.iter().map(|w| w.bits.len()).sum::<usize>() <= 2);
        assert!(marks.finish(4_000_000_000_000));
        assert_eq!(marks.base(), Some(5));
        assert!(marks.finish(5));
        assert_eq!(marks.base(), Some(4_000_000_000_001));
    }

    #[test]
    fn finished_words_are_given_back() {
        let mut marks = Watermark::default();
        for offset in 0..100_000 {
            marks.hand_out(offset, offset + 1);
            assert!(marks.finish(offset));
        }
        assert!(marks.windows[0].bits.len() <= 2);
    }
}
