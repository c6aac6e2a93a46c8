//! What holds for what is sent: bytes, sizes, answers.

use std::collections::HashMap;

use bytes::Bytes;

use super::turns::{ids, ids_of, message, messages, sides};
use super::{Consumer, Subject, publish};
use crate::delivery::Delivery;
use crate::engine::{MAX_RECORD_LEN, MAX_TASK_LEN, Outgoing, PublishError};
use crate::message::envelope;
use crate::message::{Body, ContentType, Flags, Headers, Id};
use crate::name::{Name, Place};
use crate::producer::{Enqueue, Producer, Push, Route, Routes, Sendable, Unconfirmed};
use crate::time::Clock;

/// Keys, headers and payloads come back byte by byte: empty ones, null ones, large ones, those of all bytes.
pub async fn keeps_headers_and_bytes_exactly(subject: &dyn Subject) {
    for to in sides(subject) {
        let limit = match to.place {
            Place::Tube(_) => MAX_TASK_LEN - envelope::LEN,
            Place::Topic(_) => MAX_RECORD_LEN,
        };
        let all: Vec<u8> = (0..=255).collect();
        let many: Headers = (0..=255_u8)
            .chain(0..=255)
            .map(|n| (format!("name-{}", n % 250), vec![0xff, n]))
            .collect();
        let many = many.encode().expect("within the format");
        let none = Flags::default();
        let large: Vec<u8> = all.iter().copied().cycle().take(limit).collect();
        let bodies = [
            (Body::pack(b"", b"", b""), none),
            (Body::pack(b"", b"", b""), Flags::NULL_KEY),
            (Body::pack(b"", b"", b""), Flags::NULL_PAYLOAD),
            (
                Body::pack(b"", b"", b""),
                Flags::NULL_KEY.with(Flags::NULL_PAYLOAD),
            ),
            (Body::pack(b"key", b"", b""), Flags::NULL_PAYLOAD),
            (Body::pack(&all, b"", &all), none),
            (Body::pack(b"", &many, b"x"), Flags::NULL_KEY),
            (Body::pack(b"k", &many, b""), none),
            (Body::new(Bytes::from(large), 0, 0), Flags::NULL_KEY),
        ];
        let contents = [
            ContentType::Raw,
            ContentType::Json,
            ContentType::Text,
            ContentType::MsgPack,
            ContentType::Protobuf,
            ContentType::Header,
        ];
        let sent: Vec<Outgoing> = bodies
            .into_iter()
            .enumerate()
            .map(|(n, (body, flags))| Outgoing {
                body,
                flags,
                content: contents[n % contents.len()],
                ..message(&to, 0)
            })
            .collect();
        let engine = subject.engine();
        publish(&engine, sent.clone()).await;
        let mut consumer = Consumer::open(&engine, &to).await;
        let got = consumer.take(sent.len()).await;
        let got: HashMap<Id, &Delivery> = got
            .iter()
            .map(|delivery| (delivery.message.id, delivery))
            .collect();
        for out in &sent {
            let message = &got.get(&out.id).expect("delivered").message;
            let length = message.body.len();
            assert!(
                message.body.bytes() == out.body.bytes(),
                "{length} bytes are not those sent"
            );
            assert_eq!(message.body.key(), out.body.key());
            assert_eq!(message.body.head_len(), out.body.head_len());
            assert_eq!((message.flags, message.content), (out.flags, out.content));
        }
        consumer.close().await;
    }
}

/// One byte above the limit is refused with a type, and nothing of it is stored; the limit itself is accepted.
pub async fn oversize_is_refused_before_storing(subject: &dyn Subject) {
    for to in sides(subject) {
        let limit = match to.place {
            Place::Tube(_) => MAX_TASK_LEN - envelope::LEN,
            Place::Topic(_) => MAX_RECORD_LEN,
        };
        let sized = |length: usize| Outgoing {
            body: Body::new(Bytes::from(vec![b'x'; length]), 0, 0),
            flags: Flags::NULL_KEY,
            ..message(&to, 0)
        };
        let engine = subject.engine();
        let answers = engine.publisher().publish(vec![sized(limit + 1)]).await;
        assert!(
            matches!(answers[..], [Err(PublishError::TooLarge { .. })]),
            "{answers:?}"
        );
        let fits = sized(limit);
        publish(&engine, vec![fits.clone()]).await;
        let mut consumer = Consumer::open(&engine, &to).await;
        let got = consumer.take(1).await;
        assert_eq!(got[0].message.id, fits.id);
        consumer.ack(&got).await;
        consumer.nothing(subject.silence()).await;
        consumer.close().await;
    }
}

