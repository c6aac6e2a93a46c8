//! How a dead letter is laid out: the record as it was, and behind its headers those that Spring writes, and ours.
//!
//! | header | value |
//! |---|---|
//! | `kafka_dlt-original-topic`, `kafka_dlt-original-consumer-group` | text |
//! | `kafka_dlt-original-partition` | 4 bytes, big-endian |
//! | `kafka_dlt-original-offset`, `kafka_dlt-original-timestamp` | 8 bytes, big-endian |
//! | `kafka_dlt-original-timestamp-type` | `CreateTime` |
//! | `kafka_dlt-exception-fqcn` | `go_queue.DeadLetter` |
//! | `kafka_dlt-exception-message` | why, at most 1 KB |
//! | `gq-dead-handler` | the handler that gave it up |
//! | `gq-dead-attempts` | how often it was started, as text |

use std::sync::Arc;

use rdkafka::message::{Headers as _, Message, OwnedHeaders};

use super::super::config::Config;
use super::super::publish::Ready;
use super::super::record::{self, Opened, with};
use super::Spot;
use crate::engine::DeadLetter;
use crate::message::{Body, Flags, Id};
use crate::name::{Name, Place};
use crate::time::WallTime;

const SPRING: &str = "kafka_dlt-";
const TOPIC: &str = "kafka_dlt-original-topic";
const PARTITION: &str = "kafka_dlt-original-partition";
const OFFSET: &str = "kafka_dlt-original-offset";
const TIMESTAMP: &str = "kafka_dlt-original-timestamp";
const TIMESTAMP_TYPE: &str = "kafka_dlt-original-timestamp-type";
const GROUP: &str = "kafka_dlt-original-consumer-group";
const CLASS: &str = "kafka_dlt-exception-fqcn";
const MESSAGE: &str = "kafka_dlt-exception-message";
const OURS: &str = "gq-dead-";
const HANDLER: &str = "gq-dead-handler";
const ATTEMPTS: &str = "gq-dead-attempts";

/// Which record of which group a letter is: what tells that it was written twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    partition: i32,
    offset: i64,
    at: i64,
    group: Arc<str>,
}

/// The headers of a letter: those of the record, encoded as they are in a message, its id and encoding, and why it died.
pub(super) fn headers(letter: &super::Letter) -> OwnedHeaders {
    let message = &letter.message;
    let all = record::laid_out(message.body.raw_headers(), message.id, message.content);
    let all = spring_on(
        all,
        &letter.topic,
        message.place.cast_signed(),
        message.offset,
        message.at.as_millis(),
        &letter.group,
        &letter.reason,
    );
    let all = with(all, HANDLER, letter.handler.as_bytes());
    with(all, ATTEMPTS, letter.attempts.to_string().as_bytes())
}

fn spring_on(
    all: OwnedHeaders,
    topic: &str,
    partition: i32,
    offset: i64,
    at: i64,
    group: &str,
    reason: &str,
) -> OwnedHeaders {
    let all = with(all, TOPIC, topic.as_bytes());
    let all = with(all, PARTITION, &partition.to_be_bytes());
    let all = with(all, OFFSET, &offset.to_be_bytes());
    let all = with(all, TIMESTAMP, &at.to_be_bytes());
    let all = with(all, TIMESTAMP_TYPE, b"CreateTime");
    let all = with(all, GROUP, group.as_bytes());
    let all = with(all, CLASS, b"go_queue.DeadLetter");
    with(all, MESSAGE, reason.as_bytes())
}

#[cfg(test)]
pub(super) fn spring(
    topic: &str,
    partition: i32,
    offset: i64,
    at: i64,
    group: &str,
    reason: &str,
) -> OwnedHeaders {
    spring_on(
        OwnedHeaders::new(),
        topic,
        partition,
        offset,
        at,
        group,
        reason,
    )
}

/// The last value of a header: what was there before belongs to an earlier death.
fn last<'a>(record: &'a impl Message, name: &str) -> Option<&'a [u8]> {
    let headers = record.headers()?;
    let found = headers.iter().filter(|header| header.key == name).last();
    found.and_then(|header| header.value)
}

fn text<'a>(record: &'a impl Message, name: &str) -> Option<&'a str> {
    last(record, name).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

fn four(record: &impl Message, name: &str) -> Option<i32> {
    let bytes = last(record, name)?;
    bytes.try_into().ok().map(i32::from_be_bytes)
}

fn eight(record: &impl Message, name: &str) -> Option<i64> {
    let bytes = last(record, name)?;
    bytes.try_into().ok().map(i64::from_be_bytes)
}

