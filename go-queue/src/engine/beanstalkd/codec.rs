//! The protocol of beanstalkd as bytes: commands out, answers in. Pure; nothing here reads, writes or waits.
//!
//! Two rules hold everything else up:
//!
//! - A command is checked whole before its first byte is written. Numbers have the width the server reads, tubes follow its
//!   rule, and a body is announced with its true length, so that no body, tube or number can become a second command.
//! - An answer is read as what the command in question can be answered with. Anything else is a [`DecodeError`], and the
//!   connection is over: answers carry no ids, so that one answer read wrongly makes every later one somebody else's.

use bytes::{Buf, Bytes, BytesMut};

/// The longest tube name in bytes that the server takes.
pub(crate) const MAX_TUBE_LEN: usize = 200;

/// The longest line of an answer with its end: `USING` or a number or two and a name.
const MAX_LINE_LEN: usize = 256;

/// One command, with everything it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command<'a> {
    /// Stores a job in the used tube.
    Put {
        /// Lower goes first.
        priority: u32,
        /// Seconds until it is ready.
        delay: u32,
        /// Seconds that a worker may hold it without a touch; the server makes at least 1 of it.
        ttr: u32,
        /// The body in pieces, written one behind the other.
        body: &'a [&'a [u8]],
        /// The longest body that may be sent, in bytes.
        limit: usize,
    },
    /// Where the next puts go.
    Use(&'a str),
    /// Takes the next job of the watched tubes, waiting so many seconds at most. More than 0 blocks what follows it.
    ReserveWithTimeout(u32),
    /// Takes this job, if it is not reserved, also a delayed or buried one.
    ReserveJob(u64),
    /// Removes a job that is reserved here, or by nobody.
    Delete(u64),
    /// Gives a reserved job back.
    Release {
        /// Which.
        id: u64,
        /// Its new priority.
        priority: u32,
        /// Seconds until it is ready again.
        delay: u32,
    },
    /// Sets a reserved job aside.
    Bury {
        /// Which.
        id: u64,
        /// Its new priority.
        priority: u32,
    },
    /// Starts the time to run of a reserved job anew.
    Touch(u64),
    /// Adds a tube to those that are reserved from.
    Watch(&'a str),
    /// Removes a tube from those that are reserved from.
    Ignore(&'a str),
    /// Shows a job.
    Peek(u64),
    /// Shows the oldest buried job of the used tube.
    PeekBuried,
    /// Shows the next job that is ready in the used tube.
    PeekReady,
    /// Shows the delayed job of the used tube that is due first.
    PeekDelayed,
    /// Makes so many jobs of the used tube ready: the buried ones or, where none is buried, the delayed ones.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a table of the protocol is whole or it misleads")
    )]
    Kick(u32),
    /// Makes one buried or delayed job ready.
    KickJob(u64),
    /// Counters and settings of the server.
    Stats,
    /// What is known of a job.
    StatsJob(u64),
    /// What is known of a tube.
    StatsTube(&'a str),
    /// The tube that puts go to: answered by every healthy server, whatever it does.
    ListTubeUsed,
    /// Stops reserves from a tube for so many seconds.
    PauseTube {
        /// Which.
        tube: &'a str,
        /// How long; 0 ends a pause.
        seconds: u32,
    },
}

/// Which command an answer belongs to; says what the answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// `put`.
    Put,
    /// `use`, `list-tube-used`.
    Using,
    /// `reserve-with-timeout`.
    Reserve,
    /// `reserve-job`.
    ReserveJob,
    /// `delete`.
    Delete,
    /// `release`.
    Release,
    /// `bury`.
    Bury,
    /// `touch`.
    Touch,
    /// `watch`, `ignore`.
    Watching,
    /// `peek` and its like.
    Peek,
    /// `kick`.
    Kick,
    /// `kick-job`.
    KickJob,
    /// `stats` and its like.
    Stats,
    /// `pause-tube`.
    Pause,
}

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The job is stored.
    Inserted(u64),
    /// To `put`: the job is there, but set aside for want of memory; nobody will run it.
    PutBuried(u64),
    /// The tube in use.
    Using(Bytes),
    /// A job, leased to this connection.
    Reserved {
        /// Its id at this server.
        id: u64,
        /// Its body.
        body: Bytes,
    },
    /// Nothing is ready, and a job in the hands of this connection has less than a second left.
    DeadlineSoon,
    /// Nothing was ready in time.
    TimedOut,
    /// Gone for good.
    Deleted,
    /// No such job or tube, or not in a state or in hands that allow it.
    NotFound,
    /// Given back.
    Released,
    /// Set aside; to `release` for want of memory.
    Buried,
    /// The time to run starts anew.
    Touched,
    /// So many tubes are watched.
    Watching(u64),
    /// The last watched tube stays watched.
    NotIgnored,
    /// A job, shown.
    Found {
        /// Its id at this server.
        id: u64,
        /// Its body.
        body: Bytes,
    },
    /// So many jobs are ready now; 1 to `kick-job`.
    Kicked(u64),
    /// A YAML text; see [`stat`].
    Stats(Bytes),
    /// The tube is paused.
    Paused,
    /// To `put`: longer than this server takes. Nothing was stored.
    JobTooBig,
    /// To `put`: this server takes no more jobs until it is started anew.
    Draining,
    /// No room in memory or in the binlog; nothing was changed.
    OutOfMemory,
}

