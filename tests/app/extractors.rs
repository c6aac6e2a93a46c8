//! Extractors deliver the truth about the message.

use go_queue::message::Id;
use go_queue::prelude::*;
use go_queue::time::WallTime;

use crate::stage::{Stage, Trail, on_both_engines, stop};

on_both_engines!(
    what_a_task_handler_is_told_is_true,
    what_a_topic_handler_is_told_is_true,
    an_empty_key_and_no_key_are_different,
    a_handler_sees_the_state_it_names,
);

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Note<'a> {
    text: &'a str,
}

#[dq_handler(tube = "notes")]
async fn note(
    note: Note<'_>,
    meta: Meta,
    key: Key,
    headers: Headers,
    State(seen): State<tokio::sync::mpsc::UnboundedSender<Seen>>,
) {
    let seen = seen.send(Seen {
        text: note.text.to_owned(),
        meta,
        key: key.0.map(|key| key.to_vec()),
        headers: headers
            .iter()
            .map(|(n, v)| (n.to_owned(), v.to_vec()))
            .collect(),
        place: None,
    });
    assert!(seen.is_ok());
}

#[derive(Debug)]
struct Seen {
    text: String,
    meta: Meta,
    key: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    place: Option<(u32, i64, WallTime)>,
}

async fn what_a_task_handler_is_told_is_true(stage: Stage) {
    let (seen, mut sees) = tokio::sync::mpsc::unbounded_channel::<Seen>();
    let running = stage
        .app(handlers![note])
        .state(seen)
        .start()
        .await
        .unwrap();
    let before = stage.clock.now();
    let due = stage.later(millis(30));
    let sent = note::at(Note { text: "tea" }, due)
        .key("k\0y")
        .header("a", "1")
        .header("b", b"\x00\xff")
        .header("a", "")
        .send(&running.producer())
        .await
        .unwrap();
    let after = stage.clock.now();
    let one = sees.recv().await.unwrap();
    assert_eq!(one.text, "tea");
    assert_eq!(one.meta.id, sent.id());
    assert_eq!(one.meta.attempt, 1);
    assert_eq!((&*one.meta.source, one.meta.group), ("notes", None));
    assert_eq!(Some(one.meta.due), WallTime::from_system(due));
    // Accepted between the call and its answer; stored to the millisecond.
    assert!(before.as_millis() <= one.meta.at.as_millis() && one.meta.at <= after);
    assert_eq!(one.key.as_deref(), Some(&b"k\0y"[..]));
    let header = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    assert_eq!(
        one.headers,
        [
            header("a", b"1"),
            header("b", b"\x00\xff"),
            header("a", b"")
        ]
    );
    let named = note::now(Note { text: "now" }).id("name");
    let named = named.send(&running.producer()).await.unwrap();
    let two = sees.recv().await.unwrap();
    assert_eq!(two.meta.id, named.id());
    assert_eq!(two.meta.id, Id::named("notes", b"name"));
    assert!(
        two.meta.due >= before && two.meta.due <= stage.clock.now(),
        "{:?}",
        two.meta
    );
    stop(running).await;
}

#[kq_handler(topic = "notes", group = "g")]
async fn record(
    note: Note<'_>,
    Partition(partition): Partition,
    Offset(offset): Offset,
    Timestamp(at): Timestamp,
    headers: Headers,
    meta: Meta,
    key: Key,
    State(seen): State<tokio::sync::mpsc::UnboundedSender<Seen>>,
) {
    let seen = seen.send(Seen {
        text: note.text.to_owned(),
        meta,
        key: key.0.map(|key| key.to_vec()),
        headers: headers
            .iter()
            .map(|(n, v)| (n.to_owned(), v.to_vec()))
            .collect(),
        place: Some((partition, offset, at)),
    });
    assert!(seen.is_ok());
}

async fn what_a_topic_handler_is_told_is_true(stage: Stage) {
    let (seen, mut sees) = tokio::sync::mpsc::unbounded_channel::<Seen>();
    let running = stage
        .app(handlers![record])
        .state(seen)
        .start()
        .await
        .unwrap();
    let producer = running.producer();
    for n in 0..3 {
        let before = stage.clock.now();
        let push = record::push(Note { text: "tea" })
            .key("key")
            .header("n", n.to_string());
        let pushed = push.send(&producer).await.unwrap();
        let after = stage.clock.now();
        let one = sees.recv().await.unwrap();
        let (partition, offset, at) = one.place.unwrap();
        assert_eq!((partition, offset), (pushed.partition, pushed.offset));
        assert_eq!(offset, n, "one key, one partition");
        assert!(partition < 8);
        assert!(
            before.as_millis() <= at.as_millis() && at <= after,
            "{before} {at} {after}"
        );
        assert_eq!(one.meta.at, at);
        assert_eq!(one.meta.id, pushed.id);
        assert_eq!(
            (&*one.meta.source, one.meta.group.as_deref()),
            ("notes", Some("g"))
        );
        assert_eq!(one.key.as_deref(), Some(&b"key"[..]));
        assert_eq!(one.headers, [("n".to_owned(), n.to_string().into_bytes())]);
    }
    stop(running).await;
}

#[dq_handler(tube = "keys")]
async fn keys(n: u32, key: Key, State(trail): State<Trail>) {
    trail.add(format_args!("{n} {:?}", key.as_str()));
}

#[kq_handler(topic = "keys", group = "g")]
async fn topic_keys(n: u32, key: Key, State(trail): State<Trail>) {
    trail.add(format_args!("{n} {:?}", key.as_str()));
}

async fn an_empty_key_and_no_key_are_different(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![keys, topic_keys]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    keys::now(1).send(&producer).await.unwrap();
    keys::now(2).key("").send(&producer).await.unwrap();
    topic_keys::push(3).send(&producer).await.unwrap();
    topic_keys::push(4).key("").send(&producer).await.unwrap();
    trail.reach(4).await;
    assert_eq!(
        trail.sorted(),
        ["1 None", "2 Some(\"\")", "3 None", "4 Some(\"\")"]
    );
    stop(running).await;
}

#[derive(Clone)]
struct Greeting(&'static str);

#[dq_handler(tube = "greetings")]
async fn greet(
    name: String,
    State(Greeting(greeting)): State<Greeting>,
    State(n): State<u8>,
    State(trail): State<Trail>,
) {
    trail.add(format_args!("{greeting} {name} {n}"));
}

async fn a_handler_sees_the_state_it_names(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app(handlers![greet])
        .state(7_u8)
        .state(Greeting("hello"))
        .state(8_u16)
        .state(trail.clone());
    let running = app.start().await.unwrap();
    greet::now("eve".to_owned())
        .send(&running.producer())
        .await
        .unwrap();
    assert_eq!(trail.reach(1).await, ["hello eve 7"]);
    stop(running).await;
}

#[tokio::test]
async fn a_handler_is_still_a_function() {
    let trail = Trail::new();
    greet(
        "eve".to_owned(),
        State(Greeting("hi")),
        State(1),
        State(trail.clone()),
    )
    .await;
    keys(1, Key::default(), State(trail.clone())).await;
    assert_eq!(trail.lines(), ["hi eve 1", "1 None"]);
}