/// Which record of which group a letter is. A letter that somebody else wrote need not say it.
pub(super) fn origin(record: &impl Message) -> (Option<Origin>, Option<Arc<str>>) {
    let group: Option<Arc<str>> = text(record, GROUP).map(Arc::from);
    let origin = || {
        Some(Origin {
            partition: four(record, PARTITION)?,
            offset: eight(record, OFFSET)?,
            at: eight(record, TIMESTAMP)?,
            group: group.clone()?,
        })
    };
    (origin(), group)
}

/// A letter that was read.
#[derive(Debug)]
pub(super) struct Found {
    kept_in: String,
    partition: u32,
    offset: i64,
    /// Where it came from, as far as it says.
    source: Option<Name>,
    source_partition: Option<u32>,
    group: Option<Name>,
    handler: Arc<str>,
    id: Id,
    body: Body,
    flags: Flags,
    opened: Opened,
    attempts: u32,
    reason: Arc<str>,
    at: WallTime,
    died: WallTime,
}

impl Found {
    pub(super) fn read(
        config: &Config,
        kept_in: &str,
        partition: u32,
        record: &impl Message,
    ) -> Self {
        let source = text(record, TOPIC).or_else(|| config.source_of(kept_in));
        let source = source.and_then(|name| Name::new(name).ok());
        let source_partition = four(record, PARTITION).and_then(|one| u32::try_from(one).ok());
        let (mut opened, mut raw) = (Opened::default(), Vec::new());
        if let Some(headers) = record.headers() {
            // From the last of these on they are about this death; before it stand those of the record.
            let first = (0..headers.count())
                .rev()
                .find(|at| headers.try_get(*at).is_some_and(|one| one.key == TOPIC));
            for (at, header) in headers.iter().enumerate() {
                let added = first.is_some_and(|first| at >= first)
                    && (header.key.starts_with(SPRING) || header.key.starts_with(OURS));
                if !added {
                    opened.take(header.key.as_bytes(), header.value, "", &mut raw);
                }
            }
        }
        let mut flags = Flags::default();
        if record.key().is_none() {
            flags = flags.with(Flags::NULL_KEY);
        }
        if record.payload().is_none() {
            flags = flags.with(Flags::NULL_PAYLOAD);
        }
        let hash = source.as_ref().map_or(0, |name| Id::topic_hash(name));
        let origin = source_partition.zip(eight(record, OFFSET));
        let (of, offset) = origin.unwrap_or((partition, record.offset()));
        let died = WallTime::from_millis(record.timestamp().to_millis().unwrap_or(0));
        Self {
            kept_in: kept_in.to_owned(),
            partition,
            offset: record.offset(),
            id: record::id_of(opened, hash, of, offset),
            source,
            source_partition,
            group: text(record, GROUP).and_then(|name| Name::new(name).ok()),
            handler: Arc::from(text(record, HANDLER).unwrap_or("")),
            body: Body::pack(
                record.key().unwrap_or_default(),
                &raw,
                record.payload().unwrap_or_default(),
            ),
            flags,
            opened,
            attempts: text(record, ATTEMPTS)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
            reason: crate::outcome::reason(text(record, MESSAGE).unwrap_or("")),
            at: eight(record, TIMESTAMP).map_or(died, WallTime::from_millis),
            died,
        }
    }

    /// Where it lies.
    pub(super) fn spot(&self) -> (u32, i64) {
        (self.partition, self.offset)
    }

    /// Bytes of its body.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    /// As people see it. `None`: it has a place that no cursor can name, or came from a topic whose name is none.
    pub(super) fn letter(self) -> Option<DeadLetter> {
        let spot = Spot::new(&self.kept_in, self.partition, self.offset)?;
        Some(DeadLetter {
            cursor: spot.cursor(),
            place: Place::Topic(self.source?),
            group: self.group,
            handler: self.handler,
            id: self.id,
            body: self.body,
            flags: self.flags,
            content: self.opened.content,
            attempts: self.attempts,
            reason: self.reason,
            at: self.at,
            died: self.died,
        })
    }

    /// The record as it was, for the group that gave it up.
    pub(super) fn again<'a>(
        &'a self,
        config: &'a Config,
        at: i64,
        same_partition: bool,
    ) -> Ready<'a> {
        let topic = match &self.source {
            Some(name) => name.as_str(),
            None => config.source_of(&self.kept_in).unwrap_or(&self.kept_in),
        };
        let headers = record::laid_out(self.body.raw_headers(), self.id, self.opened.content);
        let headers = match &self.group {
            Some(group) => with(headers, record::REPLAY, group.as_bytes()),
            None => headers,
        };
        Ready {
            topic,
            partition: self.source_partition.filter(|_| same_partition),
            key: (!self.flags.contains(Flags::NULL_KEY)).then(|| self.body.key()),
            payload: (!self.flags.contains(Flags::NULL_PAYLOAD)).then(|| self.body.payload()),
            headers,
            at,
        }
    }
}
