//! Protocol buffers, by the types that `prost` makes.

use super::{Payload, Produce};
use crate::message::{ContentType, Message};
use crate::outcome::BoxError;

/// A message of protocol buffers: any type that [`prost`](https://docs.rs/prost) 0.14 makes.
///
/// A tombstone is not an empty message: take `Nullable<Protobuf<T>>` where there may be some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protobuf<T>(pub T);

#[diagnostic::do_not_recommend]
impl<'a, T: prost::Message + Default> Payload<'a> for Protobuf<T> {
    const CONTENT: ContentType = ContentType::Protobuf;

    fn decode(message: &'a Message) -> Result<Self, BoxError> {
        let payload = message
            .payload()
            .ok_or("the record is a tombstone, and this handler takes none")?;
        // What it says names fields of the type, never values.
        Ok(Self(T::decode(payload)?))
    }
}

#[diagnostic::do_not_recommend]
impl<T: prost::Message> Produce for Protobuf<T> {
    const CONTENT: ContentType = ContentType::Protobuf;

    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(Some(self.0.encode_to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::payload::Nullable;
    use crate::message::{Body, Flags};

    // `prost` makes plain text a message as well: `google.protobuf.StringValue`.
    type Value = Protobuf<String>;

    #[test]
    fn a_payload_comes_back() {
        let sent = Protobuf("naïve".to_owned());
        let bytes = sent.encode().expect("encoded").expect("bytes");
        // Field 1, a text of 6 bytes.
        assert_eq!(bytes[..2], [0x0a, 6]);
        let message = Message {
            body: Body::pack(b"k", b"", &bytes),
            ..Message::default()
        };
        assert_eq!(Value::decode(&message).expect("decoded"), sent);
    }

    #[test]
    fn a_tombstone_is_not_an_empty_message() {
        let tombstone = Message {
            flags: Flags::NULL_PAYLOAD,
            ..Message::default()
        };
        assert!(Value::decode(&tombstone).is_err());
        let read: Nullable<Value> = Payload::decode(&tombstone).expect("none");
        assert_eq!(read, Nullable(None));
        let empty = Message::default();
        assert_eq!(
            Value::decode(&empty).expect("empty"),
            Protobuf(String::new())
        );
    }

    #[test]
    fn what_does_not_decode_is_an_error() {
        let message = Message {
            body: Body::pack(b"k", b"", b"\x0a\xffsecret"),
            ..Message::default()
        };
        let error = Value::decode(&message).expect_err("cut off");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
