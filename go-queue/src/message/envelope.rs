//! The native envelope: what a task looks like in the body of a beanstalkd job.
//!
//! A fixed part of [`LEN`] bytes, then key, headers and payload. The layout is in `docs/wire.md` and may not change
//! without a new [`VERSION`]; golden vectors hold it. Everything here is pure: bytes in, bytes out.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};

use super::{Body, ContentType, Flags, Id, Message, headers};
use crate::time::WallTime;

/// The first two bytes of every envelope. No UTF-8 text holds this pair, so neither JSON nor a body of the Go library is taken for an
/// envelope.
pub const MARK: [u8; 2] = [0xD1, b'q'];

/// The version that is written, and the highest that is read.
pub const VERSION: u8 = 1;

/// Length of the fixed part in bytes: mark 2, version 1, flags 1, id 16, due 8, accepted 8, parked attempt 2, content
/// type 1, key length 2, headers length 2.
pub const LEN: usize = 43;

/// The priority that needs no header.
pub const DEFAULT_PRIORITY: u32 = 1024;

/// The header that carries another priority, so that a task keeps it when it is released.
pub const PRIORITY_HEADER: &str = "gq-priority";

/// What the priority header adds to an envelope, in bytes.
pub const PRIORITY_HEADER_LEN: usize = 1 + PRIORITY_HEADER.len() + 2 + 4;

/// The first header is the library's own [`PRIORITY_HEADER`]. Without this bit a header of that name is the sender's.
const HAS_PRIORITY: u8 = 0x08;

/// The bits of [`Flags`] that travel.
const TRAVELS: u8 = Flags::NULL_KEY.0 | Flags::NULL_PAYLOAD.0 | Flags::MALFORMED.0;

/// What goes into an envelope.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Identity.
    pub id: Id,
    /// Not before this time.
    pub due: WallTime,
    /// When it was accepted; kept to the millisecond.
    pub at: WallTime,
    /// How often it was started before it was parked in this envelope; 0 for a task that was just sent.
    pub parked_attempt: u16,
    /// Null key, null payload, malformed.
    pub flags: Flags,
    /// How the payload is encoded.
    pub content: ContentType,
    /// Lower goes first.
    pub priority: u32,
    /// Headers of the library itself, encoded; they stand before those of the body.
    pub extra: &'a [u8],
    /// Key, headers and payload.
    pub body: &'a Body,
}

impl Parts<'_> {
    /// How long the envelope is, in bytes.
    pub fn encoded_len(&self) -> usize {
        encoded_len(self.priority, self.body) + self.extra.len()
    }
}

/// How long the envelope of this body is, in bytes.
pub fn encoded_len(priority: u32, body: &Body) -> usize {
    let priority = if priority == DEFAULT_PRIORITY {
        0
    } else {
        PRIORITY_HEADER_LEN
    };
    LEN + priority + body.len()
}

/// A part is longer than its length field can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {part} has {len} bytes, an envelope has room for 65535")]
pub struct TooLong {
    /// `key` or `headers`.
    pub part: &'static str,
    /// Its length in bytes.
    pub len: usize,
}

/// Appends the envelope to a buffer.
///
/// # Errors
/// If key or headers are too long. Then nothing was written.
pub fn encode(parts: &Parts<'_>, into: &mut impl BufMut) -> Result<(), TooLong> {
    let own_priority = parts.priority != DEFAULT_PRIORITY;
    let added = parts.extra.len() + if own_priority { PRIORITY_HEADER_LEN } else { 0 };
    let key_len = length("key", parts.body.key_len())?;
    let headers_len = length("headers", parts.body.head_len() + added)?;

    let mut fixed = [0; LEN];
    let mut rest = &mut fixed[..];
    rest.put_slice(&MARK);
    rest.put_u8(VERSION);
    rest.put_u8(parts.flags.0 & TRAVELS | if own_priority { HAS_PRIORITY } else { 0 });
    rest.put_u128(parts.id.0);
    rest.put_i64(parts.due.as_nanos());
    rest.put_i64(parts.at.as_millis());
    rest.put_u16(parts.parked_attempt);
    rest.put_u8(parts.content as u8);
    rest.put_u16(key_len);
    rest.put_u16(headers_len);
    into.put_slice(&fixed);

    if added == 0 {
        into.put_slice(parts.body.bytes());
        return Ok(());
    }
    into.put_slice(parts.body.key());
    if own_priority {
        into.put_slice(&priority_header(parts.priority));
    }
    into.put_slice(parts.extra);
    into.put_slice(parts.body.raw_headers());
    into.put_slice(parts.body.payload());
    Ok(())
}

fn length(part: &'static str, len: usize) -> Result<u16, TooLong> {
    u16::try_from(len).map_err(|_| TooLong { part, len })
}

