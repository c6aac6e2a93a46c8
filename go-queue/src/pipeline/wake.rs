//! Who was woken: one bit for each running place, and one waker for the pump, used only while it sleeps.
//!
//! A wake is one `fetch_or`. This replaces a set of futures that allocates for each push and polls twice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// One bit for each running place of a lane.
#[derive(Debug)]
pub(super) struct WakeSet {
    words: Box<[AtomicU64]>,
    /// The pump sleeps, or is about to.
    armed: AtomicBool,
    pump: Mutex<Waker>,
}

impl WakeSet {
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            words: (0..places.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            armed: AtomicBool::new(false),
            pump: Mutex::new(Waker::noop().clone()),
        })
    }

    /// The waker of one place, made once.
    pub(super) fn waker(self: &Arc<Self>, place: usize) -> Waker {
        Waker::from(Arc::new(PlaceWaker {
            set: self.clone(),
            place,
        }))
    }

    pub(super) fn words(&self) -> usize {
        self.words.len()
    }

    /// Takes the bits of one word.
    pub(super) fn take(&self, word: usize) -> u64 {
        let word = &self.words[word];
        // A plain load first: most words are zero most of the time, and a swap owns the cache line.
        if word.load(Ordering::Relaxed) == 0 {
            0
        } else {
            word.swap(0, Ordering::SeqCst)
        }
    }

    /// Before sleeping: from now on a wake goes up to the pump. False if somebody was woken meanwhile.
    pub(super) fn arm(&self, waker: &Waker) -> bool {
        {
            let mut pump = self.pump.lock().unwrap_or_else(PoisonError::into_inner);
            if !pump.will_wake(waker) {
                pump.clone_from(waker);
            }
        }
        self.armed.store(true, Ordering::SeqCst);
        // Whoever set a bit before it could see `armed` is seen here; all accesses are SeqCst for that.
        let quiet = self
            .words
            .iter()
            .all(|word| word.load(Ordering::SeqCst) == 0);
        if !quiet {
            self.armed.store(false, Ordering::SeqCst);
        }
        quiet
    }

    /// Wakes the pump if it sleeps.
    pub(super) fn rouse(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.pump
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .wake_by_ref();
        }
    }
}

struct PlaceWaker {
    set: Arc<WakeSet>,
    place: usize,
}

impl Wake for PlaceWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set.words[self.place / 64].fetch_or(1 << (self.place % 64), Ordering::SeqCst);
        self.set.rouse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_before_the_pump_sleeps_keeps_it_awake() {
        let set = WakeSet::new(130);
        set.waker(129).wake();
        assert!(!set.arm(Waker::noop()));
        assert_eq!((set.take(0), set.take(1), set.take(2)), (0, 0, 2));
        assert!(set.arm(Waker::noop()));
    }

    #[test]
    fn no_wake_is_lost_between_threads() {
        struct Flag(AtomicBool);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let set = WakeSet::new(1);
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let pump = Waker::from(flag.clone());
        for _ in 0..2_000 {
            flag.0.store(false, Ordering::SeqCst);
            let place = set.waker(0);
            let thread = std::thread::scope(|scope| {
                let other = scope.spawn(move || place.wake());
                let asleep = set.arm(&pump);
                other.join().expect("the waking thread ends");
                asleep
            });
            assert!(
                !thread || flag.0.load(Ordering::SeqCst),
                "asleep and not woken"
            );
            set.take(0);
        }
    }
}
