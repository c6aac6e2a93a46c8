//! What the handlers change: stands for a database.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What every order costs, once. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    open: BTreeMap<String, u64>,
    closed: bool,
}

impl Ledger {
    fn with<T>(&self, act: impl FnOnce(&mut Books) -> T) -> anyhow::Result<T> {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        anyhow::ensure!(!books.closed, "the ledger is closed");
        Ok(act(&mut books))
    }

    /// Books an order. By its id, so that the same order is booked once however often this is called.
    pub(crate) fn book(&self, order: &str, cents: u64) -> anyhow::Result<()> {
        self.with(|books| books.open.insert(order.to_owned(), cents))
            .map(drop)
    }

    /// Whether it is still to be paid.
    pub(crate) fn is_open(&self, order: &str) -> anyhow::Result<bool> {
        self.with(|books| books.open.contains_key(order))
    }
}

#[cfg(test)]
impl Ledger {
    /// The sum of all orders.
    pub(crate) fn total(&self) -> u64 {
        let books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.open.values().sum()
    }

    /// From now on everything fails, or works again.
    pub(crate) fn set_closed(&self, closed: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).closed = closed;
    }
}
