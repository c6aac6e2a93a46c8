//! What stands under the key of a task, and what it means to who asks. Pure.
//!
//! | value | meaning |
//! |---|---|
//! | `R:<attempt>:<owner>:<until>` | running; the owner is unique for each claim |
//! | `W:<attempt>:<owner>:<not before>` | free, not before this time; `owner` wrote it |
//! | `Z:<attempt>:<owner>:<until>` | given up; its dead letter is being written |
//! | `X:<attempt>` | its dead letter is kept |
//! | `D`, or `D:<until>` | done; as far as names go, until then |
//! | `V` | revoked |
//! | `P:<token>` | announced: about to be stored by the producer with this token |
//! | `S:<place>` | stored |
//! | 16 letters and digits | the lock of a worker of the Go library |
//! | `gq-` and 13 letters and digits | the same lock in our hands: the task waits in a private tube |
//!
//! Times are milliseconds since 1970 by the clock of Redis.
//!
//! All generations of a name share one key: `<generation>~` stands before the value of one that is not the first. A copy of an
//! earlier generation was revoked; a value of an earlier generation says nothing of a later one.

use std::sync::Arc;
use std::time::Duration;

use crate::dedup::{GoLock, MarkWhat, Marked};

/// Who finds the claim of somebody else, or one about to be settled, asks again after this time at the latest.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// While a dead letter is written, replicas ask again after this time.
const DYING_AGAIN: Duration = Duration::from_secs(2);

/// What stands under a key: a value, and of which generation of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing<'a> {
    pub(super) generation: u16,
    pub(super) value: Value<'a>,
}

impl<'a> Standing<'a> {
    /// Reads it; never fails.
    pub(super) fn read(bytes: &'a [u8]) -> Self {
        let digits = bytes
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let generation = std::str::from_utf8(&bytes[..digits]).ok();
        match (
            generation.and_then(|text| text.parse().ok()),
            bytes.get(digits),
        ) {
            (Some(generation), Some(b'~')) => Self {
                generation,
                value: Value::read(&bytes[digits + 1..]),
            },
            _ => Self {
                generation: 0,
                value: Value::read(bytes),
            },
        }
    }

    /// As it is stored.
    pub(super) fn to_vec(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        if self.generation > 0 {
            digits(u64::from(self.generation), &mut out);
            out.push(b'~');
        }
        self.value.write(&mut out);
        out
    }

    /// What it says to this generation. `None`: nothing, it is of an earlier one.
    fn seen_by(self, generation: u16) -> Option<Value<'a>> {
        if self.is_after(generation) {
            return Some(Value::Revoked);
        }
        (self.generation == generation).then_some(self.value)
    }

    /// Whether the name was revoked and sent anew since that generation; counted around.
    fn is_after(&self, generation: u16) -> bool {
        (1..0x8000).contains(&self.generation.wrapping_sub(generation))
    }
}

/// A value, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Running {
        attempt: u32,
        owner: &'a str,
        until: u64,
    },
    Waiting {
        attempt: u32,
        owner: &'a str,
        not_before: u64,
    },
    Dying {
        attempt: u32,
        owner: &'a str,
        until: u64,
    },
    Dead {
        attempt: u32,
    },
    Done {
        until: Option<u64>,
    },
    Revoked,
    Announced {
        token: u64,
    },
    Stored {
        place: &'a str,
    },
    GoLock,
    /// The lock of the Go library, by a claim of ours.
    Taken,
    /// Nothing that this version writes.
    Unknown,
}

