//! What a producer refuses, and that it refuses nothing else for it.

use std::collections::HashMap;
use std::time::Duration;

use go_queue::engine::{MAX_RECORD_LEN, MAX_TASK_LEN, PublishError};
use go_queue::message::ContentType;
use go_queue::message::envelope;
use go_queue::prelude::*;
use go_queue::producer::{Enqueue, Push};

use crate::stage::{Stage, Trail, on_both_engines, stop};

#[dq_handler(tube = "texts")]
async fn texts(text: Text, State(trail): State<Trail>) {
    trail.add(text.0.len());
}

#[kq_handler(topic = "texts", group = "g")]
async fn text_records(text: Text, State(trail): State<Trail>) {
    trail.add(text.0.len());
}

#[dq_handler(tube = "maps")]
async fn maps(map: HashMap<(u8, u8), u8>, State(trail): State<Trail>) {
    trail.add(map.len());
}

fn of_len(len: usize) -> Text {
    Text("x".repeat(len))
}

on_both_engines!(
    a_task_over_the_limit_is_refused_with_its_size_and_the_next_one_runs,
    a_record_over_the_limit_is_refused_with_its_size_and_the_next_one_runs,
    of_many_only_those_that_are_wrong_are_refused,
    what_cannot_be_encoded_or_put_into_a_header_is_refused_before_it_is_sent,
    a_name_that_breaks_the_rule_is_refused_by_the_producer,
    a_handler_sends_through_the_producer_it_takes,
    what_was_enqueued_is_stored_before_the_app_has_stopped,
);

async fn a_task_over_the_limit_is_refused_with_its_size_and_the_next_one_runs(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![texts]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let most = MAX_TASK_LEN - envelope::LEN;
    let refused = texts::now(of_len(most + 1))
        .send(&producer)
        .await
        .unwrap_err();
    let PublishError::TooLarge { place, size, limit } = &refused else {
        unreachable!("{refused}")
    };
    assert_eq!(
        (place.name().as_str(), *size, *limit),
        ("texts", MAX_TASK_LEN + 1, MAX_TASK_LEN)
    );
    assert_eq!(
        refused.to_string(),
        "a message for tube `texts` has 65536 bytes, the limit is 65535 on every engine; `portable: false` on its tube lets sqlite take \
         larger payloads"
    );
    texts::now(of_len(5))
        .key("y".repeat(70_000))
        .send(&producer)
        .await
        .unwrap_err();
    texts::now(of_len(most)).send(&producer).await.unwrap();
    texts::now(of_len(1)).send(&producer).await.unwrap();
    trail.reach(2).await;
    assert_eq!(trail.sorted(), ["1".to_owned(), most.to_string()]);
    stop(running).await;
}

async fn a_record_over_the_limit_is_refused_with_its_size_and_the_next_one_runs(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![text_records]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let refused = text_records::push(of_len(MAX_RECORD_LEN + 1))
        .send(&producer)
        .await;
    assert!(
        matches!(
            refused,
            Err(PublishError::TooLarge {
                size: 1_000_001,
                limit: 1_000_000,
                ..
            })
        ),
        "{refused:?}"
    );
    text_records::push(of_len(MAX_RECORD_LEN))
        .send(&producer)
        .await
        .unwrap();
    text_records::push(of_len(1)).send(&producer).await.unwrap();
    trail.reach(2).await;
    assert_eq!(trail.sorted(), ["1", "1000000"]);
    stop(running).await;
}

async fn of_many_only_those_that_are_wrong_are_refused(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app(handlers![texts, text_records])
        .state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    // More than one slice, and wrong ones in each.
    let many = (0..2500_usize).map(|n| match n {
        3 | 1500 => texts::now(of_len(MAX_TASK_LEN)),
        4 | 1501 => texts::delay(of_len(2), Duration::MAX),
        5 | 1502 => texts::now(of_len(2)).header(&"h".repeat(300), "v"),
        _ => texts::now(of_len(1)),
    });
    let results = producer.send_all(many).await;
    assert_eq!(results.len(), 2500);
    for (n, result) in results.iter().enumerate() {
        let as_expected = match n {
            3 | 1500 => matches!(result, Err(PublishError::TooLarge { .. })),
            4 | 1501 => matches!(result, Err(PublishError::DelayOutOfRange { .. })),
            5 | 1502 => matches!(result, Err(PublishError::Header(_))),
            _ => result.is_ok(),
        };
        assert!(as_expected, "{n}: {result:?}");
    }
    assert_eq!(trail.reach(2494).await, vec!["1".to_owned(); 2494]);
    let pushed = producer
        .send_all([
            text_records::push(of_len(1)),
            text_records::push(of_len(MAX_RECORD_LEN + 1)),
            text_records::push(of_len(1)),
        ])
        .await;
    assert!(
        pushed[0].is_ok() && pushed[1].is_err() && pushed[2].is_ok(),
        "{pushed:?}"
    );
    trail.reach(2496).await;
    stop(running).await;
    assert_eq!(trail.lines().len(), 2496);
}

