//! Dead letters: what was set aside for people, and what they can do with it.

use std::sync::Arc;

use super::{BoxFuture, EngineError};
use crate::handler::payload::Payload;
use crate::message::{Body, ContentType, Flags, Id, Message};
use crate::name::{Name, Place};
use crate::outcome::BoxError;
use crate::time::WallTime;

/// A message that was set aside, with everything that is known of it.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Names it among the dead letters of its engine; lists are in this order.
    pub cursor: u64,
    /// Where it came from.
    pub place: Place,
    /// The group that gave it up; `None` for a tube.
    pub group: Option<Name>,
    /// The handler that gave it up.
    pub handler: Arc<str>,
    /// Its id.
    pub id: Id,
    /// Key, headers and payload as they were.
    pub body: Body,
    /// Null key, null payload, malformed.
    pub flags: Flags,
    /// How the payload is encoded.
    pub content: ContentType,
    /// How often it was started.
    pub attempts: u32,
    /// Why, at most 1 KB, control characters escaped.
    pub reason: Arc<str>,
    /// When it was accepted.
    pub at: WallTime,
    /// When it was set aside.
    pub died: WallTime,
}

impl DeadLetter {
    /// Its payload, decoded as a handler would.
    ///
    /// # Errors
    /// If it is no such payload, which may be why it is here.
    pub fn payload<T: for<'a> Payload<'a>>(&self) -> Result<T, BoxError> {
        T::decode(&Message {
            body: self.body.clone(),
            flags: self.flags,
            content: self.content,
            ..Message::default()
        })
    }
}

/// Which dead letters. The default is the first page of all.
#[derive(Clone, Debug)]
pub struct DeadQuery {
    /// Only of this tube or topic.
    pub place: Option<Place>,
    /// Only of this group.
    pub group: Option<Name>,
    /// Only behind this [`DeadLetter::cursor`].
    pub after: Option<u64>,
    /// At most so many; engines cap it at 1000, which is the default.
    pub limit: usize,
}

impl Default for DeadQuery {
    fn default() -> Self {
        Self {
            place: None,
            group: None,
            after: None,
            limit: 1000,
        }
    }
}

/// The dead letters of an engine, for people and their tools.
pub trait DeadLetters: Send + Sync {
    /// A page of them, in the order of their cursors.
    fn list(&self, query: DeadQuery) -> BoxFuture<'_, Result<Vec<DeadLetter>, EngineError>>;

    /// One of them.
    fn show(&self, cursor: u64) -> BoxFuture<'_, Result<Option<DeadLetter>, EngineError>>;

    /// Makes them deliverable again, with the same id and attempt 1, to the group that gave them up. Answers how many of
    /// them were there.
    fn replay(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>>;

    /// Removes them for good, and may forget them: a later revocation hears that they have run, or that they are unknown. Answers how
    /// many of them were there.
    fn purge(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>>;

    /// How many there are; `None` counts all places.
    fn count(&self, place: Option<Place>) -> BoxFuture<'_, Result<u64, EngineError>>;
}