impl<'a> Value<'a> {
    /// Reads a value; never fails.
    fn read(bytes: &'a [u8]) -> Self {
        Self::parse(bytes).unwrap_or_else(|| {
            if bytes.len() == 16 && bytes.iter().all(u8::is_ascii_alphanumeric) {
                Self::GoLock
            } else if bytes.len() == 16 && bytes.starts_with(GoLock::OURS) {
                Self::Taken
            } else {
                Self::Unknown
            }
        })
    }

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes {
            b"D" => return Some(Self::Done { until: None }),
            b"V" => return Some(Self::Revoked),
            _ => {}
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "P" => {
                return rest.parse().ok().map(|token| Self::Announced { token });
            }
            "S" => return Some(Self::Stored { place: rest }),
            "D" => {
                return rest
                    .parse()
                    .ok()
                    .map(|until| Self::Done { until: Some(until) });
            }
            "X" => {
                return rest.parse().ok().map(|attempt| Self::Dead { attempt });
            }
            _ => {}
        }
        let mut parts = rest.split(':');
        let attempt = parts.next()?.parse().ok()?;
        let owner = parts.next()?;
        let time = parts.next()?.parse().ok()?;
        if parts.next().is_some() {
            return None;
        }
        match kind {
            "R" => Some(Self::Running {
                attempt,
                owner,
                until: time,
            }),
            "W" => Some(Self::Waiting {
                attempt,
                owner,
                not_before: time,
            }),
            "Z" => Some(Self::Dying {
                attempt,
                owner,
                until: time,
            }),
            _ => None,
        }
    }

    /// Appends it as it is stored.
    fn write(self, out: &mut Vec<u8>) {
        let (kind, attempt, owner, time) = match self {
            Self::Running {
                attempt,
                owner,
                until,
            } => (b'R', attempt, owner, until),
            Self::Waiting {
                attempt,
                owner,
                not_before,
            } => (b'W', attempt, owner, not_before),
            Self::Dying {
                attempt,
                owner,
                until,
            } => (b'Z', attempt, owner, until),
            Self::Dead { attempt } => {
                out.extend_from_slice(b"X:");
                return digits(u64::from(attempt), out);
            }
            Self::Done { until } => {
                out.push(b'D');
                if let Some(until) = until {
                    out.push(b':');
                    digits(until, out);
                }
                return;
            }
            Self::Revoked => return out.push(b'V'),
            Self::Announced { token } => {
                out.extend_from_slice(b"P:");
                return digits(token, out);
            }
            Self::Stored { place } => {
                out.extend_from_slice(b"S:");
                return out.extend_from_slice(place.as_bytes());
            }
            // Not ours to write.
            Self::GoLock | Self::Taken | Self::Unknown => return,
        };
        out.extend_from_slice(&[kind, b':']);
        digits(u64::from(attempt), out);
        out.push(b':');
        out.extend_from_slice(owner.as_bytes());
        out.push(b':');
        digits(time, out);
    }
}

/// The token of one claim of an end. Nonces have one length, so that no token is part of another.
pub(super) fn owner(nonce: &str, seq: u64) -> String {
    let mut owner = Vec::with_capacity(nonce.len() + 21);
    owner.extend_from_slice(nonce.as_bytes());
    owner.push(b'-');
    digits(seq, &mut owner);
    String::from_utf8(owner).unwrap_or_default()
}

/// Appends a number without going through formatting.
pub(super) fn digits(mut number: u64, out: &mut Vec<u8>) {
    let mut buffer = [0; 20];
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&buffer[at..]);
}

/// What a value says to who wants to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// It is the asker's own claim, from an ask whose answer was lost.
    Mine { attempt: u32 },
    /// It may be taken over, as this start, if it is still the same.
    Take { attempt: u32 },
    /// It must not start any more.
    Done,
    /// Somebody runs it, at most so long without a sign of life.
    Running { rest: Duration },
    /// Not before this time has passed.
    Wait { rest: Duration },
}

/// May a run of this generation with this owner token start?
pub(super) fn claimed(value: &[u8], generation: u16, me: &str, now: u64) -> Claimed {
    let rest = |until: u64| Duration::from_millis(until.saturating_sub(now));
    let Some(value) = Standing::read(value).seen_by(generation) else {
        return Claimed::Take { attempt: 1 };
    };
    match value {
        Value::Running { owner, attempt, .. } if owner == me => Claimed::Mine { attempt },
        Value::Running { attempt, until, .. } if until <= now => Claimed::Take {
            attempt: attempt.saturating_add(1),
        },
        Value::Running { until, .. } => Claimed::Running {
            rest: rest(until).min(ASK_AGAIN),
        },
        Value::Waiting {
            attempt,
            not_before: time,
            ..
        }
        | Value::Dying {
            attempt,
            until: time,
            ..
        } if time <= now => Claimed::Take {
            attempt: attempt.saturating_add(1),
        },
        Value::Waiting { not_before, .. } => Claimed::Wait {
            rest: rest(not_before),
        },
        Value::Dying { until, .. } => Claimed::Wait {
            rest: rest(until).min(DYING_AGAIN),
        },
        Value::Announced { .. } | Value::Stored { .. } => Claimed::Take { attempt: 1 },
        Value::Done { .. } | Value::Dead { .. } | Value::Revoked | Value::GoLock | Value::Taken => {
            Claimed::Done
        }
        // Written by a version that knows more: dropping the replica could lose the task.
        Value::Unknown => Claimed::Wait { rest: ASK_AGAIN },
    }
}

/// What becomes of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Write(Vec<u8>),
    Remove,
}

