//! Order: within a key, within a partition, over lanes; and several handlers on one topic.

use std::collections::HashMap;

use go_queue::prelude::*;

use crate::stage::{Gate, Stage, Trail, on_both_engines, stop, until};

on_both_engines!(
    records_of_a_key_run_one_at_a_time_in_order,
    several_lanes_keep_the_order_of_each_key_and_do_everything,
    a_failing_key_holds_its_own_records_and_no_others,
    a_failed_record_is_set_aside_at_once_where_asked,
    partition_order_holds_the_whole_partition,
    without_order_records_of_one_key_run_side_by_side,
    a_header_decides_between_handlers_of_one_topic_and_group,
    what_no_handler_takes_is_skipped_where_asked,
    two_groups_each_see_every_record,
);

#[kq_handler(topic = "steps", group = "g", order = key, concurrency = 16)]
async fn step((key, n): (u32, u32), State(trail): State<Trail>) {
    trail.add(format_args!("+{key}.{n}"));
    // Long enough for others of the key to overtake it, if they could.
    for _ in 0..=(key + n) % 5 {
        tokio::task::yield_now().await;
    }
    if n % 7 == 0 {
        tokio::time::sleep(millis(1)).await;
    }
    trail.add(format_args!("-{key}.{n}"));
}

/// For each key what began and ended, in order.
fn by_key(lines: &[String]) -> HashMap<String, Vec<String>> {
    let mut keys: HashMap<String, Vec<String>> = HashMap::new();
    for line in lines {
        let (key, _) = line[1..].split_once('.').unwrap();
        keys.entry(key.to_owned()).or_default().push(line.clone());
    }
    keys
}

async fn steps_in_order(stage: Stage, yaml: &str) {
    const KEYS: u32 = 20;
    const EACH: u32 = 15;
    let trail = Trail::new();
    let app = stage.app_with(handlers![step], yaml).state(trail.clone());
    let running = app.start().await.unwrap();
    let all = (0..EACH).flat_map(|n| (0..KEYS).map(move |key| (key, n)));
    let pushes = all.map(|(key, n)| step::push((key, n)).key(key.to_string()));
    for pushed in running.producer().send_all(pushes).await {
        pushed.unwrap();
    }
    let lines = trail.reach((2 * KEYS * EACH) as usize).await;
    stop(running).await;
    assert_eq!(trail.lines().len(), lines.len(), "nothing ran twice");
    let keys = by_key(&lines);
    assert_eq!(keys.len(), KEYS as usize);
    for (key, lines) in keys {
        let wanted = (0..EACH).flat_map(|n| [format!("+{key}.{n}"), format!("-{key}.{n}")]);
        assert_eq!(lines, wanted.collect::<Vec<_>>());
    }
}

async fn records_of_a_key_run_one_at_a_time_in_order(stage: Stage) {
    steps_in_order(stage, "").await;
}

async fn several_lanes_keep_the_order_of_each_key_and_do_everything(stage: Stage) {
    steps_in_order(stage, "handlers: { step: { lanes: 4 } }").await;
}

#[kq_handler(topic = "bills", group = "g", order = key, retry(max = 3, backoff = "30ms..30ms"))]
async fn bill(text: String, meta: Meta, State(trail): State<Trail>) -> Result<(), &'static str> {
    trail.add(format_args!("{text} {}", meta.attempt));
    if text == "bad 0" {
        Err("refused")
    } else {
        Ok(())
    }
}

async fn a_failing_key_holds_its_own_records_and_no_others(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app_with(handlers![bill], "topics: { bills: { partitions: 1 } }")
        .state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let pushes = (0..3).flat_map(|n| ["bad", "good"].map(|key| (key, n)));
    let pushes = pushes.map(|(key, n)| bill::push(format!("{key} {n}")).key(key));
    for pushed in producer.send_all(pushes).await {
        pushed.unwrap();
    }
    let lines = trail.reach(9).await;
    stop(running).await;
    let of = |key: &str| {
        let mine = lines.iter().filter(|line| line.starts_with(key));
        mine.cloned().collect::<Vec<_>>()
    };
    assert_eq!(of("good"), ["good 0 1", "good 1 1", "good 2 1"]);
    assert_eq!(
        of("bad"),
        [
            "bad 0 1", "bad 0 2", "bad 0 3", "bad 0 4", "bad 1 1", "bad 2 1"
        ]
    );
    let last_good = lines.iter().position(|line| line == "good 2 1").unwrap();
    let given_up = lines.iter().position(|line| line == "bad 0 4").unwrap();
    assert!(last_good < given_up, "the good key did not wait: {lines:?}");
    assert_eq!(stage.dead(1).await[0].attempts, 4);
}

async fn a_failed_record_is_set_aside_at_once_where_asked(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app_with(
            handlers![bill],
            "handlers: { bill: { on_retry: dead_letter } }",
        )
        .state(trail.clone());
    let running = app.start().await.unwrap();
    for n in 0..2 {
        let push = bill::push(format!("bad {n}")).key("bad");
        push.send(&running.producer()).await.unwrap();
    }
    assert_eq!(trail.reach(2).await, ["bad 0 1", "bad 1 1"]);
    let letters = stage.dead(1).await;
    assert_eq!((&*letters[0].reason, letters[0].attempts), ("refused", 1));
    stop(running).await;
}

