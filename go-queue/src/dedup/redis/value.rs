//! What stands under the key of a task, and what it means to who asks. Pure.
//!
//! | value | meaning |
//! |---|---|
//! | `R:<attempt>:<owner>:<until>` | running; the owner is unique for each claim |
//! | `W:<attempt>:<owner>:<not before>` | free, not before this time; `owner` wrote it |
//! | `Z:<attempt>:<owner>:<until>` | given up; its dead letter is being written |
//! | `X:<attempt>` | its dead letter is kept |
//! | `D` | done |
//! | `V` | revoked |
//! | `P:<token>` | announced: about to be stored by the producer with this token |
//! | `S:<place>` | stored |
//! | 16 letters and digits | the lock of a worker of the Go library |
//! | `gq-` and 13 letters and digits | the same lock in our hands: the task waits in a private tube |
//!
//! Times are milliseconds since 1970 by the clock of Redis.

use std::sync::Arc;
use std::time::Duration;

use crate::dedup::{GoLock, MarkWhat, Marked};

/// Who finds the claim of somebody else, or one about to be settled, asks again after this time at the latest.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// While a dead letter is written, replicas ask again after this time.
const DYING_AGAIN: Duration = Duration::from_secs(2);

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
    Done,
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
    pub(super) fn read(bytes: &'a [u8]) -> Self {
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
            b"D" => return Some(Self::Done),
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
    pub(super) fn write(self, out: &mut Vec<u8>) {
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
            Self::Done => return out.push(b'D'),
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

    /// As it is stored, in a buffer of its own.
    pub(super) fn to_vec(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.write(&mut out);
        out
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

/// May a run with this owner token start?
pub(super) fn claimed(value: &[u8], me: &str, now: u64) -> Claimed {
    let rest = |until: u64| Duration::from_millis(until.saturating_sub(now));
    match Value::read(value) {
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
        Value::Done | Value::Dead { .. } | Value::Revoked | Value::GoLock | Value::Taken => {
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

/// What a mark does to a value, and what its setter is told.
pub(super) fn marked(what: &MarkWhat, value: Option<&[u8]>, now: u64) -> (Marked, Change) {
    let value = value.map(Value::read);
    // A lease that has ended is no run: its job comes again, and finds what is marked here.
    let runs = matches!(value, Some(Value::Running { until, .. }) if until > now);
    let refused = || (refusal(value, now), Change::None);
    let write = |value: Value<'_>| (Marked::Set, Change::Write(value.to_vec()));
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
            Some(Value::Announced { token: found }) if found == *token => {
                (Marked::Set, Change::Remove)
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
            Some(Value::Done | Value::GoLock | Value::Taken | Value::Unknown) => refused(),
            Some(Value::Running { .. }) if runs => refused(),
            _ => write(Value::Dead { attempt: *attempts }),
        },
        MarkWhat::Replay => match value {
            Some(Value::Dead { .. } | Value::Dying { .. } | Value::Revoked) => {
                (Marked::Set, Change::Remove)
            }
            None => (Marked::Set, Change::None),
            _ => refused(),
        },
        MarkWhat::Forget => match value {
            Some(Value::Revoked | Value::Waiting { attempt: 0, .. }) => {
                (Marked::Set, Change::Remove)
            }
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
        Some(Value::Dying { .. } | Value::Dead { .. }) => Marked::Dead,
        Some(Value::Revoked) => Marked::Revoked,
        // A lock of a Go worker outlives its run by most of an hour; whether it still runs cannot be told.
        Some(Value::Done | Value::GoLock | Value::Unknown) => Marked::Done,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::WallTime;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn values_are_read_as_they_are_written() {
        let values = [
            Value::Running {
                attempt: 3,
                owner: "a-1",
                until: NOW,
            },
            Value::Waiting {
                attempt: 0,
                owner: "-",
                not_before: 7,
            },
            Value::Dying {
                attempt: u32::MAX,
                owner: "b",
                until: u64::MAX,
            },
            Value::Dead { attempt: 9 },
            Value::Done,
            Value::Revoked,
            Value::Announced { token: 12 },
            Value::Stored {
                place: "10.0.0.1:11300/17,b:2/3",
            },
        ];
        for value in values {
            assert_eq!(Value::read(&value.to_vec()), value);
        }
    }

    #[test]
    fn the_lock_of_a_go_worker_is_told_from_what_is_unknown() {
        assert_eq!(Value::read(b"wGfNigJUK7NKQINV"), Value::GoLock);
        assert_eq!(Value::read(&GoLock::new_claim()), Value::Taken);
        let (said, change) = marked(&MarkWhat::Revoke, Some(&GoLock::new_claim()), NOW);
        assert_eq!((said, change), (Marked::Stored(None), Change::None));
        for strange in [
            &b""[..],
            b"wGfNigJUK7NKQIN",
            b"wGfNigJUK7NKQIN:",
            b"R:1:x",
            b"R:1:x:1:2",
            b"R:-1:x:3",
            b"Q:1:x:3",
        ] {
            assert_eq!(Value::read(strange), Value::Unknown, "{strange:?}");
        }
    }

    #[test]
    fn who_asks_learns_what_the_value_means() {
        for (value, want) in [
            ("R:2:me:5", Claimed::Mine { attempt: 2 }),
            ("R:2:you:1800000000000", Claimed::Take { attempt: 3 }),
            (
                "R:2:you:1800000001000",
                Claimed::Running {
                    rest: Duration::from_secs(1),
                },
            ),
            (
                "R:2:you:1800000060000",
                Claimed::Running { rest: ASK_AGAIN },
            ),
            ("W:2:you:1799999999999", Claimed::Take { attempt: 3 }),
            (
                "W:0:-:1800000060000",
                Claimed::Wait {
                    rest: Duration::from_secs(60),
                },
            ),
            ("Z:8:you:1800000060000", Claimed::Wait { rest: DYING_AGAIN }),
            ("Z:8:you:1799999999999", Claimed::Take { attempt: 9 }),
            ("P:7", Claimed::Take { attempt: 1 }),
            ("S:a/1", Claimed::Take { attempt: 1 }),
            ("D", Claimed::Done),
            ("X:9", Claimed::Done),
            ("V", Claimed::Done),
            ("wGfNigJUK7NKQINV", Claimed::Done),
            ("something of next year", Claimed::Wait { rest: ASK_AGAIN }),
        ] {
            assert_eq!(claimed(value.as_bytes(), "me", NOW), want, "{value}");
        }
    }

    #[track_caller]
    fn mark(what: &MarkWhat, value: &str, marked_as: &Marked, becomes: &str) {
        let found = (!value.is_empty()).then_some(value.as_bytes());
        let (answer, change) = marked(what, found, NOW);
        assert_eq!(&answer, marked_as, "{what:?} on {value:?}");
        let after = match &change {
            Change::None => value,
            Change::Remove => "",
            Change::Write(new) => std::str::from_utf8(new).unwrap(),
        };
        assert_eq!(after, becomes, "{what:?} on {value:?}");
    }

    const RUNS: &str = "R:1:a:1800000000001";
    const OVER: &str = "R:1:a:1800000000000";

    #[test]
    fn a_named_task_is_announced_unless_it_is_known() {
        let announce = || MarkWhat::Announce { token: 5 };
        for free in ["", "P:4", "V"] {
            mark(&announce(), free, &Marked::Set, "P:5");
        }
        mark(
            &announce(),
            "S:a/1",
            &Marked::Stored(Some("a/1".into())),
            "S:a/1",
        );
        mark(&announce(), RUNS, &Marked::Running, RUNS);
        mark(&announce(), OVER, &Marked::Stored(None), OVER);
        mark(&announce(), "W:1:a:5", &Marked::Stored(None), "W:1:a:5");
        mark(&announce(), "D", &Marked::Done, "D");
        mark(&announce(), "X:3", &Marked::Dead, "X:3");
        let stored = || MarkWhat::Stored {
            place: "b/2".into(),
        };
        mark(&stored(), "P:5", &Marked::Set, "S:b/2");
        mark(&stored(), RUNS, &Marked::Running, RUNS);
        mark(&stored(), "D", &Marked::Done, "D");
        mark(&stored(), "V", &Marked::Revoked, "V");
        mark(&MarkWhat::Withdraw { token: 5 }, "P:5", &Marked::Set, "");
        mark(
            &MarkWhat::Withdraw { token: 5 },
            "P:6",
            &Marked::Stored(None),
            "P:6",
        );
    }

    #[test]
    fn a_task_is_revoked_unless_it_runs_or_has_run() {
        for free in ["", "P:4", "S:a", "W:2:a:5", OVER] {
            mark(&MarkWhat::Revoke, free, &Marked::Set, "V");
        }
        mark(&MarkWhat::Revoke, RUNS, &Marked::Running, RUNS);
        mark(&MarkWhat::Revoke, "D", &Marked::Done, "D");
        mark(&MarkWhat::Revoke, "Z:1:a:5", &Marked::Dead, "Z:1:a:5");
        mark(&MarkWhat::Revoke, "V", &Marked::Revoked, "V");
        mark(
            &MarkWhat::Revoke,
            "wGfNigJUK7NKQINV",
            &Marked::Done,
            "wGfNigJUK7NKQINV",
        );
        mark(&MarkWhat::Forget, "V", &Marked::Set, "");
        mark(&MarkWhat::Forget, "W:0:-:9", &Marked::Set, "");
        mark(
            &MarkWhat::Forget,
            "W:1:a:9",
            &Marked::Stored(None),
            "W:1:a:9",
        );
    }

    #[test]
    fn a_moved_task_waits_for_its_new_time_and_keeps_its_count() {
        let later = || MarkWhat::NotBefore {
            due: WallTime::from_nanos(1_900_000_000_000_000_001),
        };
        mark(&later(), "S:a", &Marked::Set, "W:0:-:1900000000001");
        mark(&later(), "W:4:a:5", &Marked::Set, "W:4:-:1900000000001");
        mark(&later(), OVER, &Marked::Set, "W:1:-:1900000000001");
        mark(&later(), RUNS, &Marked::Running, RUNS);
        mark(&later(), "V", &Marked::Revoked, "V");
    }

    #[test]
    fn a_dead_letter_is_kept_first_and_replayed_once() {
        let dead = || MarkWhat::Dead { attempts: 9 };
        for given_up in ["Z:9:a:5", "", "W:9:a:5", OVER, "X:9"] {
            mark(&dead(), given_up, &Marked::Set, "X:9");
        }
        mark(&dead(), RUNS, &Marked::Running, RUNS);
        mark(&dead(), "D", &Marked::Done, "D");
        mark(&MarkWhat::Replay, "X:9", &Marked::Set, "");
        mark(&MarkWhat::Replay, "Z:9:a:5", &Marked::Set, "");
        mark(&MarkWhat::Replay, "", &Marked::Set, "");
        mark(&MarkWhat::Replay, RUNS, &Marked::Running, RUNS);
        mark(&MarkWhat::Replay, "D", &Marked::Done, "D");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..64), now: u64) {
            let _ = claimed(&bytes, "me", now);
        }

        #[test]
        fn numbers_are_written_as_they_are_formatted(number: u64) {
            let mut out = Vec::new();
            digits(number, &mut out);
            prop_assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
