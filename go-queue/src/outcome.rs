//! What a handler meant. Not yet what happens to the message: policy turns an [`Outcome`](enum@Outcome) into a settlement.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use crate::time::format_duration;

/// Makes an error say what its message is worth: run again, run again after a time, dead letter, skip.
///
/// It stands on an enum or a struct that displays, with one word on each variant, and implements [`ClassifyError`] for it. A
/// handler that returns `Result<_, E>` with such an `E` has nothing else to do.
///
/// ```
/// use go_queue::prelude::*;
/// use std::time::Duration;
///
/// #[derive(Debug, thiserror::Error, Outcome)]
/// enum ChargeError {
///     /// After the handler's own back-off.
///     #[error("the connection was cut")]
///     #[retry]
///     Cut,
///     /// After this time instead.
///     #[error("the bank is closed for a moment")]
///     #[retry(after = "10s")]
///     Closed,
///     /// After the time that the bank has named: a field of type `Duration` or `Option<Duration>`.
///     #[error("too many requests")]
///     #[retry(after = wait)]
///     TooMany { wait: Option<Duration> },
///     /// To the dead letters, with the text of the error.
///     #[error("there is no account {0}")]
///     #[dead]
///     NoAccount(u64),
///     /// Not wanted any more: removed, and counted apart.
///     #[error("the order was cancelled")]
///     #[skip]
///     Cancelled,
///     /// What the error in it says.
///     #[error("storing the receipt")]
///     #[transparent]
///     Store(#[from] StoreError),
/// }
///
/// /// On the type it is said for every variant that says nothing itself.
/// #[derive(Debug, thiserror::Error, Outcome)]
/// #[error("the store is full")]
/// #[retry(after = "1m")]
/// struct StoreError;
///
/// #[dq_handler(tube = "charges")]
/// async fn charge(cents: u64) -> Result<(), ChargeError> {
///     match cents {
///         0 => Err(ChargeError::Cancelled),
///         1 => Err(StoreError.into()),
///         _ => Ok(()),
///     }
/// }
///
/// use go_queue::outcome::{ClassifyError, ErrorClass};
/// assert_eq!(ChargeError::NoAccount(7).classify(), ErrorClass::Dead);
/// assert_eq!(ChargeError::from(StoreError).classify(), ErrorClass::RetryAfter(minutes(1)));
/// ```
///
/// | attribute | meaning |
/// |---|---|
/// | `#[retry]` | run again by the `retry` option of the handler; so does a variant without any word |
/// | `#[retry(after = "10s")]` | run again after this time |
/// | `#[retry(after = field)]`, `#[retry(after = 0)]` | run again after the time in this field: `Duration`, or `Option<Duration>` where nothing means the back-off |
/// | `#[dead]` | to the dead letters, with the text of the error and of its sources |
/// | `#[skip]` | removed, counted apart |
/// | `#[transparent]` | what the error in the only field says, or in the field that it stands on; the text is that of the whole error |
/// | `#[outcome(crate = path)]` | on the type: where this library is found, if not at `::go_queue` |
///
/// Every retry counts as an attempt: beyond the `max` of the handler's `retry` the message goes to the dead letters. A wrapper such as
/// `anyhow::Error` hides what the error in it says: return the classified type itself.
pub use go_queue_macros::Outcome;

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

    /// What the error asks for, with its text and that of its sources: for the entries of a batch.
    ///
    /// ```
    /// use go_queue::prelude::*;
    ///
    /// #[derive(Debug, thiserror::Error, Outcome)]
    /// #[error("page {0} is gone")]
    /// #[dead]
    /// struct Gone(u32);
    ///
    /// #[kq_handler(topic = "clicks")]
    /// async fn clicks(pages: Vec<u32>) -> Vec<Outcome> {
    ///     let one = |page| if page == 0 { Err(Gone(page)) } else { Ok(()) };
    ///     pages.into_iter().map(|page| one(page).map_or_else(|e| Outcome::of_error(&e), |()| Outcome::Done)).collect()
    /// }
    /// ```
    pub fn of_error<E: ClassifyError + Error>(error: &E) -> Self {
        error.classify().outcome(Chain(error))
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

/// What a handler may return: `()`, [`Outcome`](enum@Outcome), `Vec<Outcome>` (batches), and `Result` of these with an error.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be returned from a handler",
    label = "not a handler's return type",
    note = "a handler returns `()`, `Outcome`, `Vec<Outcome>` (batches), or `Result<(), E>` / `Result<Outcome, E>` with an `E` that displays: `#[derive(thiserror::Error)]` on it, or `impl std::fmt::Display`"
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

/// What an error asks for. What becomes of it is decided by [`ErrorClass::outcome`] and the policy of the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Run the message again, by the handler's retry policy.
    Retry,
    /// Run it again after this time, counted as an attempt.
    RetryAfter(Duration),
    /// Set it aside: to the dead letters.
    Dead,
    /// Remove it, counted apart.
    Skip,
}

