//! What can be wrong with Redis, told apart by what helps.

use std::sync::Arc;
use std::time::Duration;

/// What is wrong with Redis.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisFault {
    /// User or password are wrong, or missing.
    #[error(
        "Redis at {hosts} refuses the user or the password: {why}; see `user` and `pass` of its configuration"
    )]
    Refused {
        /// The hosts as configured.
        hosts: Arc<str>,
        /// What Redis said.
        why: Arc<str>,
    },
    /// No connection.
    #[error("Redis at {hosts} cannot be reached: {why}")]
    Unreachable {
        /// The hosts as configured.
        hosts: Arc<str>,
        /// What the system or the TLS library said.
        why: Arc<str>,
    },
    /// No answer in time.
    #[error("Redis at {hosts} did not answer within {within:?}")]
    Silent {
        /// The hosts as configured.
        hosts: Arc<str>,
        /// The time it had.
        within: Duration,
    },
    /// It answered with an error.
    #[error("Redis at {hosts} answered: {why}")]
    Answered {
        /// The hosts as configured.
        hosts: Arc<str>,
        /// What it said.
        why: Arc<str>,
    },
    /// The store was closed.
    #[error("the store on Redis is closed")]
    Closed,
}

impl RedisFault {
    /// Whether waiting does not help: what is configured is not a Redis that lets us in.
    pub(crate) fn is_of_the_set_up(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Unreachable { why, .. } => ["failed to lookup address", "Parse error"]
                .iter()
                .any(|known| why.contains(known)),
            _ => false,
        }
    }
}
