//! What travels between an engine and the pump: deliveries out, settlements back, notices about epochs.
//!
//! A lease is a rule, not a type: whatever was delivered and not settled is leased, and the engine renews it by itself.

use std::sync::Arc;
use std::time::Duration;

use crate::message::Message;

/// One message in the hands of one consumer.
#[derive(Debug)]
pub struct Delivery {
    /// What was sent.
    pub message: Message,
    /// The proof of the lease, to be given back in the [`Settlement`].
    pub receipt: Receipt,
    /// Deliveries with the same value run one at a time and in order; `0` is free. The engine computes it from the
    /// subscription's order (hash of the key, or the partition where there is no key), so that the pump needs no notion
    /// of key or partition.
    pub order: u64,
}

/// Opaque proof of a lease, meaningful to its engine only. The epoch fences the past: a receipt of a lost epoch is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// What the lease hangs on: a connection, an assignment, a session. Notices name it.
    pub epoch: u32,
    /// For the engine; for example the partition.
    pub group: u32,
    /// For the engine; for example the row or the offset.
    pub token: u64,
}

/// What happens to one delivery. Exactly one for each delivery, except for those that a [`Notice::Lost`] named.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which delivery.
    pub receipt: Receipt,
    /// How it ended.
    pub how: How,
}

/// The four ways in which a delivery ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Done; remove it for good.
    Ack,
    /// Give it back, without counting an attempt. `after` is more than zero only where the engine redelivers.
    Release {
        /// Not before this much time has passed.
        after: Duration,
    },
    /// Give it back later and count the attempt. Only where the engine redelivers.
    Retry {
        /// Not before this much time has passed.
        after: Duration,
    },
    /// Set it aside for people. Only where the engine keeps dead letters.
    Dead {
        /// Why, at most 1 KB, control characters escaped.
        reason: Arc<str>,
        /// How often it was started.
        attempts: u32,
    },
}

impl How {
    /// Back at once, not counted.
    pub const RELEASE: Self = Self::Release {
        after: Duration::ZERO,
    };
}

/// What an engine says about leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The epoch ends soon: give back what has not started, finish the rest. The engine bounds the wait.
    Leaving(u32),
    /// The epoch is over: its settlements are dropped and counted by the engine, its messages will be delivered to
    /// somebody again.
    Lost(u32),
    /// One lease is over, by itself.
    LostOne(Receipt),
}
