//! Payloads: what does not decode, and how each kind of payload comes through.

use bytes::Bytes;
use go_queue::engine::DeadLetter;
use go_queue::message::ContentType;
use go_queue::name::Place;
use go_queue::prelude::*;
use go_queue::producer::{Enqueue, Push};

use crate::stage::{Stage, Trail, on_both_engines, stop};

#[derive(Serialize, Deserialize, Debug)]
struct Order {
    id: u64,
}

/// Not UTF-8, not JSON.
const BROKEN: &[u8] = b"{\"id\": \xff\x00 tru";

#[dq_handler(tube = "strict")]
async fn strict(order: Order, State(trail): State<Trail>) {
    trail.add(order.id);
}

#[dq_handler(tube = "lenient", undecodable = skip)]
async fn lenient(order: Order, State(trail): State<Trail>) {
    trail.add(order.id);
}

#[dq_handler(tube = "patient", undecodable = retry, retry(max = 2, backoff = "1ms..2ms"))]
async fn patient(order: Order, State(trail): State<Trail>) {
    trail.add(order.id);
}

#[kq_handler(topic = "strict", group = "g")]
async fn strict_topic(order: Order, State(trail): State<Trail>) {
    trail.add(order.id);
}

#[kq_handler(topic = "lenient", group = "g", undecodable = skip)]
async fn lenient_topic(order: Order, State(trail): State<Trail>) {
    trail.add(order.id);
}

#[kq_handler(topic = "patient", group = "g", undecodable = retry, retry(max = 2, backoff = "1ms..2ms"))]
async fn patient_topic(order: Order, State(trail): State<Trail>) {
    trail.add(order.id);
}

fn is_kept_as_it_was(letter: &DeadLetter) {
    assert_eq!(letter.body.payload(), BROKEN);
    assert_eq!(letter.body.key(), b"k");
    let headers = go_queue::message::headers::iter(letter.body.raw_headers());
    let headers: Vec<_> = headers
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect();
    assert_eq!(headers, [(b"trace".to_vec(), b"\x00\xffid".to_vec())]);
    assert_eq!(letter.content, ContentType::Json);
}

on_both_engines!(
    a_task_that_does_not_decode_becomes_a_dead_letter_with_its_bytes,
    a_task_that_does_not_decode_is_skipped_where_asked,
    a_task_that_does_not_decode_is_tried_again_where_asked,
    a_record_that_does_not_decode_does_not_hold_its_key,
    a_record_that_does_not_decode_is_skipped_or_tried_again_where_asked,
    every_kind_of_payload_comes_through,
    a_tombstone_is_none_for_an_option_and_an_error_for_others,
);

async fn a_task_that_does_not_decode_becomes_a_dead_letter_with_its_bytes(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![strict]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let sent = Enqueue::bytes("strict", BROKEN.to_vec(), ContentType::Json)
        .key("k")
        .header("trace", b"\x00\xffid")
        .send(&producer)
        .await
        .unwrap();
    strict::now(Order { id: 7 }).send(&producer).await.unwrap();
    assert_eq!(trail.reach(1).await, ["7"]);
    let letters = stage.dead(1).await;
    let letter = &letters[0];
    is_kept_as_it_was(letter);
    assert_eq!(letter.id, sent.id());
    assert_eq!(letter.attempts, 1, "it is not tried again");
    assert_eq!(&*letter.handler, "strict");
    assert!(
        letter.reason.starts_with("undecodable: "),
        "{}",
        letter.reason
    );
    assert!(matches!(&letter.place, Place::Tube(name) if name.as_str() == "strict"));
    let counts = running.handlers()[0].counts;
    assert_eq!((counts.dead, counts.done, counts.retried), (1, 1, 0));
    stop(running).await;
}

async fn a_task_that_does_not_decode_is_skipped_where_asked(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![lenient]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    Enqueue::bytes("lenient", BROKEN.to_vec(), ContentType::Json)
        .send(&producer)
        .await
        .unwrap();
    lenient::now(Order { id: 7 }).send(&producer).await.unwrap();
    assert_eq!(trail.reach(1).await, ["7"]);
    crate::stage::until("both are settled", || {
        let counts = running.handlers()[0].counts;
        (counts.skipped, counts.done) == (1, 1)
    })
    .await;
    stage.dead(0).await;
    stop(running).await;
}

