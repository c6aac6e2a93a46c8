//! Numbers of the ends of one subscription in this process. With static membership each end needs a name that is the same after a
//! restart, and no two may have the same.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::name::Name;

type Subscription = (Name, Name);

/// Which numbers are taken.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Seats(Arc<Mutex<HashMap<Subscription, BTreeSet<usize>>>>);

/// The number of one end, free again when it is dropped.
#[derive(Debug)]
pub(in super::super) struct Seat {
    seats: Seats,
    subscription: Subscription,
    pub(in super::super) number: usize,
}

impl Seats {
    /// The lowest number that is free.
    pub(in super::super) fn take(&self, topic: &Name, group: &Name) -> Seat {
        let subscription = (topic.clone(), group.clone());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = all.entry(subscription.clone()).or_default();
        // One more number than there are taken: one of them is free.
        let mut numbers = 0..=taken.len();
        let number = numbers.find(|number| !taken.contains(number)).unwrap_or(0);
        taken.insert(number);
        Seat {
            seats: self.clone(),
            subscription,
            number,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = all.get_mut(&self.subscription) {
            taken.remove(&self.number);
            if taken.is_empty() {
                all.remove(&self.subscription);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_once_and_free_again_later() {
        let seats = Seats::default();
        let (topic, group) = (Name::literal("orders"), Name::literal("billing"));
        let first = seats.take(&topic, &group);
        let second = seats.take(&topic, &group);
        assert_eq!((first.number, second.number), (0, 1));
        assert_eq!(seats.take(&topic, &Name::literal("other")).number, 0);
        drop(first);
        assert_eq!(seats.take(&topic, &group).number, 0);
    }
}
