//! Named tasks, taking tasks back, and dedup stores: nothing twice without cause, and one truth about each task.

use go_queue::app::App;
use go_queue::engine::{Revoked, TaskId};
use go_queue::prelude::*;
use tokio::time::{Instant, sleep};

use crate::stage::{Gate, PATIENCE, Stage, Trail, config, on_both_engines, settled, stop, until};

#[dq_handler(tube = "jobs", concurrency = 4, retry = none)]
async fn job(n: u32, State(trail): State<Trail>) -> Result<(), &'static str> {
    trail.add(n);
    if n == 666 { Err("beast") } else { Ok(()) }
}

#[dq_handler(tube = "others")]
async fn other(n: u32, State(trail): State<Trail>) {
    trail.add(n);
}

#[dq_handler(tube = "held")]
async fn held(n: u32, State(gate): State<Gate>, State(trail): State<Trail>) {
    trail.add(n);
    gate.pass().await;
}

on_both_engines!(
    a_named_task_is_stored_once_while_it_waits_and_after_it_is_done_or_dead,
    names_of_one_send_all_are_stored_once,
    revoke_says_what_became_of_the_task,
    a_revoke_that_races_the_run_tells_exactly_one_truth,
    a_record_of_one_id_runs_once_with_a_dedup_store,
);

async fn a_named_task_is_stored_once_while_it_waits_and_after_it_is_done_or_dead(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![job, other]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let first = job::delay(1, millis(150))
        .id("one")
        .send(&producer)
        .await
        .unwrap();
    assert!(!first.existed());
    let again = job::now(2).id("one").send(&producer).await.unwrap();
    assert!(again.existed(), "it waits");
    assert_eq!((again.id(), again.tube()), (first.id(), first.tube()));
    let elsewhere = other::now(3).id("one").send(&producer).await.unwrap();
    assert!(!elsewhere.existed(), "another tube has names of its own");
    assert_ne!(elsewhere.id(), first.id());
    trail.reach(2).await;
    settled(&running).await;
    let done = job::now(4).id("one").send(&producer).await.unwrap();
    assert!(done.existed(), "it is done, and known for a day");
    let beast = job::now(666).id("beast").send(&producer).await.unwrap();
    stage.dead(1).await;
    let dead = job::now(5).id("beast").send(&producer).await.unwrap();
    assert!(
        dead.existed() && dead.id() == beast.id(),
        "it is among the dead letters"
    );
    stop(running).await;
    assert_eq!(trail.lines(), ["3", "1", "666"]);
}

async fn names_of_one_send_all_are_stored_once(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![job]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let twice = (0..40).map(|n| job::now(n % 20).id((n % 20).to_string()));
    let results = producer.send_all(twice).await;
    let existed = results
        .iter()
        .filter(|result| result.as_ref().unwrap().existed());
    assert_eq!(existed.count(), 20);
    trail.reach(20).await;
    stop(running).await;
    assert_eq!(trail.lines().len(), 20);
}

async fn revoke_says_what_became_of_the_task(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    let app = stage
        .app(handlers![held, job])
        .state(trail.clone())
        .state(gate.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();

    let waits = held::delay(1, hours(1)).send(&producer).await.unwrap();
    let text: TaskId = waits.to_string().parse().unwrap();
    assert_eq!(producer.revoke(&text).await.unwrap(), Revoked::Revoked);
    assert_eq!(
        producer.revoke(&waits).await.unwrap(),
        Revoked::Unknown,
        "it is gone"
    );

    let runs = held::now(2).send(&producer).await.unwrap();
    trail.reach(1).await;
    assert_eq!(producer.revoke(&runs).await.unwrap(), Revoked::Running);
    gate.open(1);
    until("it is done", || {
        running.handlers().iter().any(|h| h.counts.done == 1)
    })
    .await;

    let named = job::now(3).id("three").send(&producer).await.unwrap();
    trail.reach(2).await;
    let beast = job::now(666).send(&producer).await.unwrap();
    stage.dead(1).await;
    settled(&running).await;
    assert_eq!(producer.revoke(&named).await.unwrap(), Revoked::AlreadyRun);
    assert_eq!(producer.revoke(&beast).await.unwrap(), Revoked::AlreadyRun);

    let stranger = "held:01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    assert_eq!(producer.revoke(&stranger).await.unwrap(), Revoked::Unknown);
    let nowhere = "nowhere:01890a5d-ac96-774b-bcce-b302099a8057"
        .parse()
        .unwrap();
    assert_eq!(producer.revoke(&nowhere).await.unwrap(), Revoked::Unknown);
    stop(running).await;
    assert_eq!(trail.lines(), ["2", "3", "666"]);
}

async fn a_revoke_that_races_the_run_tells_exactly_one_truth(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![job]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let mut revoked = Vec::new();
    // Due while they are being taken back.
    let tasks: Vec<_> = (0..300)
        .map(|n| job::delay(n, millis(u64::from(n) % 40)))
        .collect();
    let ids = producer.send_all(tasks).await;
    for (n, id) in ids.into_iter().enumerate() {
        if producer.revoke(&id.unwrap()).await.unwrap() == Revoked::Revoked {
            revoked.push(n.to_string());
        }
    }
    trail.reach(300 - revoked.len()).await;
    job::delay(1000, millis(60)).send(&producer).await.unwrap();
    let lines = trail.reach(301 - revoked.len()).await;
    stop(running).await;
    assert_eq!(lines.len(), 301 - revoked.len());
    for n in 0..300 {
        let n = n.to_string();
        let runs = lines.iter().filter(|line| **line == n).count();
        let wanted = usize::from(!revoked.contains(&n));
        assert_eq!(runs, wanted, "task {n} of {} revoked ones", revoked.len());
    }
}

#[kq_handler(topic = "events", group = "g")]
async fn event(n: u32, meta: Meta, State(trail): State<Trail>) -> Result<(), &'static str> {
    trail.add(n);
    // The first run of one fails: a claim that was not confirmed lets it run again.
    if n == 2 && meta.attempt == 1 {
        Err("again")
    } else {
        Ok(())
    }
}