fn priority_header(priority: u32) -> [u8; PRIORITY_HEADER_LEN] {
    let mut header = [0; PRIORITY_HEADER_LEN];
    let mut rest = &mut header[..];
    rest.put_u8(11);
    rest.put_slice(PRIORITY_HEADER.as_bytes());
    rest.put_u16(4);
    rest.put_u32(priority);
    header
}

/// Where the due time stands.
const DUE: std::ops::Range<usize> = 20..28;

/// The same envelope with another due time, for a task that is moved. Everything else stays as it is, byte for byte.
///
/// # Errors
/// As [`open`].
pub fn with_due(raw: &Bytes, due: WallTime) -> Result<Bytes, OpenError> {
    read(raw)?;
    let mut moved = raw.to_vec();
    moved[DUE].copy_from_slice(&due.as_nanos().to_be_bytes());
    Ok(moved.into())
}

/// What an envelope held.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The message. Its attempt and place are for the engine to fill.
    pub message: Message,
    /// How often it was started before it was parked in this envelope.
    pub parked_attempt: u16,
    /// Lower goes first.
    pub priority: u32,
}

/// A body that did not open, whole, and why.
#[derive(Clone, thiserror::Error)]
#[error("{why}")]
pub struct Closed {
    /// The bytes as they came. Shown by neither `Display` nor `Debug`.
    pub raw: Bytes,
    /// What is wrong with them.
    #[source]
    pub why: OpenError,
}

impl fmt::Debug for Closed {
    /// The length only: payloads never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closed")
            .field("len", &self.raw.len())
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

/// Why a body did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It does not begin as an envelope does: something else wrote it.
    #[error("the body is not an envelope: it was not written by this library")]
    NotAnEnvelope,
    /// A later version of this library wrote it. It is not malformed: a newer worker can run it.
    #[error("the envelope has version {version}, this worker reads up to {VERSION}: update it")]
    Newer {
        /// Its version.
        version: u8,
    },
    /// It ends before the parts that it announces.
    #[error("the envelope is cut off: it announces {announced} bytes and has {len}")]
    CutOff {
        /// Bytes that it should have at least.
        announced: usize,
        /// Bytes that it has.
        len: usize,
    },
    /// Its headers end in the middle of one.
    #[error("the headers of the envelope are broken")]
    Headers,
    /// It is not a body of the Go library: no `<nanoseconds>/` in front.
    #[error("the body has no time in front as the Go library writes it")]
    NoTime,
}

/// Opens an envelope. Nothing is copied: the message holds ranges of the same buffer.
///
/// # Errors
/// [`Closed`] with the bytes. [`OpenError::Newer`] is to be held for a newer worker; everything else is malformed.
pub fn open(raw: Bytes) -> Result<Opened, Closed> {
    match read(&raw) {
        Ok(fixed) => Ok(fixed.around(raw)),
        Err(why) => Err(Closed { raw, why }),
    }
}

/// The fixed part, checked against the length of the whole.
struct Fixed {
    flags: u8,
    id: Id,
    due: WallTime,
    at: WallTime,
    parked_attempt: u16,
    content: ContentType,
    priority: u32,
    key_len: usize,
    headers_len: usize,
}

fn read(raw: &[u8]) -> Result<Fixed, OpenError> {
    let Some((mark, mut rest)) = raw.split_first_chunk::<3>() else {
        return Err(OpenError::NotAnEnvelope);
    };
    if mark[..2] != MARK || mark[2] == 0 {
        return Err(OpenError::NotAnEnvelope);
    }
    if mark[2] > VERSION {
        return Err(OpenError::Newer { version: mark[2] });
    }
    let cut_off = |announced| OpenError::CutOff {
        announced,
        len: raw.len(),
    };
    if raw.len() < LEN {
        return Err(cut_off(LEN));
    }
    let flags = rest.get_u8();
    let id = Id(rest.get_u128());
    let due = WallTime::from_nanos(rest.get_i64());
    let at = WallTime::from_millis(rest.get_i64());
    let parked_attempt = rest.get_u16();
    let content = ContentType::from_byte(rest.get_u8());
    let key_len = usize::from(rest.get_u16());
    let headers_len = usize::from(rest.get_u16());
    let stored = rest
        .get(key_len..key_len + headers_len)
        .ok_or_else(|| cut_off(LEN + key_len + headers_len))?;
    if !headers::is_whole(stored) {
        return Err(OpenError::Headers);
    }
    let priority = if flags & HAS_PRIORITY == 0 {
        DEFAULT_PRIORITY
    } else {
        match headers::iter(stored).next() {
            Some((name, value)) if name == PRIORITY_HEADER.as_bytes() => value
                .try_into()
                .map(u32::from_be_bytes)
                .map_err(|_| OpenError::Headers)?,
            _ => return Err(OpenError::Headers),
        }
    };
    Ok(Fixed {
        flags,
        id,
        due,
        at,
        parked_attempt,
        content,
        priority,
        key_len,
        headers_len,
    })
}

