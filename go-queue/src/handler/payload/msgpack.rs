//! `MessagePack`.

use serde::{Deserialize, Serialize};

use super::{Payload, Produce, type_refuses};
use crate::message::{ContentType, Message};
use crate::outcome::BoxError;

/// `MessagePack`. Structures are maps with the names of their fields, so that fields may be added; what was written as arrays is read too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsgPack<T>(pub T);

#[diagnostic::do_not_recommend]
impl<'a, T: Deserialize<'a> + Send> Payload<'a> for MsgPack<T> {
    const CONTENT: ContentType = ContentType::MsgPack;

    fn decode(message: &'a Message) -> Result<Self, BoxError> {
        const NIL: &[u8] = &[0xc0];
        let payload = message.payload().unwrap_or(NIL);
        rmp_serde::from_slice(payload)
            .map(Self)
            .map_err(|error| without_values(&error))
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize> Produce for MsgPack<T> {
    const CONTENT: ContentType = ContentType::MsgPack;

    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(Some(rmp_serde::to_vec_named(&self.0)?))
    }
}

/// What the decoder said, without what stood in the payload: the text goes to the log.
fn without_values(error: &rmp_serde::decode::Error) -> BoxError {
    use rmp_serde::decode::Error;
    match error {
        Error::Syntax(said) | Error::Uncategorized(said) => type_refuses(said, "").into(),
        // These name markers and lengths.
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Body, Flags};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order<'a> {
        id: &'a str,
        amount: u32,
    }

    fn message(payload: &[u8]) -> Message {
        Message {
            body: Body::pack(b"k", b"", payload),
            ..Message::default()
        }
    }

    #[test]
    fn a_payload_comes_back_and_may_borrow() {
        let order = Order {
            id: "o-1",
            amount: 3,
        };
        let bytes = MsgPack(&order).encode().expect("encoded").expect("bytes");
        let message = message(&bytes);
        let read: MsgPack<Order<'_>> = Payload::decode(&message).expect("decoded");
        assert_eq!(read.0, order);
    }

    #[test]
    fn a_tombstone_is_none() {
        let tombstone = Message {
            flags: Flags::NULL_PAYLOAD,
            ..Message::default()
        };
        let inside: MsgPack<Option<u8>> = Payload::decode(&tombstone).expect("none");
        assert_eq!(inside, MsgPack(None));
        assert!(<MsgPack<u8> as Payload>::decode(&tombstone).is_err());
    }

    #[test]
    fn what_the_decoder_says_holds_nothing_of_the_payload() {
        let secret = MsgPack("secret").encode().expect("encoded").expect("bytes");
        for payload in [&secret[..], &secret[..3], b"\xc1", b""] {
            let message = message(payload);
            let error = <MsgPack<u32> as Payload>::decode(&message).expect_err("wrong");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