async fn a_record_of_one_id_runs_once_with_a_dedup_store(stage: Stage) {
    one_run_for_each_id(&stage, "memory").await;
}

#[tokio::test]
async fn a_record_of_one_id_runs_once_with_a_dedup_store_in_the_file() {
    one_run_for_each_id(&Stage::sqlite().await, "sqlite").await;
}

async fn one_run_for_each_id(stage: &Stage, store: &str) {
    let yaml = format!(
        "topics: {{ events: {{ dedup: {{ store: {store} }} }} }}\nhandlers: {{ event: {{ retry: {{ backoff: 1ms..2ms }} }} }}"
    );
    let trail = Trail::new();
    let app = stage.app_with(handlers![event], &yaml).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    for n in [1, 1, 2, 2, 3, 1] {
        let push = event::push(n).key("k").id(n.to_string());
        push.send(&producer).await.unwrap();
    }
    event::push(4)
        .key("k")
        .id("4")
        .send(&producer)
        .await
        .unwrap();
    assert_eq!(trail.reach(5).await, ["1", "2", "2", "3", "4"]);
    until("all are settled", || {
        running.handlers()[0].counts.duplicates == 3
    })
    .await;
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_is_known_as_long_as_its_tube_says_in_memory() {
    let stage = Stage::memory();
    let yaml = "dq: { engine: memory }\nkq: { engine: memory }\n";
    a_name_is_known_as_long_as_its_tube_says(App::new().clock(stage.clock.clone()), yaml).await;
}

#[tokio::test]
async fn a_name_is_known_as_long_as_its_tube_says_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keep.db");
    let yaml = format!(
        "sqlite: {{ path: {}, durability: process }}\n",
        path.display()
    );
    a_name_is_known_as_long_as_its_tube_says(App::new(), &yaml).await;
}

async fn a_name_is_known_as_long_as_its_tube_says(app: App, yaml: &str) {
    let trail = Trail::new();
    let yaml = format!("name: apptests\n{yaml}tubes: {{ jobs: {{ dedup: {{ keep: 300ms }} }} }}\n");
    let app = app.config(config(&yaml)).handlers(handlers![job, other]);
    let running = app.state(trail.clone()).start().await.unwrap();
    let producer = running.producer();
    job::now(1).id("one").send(&producer).await.unwrap();
    other::now(2).id("one").send(&producer).await.unwrap();
    trail.reach(2).await;
    settled(&running).await;
    let end = Instant::now() + PATIENCE;
    while job::now(3)
        .id("one")
        .send(&producer)
        .await
        .unwrap()
        .existed()
    {
        assert!(Instant::now() < end, "it is known for longer than 300 ms");
        sleep(millis(20)).await;
    }
    let known = other::now(4).id("one").send(&producer).await.unwrap();
    assert!(known.existed(), "the other tube keeps its names for a day");
    trail.reach(3).await;
    stop(running).await;
    assert_eq!(trail.sorted(), ["1", "2", "3"]);
}