impl Fixed {
    fn around(self, mut raw: Bytes) -> Opened {
        raw.advance(LEN);
        Opened {
            message: Message {
                id: self.id,
                body: Body::new(raw, self.key_len, self.headers_len),
                at: self.at,
                due: self.due,
                flags: Flags(self.flags & TRAVELS),
                content: self.content,
                ..Message::default()
            },
            parked_attempt: self.parked_attempt,
            priority: self.priority,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `name hex` on each line; lines with `#` are comments. One file for every implementation of the format.
    const GOLDEN: &str = include_str!("golden/envelope.txt");

    fn golden(name: &str) -> Bytes {
        let hex: String = GOLDEN
            .lines()
            .filter(|line| !line.starts_with('#'))
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no vector `{name}`"))
            .split_whitespace()
            .collect();
        let nibbles: Vec<u8> = hex
            .chars()
            .map(|c| u8::try_from(c.to_digit(16).expect("hex")).expect("a nibble"))
            .collect();
        nibbles.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
    }

    const ID: Id = Id(0x0189_0a5d_ac96_774b_bcce_b302_099a_8057);

    fn parts(body: &Body) -> Parts<'_> {
        Parts {
            id: ID,
            due: WallTime::from_nanos(1_700_000_000_123_456_789),
            at: WallTime::from_millis(1_699_999_999_000),
            parked_attempt: 0,
            flags: Flags::NULL_KEY,
            content: ContentType::Json,
            priority: DEFAULT_PRIORITY,
            extra: &[],
            body,
        }
    }

    fn encoded(parts: &Parts<'_>) -> Bytes {
        let mut into = Vec::new();
        encode(parts, &mut into).expect("parts that fit");
        assert_eq!(into.len(), parts.encoded_len());
        into.into()
    }

    fn one_header() -> Vec<u8> {
        let mut raw = Vec::new();
        headers::encode(&mut raw, "trace", b"\x00\xff").expect("a good header");
        raw
    }

    #[test]
    fn a_plain_task_is_the_golden_vector() {
        let body = Body::pack(b"", b"", br#"{"id":1}"#);
        assert_eq!(encoded(&parts(&body)), golden("plain"));
        let opened = open(golden("plain")).expect("it opens");
        assert_eq!(opened.message.id, ID);
        assert_eq!(opened.message.due.as_nanos(), 1_700_000_000_123_456_789);
        assert_eq!(opened.message.at.as_millis(), 1_699_999_999_000);
        assert_eq!(opened.message.flags, Flags::NULL_KEY);
        assert_eq!(opened.message.content, ContentType::Json);
        assert_eq!(opened.message.body.payload(), br#"{"id":1}"#);
        assert_eq!((opened.parked_attempt, opened.priority), (0, 1024));
    }

    #[test]
    fn a_task_with_everything_is_the_golden_vector() {
        let body = Body::pack(b"key", &one_header(), "延迟".as_bytes());
        let everything = Parts {
            parked_attempt: 7,
            flags: Flags::default(),
            content: ContentType::Text,
            priority: 5,
            ..parts(&body)
        };
        assert_eq!(encoded(&everything), golden("everything"));
        let opened = open(golden("everything")).expect("it opens");
        assert_eq!((opened.parked_attempt, opened.priority), (7, 5));
        assert_eq!(opened.message.key(), Some(&b"key"[..]));
        let headers = opened.message.headers();
        assert_eq!(headers.get("trace"), Some(&b"\x00\xff"[..]));
        assert_eq!(headers.get(PRIORITY_HEADER), Some(&[0, 0, 0, 5][..]));
        assert_eq!(opened.message.body.payload(), "延迟".as_bytes());
    }

    #[test]
    fn a_moved_task_differs_in_its_due_time_alone() {
        let due = WallTime::from_nanos(-5);
        let moved = with_due(&golden("everything"), due).expect("it opens");
        let opened = open(moved.clone()).expect("it opens");
        assert_eq!((opened.message.due, opened.message.id), (due, ID));
        let was = open(golden("everything")).expect("it opens").message.due;
        assert_eq!(with_due(&moved, was), Ok(golden("everything")));
        assert_eq!(
            with_due(&golden("newer"), due),
            Err(OpenError::Newer { version: 2 })
        );
    }

    #[test]
    fn a_newer_version_is_its_own_error() {
        let closed = open(golden("newer")).expect_err("it is newer");
        assert_eq!(closed.why, OpenError::Newer { version: 2 });
        assert_eq!(closed.raw, golden("newer"));
        assert!(closed.to_string().contains("version 2"), "{closed}");
    }

    #[test]
    fn what_is_not_an_envelope_is_malformed_and_comes_back_whole() {
        for body in [
            &b""[..],
            b"\xd1q",
            b"\xd1q\x00",
            b"{\"id\":1}",
            b"1700000000000000000/1000",
            &[b'q'; 100],
        ] {
            let closed = open(Bytes::copy_from_slice(body)).expect_err("no envelope");
            assert_eq!(closed.why, OpenError::NotAnEnvelope, "{body:?}");
            assert_eq!(closed.raw, body);
        }
    }

    #[test]
    fn an_envelope_cut_anywhere_before_its_payload_does_not_open() {
        let whole = golden("everything");
        let payload = "延迟".len();
        for end in 3..whole.len() - payload {
            let closed = open(whole.slice(..end)).expect_err("it is cut");
            assert!(
                matches!(closed.why, OpenError::CutOff { len, .. } if len == end),
                "{end}"
            );
        }
    }

    #[test]
    fn broken_headers_do_not_open() {
        let body = Body::pack(b"", b"\x05tra", b"payload");
        let closed = open(encoded(&parts(&body))).expect_err("broken headers");
        assert_eq!(closed.why, OpenError::Headers);
    }

    #[test]
    fn a_priority_header_of_the_sender_is_not_the_priority() {
        let mut raw = Vec::new();
        headers::encode(&mut raw, PRIORITY_HEADER, &[0, 0, 0, 1]).expect("a good header");
        let body = Body::pack(b"", &raw, b"");
        let opened = open(encoded(&parts(&body))).expect("it opens");
        assert_eq!(opened.priority, DEFAULT_PRIORITY);
    }

    #[test]
    fn a_key_without_room_is_refused_before_a_byte_is_written() {
        let body = Body::pack(&vec![b'k'; 65_536], b"", b"");
        let mut into = Vec::new();
        let error = encode(&parts(&body), &mut into).expect_err("it is too long");
        assert_eq!(
            error,
            TooLong {
                part: "key",
                len: 65_536
            }
        );
        let body = Body::pack(b"", &vec![1; 65_530], b"");
        let priority = Parts {
            priority: 1,
            ..parts(&body)
        };
        assert!(encode(&priority, &mut into).is_err());
        assert!(into.is_empty());
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            id: u128, due: i64, at in -1_000_000_000_000_i64..5_000_000_000_000, attempt: u16, priority: u32, flags in 0..8_u8,
            key in proptest::collection::vec(any::<u8>(), 0..40),
            sent in proptest::collection::vec(("[a-z-]{1,20}", proptest::collection::vec(any::<u8>(), 0..20)), 0..5),
            extra in proptest::collection::vec(("gq-[a-z]{1,9}", proptest::collection::vec(any::<u8>(), 0..20)), 0..3),
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let theirs = sent.into_iter().collect::<super::super::Headers>();
            let ours = extra.into_iter().collect::<super::super::Headers>().encode().expect("good headers");
            let body = Body::pack(&key, &theirs.encode().expect("good headers"), &payload);
            let sent = Parts {
                id: Id(id), due: WallTime::from_nanos(due), at: WallTime::from_millis(at), parked_attempt: attempt,
                flags: Flags(flags), content: ContentType::Protobuf, priority, extra: &ours, body: &body,
            };
            let opened = open(encoded(&sent)).expect("it opens");
            prop_assert_eq!(opened.message.id, sent.id);
            prop_assert_eq!(opened.message.due, sent.due);
            prop_assert_eq!(opened.message.at, sent.at);
            prop_assert_eq!(opened.message.flags, sent.flags);
            prop_assert_eq!(opened.message.content, sent.content);
            prop_assert_eq!(opened.message.body.key(), &key[..]);
            prop_assert_eq!(opened.message.body.payload(), &payload[..]);
            prop_assert!(opened.message.body.raw_headers().ends_with(body.raw_headers()));
            prop_assert_eq!((opened.parked_attempt, opened.priority), (attempt, priority));
        }

        #[test]
        fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..300), version in 0..3_u8) {
            let mut raw = vec![MARK[0], MARK[1], version];
            raw.extend_from_slice(&tail);
            let raw = Bytes::from(raw);
            match open(raw.clone()) {
                Ok(opened) => prop_assert!(opened.message.body.len() + LEN == raw.len()),
                Err(closed) => prop_assert_eq!(closed.raw, raw),
            }
        }

        #[test]
        fn one_flipped_byte_never_reaches_beyond_the_buffer(at in 0..100_usize, to: u8) {
            let mut raw = golden("everything").to_vec();
            let at = at % raw.len();
            raw[at] = to;
            if let Ok(opened) = open(raw.clone().into()) {
                prop_assert_eq!(opened.message.body.len(), raw.len() - LEN);
            }
        }
    }
}
