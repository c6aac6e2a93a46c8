//! What a test asks: how often was this sent, run, retried, set aside; and the history of each message when the answer is wrong.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::handler::When;
use crate::handler::payload::Payload;
use crate::message::{Headers, Id, headers};
use crate::name::{Name, Place};
use crate::outcome::Chain;
use crate::time::WallTime;

use super::ledger::{Entry, Ledger, shown};

/// So many histories stand in the message of a failed assertion.
const SHOWN: usize = 8;

/// What became of a message so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SeenState {
    /// It waits: for its time, for a retry, or for a handler.
    Pending,
    /// It is being handled.
    Running,
    /// Done, and removed.
    Done,
    /// Removed as not wanted.
    Skipped,
    /// Among the dead letters.
    Dead,
    /// Taken back before it ran.
    Revoked,
}

/// What was sent to one handler, and what it did, at the moment of the call. See [`TestRun::of`](super::TestRun::of).
///
/// Every `assert_` function answers the same value, so that they chain, and panics with the history of each message if it is not so.
#[derive(Clone, Debug)]
pub struct Handled {
    name: String,
    messages: Vec<Seen>,
    /// What was sent elsewhere, for the case that nothing was sent here.
    elsewhere: Vec<String>,
}

/// One message as the kit saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    entry: Entry,
    group: Option<Name>,
    began: WallTime,
}

impl Handled {
    pub(super) fn new(
        name: String,
        ledger: &Ledger,
        served: &[(Place, Option<Name>)],
        when: Option<When>,
    ) -> Self {
        let mut messages = Vec::new();
        let mut elsewhere: Vec<String> = Vec::new();
        for entry in ledger.entries() {
            let Some((_, group)) = served.iter().find(|(place, _)| *place == entry.place) else {
                let place = entry.place.to_string();
                if !elsewhere.contains(&place) {
                    elsewhere.push(place);
                }
                continue;
            };
            if when.is_none_or(|when| takes(when, &entry)) {
                messages.push(Seen {
                    entry,
                    group: group.clone(),
                    began: ledger.began,
                });
            }
        }
        Self {
            name,
            messages,
            elsewhere,
        }
    }

    /// The messages, in the order in which they were sent.
    pub fn messages(&self) -> Vec<Seen> {
        self.messages.clone()
    }

    /// The one message.
    ///
    /// # Panics
    /// If there is none, or more than one.
    #[track_caller]
    #[must_use]
    pub fn only(&self) -> Seen {
        self.hold(self.messages.len(), 1, "message", "messages");
        self.messages[0].clone()
    }

    /// How many messages it was sent.
    pub fn sent(&self) -> usize {
        self.messages
            .iter()
            .filter(|seen| seen.entry.was_sent())
            .count()
    }

    /// How often it was started.
    pub fn ran(&self) -> usize {
        self.messages.iter().map(Seen::runs).sum()
    }

    /// How many of its runs failed and were, or will be, followed by another.
    pub fn retried(&self) -> usize {
        let fates = self
            .messages
            .iter()
            .map(|seen| seen.entry.fate(seen.group.as_ref()));
        fates.map(|fate| fate.retries).sum()
    }

    /// How many of its messages are in this state.
    pub fn count(&self, state: SeenState) -> usize {
        self.messages
            .iter()
            .filter(|seen| seen.state() == state)
            .count()
    }

