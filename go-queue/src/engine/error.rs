//! What engines say when they cannot do what was asked.

use std::sync::Arc;
use std::time::Duration;

use crate::name::Place;

/// Why an engine cannot do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine does not serve this.
    #[error("the {engine} engine cannot {what}")]
    Unsupported {
        /// Which engine.
        engine: &'static str,
        /// What was asked, as a verb phrase.
        what: String,
    },
    /// The store or server cannot be used as it is; waiting does not help.
    #[error("the {engine} engine cannot {what}: {why}")]
    Unusable {
        /// Which engine.
        engine: &'static str,
        /// What was tried, as a verb phrase with the place (`open /data/x.db`).
        what: String,
        /// What is wrong and what to do.
        why: Arc<str>,
    },
    /// It did not work this time; waiting may help.
    #[error("the {engine} engine could not {what}: {why}")]
    Unavailable {
        /// Which engine.
        engine: &'static str,
        /// What was tried, as a verb phrase.
        what: String,
        /// What was in the way.
        why: Arc<str>,
    },
    /// The engine was closed.
    #[error("the {engine} engine is closed")]
    Closed {
        /// Which engine.
        engine: &'static str,
    },
}

impl EngineError {
    /// Whether waiting may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// What lets a larger message through.
fn beyond(place: &Place, limit: usize) -> &'static str {
    match place {
        Place::Tube(_) if limit == super::MAX_TASK_LEN => {
            " on every engine; `portable: false` on its tube lets sqlite take larger payloads"
        }
        _ => "",
    }
}

/// Why a message was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Larger than every engine takes; see the limits in the guide.
    #[error("a message for {place} has {size} bytes, the limit is {limit}{}", beyond(place, *limit))]
    TooLarge {
        /// Where it should have gone.
        place: Place,
        /// Bytes with the envelope.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The store has reached its quota, or the disk is full. Nothing was stored; consumers go on.
    #[error("the {engine} engine is full: {why}")]
    Full {
        /// Which engine.
        engine: &'static str,
        /// Which limit, and how to raise it.
        why: Arc<str>,
    },
    /// Fewer nodes confirmed than asked. What was stored has been taken back, unless `maybe_stored`.
    #[error("{confirmed} of {wanted} nodes confirmed the message in time")]
    UnderReplicated {
        /// Confirmations.
        confirmed: usize,
        /// Confirmations asked.
        wanted: usize,
        /// A copy could not be taken back: the message may run.
        maybe_stored: bool,
    },
    /// The engine could not be reached or failed; nothing was stored, unless `maybe_stored`.
    #[error("the {engine} engine did not accept the message: {why}")]
    Unavailable {
        /// Which engine.
        engine: &'static str,
        /// What was in the way.
        why: Arc<str>,
        /// The answer was lost, not the message: it may be stored.
        maybe_stored: bool,
    },
    /// The engine does not serve this place, or not with a delay.
    #[error("the {engine} engine cannot {what}")]
    Unsupported {
        /// Which engine.
        engine: &'static str,
        /// What was asked, as a verb phrase.
        what: String,
    },
    /// The due time is beyond the year 2262.
    #[error("a delay of {delay:?} ends beyond the year 2262")]
    DelayOutOfRange {
        /// The delay asked.
        delay: Duration,
    },
    /// The payload could not be encoded.
    #[error("the payload for {place} could not be encoded: {why}")]
    Encode {
        /// Where it should have gone.
        place: Place,
        /// What the encoder said.
        why: Arc<str>,
    },
    /// The tube or topic has a name that is none.
    #[error("`{name}` is not a name of a tube or topic: {error}")]
    Name {
        /// The beginning of the name, control characters escaped.
        name: String,
        /// What is wrong with it.
        error: crate::name::NameError,
    },
    /// The message was named with nothing: all such messages of a place would be taken for the same one.
    #[error("a message for {place} was given an empty id; give it a name of its own, or none")]
    EmptyId {
        /// Where it should have gone.
        place: Place,
    },
    /// A header has no place in the format.
    #[error("a header cannot be sent: {0}")]
    Header(#[from] crate::message::HeadersError),
    /// The engine was closed.
    #[error("the {engine} engine is closed")]
    Closed {
        /// Which engine.
        engine: &'static str,
    },
}