/// A slice with something bad in it: each has its own answer in its own place, and the good ones are stored.
pub async fn a_slice_is_answered_in_order(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        let mut slice = messages(&to, 9);
        slice[4].body = Body::new(Bytes::from(vec![0; MAX_RECORD_LEN + 1]), 0, 0);
        let answers = engine.publisher().publish(slice.clone()).await;
        for (n, (answer, out)) in answers.iter().zip(&slice).enumerate() {
            match answer {
                Ok(published) => assert_eq!((published.id, n == 4), (out.id, false)),
                Err(error) => assert_eq!(n, 4, "{error}"),
            }
        }
        slice.remove(4);
        let mut consumer = Consumer::open(&engine, &to).await;
        assert_eq!(ids(&consumer.take(8).await), ids_of(&slice));
        consumer.nothing(subject.silence()).await;
        assert!(
            engine.publisher().publish(Vec::new()).await.is_empty(),
            "an empty slice is no error"
        );
        consumer.close().await;
    }
}

/// Messages that one caller hands over without waiting: each is confirmed, stored once, and those of a key of a topic keep their
/// order.
pub async fn what_is_enqueued_is_stored_once_and_in_order(subject: &dyn Subject) {
    const COUNT: usize = 1500;
    const NAME: &str = "enqueued";
    let engine = subject.engine();
    let route = Some(Route::new(engine.clone()));
    let routes = Routes {
        tasks: route.clone(),
        topics: route,
        ..Routes::default()
    };
    let producer = Producer::new(Clock::system(), routes);
    let payload = |n: usize| n.to_string().into_bytes();
    for mut to in sides(subject) {
        let name = Name::literal(NAME);
        if let Place::Topic(place) = &mut to.place {
            *place = name;
            let push = |n| Push::bytes(NAME, payload(n), ContentType::Text);
            let keyed = |n: usize| push(n).key(format!("key-{}", n % 16));
            confirm(&producer, (0..COUNT).map(keyed), Push::enqueue).await;
        } else {
            to.place = Place::Tube(name);
            let task = |n| Enqueue::bytes(NAME, payload(n), ContentType::Text);
            confirm(&producer, (0..COUNT).map(task), Enqueue::enqueue).await;
        }
        let mut consumer = Consumer::open(&engine, &to).await;
        let mut last: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut seen = vec![false; COUNT];
        while seen.contains(&false) {
            let got = consumer.take(1).await;
            for Delivery { message, .. } in &got {
                let text = std::str::from_utf8(message.body.payload()).expect("text");
                let number: usize = text.parse().expect("a number");
                assert!(!seen[number], "{number} is stored twice");
                seen[number] = true;
                let ordered = matches!(to.place, Place::Topic(_));
                if let Some(before) = last.insert(message.body.key().to_vec(), number) {
                    assert!(!ordered || before < number, "{before}, then {number}");
                }
            }
            consumer.ack(&got).await;
        }
        consumer.nothing(subject.silence()).await;
        consumer.close().await;
    }
}

async fn confirm<S: Sendable>(
    producer: &Producer,
    all: impl Iterator<Item = S>,
    enqueue: impl AsyncFn(S, &Producer) -> Result<Unconfirmed<S::Receipt>, PublishError>,
) {
    let mut unconfirmed = Vec::new();
    for one in all {
        unconfirmed.push(enqueue(one, producer).await.expect("handed over"));
    }
    for one in unconfirmed {
        one.await.expect("stored");
    }
}