    /// Asserts that it was sent so many messages.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_sent(&self, messages: usize) -> &Self {
        self.hold(self.sent(), messages, "message sent", "messages sent")
    }

    /// Asserts that it was started so often, retries included. A batch counts as many as it has messages.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_ran(&self, runs: usize) -> &Self {
        self.hold(self.ran(), runs, "run", "runs")
    }

    /// Asserts that so many of its runs failed and were, or will be, followed by another.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_retried(&self, runs: usize) -> &Self {
        self.hold(self.retried(), runs, "retry", "retries")
    }

    /// Asserts that so many of its messages are done.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_done(&self, messages: usize) -> &Self {
        let count = self.count(SeenState::Done);
        self.hold(count, messages, "message done", "messages done")
    }

    /// Asserts that so many of its messages were removed as not wanted.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_skipped(&self, messages: usize) -> &Self {
        let count = self.count(SeenState::Skipped);
        self.hold(count, messages, "message skipped", "messages skipped")
    }

    /// Asserts that so many of its messages are among the dead letters.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_dead_lettered(&self, messages: usize) -> &Self {
        let count = self.count(SeenState::Dead);
        self.hold(count, messages, "dead letter", "dead letters")
    }

    /// Asserts that so many of its messages wait: for their time, for a retry, or for a handler.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_pending(&self, messages: usize) -> &Self {
        let count = self.count(SeenState::Pending);
        self.hold(count, messages, "message pending", "messages pending")
    }

    /// Asserts that so many of its messages are being handled.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_running(&self, messages: usize) -> &Self {
        let count = self.count(SeenState::Running);
        self.hold(count, messages, "message running", "messages running")
    }

    #[track_caller]
    fn hold(&self, found: usize, wanted: usize, one: &str, many: &str) -> &Self {
        let (was, things) = if wanted == 1 {
            ("was", one)
        } else {
            ("were", many)
        };
        assert!(
            found == wanted,
            "{}: {wanted} {things} {was} expected, there {} {found}\n{self}",
            self.name,
            if found == 1 { "is" } else { "are" },
        );
        self
    }
}

impl fmt::Display for Handled {
    /// The history of each message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.messages.is_empty() {
            f.write_str("  nothing was sent to it")?;
            return match &self.elsewhere[..] {
                [] => f.write_str(", nor to anybody else"),
                places => write!(f, "; messages went to {}", places.join(", ")),
            };
        }
        for seen in self.messages.iter().take(SHOWN) {
            writeln!(f, "{seen}")?;
        }
        match self.messages.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more"),
        }
    }
}

impl Seen {
    /// Its id.
    pub fn id(&self) -> Id {
        self.entry.message.id
    }

    /// What became of it so far.
    pub fn state(&self) -> SeenState {
        self.entry.fate(self.group.as_ref()).state
    }

    /// How often it was started.
    pub fn runs(&self) -> usize {
        self.entry.fate(self.group.as_ref()).runs
    }

    /// Its payload, decoded as a handler would.
    ///
    /// # Panics
    /// If it does not decode.
    #[track_caller]
    pub fn payload<T: for<'a> Payload<'a>>(&self) -> T {
        match T::decode(&self.entry.message) {
            Ok(payload) => payload,
            Err(error) => self.refuse(&format!(
                "the payload is no `{}`: {}",
                std::any::type_name::<T>(),
                Chain(&*error)
            )),
        }
    }

    #[track_caller]
    #[expect(clippy::panic, reason = "a failed assertion of a test")]
    fn refuse(&self, why: &str) -> ! {
        panic!("{why}\n{self}")
    }

    /// Its key, if it has one.
    pub fn key(&self) -> Option<&[u8]> {
        self.entry.message.key()
    }

    /// Its headers.
    pub fn headers(&self) -> Headers {
        self.entry.message.headers()
    }

    /// When it is due, or was.
    pub fn due(&self) -> SystemTime {
        self.entry.due().unwrap_or(self.began).to_system()
    }

    /// How long after it was sent it is due. Zero for what runs at once.
    pub fn due_in(&self) -> Duration {
        let sent = self.entry.sent_at().unwrap_or(self.began);
        self.entry.due().unwrap_or(sent).since(sent)
    }

    /// Why it is among the dead letters.
    pub fn reason(&self) -> Option<Arc<str>> {
        self.entry.reason(self.group.as_ref())
    }

    /// What happened to it, a line for each event.
    pub fn history(&self) -> String {
        self.entry.history(self.group.as_ref(), self.began)
    }
}

impl fmt::Display for Seen {
    /// What it is, then its history.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = &self.entry.message;
        write!(f, "  {} in {}", message.id, self.entry.place)?;
        if let Some(group) = &self.group {
            write!(f, " for group `{group}`")?;
        }
        if let Some(key) = message.key() {
            write!(f, ", key ")?;
            for c in String::from_utf8_lossy(key).chars().take(64) {
                f.write_char(if c.is_control() { '?' } else { c })?;
            }
        }
        write!(f, ": {}{}", shown(message), self.history())
    }
}

/// Whether a handler with this `when` takes the message.
fn takes(when: When, entry: &Entry) -> bool {
    let raw = entry.message.body.raw_headers();
    headers::iter(raw)
        .any(|(name, value)| name == when.header.as_bytes() && value == when.is.as_bytes())
}