async fn what_cannot_be_encoded_or_put_into_a_header_is_refused_before_it_is_sent(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![maps]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let map = HashMap::from([((1, 2), 3)]);
    let refused = maps::now(map).send(&producer).await.unwrap_err();
    assert!(matches!(refused, PublishError::Encode { .. }), "{refused}");
    assert!(refused.to_string().contains("tube `maps`"), "{refused}");
    let refused = maps::now(HashMap::new())
        .header("", "v")
        .send(&producer)
        .await;
    assert!(
        matches!(refused, Err(PublishError::Header(_))),
        "{refused:?}"
    );
    maps::now(HashMap::new()).send(&producer).await.unwrap();
    assert_eq!(trail.reach(1).await, ["0"]);
    stop(running).await;
}

async fn a_name_that_breaks_the_rule_is_refused_by_the_producer(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![texts]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let long: &'static str = Box::leak("n".repeat(201).into_boxed_str());
    for name in ["with space", "with/slash", "line\nput 1 2 3", "", long] {
        let tube = Enqueue::bytes(name, b"x".to_vec(), ContentType::Text);
        let refused = tube.send(&producer).await.unwrap_err();
        assert!(matches!(refused, PublishError::Name { .. }), "{refused}");
        assert!(!refused.to_string().contains('\n'), "{refused}");
        let topic = Push::bytes(name, b"x".to_vec(), ContentType::Text);
        topic.send(&producer).await.unwrap_err();
    }
    stop(running).await;
}

#[dq_handler(tube = "first")]
async fn begins(n: u32, producer: Producer) -> Result<(), PublishError> {
    goes_on::push(n + 1).key("k").send(&producer).await?;
    Ok(())
}

#[kq_handler(topic = "second", group = "g")]
async fn goes_on(n: u32, producer: Producer) -> Result<(), PublishError> {
    ends::delay(n + 1, millis(20)).send(&producer).await?;
    Ok(())
}

#[dq_handler(tube = "third")]
async fn ends(n: u32, State(trail): State<Trail>) {
    trail.add(n);
}

async fn a_handler_sends_through_the_producer_it_takes(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app(handlers![begins, goes_on, ends])
        .state(trail.clone());
    let running = app.start().await.unwrap();
    begins::now(1).send(&running.producer()).await.unwrap();
    assert_eq!(trail.reach(1).await, ["3"]);
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_producer_of_a_stopped_app_says_that_it_is_closed() {
    let stage = Stage::memory();
    let app = stage.app(handlers![texts]).state(Trail::new());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    stop(running).await;
    let refused = texts::now(of_len(1)).send(&producer).await;
    assert!(
        matches!(refused, Err(PublishError::Closed { .. })),
        "{refused:?}"
    );
    let all = producer
        .send_all([texts::now(of_len(1)), texts::now(of_len(2))])
        .await;
    assert!(all.iter().all(Result::is_err), "{all:?}");
}

#[tokio::test]
async fn a_producer_of_a_stopped_app_on_sqlite_says_that_it_is_closed() {
    let stage = Stage::sqlite().await;
    let app = stage.app(handlers![texts]).state(Trail::new());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    stop(running).await;
    let refused = texts::now(of_len(1)).send(&producer).await;
    assert!(
        matches!(refused, Err(PublishError::Closed { .. })),
        "{refused:?}"
    );
}

async fn what_was_enqueued_is_stored_before_the_app_has_stopped(stage: Stage) {
    let app = stage.app(handlers![texts]).state(Trail::new());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let mut unconfirmed = Vec::new();
    for _ in 0..5000 {
        let later = texts::delay(of_len(1), hours(1));
        unconfirmed.push(later.enqueue(&producer).await.unwrap());
    }
    stop(running).await;
    for task in unconfirmed {
        let task = task
            .await
            .expect("it was stored before the engine was closed");
        assert_eq!(task.tube().as_str(), "texts");
    }
}
