//! The order value of a message, from the subscription's order.

use std::hash::{BuildHasher, Hasher};

use crate::engine::Order;
use crate::message::Message;

/// Computes order values. All lanes of an engine compute the same.
#[derive(Clone, Debug)]
pub(super) struct Ordering {
    order: Order,
    hash: foldhash::fast::RandomState,
    /// What a message without a key falls back to: its partition, or nothing where there are none.
    partitioned: bool,
}

impl Ordering {
    pub(super) fn new(order: Order, hash: foldhash::fast::RandomState, partitioned: bool) -> Self {
        Self {
            order,
            hash,
            partitioned,
        }
    }

    /// Equal for messages that must follow one another, `0` for those that are free.
    pub(super) fn of(&self, message: &Message) -> u64 {
        match (self.order, message.key()) {
            (Order::Key, Some(key)) => {
                let mut hasher = self.hash.build_hasher();
                hasher.write(key);
                hasher.finish().max(1)
            }
            (Order::Key | Order::Partition, _) if self.partitioned => {
                let mut hasher = self.hash.build_hasher();
                // Longer than the bytes of a short key, so that a partition is not mistaken for one.
                hasher.write_u128(u128::from(message.place) | 1 << 127);
                hasher.finish().max(1)
            }
            _ => 0,
        }
    }
}
