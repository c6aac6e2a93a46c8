//! A message: what a producer said, as an engine hands it out.
//!
//! A message costs no allocation of its own: key, headers and payload are ranges of one buffer that a whole slice
//! shares, and headers are decoded only when somebody asks.
//!
//! How it looks in the body of a job is [`envelope`] (our own framing) and [`go_queue`] (that of the Go library).

pub mod envelope;
pub mod go_queue;
pub mod headers;
pub mod partition;

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::time::WallTime;
pub use headers::{Headers, HeadersError};

/// The identity of a message and its deduplication key: 128 bits, a `UUIDv7` unless the producer gave a name.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u128);

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Id {
    /// A new `UUIDv7`: unique, and ordered by time.
    pub fn unique() -> Self {
        Self(uuid::Uuid::now_v7().as_u128())
    }

    /// The id of a task that its producer named: a `UUIDv8` of the first 16 bytes of SHA-256(tube, 0, name), whose last two
    /// bytes are 0, the first [generation](Self::generation) of the name.
    pub fn named(tube: &str, name: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(tube.as_bytes());
        hash.update([0]);
        hash.update(name);
        let digest = Self::from_digest(&hash.finalize());
        Self(digest.0 & !(Self::FORM | Self::GENERATION) | Self::OF_A_NAME)
    }

    /// The bits of a UUID that say how it was made.
    const FORM: u128 = (0xf << 76) | (0b11 << 62);
    /// Version 8, made as an application likes, of the usual variant.
    const OF_A_NAME: u128 = (0x8 << 76) | (0b10 << 62);
    const GENERATION: u128 = 0xffff;

    /// Whether it was made of a name.
    pub const fn is_named(self) -> bool {
        self.0 & Self::FORM == Self::OF_A_NAME
    }

    /// How often the name was revoked and sent anew before this task; 0 for a task without a name.
    ///
    /// A name is free again when its task is revoked. The next task of that name is another task, and copies of the first that
    /// could not be removed must not be taken for it: so it has another id, which differs in its last two bytes. Engines
    /// that remove what is revoked from a single place need no second generation.
    pub const fn generation(self) -> u16 {
        if self.is_named() {
            (self.0 & Self::GENERATION) as u16
        } else {
            0
        }
    }

    /// The same name in this generation; what has no name stays as it is.
    #[must_use]
    pub const fn in_generation(self, generation: u16) -> Self {
        if self.is_named() {
            Self(self.0 & !Self::GENERATION | generation as u128)
        } else {
            self
        }
    }

    /// The id of a body that does not open: the first 16 bytes of its SHA-256.
    pub fn of_raw_body(body: &[u8]) -> Self {
        Self::from_digest(&Sha256::digest(body))
    }

    /// The id of a record that was sent without one. Nothing is hashed per message: `topic` is [`Id::topic_hash`], made
    /// once for each subscription; partition and offset take the other bits.
    pub fn of_record(topic: u32, partition: u32, offset: u64) -> Self {
        Self((u128::from(topic) << 96) | (u128::from(partition) << 64) | u128::from(offset))
    }

    /// The part of [`Id::of_record`] that belongs to a topic.
    pub fn topic_hash(topic: &str) -> u32 {
        let digest = Sha256::digest(topic.as_bytes());
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
    }

    fn from_digest(digest: &[u8]) -> Self {
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Self(u128::from_be_bytes(first))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

/// A text that is not an [`Id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is a UUID, for example 01890a5d-ac96-774b-bcce-b302099a8057")]
pub struct IdError;

impl FromStr for Id {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        uuid::Uuid::try_parse(text)
            .map(|uuid| Self(uuid.as_u128()))
            .map_err(|_| IdError)
    }
}

/// Bits that say what a message is, apart from its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// The record had no key (a key of zero bytes is a key).
    pub const NULL_KEY: Self = Self(1);
    /// The record had no payload: a tombstone.
    pub const NULL_PAYLOAD: Self = Self(2);
    /// The body did not open; the payload is the raw body and no handler may start.
    pub const MALFORMED: Self = Self(4);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How a payload is encoded, as one byte on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum ContentType {
    /// Bytes as they are.
    #[default]
    Raw = 0,
    /// JSON.
    Json = 1,
    /// UTF-8 text.
    Text = 2,
    /// `MessagePack`.
    MsgPack = 3,
    /// Protocol buffers.
    Protobuf = 4,
    /// Named by a header.
    Header = 255,
}

impl ContentType {
    /// From its byte; what is unknown is raw.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Json,
            2 => Self::Text,
            3 => Self::MsgPack,
            4 => Self::Protobuf,
            255 => Self::Header,
            _ => Self::Raw,
        }
    }
}

/// Key, encoded headers and payload in one buffer: what producers fill and engines store.
#[derive(Clone, Default)]
pub struct Body {
    bytes: Bytes,
    key_len: u32,
    head_len: u32,
}

