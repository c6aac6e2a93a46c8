//! One topic: its partitions and the groups that read them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::engine::DeadLetter;

/// A topic, shared by its members and producers.
#[derive(Debug, Default)]
pub(super) struct Topic(Mutex<Log>);

impl Topic {
    pub(super) fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(super) struct Log {}

impl Log {
    pub(super) fn replay(&mut self, _letter: DeadLetter, _wakers: &mut Vec<Waker>) {}
}
