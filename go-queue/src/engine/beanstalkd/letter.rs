//! Dead letters on their way: a job that is given up stays leased until its letter is kept.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::receive::Framing;
use crate::delivery::Receipt;
use crate::engine::{BoxFuture, EngineError};
use crate::name::Name;
use crate::time::WallTime;

/// How long after a failure the next try is made.
const AGAIN: Duration = Duration::from_millis(500);

/// A job that is given up, with everything that is known of it.
#[derive(Clone)]
pub(super) struct Letter {
    /// The tube it came from.
    pub(super) tube: Name,
    /// What its body is.
    pub(super) framing: Framing,
    /// The handler that gave it up.
    pub(super) handler: Arc<str>,
    /// The node it lies on, as an index of the endpoints.
    pub(super) node: usize,
    /// Its number there.
    pub(super) job: u64,
    /// The body as it is stored, envelope included.
    pub(super) body: Bytes,
    /// Why, at most 1 KB, control characters escaped.
    pub(super) reason: Arc<str>,
    /// How often it was started.
    pub(super) attempts: u32,
    /// When it was given up.
    pub(super) died: WallTime,
}

impl fmt::Debug for Letter {
    /// Without the body: payloads never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter")
            .field("tube", &self.tube)
            .field("job", &self.job)
            .field("body_len", &self.body.len())
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// Keeps dead letters. The job itself is deleted by the end that gave it up, after this has said that the letter is kept.
pub(super) trait LetterWriter: Send + Sync + fmt::Debug {
    /// Keeps them; one answer for each, in order. Asked again with the same letter after an error.
    ///
    /// # Cancel safety
    /// If the future is dropped the letters may or may not be kept; the same job may be given up again.
    fn keep(&self, letters: Vec<Letter>) -> BoxFuture<'static, Vec<Result<(), EngineError>>>;
}

/// What became of letters.
type Written = Vec<(Receipt, bool)>;

/// The letters of one end: those that gather, and the slice that is being written.
pub(super) struct Letters {
    writer: Option<Arc<dyn LetterWriter>>,
    gathered: Vec<(Receipt, Letter)>,
    writing: Option<Writing>,
    /// After a failure, not before this time.
    again: Option<Instant>,
}

struct Writing {
    slice: Vec<(Receipt, Letter)>,
    future: BoxFuture<'static, Vec<Result<(), EngineError>>>,
}

impl fmt::Debug for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letters")
            .field("gathered", &self.gathered.len())
            .field("writing", &self.writing.is_some())
            .finish_non_exhaustive()
    }
}

impl Letters {
    pub(super) fn new(writer: Option<Arc<dyn LetterWriter>>) -> Self {
        Self {
            writer,
            gathered: Vec::new(),
            writing: None,
            again: None,
        }
    }

    /// Whether letters are kept apart at all.
    pub(super) fn are_kept(&self) -> bool {
        self.writer.is_some()
    }

    /// Nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.writing.is_none()
    }

    pub(super) fn add(&mut self, receipt: Receipt, letter: Letter) {
        self.gathered.push((receipt, letter));
    }

    /// When to try again.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.again
            .filter(|_| self.writing.is_none() && !self.gathered.is_empty())
    }

    /// Writes what has gathered; ready with what became of a slice. What failed stays and is tried again.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Written> {
        let waits = self.again.is_some_and(|again| now < again);
        if self.writing.is_none()
            && !self.gathered.is_empty()
            && !waits
            && let Some(writer) = &self.writer
        {
            let slice = std::mem::take(&mut self.gathered);
            let letters = slice.iter().map(|(_, letter)| letter.clone()).collect();
            self.again = None;
            self.writing = Some(Writing {
                future: writer.keep(letters),
                slice,
            });
        }
        let Some(writing) = &mut self.writing else {
            return Poll::Pending;
        };
        let Poll::Ready(answers) = writing.future.as_mut().poll(cx) else {
            return Poll::Pending;
        };
        let slice = std::mem::take(&mut writing.slice);
        self.writing = None;
        let mut written = Vec::with_capacity(slice.len());
        let mut answers = answers.into_iter();
        for (receipt, letter) in slice {
            match answers.next() {
                Some(Ok(())) => written.push((receipt, true)),
                answer => {
                    let why = answer.and_then(Result::err).map(|why| why.to_string());
                    tracing::warn!(
                        tube = %letter.tube,
                        why = why.as_deref().unwrap_or("no answer"),
                        "a dead letter is not kept yet; trying again"
                    );
                    self.again = Some(now + AGAIN);
                    self.gathered.push((receipt, letter));
                }
            }
        }
        Poll::Ready(written)
    }

    /// The lease of a job is lost: somebody else will decide about it. A letter that is being written stays.
    pub(super) fn forget(&mut self, epoch: u32) {
        self.gathered.retain(|(receipt, _)| receipt.epoch != epoch);
    }
}