/// Why a command is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EncodeError {
    /// Not a tube name to the server.
    #[error(
        "a tube name has 1 to 200 bytes of letters, digits and `-+/;.$_()` and does not begin with `-`"
    )]
    TubeName,
    /// Longer than allowed.
    #[error("the job has {size} bytes, the limit is {limit}")]
    BodyTooLong {
        /// Bytes of the body.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// Why the bytes of a server make no sense here. The connection cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// A line that does not answer the command.
    #[error("`{line}` does not answer a {expect:?} command")]
    Unexpected {
        /// Which command.
        expect: Expect,
        /// Its beginning, control characters escaped.
        line: String,
    },
    /// No end of line where one must be.
    #[error("a line of an answer does not end")]
    LineTooLong,
    /// A body longer than this connection accepts.
    #[error("a body of {size} bytes, the limit is {limit}")]
    BodyTooLong {
        /// Bytes announced.
        size: u64,
        /// Bytes accepted.
        limit: usize,
    },
    /// A body that does not end where it was announced to.
    #[error("a body does not end where it should")]
    BodyEnd,
}

/// Checks a tube name by the rule of the server.
///
/// # Errors
/// [`EncodeError::TubeName`].
pub(crate) fn check_tube(tube: &str) -> Result<(), EncodeError> {
    let bytes = tube.as_bytes();
    let valid = (1..=MAX_TUBE_LEN).contains(&bytes.len())
        && bytes[0] != b'-'
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-+/;.$_()".contains(b));
    if valid {
        Ok(())
    } else {
        Err(EncodeError::TubeName)
    }
}