impl Body {
    /// From a buffer that holds the key, then the encoded headers, then the payload.
    ///
    /// Lengths that do not fit are cut to the buffer, so that no accessor can be out of range.
    pub fn new(bytes: Bytes, key_len: usize, head_len: usize) -> Self {
        let key = key_len.min(bytes.len());
        let head = head_len.min(bytes.len() - key);
        // A buffer has less than 4 GB: engines refuse bodies long before.
        Self {
            key_len: u32::try_from(key).unwrap_or(u32::MAX),
            head_len: u32::try_from(head).unwrap_or(u32::MAX),
            bytes,
        }
    }

    /// Puts the parts into one new buffer.
    pub fn pack(key: &[u8], headers: &[u8], payload: &[u8]) -> Self {
        let mut buffer = Vec::with_capacity(key.len() + headers.len() + payload.len());
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(headers);
        buffer.extend_from_slice(payload);
        Self::new(buffer.into(), key.len(), headers.len())
    }

    /// The key; empty if there is none.
    pub fn key(&self) -> &[u8] {
        &self.bytes[..self.key_len as usize]
    }

    /// The headers as they are stored; see [`headers`].
    pub fn raw_headers(&self) -> &[u8] {
        &self.bytes[self.key_len as usize..(self.key_len + self.head_len) as usize]
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[(self.key_len + self.head_len) as usize..]
    }

    /// The payload as a buffer that shares the memory.
    pub fn payload_bytes(&self) -> Bytes {
        self.bytes.slice((self.key_len + self.head_len) as usize..)
    }

    /// All of it: key, headers, payload.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Length of the key in bytes.
    pub fn key_len(&self) -> usize {
        self.key_len as usize
    }

    /// Length of the encoded headers in bytes.
    pub fn head_len(&self) -> usize {
        self.head_len as usize
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl fmt::Debug for Body {
    /// Lengths only: payloads never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("key_len", &self.key_len)
            .field("head_len", &self.head_len)
            .field("payload_len", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// One message as an engine hands it out. Filled by the engine; read by extractors, dead letters and metrics, never by
/// the pump.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Identity and deduplication key.
    pub id: Id,
    /// Key, headers, payload.
    pub body: Body,
    /// Number of this start, from 1.
    pub attempt: u32,
    /// Partition (topics) or node (replicated tubes).
    pub place: u32,
    /// Position in its partition; 0 for tasks.
    pub offset: i64,
    /// When it was accepted.
    pub at: WallTime,
    /// When it was due; for a record the same as `at`.
    pub due: WallTime,
    /// What it is.
    pub flags: Flags,
    /// How its payload is encoded.
    pub content: ContentType,
}

impl Message {
    /// A body that did not open: the raw bytes are its payload, their hash is its id, and no handler may start.
    pub fn malformed(raw: Bytes) -> Self {
        Self {
            id: Id::of_raw_body(&raw),
            body: Body::new(raw, 0, 0),
            flags: Flags::NULL_KEY.with(Flags::MALFORMED),
            ..Self::default()
        }
    }

    /// The key, or `None` if it was sent without one.
    pub fn key(&self) -> Option<&[u8]> {
        (!self.flags.contains(Flags::NULL_KEY)).then(|| self.body.key())
    }

    /// The payload, or `None` for a tombstone.
    pub fn payload(&self) -> Option<&[u8]> {
        (!self.flags.contains(Flags::NULL_PAYLOAD)).then(|| self.body.payload())
    }

    /// The headers, decoded now.
    pub fn headers(&self) -> Headers {
        Headers::decode_lossy(self.body.raw_headers())
    }

    /// Whether the body did not open.
    pub fn is_malformed(&self) -> bool {
        self.flags.contains(Flags::MALFORMED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_and_a_delivery_stay_small() {
        assert!(size_of::<Message>() <= 112, "{}", size_of::<Message>());
        assert!(
            size_of::<crate::delivery::Delivery>() <= 144,
            "{}",
            size_of::<crate::delivery::Delivery>()
        );
        assert!(size_of::<crate::delivery::Settlement>() <= 48);
        assert_eq!(size_of::<crate::delivery::Receipt>(), 16);
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = Id::unique();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("nonsense".parse::<Id>(), Err(IdError));
    }

    #[test]
    fn a_named_id_depends_on_tube_and_name() {
        assert_eq!(Id::named("t", b"a"), Id::named("t", b"a"));
        assert_ne!(Id::named("t", b"a"), Id::named("u", b"a"));
        assert_ne!(Id::named("ta", b""), Id::named("t", b"a"));
    }

    #[test]
    fn a_body_never_prints_its_payload() {
        let body = Body::pack(b"key", b"", b"secret");
        assert!(!format!("{body:?}").contains("secret"));
        assert_eq!((body.key(), body.payload()), (&b"key"[..], &b"secret"[..]));
    }

    #[test]
    fn lengths_beyond_the_buffer_are_cut() {
        let body = Body::new(Bytes::from_static(b"ab"), 9, 9);
        assert_eq!(
            (body.key(), body.raw_headers(), body.payload()),
            (&b"ab"[..], &b""[..], &b""[..])
        );
    }
}
