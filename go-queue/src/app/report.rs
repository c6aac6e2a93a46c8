//! What can go wrong with an app, and how it is told: every problem of the set-up at once, each with its place and what to do.

use std::fmt::{self, Write as _};
use std::process::{ExitCode, Termination};
use std::time::Duration;

use crate::engine::EngineError;
use crate::outcome::{BoxError, Chain};

/// One problem of the set-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in one line.
    pub what: String,
    /// Where: source places, files.
    pub places: Vec<String>,
    /// What to do.
    pub remedy: Option<String>,
}

impl Problem {
    /// A problem without a place or a remedy yet.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            places: Vec::new(),
            remedy: None,
        }
    }

    /// One more place.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.places.push(place.to_string());
        self
    }

    /// What to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Problem {
    /// What is wrong, and below it where and what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for place in &self.places {
            write!(f, "\n      {place}")?;
        }
        match &self.remedy {
            Some(remedy) => write!(f, "\n      -> {remedy}"),
            None => Ok(()),
        }
    }
}

/// Why an app ended other than cleanly. It displays every problem; its `Debug` is the whole report, with what was behind it, so that
/// `fn main() -> Result<(), AppError>` reads well too.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The set-up is wrong; nothing was run. Exit code 2.
    #[error("{}", set_up(.0))]
    Setup(Vec<Problem>),
    /// The command line asks for something that cannot be done; nothing was done. Exit code 2.
    #[error("the command cannot be run: {0}")]
    Usage(Problem),
    /// Something failed for good while it ran. Exit code 1.
    #[error("the app failed: {what}")]
    Failed {
        /// Which part.
        what: String,
        /// What it said.
        #[source]
        error: Option<BoxError>,
    },
    /// The shutdown deadline passed; what still ran was cancelled and handed back, uncounted. Exit code 3.
    #[error("{}", handed_back_text(*.handed_back, *.deadline))]
    Deadline {
        /// How many messages were handed back.
        handed_back: usize,
        /// How long they were waited for: the deadline, or less if a second signal came.
        deadline: Duration,
    },
}

fn set_up(problems: &[Problem]) -> String {
    let mut text = format!("the app cannot start: {}", counted(problems.len()));
    for (number, problem) in problems.iter().enumerate() {
        // Writing into a text cannot fail.
        let _ = write!(text, "\n{:>2}. {problem}", number + 1);
    }
    text
}

fn handed_back_text(count: usize, deadline: Duration) -> String {
    let (messages, were) = if count == 1 {
        ("message", "was")
    } else {
        ("messages", "were")
    };
    let after = Duration::from_millis(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
    format!("{count} {messages} {were} still running after {after:?} and {were} handed back")
}

fn counted(problems: usize) -> String {
    if problems == 1 {
        "1 problem".to_owned()
    } else {
        format!("{problems} problems")
    }
}

impl AppError {
    /// One problem of the set-up.
    pub(super) fn setup(problem: Problem) -> Self {
        Self::Setup(vec![problem])
    }

    pub(super) fn failed(what: impl Into<String>, error: impl Into<BoxError>) -> Self {
        Self::Failed {
            what: what.into(),
            error: Some(error.into()),
        }
    }

    /// An engine that will not open is a problem of the set-up; one that may work later is a failure.
    pub(super) fn engine(error: EngineError) -> Self {
        if error.is_transient() {
            Self::failed("an engine did not open", error)
        } else {
            Self::setup(Problem::new(error.to_string()))
        }
    }
}

impl fmt::Debug for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(_) | Self::Usage(_) => fmt::Display::fmt(self, f),
            Self::Failed { .. } | Self::Deadline { .. } => fmt::Display::fmt(&Chain(self), f),
        }
    }
}

/// How a worker ends: `async fn main() -> Exit { App::new().run().await.into() }`.
///
/// 0: clean. 1: failed while running. 2: the set-up is wrong. 3: the shutdown deadline passed and work was handed back.
#[derive(Debug)]
#[must_use = "return it from main"]
pub struct Exit(Result<(), AppError>);

impl From<Result<(), AppError>> for Exit {
    fn from(result: Result<(), AppError>) -> Self {
        Self(result)
    }
}

impl Exit {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match &self.0 {
            Ok(()) => 0,
            Err(AppError::Failed { .. }) => 1,
            Err(AppError::Setup(_) | AppError::Usage(_)) => 2,
            Err(AppError::Deadline { .. }) => 3,
        }
    }
}

impl Termination for Exit {
    /// Writes the report, if there is one, to standard error: as a line of the log if that is JSON there.
    fn report(self) -> ExitCode {
        if let Err(error) = &self.0 {
            super::terminal::last_words(&format!("{error:?}"));
        }
        ExitCode::from(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_every_problem_with_place_and_remedy() {
        let error = AppError::Setup(vec![
            Problem::new("two handlers for tube `emails`").at("src/mail.rs:12  app::mail::send"),
            Problem::new("no handler").remedy("add `use my_handlers as _;`"),
        ]);
        assert_eq!(
            format!("{error:?}"),
            "the app cannot start: 2 problems\n 1. two handlers for tube `emails`\n      src/mail.rs:12  app::mail::send\n \
             2. no handler\n      -> add `use my_handlers as _;`"
        );
        // What others make a report of shows the text of an error, and must not lose the list.
        assert_eq!(error.to_string(), format!("{error:?}"));
    }

    #[test]
    fn each_ending_has_its_exit_code() {
        let code = |result: Result<(), AppError>| Exit::from(result).code();
        assert_eq!(code(Ok(())), 0);
        assert_eq!(code(Err(AppError::failed("x", "y"))), 1);
        assert_eq!(code(Err(AppError::Setup(Vec::new()))), 2);
        assert_eq!(
            code(Err(AppError::Deadline {
                handed_back: 1,
                deadline: Duration::ZERO
            })),
            3
        );
    }
}