#[kq_handler(topic = "ledger", group = "g", order = partition)]
async fn entry(n: u32, State(gate): State<Gate>, State(trail): State<Trail>) {
    trail.add(n);
    gate.pass().await;
}

#[kq_handler(topic = "ledger", group = "free", order = none)]
async fn free_entry(n: u32, State(gate): State<Gate>, State(trail): State<Trail>) {
    trail.add(n);
    gate.pass().await;
}

async fn partition_order_holds_the_whole_partition(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    let app = stage
        .app_with(handlers![entry], "topics: { ledger: { partitions: 1 } }")
        .state(trail.clone())
        .state(gate.clone());
    let running = app.start().await.unwrap();
    for n in 0..5 {
        let push = entry::push(n).key(format!("key {n}"));
        push.send(&running.producer()).await.unwrap();
    }
    trail.reach(1).await;
    until("all are in hand", || running.handlers()[0].in_hand == 5).await;
    assert_eq!(
        trail.lines(),
        ["0"],
        "one at a time, though the keys differ"
    );
    gate.open(5);
    assert_eq!(trail.reach(5).await, ["0", "1", "2", "3", "4"]);
    stop(running).await;
}

async fn without_order_records_of_one_key_run_side_by_side(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    let app = stage
        .app(handlers![free_entry])
        .state(trail.clone())
        .state(gate.clone());
    let running = app.start().await.unwrap();
    for n in 0..5 {
        free_entry::push(n)
            .key("k")
            .send(&running.producer())
            .await
            .unwrap();
    }
    trail.reach(5).await;
    gate.open(5);
    stop(running).await;
}

#[derive(Serialize, Deserialize)]
struct Created {
    id: u32,
}

#[derive(Serialize, Deserialize)]
struct Deleted {
    why: String,
}

#[kq_handler(topic = "events", group = "g", when(header = "type", is = "created"))]
async fn created(event: Created, State(trail): State<Trail>) {
    trail.add(format_args!("created {}", event.id));
}

#[kq_handler(topic = "events", group = "g", when(header = "type", is = "deleted"))]
async fn deleted(event: Deleted, State(trail): State<Trail>) {
    trail.add(format_args!("deleted {}", event.why));
}

async fn a_header_decides_between_handlers_of_one_topic_and_group(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![created, deleted]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let created = |id| created::push(Created { id }).key("k");
    let deleted = |why: &str| {
        deleted::push(Deleted {
            why: why.to_owned(),
        })
        .key("k")
    };
    for push in [
        created(1).header("type", "created"),
        deleted("old").header("type", "deleted"),
        // Nobody's: another type, and none.
        created(2).header("type", "moved"),
        created(3),
        // Decided before it is decoded: the other handler could not read this.
        deleted("x").header("other", "y").header("type", "deleted"),
        created(4).header("type", "created"),
    ] {
        push.send(&producer).await.unwrap();
    }
    assert_eq!(
        trail.reach(4).await,
        ["created 1", "deleted old", "deleted x", "created 4"]
    );
    let letters = stage.dead(2).await;
    for letter in &letters {
        assert!(letter.reason.starts_with("unmatched"), "{}", letter.reason);
        assert_eq!(letter.attempts, 1);
    }
    let mut payloads: Vec<_> = letters.iter().map(|letter| letter.body.payload()).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, [br#"{"id":2}"#, br#"{"id":3}"#]);
    stop(running).await;
}

async fn what_no_handler_takes_is_skipped_where_asked(stage: Stage) {
    let trail = Trail::new();
    let yaml = "handlers: { created: { unmatched: skip }, deleted: { unmatched: skip } }";
    let app = stage
        .app_with(handlers![created, deleted], yaml)
        .state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    created::push(Created { id: 1 })
        .key("k")
        .send(&producer)
        .await
        .unwrap();
    let last = created::push(Created { id: 2 })
        .key("k")
        .header("type", "created");
    last.send(&producer).await.unwrap();
    assert_eq!(trail.reach(1).await, ["created 2"]);
    until("both are settled", || {
        let counts = running.handlers()[0].counts;
        (counts.skipped, counts.done) == (1, 1)
    })
    .await;
    stage.dead(0).await;
    stop(running).await;
}

#[kq_handler(topic = "news", group = "one")]
async fn one(n: u32, State(trail): State<Trail>) {
    trail.add(format_args!("one {n}"));
}

#[kq_handler(topic = ["news", "more-news"], group = "two")]
async fn two(n: u32, meta: Meta, State(trail): State<Trail>) {
    trail.add(format_args!("two {n} of {}", meta.source));
}

const MORE: Topic<u32> = Topic::new("more-news");

async fn two_groups_each_see_every_record(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![one, two]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    one::push(1).send(&producer).await.unwrap();
    MORE.push(2).send(&producer).await.unwrap();
    trail.reach(3).await;
    stop(running).await;
    assert_eq!(
        trail.sorted(),
        ["one 1", "two 1 of news", "two 2 of more-news"]
    );
}
