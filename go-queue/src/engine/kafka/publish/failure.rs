//! What a code of librdkafka means for the caller.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::super::ENGINE;
use super::ledger::Trouble;
use crate::engine::{MAX_RECORD_LEN, Outgoing, PublishError};
use crate::time::format_duration;

/// The client has ended, or never took the record.
pub(super) const CLOSED: RDKafkaErrorCode = RDKafkaErrorCode::PurgeQueue;

/// Why a record was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The engine was closed before it was handed over.
    Closed,
    /// The broker takes no record of this size.
    TooLarge,
    /// Not stored, and what to do.
    Refused(String),
    /// It may be stored: the answer was lost.
    Unknown(String),
}

/// What a code means. `trouble` is what the client has said last, `timeout` how long a record may take.
pub(super) fn explain(code: RDKafkaErrorCode, trouble: Option<&Trouble>, timeout: Duration) -> Why {
    use RDKafkaErrorCode as Code;
    let said = trouble.map(|trouble| format!(": {}", trouble.text));
    let said = said.unwrap_or_default();
    match code {
        CLOSED => Why::Closed,
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => Why::TooLarge,
        Code::UnknownTopic | Code::UnknownTopicOrPartition => Why::Refused(
            "the topic does not exist; create it, or let `create_topics` do it".to_owned(),
        ),
        Code::UnknownPartition => Why::Refused("the topic has no such partition".to_owned()),
        Code::TopicAuthorizationFailed => Why::Refused(
            "this user may not write to the topic; ask for the right `Write`".to_owned(),
        ),
        Code::ClusterAuthorizationFailed => Why::Refused(
            "this user may not write with numbers on batches; ask for the right `IdempotentWrite` on the cluster"
                .to_owned(),
        ),
        Code::QueueFull => Why::Refused(format!(
            "no room came free within {}{said}",
            format_duration(timeout)
        )),
        Code::PolicyViolation | Code::InvalidRecord | Code::InvalidTopic => {
            Why::Refused(format!("the broker refuses it: {code}"))
        }
        Code::MessageTimedOut => Why::Unknown(format!(
            "no broker confirmed it within {}{said}",
            format_duration(timeout)
        )),
        super::DOUBTED => Why::Unknown(
            "the broker takes it again and again for one that it has, and does not say where".to_owned(),
        ),
        code => Why::Unknown(format!("{code}{said}")),
    }
}

impl Why {
    /// As the caller of `send` hears it.
    pub(super) fn publish(self, out: &Outgoing) -> PublishError {
        let (why, maybe_stored) = match self {
            Self::Closed => return PublishError::Closed { engine: ENGINE },
            Self::TooLarge => {
                return PublishError::TooLarge {
                    place: out.place.clone(),
                    size: out.body.len(),
                    limit: MAX_RECORD_LEN.min(out.body.len().saturating_sub(1)),
                };
            }
            Self::Refused(why) => (why, false),
            Self::Unknown(why) => (why, true),
        };
        PublishError::Unavailable {
            engine: ENGINE,
            why: Arc::from(format!("{}: {why}", out.place)),
            maybe_stored,
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the engine is closed"),
            Self::TooLarge => f.write_str("the broker takes no record of this size"),
            Self::Refused(why) | Self::Unknown(why) => f.write_str(why),
        }
    }
}
