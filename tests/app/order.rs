//! Order: within a key, within a partition, over lanes; and several handlers on one topic.

use std::collections::HashMap;

use go_queue::engine::BoxFuture;
use go_queue::handler::Context;
use go_queue::middleware::{Middleware, Next};
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
    a_header_decides_in_each_of_several_topics,
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

const RETURNS: Topic<u32> = Topic::new("returns");
const SALES: Topic<u32> = Topic::new("sales");

/// Ends what is marked, and is only around the handler that names it.
struct Marked;

impl Middleware for Marked {
    fn call<'a>(&'a self, cx: &'a Context, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        match cx.message().headers().get_str("marked") {
            Some(_) => Box::pin(async { Outcome::dead("marked") }),
            None => next.run(cx),
        }
    }
}

#[kq_handler(topic = [SALES, "returns"], group = "g", when(header = "type", is = "cash"), middleware = Marked)]
async fn cash(n: u32, meta: Meta, State(trail): State<Trail>) {
    trail.add(format_args!("cash {n} of {}", meta.source));
}

#[kq_handler(topic = ["sales", "returns"], group = "g", when(header = "type", is = "card"))]
async fn card(n: u32, meta: Meta, State(trail): State<Trail>) {
    trail.add(format_args!("card {n} of {}", meta.source));
}

async fn a_header_decides_in_each_of_several_topics(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![cash, card]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    for push in [
        SALES.push(1).header("type", "cash"),
        SALES.push(2).header("type", "card").header("marked", "x"),
        SALES.push(3).header("type", "cash").header("marked", "x"),
        RETURNS.push(4).header("type", "card"),
        RETURNS.push(5).header("type", "cash"),
        RETURNS.push(6).header("type", "gold"),
    ] {
        push.send(&producer).await.unwrap();
    }
    trail.reach(4).await;
    let mut told: Vec<_> = stage
        .dead(2)
        .await
        .into_iter()
        .map(|letter| (letter.body.payload().to_vec(), letter.reason.to_string()))
        .collect();
    told.sort();
    assert_eq!(told[0], (b"3".to_vec(), "marked".to_owned()));
    assert!(
        told[1].0 == b"6" && told[1].1.starts_with("unmatched"),
        "{told:?}"
    );
    stop(running).await;
    let want = [
        "card 2 of sales",
        "card 4 of returns",
        "cash 1 of sales",
        "cash 5 of returns",
    ];
    assert_eq!(trail.sorted(), want);
}

#[kq_handler(topic = "mixed", group = "g", when(header = "type", is = "slow"))]
async fn waits(n: u32, State(trail): State<Trail>) {
    tokio::task::yield_now().await;
    trail.add(format_args!("waits {n}"));
}

#[kq_handler(topic = "mixed", group = "g", when(header = "type", is = "rude"), blocking, middleware = [Marked])]
fn blocks(n: u32, State(trail): State<Trail>) {
    let thread = std::thread::current();
    trail.add(format_args!(
        "blocks {n} on {}",
        thread.name().unwrap_or("?")
    ));
}

/// In real time: a paused clock runs ahead of threads.
#[tokio::test]
async fn a_handler_that_blocks_may_share_a_topic_with_one_that_does_not() {
    blocks_beside_one_that_waits(Stage::memory()).await;
    blocks_beside_one_that_waits(Stage::sqlite().await).await;
}

async fn blocks_beside_one_that_waits(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![waits, blocks]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    for push in [
        waits::push(1).header("type", "slow"),
        blocks::push(2).header("type", "rude"),
        blocks::push(3).header("type", "rude").header("marked", "x"),
        waits::push(4).header("type", "slow"),
    ] {
        push.key("k").send(&producer).await.unwrap();
    }
    let want = ["waits 1", "blocks 2 on go-queue-blocking", "waits 4"];
    assert_eq!(trail.reach(3).await, want);
    assert_eq!(&*stage.dead(1).await[0].reason, "marked");
    stop(running).await;
}
