//! How a message is laid out as a record of Kafka: key, payload and headers. Key and payload are as they were given. Headers are those
//! of the producer, with what the engine adds behind them.
//!
//! | header | value |
//! |---|---|
//! | `gq-id` | the id: 16 bytes, or a UUID as text |
//! | `gq-content-type` | `json`, `text`, `msgpack`, `protobuf`, or `header` where another header names it; none for bytes as they are |
//! | `gq-replay-group` | this copy of an earlier record is for this group alone: others pass it over |

use rdkafka::message::{Header, OwnedHeaders};

use crate::engine::Outgoing;
use crate::message::{ContentType, Id, headers};

/// The header that holds the id.
pub(super) const ID: &str = "gq-id";
/// The header that says how the payload is encoded.
pub(super) const CONTENT: &str = "gq-content-type";
/// The header that names the group that a copy is for.
pub(super) const REPLAY: &str = "gq-replay-group";

/// What the headers of a record say to the engine. The others are for the handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Opened {
    /// Its id, if it was sent with one.
    pub(super) id: Option<Id>,
    /// How its payload is encoded.
    pub(super) content: ContentType,
    /// It is a copy for another group: done without a run.
    pub(super) for_others: bool,
    /// Headers that have no place in our format (no name, a name of more than 255 bytes, a value of more than 65,535): the handler
    /// does not see them.
    pub(super) unseen: u32,
}

impl Opened {
    /// Takes one header of a record that the group reads: it is for the engine, or is appended to `into`, encoded. A value that is
    /// null is empty.
    pub(super) fn take(
        &mut self,
        name: &[u8],
        value: Option<&[u8]>,
        group: &str,
        into: &mut Vec<u8>,
    ) {
        let value = value.unwrap_or_default();
        if name.starts_with(b"gq-") && self.ours(name, value, group) {
            return;
        }
        let lossy = String::from_utf8_lossy(name);
        if headers::encode(into, &lossy, value).is_err() {
            self.unseen += 1;
        }
    }

    /// Whether a header is one of ours, and good.
    fn ours(&mut self, name: &[u8], value: &[u8], group: &str) -> bool {
        if name == ID.as_bytes() {
            let id = id(value);
            self.id = id.or(self.id);
            id.is_some()
        } else if name == CONTENT.as_bytes() {
            let content = content(value);
            self.content = content.unwrap_or(self.content);
            content.is_some()
        } else if name == REPLAY.as_bytes() {
            self.for_others = value != group.as_bytes();
            true
        } else {
            false
        }
    }
}

/// The id of a record: its own, or one made of its place. `topic` is [`Id::topic_hash`].
pub(super) fn id_of(opened: Opened, topic: u32, partition: u32, offset: i64) -> Id {
    opened
        .id
        .unwrap_or_else(|| Id::of_record(topic, partition, offset.unsigned_abs()))
}

