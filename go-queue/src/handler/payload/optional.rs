//! Tombstones: records of a topic that say that their key is gone. They have no payload.

use super::{Payload, Produce};
use crate::message::{ContentType, Message};
use crate::outcome::BoxError;

/// A payload, or none: a record without a payload is a tombstone, which says that its key is gone.
///
/// A bare `Option<T>` reads tombstones of JSON topics too, but writes `None` as the JSON `null`. This one reads and writes them, around any
/// payload: `Nullable<Order>`, `Nullable<Raw>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nullable<P>(pub Option<P>);

impl<P> Default for Nullable<P> {
    fn default() -> Self {
        Self(None)
    }
}

#[diagnostic::do_not_recommend]
impl<'a, P: Payload<'a>> Payload<'a> for Nullable<P> {
    const CONTENT: ContentType = P::CONTENT;

    fn decode(message: &'a Message) -> Result<Self, BoxError> {
        match message.payload() {
            Some(_) => P::decode(message).map(|payload| Self(Some(payload))),
            None => Ok(Self(None)),
        }
    }
}

#[diagnostic::do_not_recommend]
impl<P: Produce> Produce for Nullable<P> {
    const CONTENT: ContentType = P::CONTENT;

    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
        self.0.as_ref().map_or(Ok(None), Produce::encode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::payload::{Raw, Text};
    use crate::message::{Body, Flags};

    fn message(payload: Option<&[u8]>) -> Message {
        Message {
            body: Body::pack(b"k", b"", payload.unwrap_or_default()),
            flags: payload.map_or(Flags::NULL_PAYLOAD, |_| Flags::default()),
            ..Message::default()
        }
    }

    fn read<'a, P: Payload<'a>>(message: &'a Message) -> Option<P> {
        let Nullable(payload) = Payload::decode(message).expect("decoded");
        payload
    }

    #[test]
    fn a_tombstone_is_none_both_ways_and_an_empty_payload_is_not() {
        let (tombstone, empty, one) = (message(None), message(Some(b"")), message(Some(b"1")));
        assert_eq!(read::<Raw>(&tombstone), None);
        assert_eq!(read::<Raw>(&empty), Some(Raw::default()));
        assert_eq!(read::<Text>(&tombstone), None);
        assert_eq!(read::<u8>(&tombstone), None);
        assert_eq!(read::<u8>(&one), Some(1));
        let bytes = |payload: Option<u8>| Nullable(payload).encode().expect("encoded");
        assert_eq!(bytes(None), None);
        assert_eq!(bytes(Some(1)), Some(b"1".to_vec()));
        assert_eq!(<Nullable<Text> as Produce>::CONTENT, ContentType::Text);
    }
}
