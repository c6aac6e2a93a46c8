//! The wire format of the Go library `github.com/zeromicro/go-queue`, for tubes with `wire: go-queue`.
//!
//! A body is the due time in nanoseconds since 1970 as decimal digits, a `/`, and the payload. There is no room for an id, a key,
//! headers or a count of attempts. The id of a task is the MD5 of the whole body, which is also its key in Redis, and
//! what `Delay` and `At` answer in Go is a list of `endpoint/tube/job`, joined by `,`.
//!
//! Everything here is pure and follows what the Go library does, byte for byte. The page `docs/wire.md` says it in words.

use std::fmt;
use std::time::Duration;

use bytes::BufMut;
#[cfg(feature = "beanstalkd")]
use bytes::{Buf, Bytes};

#[cfg(feature = "beanstalkd")]
use super::envelope::{Closed, Opened};
#[cfg(feature = "beanstalkd")]
use super::{Body, ContentType, Flags, Message};
use super::{Id, envelope::OpenError};
use crate::time::WallTime;

/// The priority of every job that the Go library puts.
pub const PRIORITY: u32 = 2;

/// The time to run of every job that the Go library puts, in seconds. Ours may be longer, never shorter.
pub const LEAST_TIME_TO_RUN: u32 = 5;

/// How late a task may be met before a Go worker removes it without running it.
pub const TOLERANCE: Duration = Duration::from_secs(30 * 60);

/// How long a Go worker's claim on a task lives.
pub const CLAIM_LIFE: Duration = Duration::from_millis(3_600_500);

/// Until this long after its due time a claim that succeeds proves that no Go worker has run the task: the earliest claim is made one
/// second before it is due and lives an hour.
pub const PROOF: Duration = Duration::from_secs(3_599);

/// The script by which a Go worker claims a task: `KEYS[1]` is [`Key`], `ARGV[1]` the claim id, `ARGV[2]` its life in
/// milliseconds. `OK`: claimed, also if this claim id has it already; nil: somebody else's.
pub const CLAIM_SCRIPT: &str = r#"if redis.call("GET", KEYS[1]) == ARGV[1] then
    redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
    return "OK"
else
    return redis.call("SET", KEYS[1], ARGV[1], "NX", "PX", ARGV[2])
end"#;

/// SHA-1 of [`CLAIM_SCRIPT`], for `EVALSHA`.
pub const CLAIM_SCRIPT_SHA1: &str = "dbecad63894903ddf755d05d73a3eb7432ef75c0";

/// Where the `/` stands at the latest for a Go worker to look at the body.
const LAST_SLASH: usize = 20;

/// The most bytes that stand before the payload in what we write.
pub const MAX_PREFIX_LEN: usize = LAST_SLASH + 1;

