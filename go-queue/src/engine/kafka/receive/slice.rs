//! What was handed out of one partition at once: one buffer for all of it, and where each record lies.
//!
//! The buffer is kept until the last record of the slice has ended, because a record that ends as a dead letter is written once more,
//! and one that is given back is handed out once more. It costs no memory that the messages do not hold anyway.

use bytes::{Bytes, BytesMut};

use super::super::raw::Record;
use super::super::record::{Opened, id_of};
use crate::message::{Body, ContentType, Flags, Id, Message};
use crate::name::Name;
use crate::time::WallTime;

/// Where one record lies in the buffer of its slice, and what it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) offset: i64,
    id: Id,
    /// Milliseconds since the Unix epoch.
    at: i64,
    start: usize,
    end: usize,
    key_len: usize,
    head_len: usize,
    flags: Flags,
    content: ContentType,
    /// It was replayed for another group: finished unread.
    pub(super) foreign: bool,
}

impl Kept {
    /// When it was accepted, as the broker says it.
    pub(super) fn at(&self) -> i64 {
        self.at
    }
}

/// Records of one drain.
#[derive(Debug)]
pub(super) struct Slice {
    buffer: Bytes,
    kept: Vec<Kept>,
    /// The offsets of the first and of the last record.
    first: i64,
    last: i64,
    /// How many have not ended.
    pub(super) live: usize,
}

/// Copies records out of librdkafka's memory.
#[derive(Debug)]
pub(super) struct Copier {
    /// [`Id::topic_hash`] of the topic.
    topic: u32,
    group: Name,
    /// Where the next slice goes. The memory of an earlier one is used again when nothing of it is in hand any more.
    memory: BytesMut,
    /// The headers of one record.
    headers: Vec<u8>,
    /// Headers that handlers will not see were met, and said.
    said: bool,
}

impl Copier {
    pub(super) fn new(topic: &Name, group: Name) -> Self {
        Self {
            topic: Id::topic_hash(topic),
            group,
            memory: BytesMut::new(),
            headers: Vec::new(),
            said: false,
        }
    }

    /// Copies records of one partition, none of which is an error. Their keys and payloads have so many bytes. `spare` is a list to use
    /// again.
    pub(super) fn copy<'a>(
        &mut self,
        records: impl Iterator<Item = Record<'a>>,
        size: usize,
        partition: u32,
        spare: Vec<Kept>,
    ) -> Slice {
        // Headers come on top and are few; where they are many the buffer grows.
        self.memory.reserve(size);
        let mut kept = spare;
        kept.extend(records.map(|raw| self.copy_one(raw, partition)));
        Slice {
            buffer: self.memory.split().freeze(),
            live: kept.len(),
            first: kept.first().map_or(i64::MAX, |kept| kept.offset),
            last: kept.last().map_or(i64::MIN, |kept| kept.offset),
            kept,
        }
    }

    #[inline]
    fn copy_one(&mut self, raw: Record<'_>, partition: u32) -> Kept {
        let memory = &mut self.memory;
        let start = memory.len();
        let mut flags = Flags::default();
        match raw.key() {
            Some(key) => memory.extend_from_slice(key),
            None => flags = flags.with(Flags::NULL_KEY),
        }
        let head = memory.len();
        let mut opened = Opened::default();
        if let Some(headers) = raw.headers() {
            self.headers.clear();
            for (name, value) in headers {
                opened.take(name, value, &self.group, &mut self.headers);
            }
            memory.extend_from_slice(&self.headers);
        }
        let body = memory.len();
        match raw.payload() {
            Some(payload) => memory.extend_from_slice(payload),
            None => flags = flags.with(Flags::NULL_PAYLOAD),
        }
        if opened.unseen > 0 && !std::mem::replace(&mut self.said, true) {
            tracing::warn!(
                group = %self.group,
                partition,
                offset = raw.offset(),
                "a record has headers that handlers do not see: a name has 1 to 255 bytes, a value at most 65535; said once"
            );
        }
        Kept {
            offset: raw.offset(),
            id: id_of(opened, self.topic, partition, raw.offset()),
            at: raw.timestamp(),
            start,
            end: self.memory.len(),
            key_len: head - start,
            head_len: body - head,
            flags,
            content: opened.content,
            foreign: opened.for_others,
        }
    }
}

impl Slice {
    /// Bytes that it holds.
    pub(super) fn size(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// The list, to be used again.
    pub(super) fn into_spare(self) -> Vec<Kept> {
        let mut kept = self.kept;
        kept.clear();
        kept
    }

    /// Whether an offset lies within.
    #[inline]
    pub(super) fn spans(&self, offset: i64) -> bool {
        self.first <= offset && offset <= self.last
    }

    pub(super) fn last(&self) -> i64 {
        self.last
    }

    /// The record at an offset.
    pub(super) fn find(&self, offset: i64) -> Option<&Kept> {
        let at = self
            .kept
            .binary_search_by_key(&offset, |kept| kept.offset)
            .ok()?;
        self.kept.get(at)
    }

    /// A record as it is handed out.
    #[inline]
    pub(super) fn message(&self, kept: &Kept, partition: u32) -> Message {
        let at = WallTime::from_millis(kept.at.max(0));
        Message {
            id: kept.id,
            body: Body::new(
                self.buffer.slice(kept.start..kept.end),
                kept.key_len,
                kept.head_len,
            ),
            attempt: 1,
            place: partition,
            offset: kept.offset,
            at,
            due: at,
            flags: kept.flags,
            content: kept.content,
        }
    }
}