/// The id in a header.
pub(super) fn id(value: &[u8]) -> Option<Id> {
    if let Ok(bytes) = <[u8; 16]>::try_from(value) {
        return Some(Id(u128::from_be_bytes(bytes)));
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The encoding that a header names.
pub(super) fn content(value: &[u8]) -> Option<ContentType> {
    NAMES
        .iter()
        .find(|(name, _)| name.as_bytes() == value)
        .map(|(_, content)| *content)
}

const NAMES: &[(&str, ContentType)] = &[
    ("raw", ContentType::Raw),
    ("json", ContentType::Json),
    ("text", ContentType::Text),
    ("msgpack", ContentType::MsgPack),
    ("protobuf", ContentType::Protobuf),
    ("header", ContentType::Header),
];

/// The name of an encoding; none for bytes as they are.
fn name(content: ContentType) -> Option<&'static str> {
    match content {
        ContentType::Raw => None,
        ContentType::Json => Some("json"),
        ContentType::Text => Some("text"),
        ContentType::MsgPack => Some("msgpack"),
        ContentType::Protobuf => Some("protobuf"),
        ContentType::Header => Some("header"),
    }
}

/// The headers of a record that is sent.
pub(super) fn outgoing(out: &Outgoing) -> OwnedHeaders {
    laid_out(out.body.raw_headers(), out.id, out.content)
}

/// Encoded headers, then id and encoding.
pub(super) fn laid_out(raw: &[u8], id: Id, content: ContentType) -> OwnedHeaders {
    let all = headers::iter(raw).fold(OwnedHeaders::new_with_capacity(4), |all, (name, value)| {
        // Names were text when they were encoded; those of foreign records may not have been.
        all.insert(Header {
            key: &String::from_utf8_lossy(name),
            value: Some(value),
        })
    });
    let all = with(all, ID, &id.0.to_be_bytes());
    match name(content) {
        Some(name) => with(all, CONTENT, name.as_bytes()),
        None => all,
    }
}

/// One header more.
pub(super) fn with(headers: OwnedHeaders, name: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header {
        key: name,
        value: Some(value),
    })
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;

    use super::*;
    use crate::message::Headers;

    /// What a member of this group makes of these headers.
    fn read(all: &OwnedHeaders, group: &str) -> (Opened, Headers) {
        let (mut opened, mut raw) = (Opened::default(), Vec::new());
        for header in all.iter() {
            opened.take(header.key.as_bytes(), header.value, group, &mut raw);
        }
        (opened, Headers::decode(&raw).expect("whole"))
    }

    #[test]
    fn headers_come_back_as_they_were_sent() {
        let sent: Headers = [("trace", "abc"), ("gq-mine", "x"), ("trace", "")]
            .into_iter()
            .collect();
        let id = Id::unique();
        let raw = sent.encode().expect("within the format");
        for (_, content) in NAMES {
            let (opened, headers) = read(&laid_out(&raw, id, *content), "billing");
            assert_eq!(headers, sent);
            assert_eq!((opened.id, opened.content), (Some(id), *content));
            assert_eq!((opened.for_others, opened.unseen), (false, 0));
        }
    }

    #[test]
    fn a_foreign_record_has_no_id_and_keeps_its_headers() {
        let all = OwnedHeaders::new()
            .insert(Header {
                key: "traceparent",
                value: Some("00-1"),
            })
            .insert(Header {
                key: "gq-id",
                value: Some("not an id"),
            })
            .insert(Header::<&[u8]> {
                key: "null",
                value: None,
            });
        let (opened, headers) = read(&all, "billing");
        assert_eq!(opened, Opened::default());
        assert_eq!(headers.get_str("traceparent"), Some("00-1"));
        assert_eq!(headers.get_str("gq-id"), Some("not an id"));
        assert_eq!(headers.get("null"), Some(&b""[..]));
        let id = id_of(opened, Id::topic_hash("orders"), 3, 7);
        assert_eq!(id, Id::of_record(Id::topic_hash("orders"), 3, 7));
    }

    #[test]
    fn an_id_may_be_text() {
        let id = Id::unique();
        let all = with(OwnedHeaders::new(), ID, id.to_string().as_bytes());
        assert_eq!(read(&all, "billing").0.id, Some(id));
    }

    #[test]
    fn a_copy_for_one_group_is_passed_over_by_the_others() {
        let all = with(OwnedHeaders::new(), REPLAY, b"billing");
        let (mine, headers) = read(&all, "billing");
        assert!(!mine.for_others && headers.is_empty());
        assert!(read(&all, "shipping").0.for_others);
        assert!(read(&all, "billin").0.for_others);
    }

    #[test]
    fn what_has_no_place_in_the_format_is_counted() {
        let long = "n".repeat(256);
        let all = OwnedHeaders::new()
            .insert(Header {
                key: &long,
                value: Some("x"),
            })
            .insert(Header {
                key: "large",
                value: Some(&vec![0_u8; 65_536]),
            })
            .insert(Header {
                key: "good",
                value: Some("x"),
            });
        let (opened, headers) = read(&all, "billing");
        assert_eq!((opened.unseen, headers.len()), (2, 1));
    }
}