/// Appends the body of a task.
pub fn wrap(due: WallTime, payload: &[u8], into: &mut impl BufMut) {
    let mut digits = [0; MAX_PREFIX_LEN];
    let mut at = digits.len() - 1;
    digits[at] = b'/';
    let mut rest = due.as_nanos().unsigned_abs();
    loop {
        at -= 1;
        // A digit: less than 10.
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if due < WallTime::EPOCH {
        at -= 1;
        digits[at] = b'-';
    }
    into.put_slice(&digits[at..]);
    into.put_slice(payload);
}

/// Due time and length of the prefix, `/` included, by the rule of a Go worker: the first `/` stands at byte 20 at the latest,
/// and what stands before it is a decimal number of 64 bits, with or without a sign.
///
/// # Errors
/// [`OpenError::NoTime`] for what a Go worker would remove as broken.
pub fn unwrap(raw: &[u8]) -> Result<(WallTime, usize), OpenError> {
    let slash = raw
        .iter()
        .take(LAST_SLASH + 1)
        .position(|byte| *byte == b'/')
        .ok_or(OpenError::NoTime)?;
    // What Rust reads as a number is what Go's ParseInt reads: one sign, any zeros, no underscores, no overflow.
    let due = std::str::from_utf8(&raw[..slash])
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(OpenError::NoTime)?;
    Ok((WallTime::from_nanos(due), slash + 1))
}

/// Whether a Go worker would remove this task instead of running it, with another tolerance if that is wanted.
pub fn is_late(due: WallTime, now: WallTime, tolerance: Duration) -> bool {
    due.saturating_add(tolerance) < now
}

/// The delay for a put, in whole seconds and rounded up: a Go worker does not look whether a task is due, it runs what
/// becomes ready.
pub fn delay(due: WallTime, now: WallTime) -> u32 {
    let wait = due.since(now);
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// A due time that belongs to one task alone: the next whole millisecond, and within it the nanosecond that `nth` chooses.
///
/// Two tasks with the same payload and the same due time are one task to the Go library, which runs one of them. A producer that counts
/// `nth` up, from a random start, never makes two equal bodies within a million tasks; of two processes that
/// send the same payload for the same millisecond, one pair in a million meets.
#[must_use]
pub fn distinct_due(due: WallTime, nth: u32) -> WallTime {
    const MILLI: i64 = 1_000_000;
    let up = due.as_nanos().saturating_add(MILLI - 1);
    let whole = up - up.rem_euclid(MILLI);
    WallTime::from_nanos(whole.saturating_add(i64::from(nth) % MILLI))
}

/// The id of a task: the MD5 of its whole body.
#[cfg(feature = "beanstalkd")]
pub fn id(raw: &[u8]) -> Id {
    use md5::{Digest, Md5};
    Id(u128::from_be_bytes(Md5::digest(raw).into()))
}

/// The key of a task in Redis: its id as 32 hexadecimal digits, with nothing before it. Shared by all tubes of a fleet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of this id.
    pub fn of(id: Id) -> Self {
        let mut text = [0; 32];
        for (nibble, digit) in (0..32).zip(text.iter_mut().rev()) {
            // Four bits.
            let value = (id.0 >> (4 * nibble)) as usize & 0xF;
            *digit = b"0123456789abcdef"[value];
        }
        Self(text)
    }

    /// The bytes: lowercase ASCII.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Only ASCII was written.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Opens the body of a job. Nothing is copied.
///
/// The time at which it was accepted is not known; the due time stands for it.
///
/// # Errors
/// [`Closed`] with the bytes, where a Go worker would remove the job as broken.
#[cfg(feature = "beanstalkd")]
pub fn open(mut raw: Bytes) -> Result<Opened, Closed> {
    let (due, prefix) = match unwrap(&raw) {
        Ok(found) => found,
        Err(why) => return Err(Closed { raw, why }),
    };
    let id = id(&raw);
    raw.advance(prefix);
    Ok(Opened {
        message: Message {
            id,
            body: Body::new(raw, 0, 0),
            at: due,
            due,
            flags: Flags::NULL_KEY,
            content: ContentType::Raw,
            ..Message::default()
        },
        parked_attempt: 0,
        priority: PRIORITY,
    })
}

/// One copy of a task, as the Go library names it: `endpoint/tube/job`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Replica<'a> {
    /// The node, spelled as in the configuration of its producer. A Go program finds it again only by the same spelling.
    pub endpoint: &'a str,
    /// The tube.
    pub tube: &'a str,
    /// The number of the job on its node.
    pub job: u64,
}

impl fmt::Display for Replica<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.endpoint, self.tube, self.job)
    }
}

