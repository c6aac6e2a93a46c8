//! What a handler meant. Not yet what happens to the message: policy turns an [`Outcome`] into a settlement.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

/// An error of any type.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The longest reason that is kept with a dead letter, in bytes.
pub const MAX_REASON_LEN: usize = 1024;

/// What a handler meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Finished; the message is removed.
    Done,
    /// Failed; run it again by the handler's retry policy, or after this time.
    Retry {
        /// Instead of the policy's back-off.
        after: Option<Duration>,
        /// The error text.
        error: Arc<str>,
    },
    /// Failed for good; set it aside with the error text.
    Dead {
        /// The error text.
        error: Arc<str>,
    },
    /// Not wanted; the message is removed and counted apart.
    Skip,
    /// The payload did not decode; the `undecodable` policy decides.
    Undecodable {
        /// What the decoder said.
        error: Arc<str>,
    },
    /// One for each message of a batch, in order.
    Each(Vec<Outcome>),
}

impl Outcome {
    /// Failed; run it again by the retry policy.
    pub fn retry(error: impl fmt::Display) -> Self {
        Self::Retry {
            after: None,
            error: reason(error),
        }
    }

    /// Failed; run it again after this time, counted as an attempt.
    pub fn retry_after(after: Duration, error: impl fmt::Display) -> Self {
        Self::Retry {
            after: Some(after),
            error: reason(error),
        }
    }

    /// Failed for good; to the dead letters.
    pub fn dead(error: impl fmt::Display) -> Self {
        Self::Dead {
            error: reason(error),
        }
    }

    /// The payload did not decode.
    pub fn undecodable(error: impl fmt::Display) -> Self {
        Self::Undecodable {
            error: reason(error),
        }
    }
}

/// A batch handler answered so many outcomes for so many messages.
pub(crate) fn wrong_length(given: usize, wanted: usize) -> Outcome {
    Outcome::retry(format_args!(
        "the handler returned {given} outcomes for a batch of {wanted} messages"
    ))
}

/// Makes a text fit to be kept with a dead letter: control characters escaped, at most [`MAX_REASON_LEN`] bytes.
///
/// What an error prints beyond that is never held in memory.
pub fn reason(error: impl fmt::Display) -> Arc<str> {
    let mut text = Bounded(String::new());
    // Bounded stops the formatter by an error once it is full; what is there is what we want.
    let _ = write!(text, "{error:#}");
    Arc::from(text.0)
}

struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let before = self.0.len();
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
            if self.0.len() > MAX_REASON_LEN {
                self.0.truncate(before);
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

/// An error with its sources, as one line.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// What a handler may return: `()`, [`Outcome`], `Vec<Outcome>` (batches), and `Result` of these with an error.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be returned from a handler",
    label = "not a handler's return type",
    note = "a handler returns `()`, `Outcome`, `Vec<Outcome>` (batches), or `Result<(), E>` / `Result<Outcome, E>` with an `E` that displays"
)]
pub trait IntoOutcome {
    /// Says what the handler meant.
    fn into_outcome(self) -> Outcome;
}

#[diagnostic::do_not_recommend]
impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Done
    }
}

#[diagnostic::do_not_recommend]
impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

#[diagnostic::do_not_recommend]
impl IntoOutcome for Vec<Outcome> {
    fn into_outcome(self) -> Outcome {
        Outcome::Each(self)
    }
}

#[diagnostic::do_not_recommend]
impl IntoOutcome for std::convert::Infallible {
    fn into_outcome(self) -> Outcome {
        match self {}
    }
}

/// An error that says which outcome it means. Implemented by hand or, later, by `#[derive(Outcome)]`.
pub trait ClassifyError {
    /// Retry, dead letter or skip.
    fn classify(&self) -> Outcome;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_of_a_megabyte_is_cut_and_has_no_control_characters() {
        let text = reason("é\n".repeat(500_000));
        assert!(text.len() <= MAX_REASON_LEN && text.len() > MAX_REASON_LEN - 8);
        assert!(text.starts_with("é\\né\\n"), "{}", &text[..20]);
        assert!(!text.chars().any(char::is_control));
    }

    #[test]
    fn a_chain_prints_each_source_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(Chain(&error).to_string(), "outer: inner");
    }
}
