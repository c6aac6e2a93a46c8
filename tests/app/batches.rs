//! Batch handlers: sizes, keys, one outcome each, and answers of the wrong length.

use go_queue::prelude::*;

use crate::stage::{Gate, Stage, Trail, on_both_engines, stop, until};

on_both_engines!(
    a_batch_is_never_larger_than_asked_and_one_that_is_not_full_does_not_wait_for_ever,
    a_batch_of_a_topic_has_one_key_in_order,
    each_message_of_a_batch_has_its_own_outcome,
    a_wrong_number_of_outcomes_is_an_error_for_all,
    what_does_not_decode_is_left_out_of_its_batch,
    a_batch_that_fails_is_tried_again_in_order,
);

#[dq_handler(tube = "clicks", batch = 8, linger = "5ms")]
async fn clicks(batch: Vec<u32>, State(trail): State<Trail>) {
    trail.add(format_args!("{} of {batch:?}", batch.len()));
}

async fn a_batch_is_never_larger_than_asked_and_one_that_is_not_full_does_not_wait_for_ever(
    stage: Stage,
) {
    let trail = Trail::new();
    let app = stage.app(handlers![clicks]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    clicks::now(99).send(&producer).await.unwrap();
    assert_eq!(trail.reach(1).await, ["1 of [99]"]);
    let sent = producer.send_all((0..50).map(clicks::now)).await;
    assert!(sent.iter().all(Result::is_ok));
    until("all are done", || running.handlers()[0].counts.done == 51).await;
    stop(running).await;
    let mut seen = Vec::new();
    for line in trail.lines() {
        let (len, rest) = line.split_once(" of ").unwrap();
        assert!((1..=8).contains(&len.parse::<usize>().unwrap()), "{line}");
        seen.extend(serde_json::from_str::<Vec<u32>>(rest).unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).chain([99]).collect::<Vec<_>>());
}

#[kq_handler(topic = "clicks", group = "g", order = key, batch = 10, linger = "5ms")]
async fn clicks_by_key(
    batch: Vec<u32>,
    keys: Vec<Key>,
    Key(first): Key,
    State(trail): State<Trail>,
) {
    assert_eq!(batch.len(), keys.len());
    let first = Key(first);
    assert!(keys.iter().all(|key| *key == first), "{keys:?}");
    trail.add(format_args!(
        "{}:{batch:?}",
        first.as_str().unwrap_or("none")
    ));
}

async fn a_batch_of_a_topic_has_one_key_in_order(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app_with(
            handlers![clicks_by_key],
            "topics: { clicks: { partitions: 2 } }",
        )
        .state(trail.clone());
    let running = app.start().await.unwrap();
    let pushes = (0..60_u32).map(|n| clicks_by_key::push(n).key((n % 3).to_string()));
    for pushed in running.producer().send_all(pushes).await {
        pushed.unwrap();
    }
    until("all are done", || running.handlers()[0].counts.done == 60).await;
    stop(running).await;
    let mut by_key = vec![Vec::new(); 3];
    for line in trail.lines() {
        let (key, rest) = line.split_once(':').unwrap();
        let batch: Vec<u32> = serde_json::from_str(rest).unwrap();
        assert!(batch.len() <= 10, "{line}");
        by_key[key.parse::<usize>().unwrap()].extend(batch);
    }
    for (key, numbers) in (0_u32..).zip(by_key) {
        assert_eq!(
            numbers,
            (0..60).filter(|n| n % 3 == key).collect::<Vec<_>>()
        );
    }
    stage.dead(0).await;
}

#[dq_handler(
    tube = "mixed",
    batch = 5,
    linger = "20ms",
    retry(max = 1, backoff = "1ms..2ms")
)]
async fn mixed(batch: Vec<u32>, metas: Vec<Meta>, State(trail): State<Trail>) -> Vec<Outcome> {
    let outcome = |(n, meta): (u32, Meta)| {
        trail.add(format_args!("{n}.{}", meta.attempt));
        match n {
            1 => Outcome::Skip,
            2 => Outcome::dead("two"),
            3 => Outcome::retry("three"),
            _ => Outcome::Done,
        }
    };
    batch.into_iter().zip(metas).map(outcome).collect()
}