impl ErrorClass {
    /// The outcome, with the text of the error.
    pub fn outcome(self, error: impl fmt::Display) -> Outcome {
        match self {
            Self::Retry => Outcome::retry(error),
            Self::RetryAfter(after) => Outcome::retry_after(after, error),
            Self::Dead => Outcome::dead(error),
            Self::Skip => Outcome::Skip,
        }
    }
}

/// An error that says what it asks for: by [`#[derive(Outcome)]`](derive@Outcome), or by hand.
///
/// ```
/// use go_queue::outcome::{ClassifyError, ErrorClass};
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("status {0}")]
/// struct Status(u16);
///
/// impl ClassifyError for Status {
///     fn classify(&self) -> ErrorClass {
///         match self.0 {
///             400..500 => ErrorClass::Dead,
///             _ => ErrorClass::Retry,
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what it asks for",
    label = "does not say what it asks for",
    note = "write `#[derive(Outcome)]` on it, or say it here: `#[retry]`, `#[dead]` or `#[skip]` instead of `#[transparent]`"
)]
pub trait ClassifyError: fmt::Display {
    /// All that it may ask for, for people to read. Empty if that is not known.
    const CASES: &'static [ErrorCase] = &[];

    /// What it asks for.
    fn classify(&self) -> ErrorClass;
}

#[diagnostic::do_not_recommend]
impl<E: ClassifyError> ClassifyError for Box<E> {
    const CASES: &'static [ErrorCase] = E::CASES;

    fn classify(&self) -> ErrorClass {
        (**self).classify()
    }
}

#[diagnostic::do_not_recommend]
impl<E: ClassifyError> ClassifyError for Arc<E> {
    const CASES: &'static [ErrorCase] = E::CASES;

    fn classify(&self) -> ErrorClass {
        (**self).classify()
    }
}

/// One error that a handler may return, and what it asks for. Const data that [`#[derive(Outcome)]`](derive@Outcome) writes, for
/// the table of handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCase {
    /// The name of the variant, or of the struct.
    pub error: &'static str,
    /// What it asks for.
    pub asks: Asks,
}

/// What an error asks for, as its attribute says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// `#[retry]`, or nothing.
    Retry,
    /// `#[retry(after = "10s")]`.
    RetryAfter(Duration),
    /// `#[retry(after = field)]`: the field has this name or number.
    RetryAfterField(&'static str),
    /// `#[dead]`.
    Dead,
    /// `#[skip]`.
    Skip,
    /// `#[transparent]`: what the error in it asks for. Empty if that is not known.
    Transparent(&'static [ErrorCase]),
}

impl fmt::Display for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry => f.write_str("retry"),
            Self::RetryAfter(after) => write!(f, "retry after {}", format_duration(*after)),
            Self::RetryAfterField(field) => write!(f, "retry after `{field}`"),
            Self::Dead => f.write_str("dead letter"),
            Self::Skip => f.write_str("skip"),
            Self::Transparent(_) => f.write_str("what the error in it asks for"),
        }
    }
}

impl ErrorCase {
    /// One row for each error, in the order of the source: its name, and what it asks for. What stands in a transparent variant has the
    /// names of both, `Store::Full`.
    ///
    /// ```
    /// use go_queue::outcome::{Asks, ErrorCase};
    ///
    /// const STORE: &[ErrorCase] = &[ErrorCase { error: "Full", asks: Asks::Dead }];
    /// const CHARGE: &[ErrorCase] = &[
    ///     ErrorCase { error: "Cut", asks: Asks::Retry },
    ///     ErrorCase { error: "Store", asks: Asks::Transparent(STORE) },
    /// ];
    /// let rows = ErrorCase::rows(CHARGE);
    /// assert_eq!(rows, [("Cut".to_owned(), Asks::Retry), ("Store::Full".to_owned(), Asks::Dead)]);
    /// ```
    pub fn rows(cases: &[Self]) -> Vec<(String, Asks)> {
        let row = |case: &Self| match case.asks {
            Asks::Transparent(inner) if !inner.is_empty() => Self::rows(inner)
                .into_iter()
                .map(|(name, asks)| (format!("{}::{name}", case.error), asks))
                .collect(),
            asks => vec![(case.error.to_owned(), asks)],
        };
        cases.iter().flat_map(row).collect()
    }
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
    fn what_an_error_asks_for_is_printed_for_people() {
        const INNER: &[ErrorCase] = &[ErrorCase {
            error: "Full",
            asks: Asks::RetryAfter(Duration::from_secs(90)),
        }];
        let outer = [
            ("Cut", Asks::Retry),
            ("Limit", Asks::RetryAfterField("wait")),
            ("Store", Asks::Transparent(INNER)),
            ("Other", Asks::Transparent(&[])),
            ("Gone", Asks::Dead),
            ("Old", Asks::Skip),
        ]
        .map(|(error, asks)| ErrorCase { error, asks });
        let rows: Vec<_> = ErrorCase::rows(&outer)
            .into_iter()
            .map(|(name, asks)| format!("{name}: {asks}"))
            .collect();
        let want = [
            "Cut: retry",
            "Limit: retry after `wait`",
            "Store::Full: retry after 1m 30s",
            "Other: what the error in it asks for",
            "Gone: dead letter",
            "Old: skip",
        ];
        assert_eq!(rows, want);
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