impl Command<'_> {
    /// Appends the command, or nothing.
    ///
    /// # Errors
    /// If the server would not read it as this one command.
    #[inline]
    #[expect(
        clippy::too_many_lines,
        reason = "one table of the protocol, an arm for each command"
    )]
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<Expect, EncodeError> {
        let expect = match *self {
            Self::Put {
                priority,
                delay,
                ttr,
                body,
                limit,
            } => {
                let size = body.iter().map(|part| part.len()).sum::<usize>();
                if size > limit {
                    return Err(EncodeError::BodyTooLong { size, limit });
                }
                out.reserve(size + 64);
                let numbers = [priority, delay, ttr].map(u64::from);
                line(
                    out,
                    b"put",
                    &[numbers[0], numbers[1], numbers[2], size as u64],
                );
                for part in body {
                    out.extend_from_slice(part);
                }
                out.extend_from_slice(b"\r\n");
                Expect::Put
            }
            Self::Use(tube) => {
                tube_line(out, b"use ", tube)?;
                Expect::Using
            }
            Self::ReserveWithTimeout(0) => {
                out.extend_from_slice(b"reserve-with-timeout 0\r\n");
                Expect::Reserve
            }
            Self::ReserveWithTimeout(seconds) => {
                line(out, b"reserve-with-timeout", &[seconds.into()]);
                Expect::Reserve
            }
            Self::ReserveJob(id) => {
                line(out, b"reserve-job", &[id]);
                Expect::ReserveJob
            }
            Self::Delete(id) => {
                line(out, b"delete", &[id]);
                Expect::Delete
            }
            Self::Release {
                id,
                priority,
                delay,
            } => {
                line(out, b"release", &[id, priority.into(), delay.into()]);
                Expect::Release
            }
            Self::Bury { id, priority } => {
                line(out, b"bury", &[id, priority.into()]);
                Expect::Bury
            }
            Self::Touch(id) => {
                line(out, b"touch", &[id]);
                Expect::Touch
            }
            Self::Watch(tube) => {
                tube_line(out, b"watch ", tube)?;
                Expect::Watching
            }
            Self::Ignore(tube) => {
                tube_line(out, b"ignore ", tube)?;
                Expect::Watching
            }
            Self::Peek(id) => {
                line(out, b"peek", &[id]);
                Expect::Peek
            }
            Self::PeekBuried => {
                out.extend_from_slice(b"peek-buried\r\n");
                Expect::Peek
            }
            Self::PeekReady => {
                out.extend_from_slice(b"peek-ready\r\n");
                Expect::Peek
            }
            Self::PeekDelayed => {
                out.extend_from_slice(b"peek-delayed\r\n");
                Expect::Peek
            }
            Self::Kick(bound) => {
                line(out, b"kick", &[bound.into()]);
                Expect::Kick
            }
            Self::KickJob(id) => {
                line(out, b"kick-job", &[id]);
                Expect::KickJob
            }
            Self::Stats => {
                out.extend_from_slice(b"stats\r\n");
                Expect::Stats
            }
            Self::StatsJob(id) => {
                line(out, b"stats-job", &[id]);
                Expect::Stats
            }
            Self::StatsTube(tube) => {
                tube_line(out, b"stats-tube ", tube)?;
                Expect::Stats
            }
            Self::ListTubeUsed => {
                out.extend_from_slice(b"list-tube-used\r\n");
                Expect::Using
            }
            Self::PauseTube { tube, seconds } => {
                check_tube(tube)?;
                out.extend_from_slice(b"pause-tube ");
                out.extend_from_slice(tube.as_bytes());
                line(out, b"", &[seconds.into()]);
                Expect::Pause
            }
        };
        Ok(expect)
    }
}

/// A word and numbers, without the formatting machinery: this is on the path of every message.
fn line(out: &mut Vec<u8>, word: &[u8], numbers: &[u64]) {
    out.extend_from_slice(word);
    for &number in numbers {
        out.push(b' ');
        digits(out, number);
    }
    out.extend_from_slice(b"\r\n");
}