/// The ids of one task, as `Delay` and `At` answer them in Go and `Revoke` takes them.
pub fn join<'a>(replicas: impl IntoIterator<Item = Replica<'a>>) -> String {
    use fmt::Write;
    let mut joined = String::new();
    for replica in replicas {
        if !joined.is_empty() {
            joined.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(joined, "{replica}");
    }
    joined
}

/// A text that is not a list of ids as the Go library writes it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{part}` is not an id of the Go library: it should look like `127.0.0.1:11300/tube/1`")]
pub struct SplitError {
    /// The first part that is wrong, at most 60 characters of it.
    pub part: String,
}

/// Reads what [`join`] or the Go library wrote. The tube may contain `/`.
///
/// # Errors
/// If a part is not `endpoint/tube/job`, or there is none.
pub fn split(joined: &str) -> Result<Vec<Replica<'_>>, SplitError> {
    joined
        .split(',')
        .map(|part| {
            let replica = || {
                let (endpoint, rest) = part.split_once('/')?;
                let (tube, job) = rest.rsplit_once('/')?;
                let job = job.parse().ok()?;
                let whole = !endpoint.is_empty() && !tube.is_empty();
                whole.then_some(Replica {
                    endpoint,
                    tube,
                    job,
                })
            };
            replica().ok_or_else(|| SplitError {
                part: part.chars().take(60).collect(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(nanos: i64) -> WallTime {
        WallTime::from_nanos(nanos)
    }

    fn wrapped(due: i64, payload: &[u8]) -> Vec<u8> {
        let mut into = Vec::new();
        wrap(at(due), payload, &mut into);
        into
    }

    #[test]
    fn a_body_is_what_the_go_library_writes() {
        assert_eq!(
            wrapped(1_700_000_000_000_000_000, b"1000"),
            b"1700000000000000000/1000"
        );
        assert_eq!(wrapped(0, b""), b"0/");
        assert_eq!(wrapped(-7, b"x"), b"-7/x");
        assert_eq!(wrapped(i64::MIN, b"x"), b"-9223372036854775808/x");
        assert_eq!(wrapped(i64::MAX, b"x"), b"9223372036854775807/x");
    }

    #[test]
    fn a_body_is_accepted_by_the_rule_of_the_go_library() {
        let now = 1_795_344_153_827_293_053_i64;
        for (body, payload) in [
            (format!("{now}/1000"), "1000"),
            (format!("{now}/"), ""),
            (format!("{now}/a/b/c"), "a/b/c"),
            (format!("+{now}/x"), "x"),
            (format!("0{now}/x"), "x"),
        ] {
            let (due, prefix) = unwrap(body.as_bytes()).expect(&body);
            assert_eq!((due.as_nanos(), &body[prefix..]), (now, payload));
        }
        for body in [
            format!("00{now}/x"),
            now.to_string(),
            String::new(),
            "abc/def".to_owned(),
            "/x".to_owned(),
            "+/x".to_owned(),
            "1_000/x".to_owned(),
            " 1/x".to_owned(),
            "9223372036854775808/x".to_owned(),
        ] {
            assert_eq!(unwrap(body.as_bytes()), Err(OpenError::NoTime), "{body}");
        }
    }

    #[test]
    fn seconds_and_milliseconds_look_like_1970_and_are_late() {
        let now = at(1_795_344_153_827_293_053);
        for body in ["1795344153/x", "1795344153827/x"] {
            let (due, _) = unwrap(body.as_bytes()).expect("a number");
            assert!(is_late(due, now, TOLERANCE));
        }
    }

    #[test]
    fn a_task_is_late_strictly_after_thirty_minutes() {
        let due = at(1_000_000_000_000_000_000);
        let border = due.saturating_add(TOLERANCE);
        assert!(!is_late(due, border, TOLERANCE));
        assert!(is_late(
            due,
            border.saturating_add(Duration::from_nanos(1)),
            TOLERANCE
        ));
        assert!(!is_late(at(i64::MAX), at(i64::MAX), TOLERANCE));
    }

    #[test]
    fn a_delay_is_rounded_up() {
        let now = at(5_000_000_000);
        for (due, want) in [
            (0, 0),
            (5_000_000_000, 0),
            (5_000_000_001, 1),
            (6_000_000_000, 1),
            (6_999_000_000, 2),
            (i64::MAX, u32::MAX),
        ] {
            assert_eq!(delay(at(due), now), want, "{due}");
        }
    }

    #[test]
    fn the_script_is_the_one_of_the_go_library() {
        assert_eq!(CLAIM_SCRIPT.len(), 193);
        assert!(!CLAIM_SCRIPT.contains('\r'));
        assert_eq!(CLAIM_SCRIPT_SHA1.len(), 40);
    }

    #[cfg(feature = "beanstalkd")]
    #[test]
    fn an_id_is_the_key_that_a_go_worker_locks() {
        for (body, key) in [
            (
                "1700000000000000000/1000",
                "7738a7b94f1fd27f9ea7d0c05bcdd423",
            ),
            ("1700000000000000000/", "e5a55d207ba2508f2951ba9da3ceff6e"),
            (
                "1700000000000000000/a/b",
                "9a572bc9daea2ae6e714bc3b5c7bd168",
            ),
            (
                "1700000000000000000/{\"id\":1}",
                "5a484aa9cddbd5b8303516ccdbd03509",
            ),
            (
                "1700000000000000000/延迟",
                "20bd7b0f7a70fe09704fc44e26b306ae",
            ),
        ] {
            let key_of = Key::of(id(body.as_bytes()));
            assert_eq!(key_of.as_str(), key, "{body}");
            let opened = open(Bytes::copy_from_slice(body.as_bytes())).expect(body);
            assert_eq!(opened.message.id, id(body.as_bytes()));
            assert_eq!(opened.message.due, at(1_700_000_000_000_000_000));
            assert_eq!(opened.message.body.payload(), &body.as_bytes()[20..]);
            assert_eq!(opened.message.key(), None);
        }
    }

    #[cfg(feature = "beanstalkd")]
    #[test]
    fn a_body_that_a_go_worker_removes_comes_back_whole() {
        let closed = open(Bytes::from_static(b"abc/def")).expect_err("no time");
        assert_eq!(
            (closed.why, &closed.raw[..]),
            (OpenError::NoTime, &b"abc/def"[..])
        );
    }

    #[test]
    fn joined_ids_are_read_as_they_were_written() {
        let joined = "127.0.0.1:21303/tube/1,127.0.0.1:21301/tube/6,localhost:2/a/b/7";
        let replicas = split(joined).expect("good ids");
        assert_eq!(
            replicas[1],
            Replica {
                endpoint: "127.0.0.1:21301",
                tube: "tube",
                job: 6
            }
        );
        assert_eq!(replicas[2].tube, "a/b");
        assert_eq!(join(replicas), joined);
    }

    #[test]
    fn a_text_that_is_no_list_of_ids_says_where() {
        for (text, part) in [
            ("", ""),
            ("a/b", "a/b"),
            ("h:1/t/1,", ""),
            ("h:1/t/x", "h:1/t/x"),
            ("/t/1", "/t/1"),
            ("h//1", "h//1"),
            ("h:1/t/-1", "h:1/t/-1"),
        ] {
            assert_eq!(split(text).expect_err(text).part, part);
        }
    }

    proptest! {
        #[test]
        fn what_is_wrapped_unwraps(due: i64, payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            let body = wrapped(due, &payload);
            let digits = due.to_string();
            prop_assert!(body.starts_with(digits.as_bytes()));
            let (found, prefix) = unwrap(&body).expect("it was wrapped");
            prop_assert_eq!((found, &body[prefix..]), (at(due), &payload[..]));
        }

        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok((_, prefix)) = unwrap(&raw) {
                prop_assert!(prefix <= raw.len() && prefix >= 2 && raw[prefix - 1] == b'/');
            }
        }

        #[test]
        fn a_distinct_due_time_is_never_early_and_less_than_two_milliseconds_late(
            due in 0..i64::MAX / 2, nth: u32, other: u32
        ) {
            let made = distinct_due(at(due), nth);
            prop_assert!(made >= at(due) && made.since(at(due)) < Duration::from_millis(2));
            if nth % 1_000_000 != other % 1_000_000 {
                prop_assert_ne!(made, distinct_due(at(due), other));
            }
        }

        #[test]
        fn a_key_is_the_id_in_hexadecimal(id: u128) {
            prop_assert_eq!(Key::of(Id(id)).to_string(), format!("{id:032x}"));
        }
    }
}
