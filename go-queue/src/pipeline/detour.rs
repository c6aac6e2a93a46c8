//! What must be written before the settlement: a dead letter to another topic, a retry parked in the task engine.

use crate::delivery::How;
use crate::engine::BoxFuture;
use crate::message::Message;

/// Takes a message elsewhere where the engine cannot do it itself.
pub trait Detour: Send + Sync {
    /// Writes the message and answers what to settle it with. Repeats by itself until it is stored.
    ///
    /// # Cancel safety
    /// Dropped only by abort; the delivery is then released, so the message may be written twice.
    fn divert(&self, message: &Message, how: How) -> BoxFuture<'static, How>;
}
