//! `Cancel`: a handler that listens has a grace, at its timeout and at an abort; one that does not is dropped.

use std::time::Duration;

use go_queue::app::AppError;
use go_queue::prelude::*;
use tokio::time::Instant;

use crate::stage::{Stage, Trail, on_both_engines, stop, until};

on_both_engines!(
    a_handler_that_listens_ends_by_itself_at_its_timeout_and_its_outcome_counts,
    a_batch_that_is_handed_back_counts_as_its_messages,
);

#[dq_handler(tube = "listens", timeout = "50ms", retry = none)]
async fn listens(how: String, cancel: Cancel, State(trail): State<Trail>) -> Result<(), String> {
    cancel.cancelled().await;
    trail.add(format_args!("{how} was told: {}", cancel.is_cancelled()));
    match &*how {
        "done" => Ok(()),
        "late" => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok(())
        }
        _ => Err("gave up".to_owned()),
    }
}

async fn a_handler_that_listens_ends_by_itself_at_its_timeout_and_its_outcome_counts(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![listens]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    for how in ["done", "fail"] {
        listens::now(how.to_owned()).send(&producer).await.unwrap();
    }
    trail.reach(2).await;
    assert_eq!(
        trail.sorted(),
        ["done was told: true", "fail was told: true"]
    );
    assert_eq!(&*stage.dead(1).await[0].reason, "gave up");
    until("one is done", || running.handlers()[0].counts.done == 1).await;
    assert_eq!(running.handlers()[0].counts.timeouts, 2);
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn the_grace_after_a_timeout_ends() {
    let stage = Stage::memory();
    let trail = Trail::new();
    let app = stage.app(handlers![listens]).state(trail.clone());
    let running = app.start().await.unwrap();
    let began = Instant::now();
    listens::now("late".to_owned())
        .send(&running.producer())
        .await
        .unwrap();
    let letters = stage.dead(1).await;
    assert!(
        letters[0].reason.starts_with("timeout"),
        "{}",
        letters[0].reason
    );
    let took = began.elapsed();
    assert!(
        took >= seconds(5) && took < seconds(6),
        "50 ms and the grace of 5 s: {took:?}"
    );
    stop(running).await;
}

struct Says(Trail, &'static str);

impl Drop for Says {
    fn drop(&mut self) {
        self.0.add(self.1);
    }
}

#[dq_handler(tube = "deaf")]
async fn deaf(_: (), State(trail): State<Trail>) {
    trail.add("deaf began");
    let _says = Says(trail, "deaf was dropped");
    std::future::pending::<()>().await;
}

#[dq_handler(tube = "hears")]
async fn hears(_: (), cancel: Cancel, State(trail): State<Trail>) {
    trail.add("hears began");
    let _says = Says(trail, "hears was dropped");
    let _token = cancel.token().clone();
    std::future::pending::<()>().await;
}

#[dq_handler(tube = "thread", blocking)]
async fn thread(_: (), cancel: Cancel, State(trail): State<Trail>) {
    trail.add("thread began");
    cancel.cancelled().await;
    trail.add("thread was told");
}

async fn at_an_abort_every_handler_is_told_and_all_goes_back(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app(handlers![deaf, hears, thread])
        .state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    deaf::now(()).send(&producer).await.unwrap();
    hears::now(()).send(&producer).await.unwrap();
    thread::now(()).send(&producer).await.unwrap();
    trail.reach(3).await;
    until("they are counted", || {
        running.handlers().iter().all(|h| h.running == 1)
    })
    .await;
    let ended = running.stop(millis(30)).await;
    assert!(
        matches!(ended, Err(AppError::Deadline { handed_back: 3, .. })),
        "{ended:?}"
    );
    let mut told = trail.reach(6).await.split_off(3);
    told.sort();
    assert_eq!(
        told,
        ["deaf was dropped", "hears was dropped", "thread was told"]
    );
    stage.dead(0).await;
}

#[dq_handler(tube = "crowds", batch = 5, linger = "50ms")]
async fn crowd(batch: Vec<u32>, State(trail): State<Trail>) {
    trail.add(batch.len());
    std::future::pending::<()>().await;
}

async fn a_batch_that_is_handed_back_counts_as_its_messages(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![crowd]).state(trail.clone());
    let running = app.start().await.unwrap();
    let sent = running.producer().send_all((0..5).map(crowd::now)).await;
    assert!(sent.iter().all(Result::is_ok));
    assert_eq!(trail.reach(1).await, ["5"]);
    let ended = running.stop(millis(30)).await;
    assert!(
        matches!(ended, Err(AppError::Deadline { handed_back: 5, .. })),
        "{ended:?}"
    );
}

/// Not on paused time, which stands still while a thread blocks.
#[tokio::test]
async fn at_an_abort_every_handler_is_told() {
    at_an_abort_every_handler_is_told_and_all_goes_back(Stage::memory()).await;
    at_an_abort_every_handler_is_told_and_all_goes_back(Stage::sqlite().await).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_work_is_at_once_and_a_deadline_of_zero_is_kept() {
    let stage = Stage::memory();
    let trail = Trail::new();
    let running = stage
        .app(handlers![deaf])
        .state(trail.clone())
        .start()
        .await
        .unwrap();
    let began = Instant::now();
    running.stop(Duration::ZERO).await.unwrap();
    assert!(began.elapsed() < seconds(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dropping_a_running_app_drops_its_handlers() {
    let stage = Stage::memory();
    let trail = Trail::new();
    let running = stage
        .app(handlers![deaf])
        .state(trail.clone())
        .start()
        .await
        .unwrap();
    deaf::now(()).send(&running.producer()).await.unwrap();
    trail.reach(1).await;
    drop(running);
    assert_eq!(trail.reach(2).await, ["deaf began", "deaf was dropped"]);
}

/// Opens when it is dropped.
type Gate = std::sync::Arc<std::sync::Mutex<std::sync::mpsc::Receiver<()>>>;

#[dq_handler(tube = "blocker")]
async fn blocker(_task: (), State(gate): State<Gate>) {
    // What a handler must not do: wait on the thread of its lane.
    let _ = gate.lock().unwrap().recv();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_is_reported_and_so_is_its_end() {
    let stage = Stage::memory();
    let (open, gate) = std::sync::mpsc::channel();
    let gate = Gate::new(gate.into());
    let running = stage
        .app(handlers![blocker])
        .state(gate)
        .start()
        .await
        .unwrap();
    until("it is served", || running.ready().is_ok()).await;
    blocker::now(()).send(&running.producer()).await.unwrap();
    until("the stall is seen", || running.ready().is_err()).await;
    let why = running.ready().unwrap_err();
    assert!(why.contains("blocks its thread"), "{why}");
    drop(open);
    until("it goes on", || running.ready().is_ok()).await;
    until("it is done", || running.handlers()[0].counts.done == 1).await;
    stop(running).await;
}
