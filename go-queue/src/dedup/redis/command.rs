//! What is asked of Redis for one claim.

use std::time::Duration;

use tokio::time::Instant;

use super::link::Reply;
use crate::dedup::{Answer, Verdict};
use crate::message::Id;

/// Who is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) ticket: u32,
    pub(super) round: u32,
}

/// How a claim ends that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Free, not before this much time.
    Wait { after: Duration },
    /// Free, unless the dead letter is written in time.
    Dying { within: Duration },
    /// As if it had never been.
    Gone,
}

/// What is asked of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Takes what is free, or says what is there.
    Acquire,
    /// Takes over what is there, as this start.
    Take { old: Vec<u8>, attempt: u32 },
    /// Says that it still runs.
    Renew { attempt: u32 },
    /// It is done, whatever is there.
    Done { asker: Option<Asker> },
    /// It ended.
    End {
        asker: Asker,
        attempt: u32,
        end: End,
    },
    /// It ended and nobody waits for the answer. Pointless from this time on.
    Free {
        attempt: u32,
        end: End,
        until: Instant,
    },
}

/// One command of one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) id: Id,
    /// Makes the owner token; 0 for none.
    pub(super) seq: u64,
    pub(super) step: Step,
    /// The script is sent whole.
    pub(super) whole: bool,
}

impl Asker {
    pub(super) fn told(self, verdict: Verdict) -> Answer {
        Answer {
            ticket: self.ticket,
            round: self.round,
            verdict,
        }
    }
}

/// What of a request must be said again although its end is given up: what Redis did not do, because it did not know the script
/// or did not answer, and what no claim tells of any more.
pub(super) fn unsaid(commands: Vec<Command>, replies: &[Reply]) -> impl Iterator<Item = Command> {
    let done = commands.len().min(replies.len());
    let said: Vec<bool> = replies[..done]
        .iter()
        .map(|reply| {
            matches!(
                reply,
                Reply::Nil | Reply::Ok | Reply::Int(_) | Reply::Text(_)
            )
        })
        .collect();
    commands
        .into_iter()
        .enumerate()
        .filter(move |(at, command)| {
            let ends = matches!(
                command.step,
                Step::Done { .. } | Step::End { .. } | Step::Free { .. }
            );
            ends && !said.get(*at).copied().unwrap_or(false)
        })
        .map(|(_, command)| Command {
            whole: true,
            ..command
        })
}
