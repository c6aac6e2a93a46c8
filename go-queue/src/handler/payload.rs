//! Payloads: how the first parameter of a handler is decoded, and how the typed producer encodes it.
//!
//! A bare `T` is JSON. [`Json`], [`Text`] and [`Raw`] say so, or something else; behind features of their names there are `MsgPack` and
//! `Protobuf`. [`Nullable`] around any of them takes and sends tombstones: records without a payload.

#[cfg(feature = "msgpack")]
mod msgpack;
mod optional;
#[cfg(feature = "protobuf")]
mod protobuf;

use serde::{Deserialize, Serialize};

use crate::message::{ContentType, Message};
use crate::outcome::BoxError;

#[cfg(feature = "msgpack")]
pub use msgpack::MsgPack;
pub use optional::Nullable;
#[cfg(feature = "protobuf")]
pub use protobuf::Protobuf;

/// What may be the first parameter of a handler. May borrow from the message.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the payload of a handler",
    label = "not a payload",
    note = "the first parameter of a handler is the payload: a type with `#[derive(Deserialize)]` (JSON), `Text`, `Raw` or `Json<T>`; \
            extractors such as `State<T>` and `Meta` come after it"
)]
pub trait Payload<'a>: Sized + Send {
    /// How it is encoded.
    const CONTENT: ContentType;

    /// Decodes the message's payload.
    ///
    /// # Errors
    /// If the bytes are not one; the handler's `undecodable` option decides what becomes of the message.
    fn decode(message: &'a Message) -> Result<Self, BoxError>;
}

/// What the typed producer can send.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can be consumed but not produced",
    label = "not serializable",
    note = "add `#[derive(Serialize)]`, or write `producer = false` in the attribute"
)]
pub trait Produce {
    /// How it is encoded.
    const CONTENT: ContentType;

    /// Encodes it. `None` is a tombstone.
    ///
    /// # Errors
    /// What the encoder says.
    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError>;
}

#[diagnostic::do_not_recommend]
impl<'a, T: Deserialize<'a> + Send> Payload<'a> for T {
    const CONTENT: ContentType = ContentType::Json;

    fn decode(message: &'a Message) -> Result<Self, BoxError> {
        decode_json(message)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize> Produce for T {
    const CONTENT: ContentType = ContentType::Json;

    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(Some(serde_json::to_vec(self)?))
    }
}

fn decode_json<'a, T: Deserialize<'a>>(message: &'a Message) -> Result<T, BoxError> {
    // A tombstone is `None` for an `Option<T>`, and an error for everything else.
    let payload = message.payload().unwrap_or(b"null");
    // All of it is checked at once: the decoder would check each text and each name alone, which costs several times as much.
    let decoded = match std::str::from_utf8(payload) {
        Ok(text) => serde_json::from_str(text),
        // It says where; and bytes in texts may be what the type asks for.
        Err(_) => serde_json::from_slice(payload),
    };
    decoded.map_err(|error| without_values(&error))
}

/// What the decoder said, without what stood in the payload: the text goes to the log.
fn without_values(error: &serde_json::Error) -> BoxError {
    let text = error.to_string();
    // What is wrong with the syntax has its place, never a value.
    if !error.is_data() {
        return text.into();
    }
    let at = format!(" at line {} column {}", error.line(), error.column());
    let said = text.strip_suffix(&at).unwrap_or(&text);
    type_refuses(said, &at).into()
}

/// What a type said of a payload, without its values. `at` is where, to stand behind it.
fn type_refuses(said: &str, at: &str) -> String {
    // These name fields of the type.
    if said.starts_with("missing field `") || said.starts_with("duplicate field `") {
        return format!("{said}{at}");
    }
    // `invalid type: string "..", expected u32`: the kind stays, the value goes. What the type expects comes last.
    let expected = said.rfind(", expected ").map_or("", |begin| &said[begin..]);
    let known = [
        "invalid type: ",
        "invalid value: ",
        "invalid length ",
        "unknown variant ",
        "unknown field ",
    ];
    let Some(begin) = known.iter().find(|begin| said.starts_with(**begin)) else {
        return format!("the payload's type refuses it{at}");
    };
    let kind = said[begin.len()..]
        .split(['"', '`', ','])
        .next()
        .unwrap_or_default();
    let hint = if expected == ", expected a borrowed string" {
        "; it has escapes, so it cannot be borrowed: take a `String`, or `Cow<str>` with `#[serde(borrow)]`"
    } else {
        ""
    };
    format!(
        "{}{expected}{at}{hint}",
        format_args!("{begin}{kind}").to_string().trim_end()
    )
}