async fn a_task_that_does_not_decode_is_tried_again_where_asked(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![patient]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    Enqueue::bytes("patient", BROKEN.to_vec(), ContentType::Json)
        .key("k")
        .header("trace", b"\x00\xffid")
        .send(&producer)
        .await
        .unwrap();
    let letters = stage.dead(1).await;
    is_kept_as_it_was(&letters[0]);
    assert_eq!(letters[0].attempts, 3);
    assert_eq!(running.handlers()[0].counts.retried, 2);
    stop(running).await;
}

async fn a_record_that_does_not_decode_does_not_hold_its_key(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![strict_topic]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    strict_topic::push(Order { id: 1 })
        .key("k")
        .send(&producer)
        .await
        .unwrap();
    Push::bytes("strict", BROKEN.to_vec(), ContentType::Json)
        .key("k")
        .header("trace", b"\x00\xffid")
        .send(&producer)
        .await
        .unwrap();
    strict_topic::push(Order { id: 2 })
        .key("k")
        .send(&producer)
        .await
        .unwrap();
    assert_eq!(trail.reach(2).await, ["1", "2"]);
    let letters = stage.dead(1).await;
    is_kept_as_it_was(&letters[0]);
    assert_eq!(
        letters[0].group.as_ref().map(go_queue::name::Name::as_str),
        Some("g")
    );
    assert_eq!(letters[0].attempts, 1);
    stop(running).await;
}

async fn a_record_that_does_not_decode_is_skipped_or_tried_again_where_asked(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app(handlers![lenient_topic, patient_topic])
        .state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    for topic in ["lenient", "patient"] {
        let broken = Push::bytes(topic, BROKEN.to_vec(), ContentType::Json)
            .key("k")
            .header("trace", b"\x00\xffid");
        let fine = Push::bytes(topic, b"{\"id\":5}".to_vec(), ContentType::Json).key("k");
        for result in producer.send_all([broken, fine]).await {
            result.unwrap();
        }
    }
    assert_eq!(trail.reach(2).await, ["5", "5"]);
    let letters = stage.dead(1).await;
    is_kept_as_it_was(&letters[0]);
    assert_eq!(&*letters[0].handler, "patient_topic");
    assert_eq!(letters[0].attempts, 3);
    stop(running).await;
}

#[dq_handler(tube = "borrowed")]
async fn borrowed(text: std::borrow::Cow<'_, str>, State(trail): State<Trail>) {
    trail.add(format_args!("borrowed {text}"));
}

#[dq_handler(tube = "text")]
async fn text(text: Text, State(trail): State<Trail>) {
    trail.add(format_args!("text {}", text.0));
}

#[dq_handler(tube = "raw")]
async fn raw(raw: Raw, State(trail): State<Trail>) {
    trail.add(format_args!("raw {:?}", raw.0));
}

#[dq_handler(tube = "list")]
async fn list(numbers: Json<Vec<u8>>, State(trail): State<Trail>) {
    trail.add(format_args!("list {:?}", numbers.0));
}

#[dq_handler(tube = "unit")]
async fn unit(_: (), State(trail): State<Trail>) {
    trail.add("unit");
}

async fn every_kind_of_payload_comes_through(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app(handlers![borrowed, text, raw, list, unit])
        .state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    borrowed::now("b".into()).send(&producer).await.unwrap();
    text::now(Text("naïve \"text\"".to_owned()))
        .send(&producer)
        .await
        .unwrap();
    raw::now(Raw(Bytes::from_static(b"\x00\xff")))
        .send(&producer)
        .await
        .unwrap();
    raw::now(Raw(Bytes::new())).send(&producer).await.unwrap();
    list::now(Json(vec![1, 2])).send(&producer).await.unwrap();
    unit::now(()).send(&producer).await.unwrap();
    trail.reach(6).await;
    assert_eq!(
        trail.sorted(),
        [
            "borrowed b",
            "list [1, 2]",
            r#"raw b"""#,
            r#"raw b"\0\xff""#,
            "text naïve \"text\"",
            "unit"
        ]
    );
    stop(running).await;
}

#[kq_handler(topic = "compacted", group = "g", producer = false)]
async fn compacted(order: Option<Order>, State(trail): State<Trail>) {
    trail.add(format_args!("{:?}", order.map(|order| order.id)));
}

async fn a_tombstone_is_none_for_an_option_and_an_error_for_others(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app(handlers![compacted, strict_topic])
        .state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    for topic in ["compacted", "strict"] {
        Push::bytes(topic, b"null".to_vec(), ContentType::Json)
            .key("k")
            .send(&producer)
            .await
            .unwrap();
    }
    assert_eq!(trail.reach(1).await, ["None"]);
    assert_eq!(&*stage.dead(1).await[0].handler, "strict_topic");
    stop(running).await;
}