async fn each_message_of_a_batch_has_its_own_outcome(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![mixed]).state(trail.clone());
    let running = app.start().await.unwrap();
    let sent = running.producer().send_all((0..5).map(mixed::now)).await;
    assert!(sent.iter().all(Result::is_ok));
    let mut letters = stage.dead(2).await;
    letters.sort_by_key(|letter| letter.attempts);
    let told: Vec<_> = letters.iter().map(|l| (&*l.reason, l.attempts)).collect();
    assert_eq!(told, [("two", 1), ("three", 2)]);
    assert_eq!(trail.sorted(), ["0.1", "1.1", "2.1", "3.1", "3.2", "4.1"]);
    until("all are settled", || {
        let counts = running.handlers()[0].counts;
        (counts.done, counts.skipped, counts.dead, counts.retried) == (2, 1, 2, 1)
    })
    .await;
    stop(running).await;
}

#[kq_handler(
    topic = "short",
    group = "g",
    batch = 3,
    linger = "50ms",
    retry(max = 1, backoff = "1ms..2ms")
)]
async fn short(batch: Vec<u32>, State(trail): State<Trail>) -> Vec<Outcome> {
    trail.add(format_args!("{batch:?}"));
    vec![Outcome::Done]
}

async fn a_wrong_number_of_outcomes_is_an_error_for_all(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![short]).state(trail.clone());
    let running = app.start().await.unwrap();
    let pushes = (0..3).map(|n| short::push(n).key("k"));
    for pushed in running.producer().send_all(pushes).await {
        pushed.unwrap();
    }
    let letters = stage.dead(3).await;
    for letter in letters {
        assert_eq!(
            &*letter.reason,
            "the handler returned 1 outcomes for a batch of 3 messages"
        );
        assert_eq!(letter.attempts, 2);
    }
    assert_eq!(trail.lines(), ["[0, 1, 2]", "[0, 1, 2]"]);
    stop(running).await;
}

#[dq_handler(tube = "partly", batch = 4, linger = "50ms")]
async fn partly(batch: Vec<u32>, State(trail): State<Trail>) {
    trail.add(format_args!("{batch:?}"));
}

async fn what_does_not_decode_is_left_out_of_its_batch(stage: Stage) {
    use go_queue::message::ContentType;
    use go_queue::producer::Enqueue;
    let trail = Trail::new();
    let app = stage.app(handlers![partly]).state(trail.clone());
    let running = app.start().await.unwrap();
    let of = |text: &str| Enqueue::bytes("partly", text.as_bytes().to_vec(), ContentType::Json);
    let sent = running
        .producer()
        .send_all(["1", "true", "2", "{"].map(of))
        .await;
    assert!(sent.iter().all(Result::is_ok));
    let letters = stage.dead(2).await;
    assert!(
        letters
            .iter()
            .all(|letter| letter.reason.starts_with("undecodable"))
    );
    until("two are done", || running.handlers()[0].counts.done == 2).await;
    stop(running).await;
    assert_eq!(trail.lines(), ["[1, 2]"]);
}

#[kq_handler(
    topic = "again",
    group = "g",
    batch = 4,
    linger = "50ms",
    retry(max = 2, backoff = "1ms..2ms")
)]
async fn again(
    batch: Vec<u32>,
    meta: Meta,
    State(gate): State<Gate>,
    State(trail): State<Trail>,
) -> Result<(), &'static str> {
    trail.add(format_args!("{batch:?} {}", meta.attempt));
    if meta.attempt == 1 {
        return Err("once more");
    }
    gate.pass().await;
    Ok(())
}

async fn a_batch_that_fails_is_tried_again_in_order(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    let app = stage
        .app(handlers![again])
        .state(trail.clone())
        .state(gate.clone());
    let running = app.start().await.unwrap();
    let pushes = (0..4).map(|n| again::push(n).key("k"));
    for pushed in running.producer().send_all(pushes).await {
        pushed.unwrap();
    }
    assert_eq!(trail.reach(2).await, ["[0, 1, 2, 3] 1", "[0, 1, 2, 3] 2"]);
    gate.open(1);
    stop(running).await;
    stage.dead(0).await;
}