/// JSON, said aloud. Also the way to take one message that holds a JSON array: `Json<Vec<T>>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

#[diagnostic::do_not_recommend]
impl<'a, T: Deserialize<'a> + Send> Payload<'a> for Json<T> {
    const CONTENT: ContentType = ContentType::Json;

    fn decode(message: &'a Message) -> Result<Self, BoxError> {
        decode_json(message).map(Self)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize> Produce for Json<T> {
    const CONTENT: ContentType = ContentType::Json;

    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(Some(serde_json::to_vec(&self.0)?))
    }
}

/// UTF-8 text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub String);

#[diagnostic::do_not_recommend]
impl<'a> Payload<'a> for Text {
    const CONTENT: ContentType = ContentType::Text;

    fn decode(message: &'a Message) -> Result<Self, BoxError> {
        Ok(Self(
            std::str::from_utf8(message.body.payload())?.to_owned(),
        ))
    }
}

#[diagnostic::do_not_recommend]
impl Produce for Text {
    const CONTENT: ContentType = ContentType::Text;

    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(Some(self.0.as_bytes().to_vec()))
    }
}

/// Bytes as they are. A tombstone is empty here; `Nullable<Raw>` tells it from an empty payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw(pub bytes::Bytes);

#[diagnostic::do_not_recommend]
impl<'a> Payload<'a> for Raw {
    const CONTENT: ContentType = ContentType::Raw;

    fn decode(message: &'a Message) -> Result<Self, BoxError> {
        Ok(Self(message.body.payload_bytes()))
    }
}

#[diagnostic::do_not_recommend]
impl Produce for Raw {
    const CONTENT: ContentType = ContentType::Raw;

    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(Some(self.0.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_decoder_says_holds_nothing_of_the_payload() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only its errors are looked at")]
        struct Card {
            kind: Kind,
            pin: u8,
        }
        #[derive(Debug, Deserialize)]
        enum Kind {
            Gold,
            Black,
        }
        for (payload, said) in [
            (
                r#""secret, expected u7""#,
                "invalid type: string, expected struct Card at line 1 column 21",
            ),
            (
                r#"{"kind":"secret","pin":1}"#,
                "unknown variant, expected `Gold` or `Black` at line 1 column 16",
            ),
            (
                r#"{"secret":1}"#,
                "unknown field, expected `kind` or `pin` at line 1 column 9",
            ),
            (
                r#"{"kind":"Gold","pin":4711}"#,
                "invalid value: integer, expected u8 at line 1 column 25",
            ),
            (
                r#"{"kind":"Gold"}"#,
                "missing field `pin` at line 1 column 15",
            ),
            (
                r#"{"kind":"Black","pin":se}"#,
                "expected value at line 1 column 23",
            ),
        ] {
            let error = serde_json::from_str::<Card>(payload).expect_err("it is wrong");
            assert_eq!(without_values(&error).to_string(), said);
        }
        let error =
            serde_json::from_str::<std::net::IpAddr>(r#""secret""#).expect_err("it is wrong");
        assert!(!without_values(&error).to_string().contains("secret"));
    }
    use crate::message::{Body, Flags};

    fn message(payload: &[u8]) -> Message {
        Message {
            body: Body::pack(b"k", b"", payload),
            ..Message::default()
        }
    }

    #[test]
    fn a_payload_may_borrow_from_its_message() {
        #[derive(Deserialize)]
        struct Order<'a> {
            id: &'a str,
        }
        let message = message(br#"{"id":"o-1"}"#);
        let order: Order<'_> = Payload::decode(&message).expect("decodes");
        assert_eq!(order.id, "o-1");
    }

    #[test]
    fn a_tombstone_is_none_and_nothing_else() {
        let tombstone = Message {
            flags: Flags::NULL_PAYLOAD,
            ..Message::default()
        };
        assert_eq!(
            <Option<u8> as Payload>::decode(&tombstone).expect("none"),
            None
        );
        assert!(<u8 as Payload>::decode(&tombstone).is_err());
    }

    #[test]
    fn text_and_raw_are_what_they_say() {
        assert!(Text::decode(&message(&[0xff])).is_err());
        assert_eq!(
            Text::decode(&message("ä".as_bytes())).expect("text"),
            Text("ä".into())
        );
        assert_eq!(
            Raw::decode(&message(&[0xff])).expect("raw").0.as_ref(),
            &[0xff]
        );
    }
}
