//! What can go wrong in the store, in a form that every caller of one transaction can be told.

use std::sync::Arc;

use rusqlite::{Error, ErrorCode};

use crate::engine::{EngineError, PublishError};

/// The name of this engine.
pub(crate) const ENGINE: &str = "sqlite";

/// Why a transaction, or one request of it, did not happen. Nothing of it was stored, unless `Unsynced`.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The quota is reached or the disk is full.
    Full(Arc<str>),
    /// Another process held the write lock for too long.
    Busy(Arc<str>),
    /// The disk or the file system failed.
    Io(Arc<str>),
    /// The file is damaged, or this is a defect of the engine.
    Broken(Arc<str>),
    /// It is stored, but the disk did not confirm it: after a power cut it may be gone.
    Unsynced(Arc<str>),
    /// The engine was closed.
    Closed,
}

impl Failure {
    /// What the user is told.
    pub(crate) fn why(&self) -> Arc<str> {
        match self {
            Self::Full(why)
            | Self::Busy(why)
            | Self::Io(why)
            | Self::Broken(why)
            | Self::Unsynced(why) => why.clone(),
            Self::Closed => Arc::from("the engine was closed"),
        }
    }

    /// As the answer to a request that is no message.
    pub(crate) fn engine(&self, what: &str) -> EngineError {
        match self {
            Self::Closed => EngineError::Closed { engine: ENGINE },
            Self::Broken(why) => EngineError::Unusable {
                engine: ENGINE,
                what: what.to_owned(),
                why: why.clone(),
            },
            other => EngineError::Unavailable {
                engine: ENGINE,
                what: what.to_owned(),
                why: other.why(),
            },
        }
    }

    /// As the answer to a producer.
    pub(crate) fn publish(&self) -> PublishError {
        match self {
            Self::Closed => PublishError::Closed { engine: ENGINE },
            Self::Full(why) => PublishError::Full {
                engine: ENGINE,
                why: why.clone(),
            },
            other => PublishError::Unavailable {
                engine: ENGINE,
                why: other.why(),
                maybe_stored: matches!(other, Self::Unsynced(_)),
            },
        }
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let why: Arc<str> = Arc::from(error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(Arc::from(
                "the quota is reached or the disk is full; consume or purge, free disk space, or raise `sqlite.quota`",
            )),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(Arc::from(
                "another process has held the write lock for seconds; look for a worker that was stopped (SIGSTOP) or for an open transaction in a shell",
            )),
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::OperationInterrupted,
            ) => Self::Io(why),
            _ => Self::Broken(why),
        }
    }
}
