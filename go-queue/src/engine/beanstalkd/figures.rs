//! What the engine counts, and what it says when replication gets worse or better.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of the producing side, since the engine was opened.
#[derive(Debug, Default)]
pub(super) struct Figures {
    under_replicated: AtomicU64,
    missed_behind: AtomicU64,
    undone: AtomicU64,
    left_over: AtomicU64,
    /// Tasks are being stored on fewer nodes than asked.
    thin: AtomicBool,
}

/// How replication has gone since the engine was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicationFigures {
    /// Tasks that were accepted, with their quorum, on fewer nodes than `replicas`, because no more were healthy.
    pub under_replicated: u64,
    /// Copies that were written behind an accepted task and were not confirmed.
    pub missed_behind: u64,
    /// Tasks that were not accepted, and whose copies were all removed again or made harmless.
    pub undone: u64,
    /// Tasks that were not accepted, of which a copy may run all the same.
    pub left_over: u64,
}

impl Figures {
    /// Counts accepted tasks: `thin` of them have fewer copies than asked. Says so once when that begins and once when it ends.
    pub(super) fn accepted(&self, full: u64, thin: u64, replicas: usize) {
        if thin > 0 {
            self.under_replicated.fetch_add(thin, Ordering::Relaxed);
            if !self.thin.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    replicas,
                    "tasks are stored on fewer nodes than asked, because not enough are healthy"
                );
            }
        } else if full > 0
            && self.thin.load(Ordering::Relaxed)
            && self.thin.swap(false, Ordering::Relaxed)
        {
            let so_far = self.under_replicated.load(Ordering::Relaxed);
            tracing::info!(
                replicas,
                so_far,
                "tasks are stored on all their nodes again"
            );
        }
    }

    pub(super) fn missed_behind(&self, n: u64) {
        self.missed_behind.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn undone(&self, harmless: bool) {
        let counter = if harmless {
            &self.undone
        } else {
            &self.left_over
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> ReplicationFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ReplicationFigures {
            under_replicated: read(&self.under_replicated),
            missed_behind: read(&self.missed_behind),
            undone: read(&self.undone),
            left_over: read(&self.left_over),
        }
    }
}