fn tube_line(out: &mut Vec<u8>, word: &[u8], tube: &str) -> Result<(), EncodeError> {
    check_tube(tube)?;
    out.extend_from_slice(word);
    out.extend_from_slice(tube.as_bytes());
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends a number in decimal.
pub(crate) fn digits(out: &mut Vec<u8>, mut number: u64) {
    // 2^64 has 20 digits.
    let mut text = [b'0'; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

impl Answer {
    /// Takes the next answer off the front of `input`, or nothing while it is not whole. Bodies share the memory of `input`.
    ///
    /// # Errors
    /// If it cannot answer such a command, or its body is longer than `limit`. Then `input` is of no use any more.
    #[inline]
    pub(crate) fn decode(
        expect: Expect,
        input: &mut BytesMut,
        limit: usize,
    ) -> Result<Option<Self>, DecodeError> {
        let window = &input[..input.len().min(MAX_LINE_LEN)];
        let Some(end) = window.iter().position(|&b| b == b'\n') else {
            return if window.len() < MAX_LINE_LEN {
                Ok(None)
            } else {
                Err(DecodeError::LineTooLong)
            };
        };
        let line = &window[..=end];
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(unexpected(expect, line));
        };
        let word_len = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
        let (word, rest) = line.split_at(word_len);
        let bare = rest.is_empty();
        let answer = match (word, expect) {
            (b"RESERVED", Expect::Reserve | Expect::ReserveJob)
            | (b"FOUND", Expect::Peek)
            | (b"OK", Expect::Stats) => {
                return Self::with_body(expect, input, end, limit);
            }
            (b"USING", Expect::Using) if rest.len() > 1 => {
                let tube = Bytes::copy_from_slice(&rest[1..]);
                Some(Self::Using(tube))
            }
            (b"INSERTED", Expect::Put) => one(rest).map(Self::Inserted),
            (b"BURIED", Expect::Put) => one(rest).map(Self::PutBuried),
            (b"WATCHING", Expect::Watching) => one(rest).map(Self::Watching),
            (b"KICKED", Expect::Kick) => one(rest).map(Self::Kicked),
            (b"KICKED", Expect::KickJob) if bare => Some(Self::Kicked(1)),
            (b"DELETED", Expect::Delete) if bare => Some(Self::Deleted),
            (b"TIMED_OUT", Expect::Reserve) if bare => Some(Self::TimedOut),
            (b"DEADLINE_SOON", Expect::Reserve) if bare => Some(Self::DeadlineSoon),
            (b"RELEASED", Expect::Release) if bare => Some(Self::Released),
            (b"BURIED", Expect::Release | Expect::Bury) if bare => Some(Self::Buried),
            (b"TOUCHED", Expect::Touch) if bare => Some(Self::Touched),
            (b"NOT_IGNORED", Expect::Watching) if bare => Some(Self::NotIgnored),
            (b"PAUSED", Expect::Pause) if bare => Some(Self::Paused),
            (b"JOB_TOO_BIG", Expect::Put) if bare => Some(Self::JobTooBig),
            (b"DRAINING", Expect::Put) if bare => Some(Self::Draining),
            (b"OUT_OF_MEMORY", _) if bare => Some(Self::OutOfMemory),
            (
                b"NOT_FOUND",
                Expect::ReserveJob
                | Expect::Delete
                | Expect::Release
                | Expect::Bury
                | Expect::Touch
                | Expect::Peek
                | Expect::KickJob
                | Expect::Stats
                | Expect::Pause,
            ) if bare => Some(Self::NotFound),
            // `BAD_FORMAT`, `UNKNOWN_COMMAND`, `EXPECTED_CRLF`, `INTERNAL_ERROR` and whatever is none of the protocol: the
            // server read something else than what was meant, and what it will answer next is not known.
            _ => None,
        };
        let answer = answer.ok_or_else(|| unexpected(expect, line))?;
        input.advance(end + 1);
        Ok(Some(answer))
    }

    /// An answer whose line, which ends at `end`, announces a body.
    fn with_body(
        expect: Expect,
        input: &mut BytesMut,
        end: usize,
        limit: usize,
    ) -> Result<Option<Self>, DecodeError> {
        let line = &input[..end - 1];
        let numbers = line.iter().position(|&b| b == b' ').map(|at| &line[at..]);
        let parsed = numbers.and_then(|numbers| match expect {
            Expect::Stats => one(numbers).map(|size| (0, size)),
            _ => two(numbers),
        });
        let (id, size) = parsed.ok_or_else(|| unexpected(expect, line))?;
        let len = match usize::try_from(size) {
            Ok(len) if len <= limit => len,
            _ => return Err(DecodeError::BodyTooLong { size, limit }),
        };
        let begin = end + 1;
        if input.len() < begin + len + 2 {
            return Ok(None);
        }
        if &input[begin + len..begin + len + 2] != b"\r\n" {
            return Err(DecodeError::BodyEnd);
        }
        input.advance(begin);
        let body = input.split_to(len).freeze();
        input.advance(2);
        Ok(Some(match expect {
            Expect::Stats => Self::Stats(body),
            Expect::Peek => Self::Found { id, body },
            _ => Self::Reserved { id, body },
        }))
    }
}

/// The number in ` 17`.
fn one(rest: &[u8]) -> Option<u64> {
    number(rest.strip_prefix(b" ")?)
}

/// The numbers in ` 17 4`.
fn two(rest: &[u8]) -> Option<(u64, u64)> {
    let rest = rest.strip_prefix(b" ")?;
    let at = rest.iter().position(|&b| b == b' ')?;
    Some((number(&rest[..at])?, number(&rest[at + 1..])?))
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cold]
fn unexpected(expect: Expect, line: &[u8]) -> DecodeError {
    let begin = line.trim_ascii_end();
    DecodeError::Unexpected {
        expect,
        line: begin[..begin.len().min(40)].escape_ascii().to_string(),
    }
}

/// The value of one field of a [`Answer::Stats`]: `stat(b"---\nreleases: 3\n", "releases")` is `3`.
pub(crate) fn stat<'a>(text: &'a [u8], field: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines().find_map(|line| {
        let value = line.strip_prefix(field)?.strip_prefix(": ")?;
        Some(value.trim_matches('"'))
    })
}

#[cfg(test)]
mod tests;