/// What a mark of a task of this generation does to a value, what its setter is told, and of which generation.
pub(super) fn marked(
    what: &MarkWhat,
    mut generation: u16,
    value: Option<&[u8]>,
    now: u64,
) -> (Marked, Change, u16) {
    let standing = value.map(Standing::read);
    if let (MarkWhat::Announce { .. }, Some(standing)) = (what, standing) {
        // Who sends a name means the task that has it now, or the next one.
        generation = standing.generation;
        let over = match standing.value {
            Value::Revoked => true,
            Value::Done { until } => until.is_some_and(|until| until <= now),
            _ => false,
        };
        if over {
            generation = generation.wrapping_add(1);
        }
    }
    if standing.is_some_and(|standing| standing.is_after(generation)) {
        return (Marked::Revoked, Change::None, generation);
    }
    let value = standing.and_then(|standing| standing.seen_by(generation));
    let (marked, change) = changed(what, generation, value, now);
    (marked, change, generation)
}

fn changed(
    what: &MarkWhat,
    generation: u16,
    value: Option<Value<'_>>,
    now: u64,
) -> (Marked, Change) {
    // A lease that has ended is no run: its job comes again, and finds what is marked here.
    let runs = matches!(value, Some(Value::Running { until, .. }) if until > now);
    let refused = || (refusal(value, now), Change::None);
    let write = |value: Value<'_>| {
        let standing = Standing { generation, value };
        (Marked::Set, Change::Write(standing.to_vec()))
    };
    // That the generations before were revoked is known for as long as this key is there.
    let forget = || match generation {
        0 => (Marked::Set, Change::Remove),
        _ => write(Value::Announced { token: 0 }),
    };
    match what {
        MarkWhat::Announce { token } => match value {
            None | Some(Value::Announced { .. } | Value::Revoked) => {
                write(Value::Announced { token: *token })
            }
            _ => refused(),
        },
        MarkWhat::Stored { place } => match value {
            None | Some(Value::Announced { .. } | Value::Stored { .. }) => {
                write(Value::Stored { place })
            }
            _ => refused(),
        },
        MarkWhat::Withdraw { token } => match value {
            Some(Value::Announced { token: found }) if found == *token && generation == 0 => {
                (Marked::Set, Change::Remove)
            }
            // The generation before was revoked, and still is.
            Some(Value::Announced { token: found }) if found == *token => {
                let standing = Standing {
                    generation: generation - 1,
                    value: Value::Revoked,
                };
                (Marked::Set, Change::Write(standing.to_vec()))
            }
            None => (Marked::Set, Change::None),
            _ => refused(),
        },
        MarkWhat::Revoke => match value {
            None | Some(Value::Announced { .. } | Value::Stored { .. } | Value::Waiting { .. }) => {
                write(Value::Revoked)
            }
            Some(Value::Running { .. }) if !runs => write(Value::Revoked),
            _ => refused(),
        },
        MarkWhat::NotBefore { due } => {
            let not_before =
                u64::try_from(due.as_nanos().max(0)).map_or(0, |n| n.div_ceil(1_000_000));
            let attempt = match value {
                None | Some(Value::Announced { .. } | Value::Stored { .. }) => 0,
                Some(Value::Waiting { attempt, .. }) => attempt,
                Some(Value::Running { attempt, .. }) if !runs => attempt,
                _ => return refused(),
            };
            write(Value::Waiting {
                attempt,
                owner: "-",
                not_before,
            })
        }
        MarkWhat::Dead { attempts } => match value {
            None | Some(Value::Dying { .. } | Value::Dead { .. }) => {
                write(Value::Dead { attempt: *attempts })
            }
            _ => refused(),
        },
        MarkWhat::Replay => match value {
            // Who is late to say that it is dead finds that it is not any more.
            None | Some(Value::Dead { .. } | Value::Dying { .. } | Value::Revoked) => {
                write(Value::Announced { token: 0 })
            }
            _ => refused(),
        },
        MarkWhat::Purge => match value {
            None | Some(Value::Dead { .. } | Value::Dying { .. }) => write(Value::Revoked),
            _ => refused(),
        },
        MarkWhat::Forget => match value {
            Some(Value::Revoked | Value::Waiting { attempt: 0, .. }) => forget(),
            None => (Marked::Set, Change::None),
            _ => refused(),
        },
    }
}

/// Why a mark was not set.
fn refusal(value: Option<Value<'_>>, now: u64) -> Marked {
    match value {
        Some(Value::Running { until, .. }) if until > now => Marked::Running,
        Some(
            Value::Running { .. } | Value::Waiting { .. } | Value::Announced { .. } | Value::Taken,
        )
        | None => Marked::Stored(None),
        Some(Value::Stored { place }) => Marked::Stored(Some(Arc::from(place))),
        Some(Value::Dying { .. }) => Marked::Dying,
        Some(Value::Dead { .. }) => Marked::Dead,
        Some(Value::Revoked) => Marked::Revoked,
        // A lock of a Go worker outlives its run by most of an hour; whether it still runs cannot be told.
        Some(Value::Done { .. } | Value::GoLock | Value::Unknown) => Marked::Done,
    }
}

#[cfg(test)]
mod tests;
