//! Handlers that fail, each in its own way: retries, dead letters, replays, and everybody else going on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use go_queue::handler::extract::Rejection;
use go_queue::handler::{Context, Env, FromContext, Kind, Missing};
use go_queue::outcome::MAX_REASON_LEN;
use go_queue::prelude::*;
use tokio::time::Instant;

use crate::stage::{Gate, PATIENCE, Stage, Trail, on_both_engines, stop, until};

on_both_engines!(
    a_failing_task_is_tried_as_often_as_asked_and_replayed_with_its_id,
    a_failing_record_is_tried_as_often_as_asked_and_replayed_to_its_group,
    a_task_without_retries_is_dead_after_its_first_run,
    a_panic_counts_as_an_error_and_the_next_message_runs,
    a_handler_that_hangs_is_stopped_by_its_timeout,
    a_topic_handler_that_hangs_is_stopped_by_its_timeout,
    an_error_of_a_megabyte_is_kept_as_a_kilobyte_of_printable_text,
    every_outcome_is_obeyed,
    an_error_says_by_itself_what_it_asks_for,
    each_error_of_a_batch_says_what_it_asks_for,
    the_error_of_an_extractor_counts_as_the_handlers_own,
    the_wait_between_retries_is_never_shorter_than_asked,
);

#[derive(Clone, Default)]
struct Fixed(Arc<AtomicBool>);

#[dq_handler(tube = "charges", retry(max = 2, backoff = "1ms..3ms"))]
async fn charge(
    n: u32,
    meta: Meta,
    State(fixed): State<Fixed>,
    State(trail): State<Trail>,
) -> Result<(), String> {
    trail.add(format_args!("{n} attempt {} {}", meta.attempt, meta.id));
    if fixed.0.load(Ordering::Relaxed) {
        return Ok(());
    }
    Err(format!("no bank for {n}"))
}

async fn a_failing_task_is_tried_as_often_as_asked_and_replayed_with_its_id(stage: Stage) {
    let (fixed, trail) = (Fixed::default(), Trail::new());
    let app = stage
        .app(handlers![charge])
        .state(trail.clone())
        .state(fixed.clone());
    let running = app.start().await.unwrap();
    let task = charge::now(9).key("k").header("h", "v");
    let task = task.send(&running.producer()).await.unwrap();
    let letter = stage.dead(1).await.remove(0);
    let id = task.id();
    let attempts = |last: u32| (1..=last).map(move |a| format!("9 attempt {a} {id}"));
    assert_eq!(trail.lines(), attempts(3).collect::<Vec<_>>());
    assert_eq!((letter.id, letter.attempts), (id, 3));
    assert_eq!(&*letter.reason, "no bank for 9");
    assert_eq!(letter.body.key(), b"k");
    fixed.0.store(true, Ordering::Relaxed);
    stage.replay(&letter).await;
    let lines = trail.reach(4).await;
    assert_eq!(
        lines[3],
        format!("9 attempt 1 {id}"),
        "a replay starts counting again"
    );
    stop(running).await;
    stage.dead(0).await;
    assert_eq!(trail.lines().len(), 4);
}

#[kq_handler(
    topic = "charges",
    group = "billing",
    retry(max = 2, backoff = "1ms..3ms")
)]
async fn charge_record(
    n: u32,
    meta: Meta,
    State(fixed): State<Fixed>,
    State(trail): State<Trail>,
) -> Result<(), String> {
    trail.add(format_args!("billing {n} attempt {}", meta.attempt));
    if n == 1 || fixed.0.load(Ordering::Relaxed) {
        return Ok(());
    }
    Err(format!("no bank for {n}"))
}

#[kq_handler(topic = "charges", group = "audit")]
async fn audit_record(n: u32, State(trail): State<Trail>) {
    trail.add(format_args!("audit {n}"));
}

async fn a_failing_record_is_tried_as_often_as_asked_and_replayed_to_its_group(stage: Stage) {
    let (fixed, trail) = (Fixed::default(), Trail::new());
    let app = stage
        .app(handlers![charge_record, audit_record])
        .state(trail.clone())
        .state(fixed.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    for n in [9, 1] {
        charge_record::push(n)
            .key("k")
            .send(&producer)
            .await
            .unwrap();
    }
    let letter = stage.dead(1).await.remove(0);
    assert_eq!((letter.attempts, &*letter.reason), (3, "no bank for 9"));
    assert_eq!(
        letter.group.as_ref().map(go_queue::name::Name::as_str),
        Some("billing")
    );
    trail.reach(6).await;
    fixed.0.store(true, Ordering::Relaxed);
    stage.replay(&letter).await;
    let lines = trail.reach(7).await;
    assert_eq!(lines[6], "billing 9 attempt 1");
    stop(running).await;
    let billing: Vec<_> = trail
        .lines()
        .into_iter()
        .filter(|l| l.starts_with('b'))
        .collect();
    assert_eq!(
        billing,
        [
            "billing 9 attempt 1",
            "billing 9 attempt 2",
            "billing 9 attempt 3",
            "billing 1 attempt 1",
            "billing 9 attempt 1"
        ],
        "the key waited, and only this group saw the replay"
    );
    assert_eq!(trail.lines().len(), 7);
    stage.dead(0).await;
}

#[dq_handler(tube = "once", retry = none)]
async fn once(n: u32, State(trail): State<Trail>) -> Result<(), std::fmt::Error> {
    trail.add(n);
    Err(std::fmt::Error)
}

async fn a_task_without_retries_is_dead_after_its_first_run(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![once]).state(trail.clone());
    let running = app.start().await.unwrap();
    once::now(1).send(&running.producer()).await.unwrap();
    assert_eq!(stage.dead(1).await[0].attempts, 1);
    stop(running).await;
    assert_eq!(trail.lines(), ["1"]);
}

#[dq_handler(tube = "panics", retry(max = 1, backoff = "1ms..2ms"))]
async fn panics(n: u32, meta: Meta, State(trail): State<Trail>) {
    trail.add(format_args!("{n}.{}", meta.attempt));
    if n == 13 {
        tokio::task::yield_now().await;
        std::panic::panic_any(format!("bad luck {}", meta.attempt));
    }
    // At its first poll.
    assert!(n != 14, "worse luck");
}

async fn a_panic_counts_as_an_error_and_the_next_message_runs(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![panics]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    for n in [13, 14] {
        panics::now(n).send(&producer).await.unwrap();
    }
    let mut reasons: Vec<_> = stage
        .dead(2)
        .await
        .into_iter()
        .map(|l| l.reason.to_string())
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["panic: bad luck 2", "panic: worse luck"]);
    panics::now(1).send(&producer).await.unwrap();
    trail.reach(5).await;
    assert_eq!(trail.sorted(), ["1.1", "13.1", "13.2", "14.1", "14.2"]);
    stop(running).await;
}

#[dq_handler(
    tube = "hangs",
    timeout = "40ms",
    retry(max = 1, backoff = "1ms..2ms"),
    concurrency = 1
)]
async fn hangs(n: u32, State(trail): State<Trail>) {
    trail.add(n);
    if n == 1 {
        std::future::pending::<()>().await;
    }
}

#[kq_handler(
    topic = "hangs",
    group = "g",
    timeout = "40ms",
    retry(max = 1, backoff = "1ms..2ms")
)]
async fn hangs_on_a_topic(n: u32, State(trail): State<Trail>) {
    trail.add(n);
    if n == 1 {
        std::future::pending::<()>().await;
    }
}

async fn a_handler_that_hangs_is_stopped_by_its_timeout(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![hangs]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    hangs::now(1).send(&producer).await.unwrap();
    trail.reach(1).await;
    hangs::now(2).send(&producer).await.unwrap();
    let letters = stage.dead(1).await;
    assert_eq!(
        &*letters[0].reason,
        "timeout: the handler ran longer than 40ms"
    );
    assert_eq!(letters[0].attempts, 2);
    trail.reach(3).await;
    assert_eq!(trail.sorted(), ["1", "1", "2"]);
    assert_eq!(running.handlers()[0].counts.timeouts, 2);
    stop(running).await;
}

async fn a_topic_handler_that_hangs_is_stopped_by_its_timeout(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![hangs_on_a_topic]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    for n in [1, 2] {
        hangs_on_a_topic::push(n)
            .key("k")
            .send(&producer)
            .await
            .unwrap();
    }
    assert_eq!(trail.reach(3).await, ["1", "1", "2"]);
    assert!(stage.dead(1).await[0].reason.starts_with("timeout"));
    stop(running).await;
}

#[dq_handler(tube = "talkers", retry = none)]
async fn talker(_: ()) -> Result<(), String> {
    Err("é\n\u{1b}[31m".repeat(150_000))
}

async fn an_error_of_a_megabyte_is_kept_as_a_kilobyte_of_printable_text(stage: Stage) {
    let running = stage.app(handlers![talker]).start().await.unwrap();
    talker::now(()).send(&running.producer()).await.unwrap();
    let reason = stage.dead(1).await.remove(0).reason;
    assert!(reason.len() <= MAX_REASON_LEN && reason.len() > MAX_REASON_LEN / 2);
    assert!(reason.starts_with("é\\n"), "{reason}");
    assert!(!reason.chars().any(char::is_control), "{reason}");
    stop(running).await;
}

#[dq_handler(tube = "outcomes", retry(max = 3, backoff = "10m..10m"))]
async fn outcomes(name: String, meta: Meta, State(trail): State<Trail>) -> Result<Outcome, String> {
    trail.add(format_args!("{name} {}", meta.attempt));
    match (&*name, meta.attempt) {
        ("skip", _) => Ok(Outcome::Skip),
        ("dead", _) => Ok(Outcome::dead("of no use")),
        // Sooner than the policy says.
        ("soon", 1) => Ok(Outcome::retry_after(millis(5), "not yet")),
        ("each", _) => Ok(Outcome::Each(vec![Outcome::Done, Outcome::Done])),
        _ => Ok(Outcome::Done),
    }
}

async fn every_outcome_is_obeyed(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![outcomes]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    for name in ["skip", "dead", "soon", "done"] {
        outcomes::now(name.to_owned())
            .send(&producer)
            .await
            .unwrap();
    }
    trail.reach(5).await;
    assert_eq!(
        trail.sorted(),
        ["dead 1", "done 1", "skip 1", "soon 1", "soon 2"]
    );
    assert_eq!(&*stage.dead(1).await[0].reason, "of no use");
    until("all are settled", || {
        let counts = running.handlers()[0].counts;
        (counts.done, counts.skipped, counts.dead, counts.retried) == (2, 1, 1, 1)
    })
    .await;
    // Several outcomes for one message are a mistake of the handler: an error, not a loss.
    outcomes::now("each".to_owned())
        .send(&producer)
        .await
        .unwrap();
    until("it is counted", || {
        running.handlers()[0].counts.retried == 2
    })
    .await;
    stop(running).await;
}

#[derive(Debug, thiserror::Error, Outcome)]
enum BankError {
    #[error("busy")]
    #[retry(after = "2ms")]
    Busy,
    #[error("wait")]
    #[retry(after = time)]
    Wait { time: Duration },
    #[error("unsaid")]
    Unsaid,
    #[error("stolen")]
    #[dead]
    Stolen,
    #[error("known")]
    #[skip]
    Known,
    #[error("at the vault")]
    #[transparent]
    Vault(#[from] VaultError),
}

#[derive(Debug, thiserror::Error, Outcome)]
#[error("locked")]
#[dead]
struct VaultError;

/// The back-off is so long that only what says its own time runs twice.
#[dq_handler(tube = "classified", retry(max = 1, backoff = "10h..10h"))]
async fn classified(n: u32, State(trail): State<Trail>) -> Result<(), BankError> {
    trail.add(n);
    Err(match n {
        1 => BankError::Busy,
        2 => BankError::Wait { time: millis(2) },
        3 => BankError::Stolen,
        4 => BankError::Known,
        5 => VaultError.into(),
        _ => return Ok(()),
    })
}

#[kq_handler(topic = "classified", retry(max = 0))]
async fn classified_batch(batch: Vec<u32>, State(trail): State<Trail>) -> Vec<Outcome> {
    let one = |n| {
        trail.add(n);
        match n {
            1 => Err(BankError::Stolen),
            2 => Err(VaultError.into()),
            3 => Err(BankError::Known),
            4 => Err(BankError::Unsaid),
            _ => Ok(()),
        }
    };
    let outcome = |error: BankError| Outcome::of_error(&error);
    let each = batch.into_iter().map(one);
    each.map(|one| one.map_or_else(outcome, |()| Outcome::Done))
        .collect()
}

async fn an_error_says_by_itself_what_it_asks_for(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![classified]).state(trail.clone());
    let running = app.start().await.unwrap();
    for n in 1..=6 {
        classified::now(n).send(&running.producer()).await.unwrap();
    }
    let mut told: Vec<_> = stage
        .dead(4)
        .await
        .into_iter()
        .map(|letter| (letter.reason.to_string(), letter.attempts))
        .collect();
    told.sort();
    let want = [
        ("at the vault: locked", 1),
        ("busy", 2),
        ("stolen", 1),
        ("wait", 2),
    ];
    assert_eq!(
        told,
        want.map(|(reason, attempts)| (reason.to_owned(), attempts))
    );
    trail.reach(8).await;
    assert_eq!(trail.sorted(), ["1", "1", "2", "2", "3", "4", "5", "6"]);
    until("all are settled", || {
        let counts = running.handlers()[0].counts;
        (counts.done, counts.skipped, counts.dead, counts.retried) == (1, 1, 4, 2)
    })
    .await;
    stop(running).await;
}

async fn each_error_of_a_batch_says_what_it_asks_for(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![classified_batch]).state(trail.clone());
    let running = app.start().await.unwrap();
    for n in 1..=5 {
        let push = classified_batch::push(n).key("k");
        push.send(&running.producer()).await.unwrap();
    }
    let mut reasons: Vec<_> = stage
        .dead(3)
        .await
        .into_iter()
        .map(|letter| letter.reason.to_string())
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["at the vault: locked", "stolen", "unsaid"]);
    assert_eq!(trail.reach(5).await, ["1", "2", "3", "4", "5"]);
    stop(running).await;
}

/// Who asks: from a header, without which nobody is served.
struct Tenant(String);

impl<K: Kind> FromContext<K> for Tenant {
    type Plan = ();

    fn plan(_: &Env) -> Result<(), Missing> {
        Ok(())
    }

    async fn extract<'a>((): &'a (), cx: &'a Context) -> Result<Self, Rejection> {
        let headers = cx.message().headers();
        let tenant = headers
            .get("tenant")
            .and_then(|value| std::str::from_utf8(value).ok());
        match tenant {
            None => Err(Rejection::dead("no tenant")),
            Some("moving") if cx.message().attempt == 1 => Err("the tenant moves".into()),
            Some(name) => Ok(Self(name.to_owned())),
        }
    }
}

#[dq_handler(tube = "tenants", retry(max = 1, backoff = "1ms..2ms"))]
async fn serve(n: u32, tenant: Tenant, State(trail): State<Trail>) {
    trail.add(format_args!("{n} for {}", tenant.0));
}

async fn the_error_of_an_extractor_counts_as_the_handlers_own(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![serve]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    serve::now(1)
        .header("tenant", "acme")
        .send(&producer)
        .await
        .unwrap();
    serve::now(2)
        .header("tenant", "moving")
        .send(&producer)
        .await
        .unwrap();
    serve::now(3).send(&producer).await.unwrap();
    trail.reach(2).await;
    assert_eq!(trail.sorted(), ["1 for acme", "2 for moving"]);
    let letter = stage.dead(1).await.remove(0);
    assert_eq!((&*letter.reason, letter.attempts), ("no tenant", 1));
    until("one was tried again", || {
        running.handlers()[0].counts.retried == 1
    })
    .await;
    stop(running).await;
}

#[dq_handler(tube = "patience", retry(max = 1))]
async fn patience(_: (), State(trail): State<Trail>) -> Outcome {
    trail.add("run");
    Outcome::retry_after(millis(120), "later")
}

async fn the_wait_between_retries_is_never_shorter_than_asked(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![patience]).state(trail.clone());
    let running = app.start().await.unwrap();
    patience::now(()).send(&running.producer()).await.unwrap();
    trail.reach(1).await;
    let began = Instant::now();
    trail.reach(2).await;
    // The first line is seen a little after the run began.
    assert!(began.elapsed() >= millis(100), "{:?}", began.elapsed());
    stage.dead(1).await;
    stop(running).await;
}

/// Blocks a thread until it is let go.
#[derive(Clone, Default)]
struct Wall(Arc<(Mutex<bool>, Condvar)>);

impl Wall {
    fn block(&self) {
        let (down, changed) = &*self.0;
        let guard = down
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let waited = changed.wait_timeout_while(guard, PATIENCE, |down| !*down);
        drop(waited);
    }

    fn tear_down(&self) {
        let (down, changed) = &*self.0;
        *down
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

#[dq_handler(tube = "rude")]
async fn rude(n: u32, State(wall): State<Wall>, State(trail): State<Trail>) {
    trail.add(format_args!("blocks {n}"));
    wall.block();
}

#[dq_handler(tube = "polite", blocking)]
fn polite(n: u32, State(wall): State<Wall>, State(trail): State<Trail>) -> Result<(), String> {
    trail.add(format_args!("blocks {n}"));
    wall.block();
    if n == 2 {
        Err("unwell".to_owned())
    } else {
        Ok(())
    }
}

#[dq_handler(tube = "free")]
async fn free(n: u32, State(trail): State<Trail>) {
    trail.add(format_args!("goes on {n}"));
}

async fn others_go_on(stage: Stage) {
    let (wall, trail) = (Wall::default(), Trail::new());
    let app = stage
        .app(handlers![rude, polite, free])
        .state(trail.clone())
        .state(wall.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    rude::now(1).send(&producer).await.unwrap();
    trail.reach(1).await;
    for n in 0..50 {
        free::now(n).send(&producer).await.unwrap();
    }
    trail.reach(51).await;
    wall.tear_down();
    stop(running).await;
    assert_eq!(trail.lines().len(), 51);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_its_thread_holds_no_other_handler() {
    others_go_on(Stage::memory()).await;
    others_go_on(Stage::sqlite().await).await;
}

#[dq_handler(
    tube = "threads",
    blocking,
    retry(max = 1, backoff = "1ms..2ms"),
    concurrency = 4
)]
async fn on_a_thread(n: u32, meta: Meta, State(gate): State<Gate>, State(trail): State<Trail>) {
    gate.pass().await;
    assert!(n != 3, "thread {n} attempt {}", meta.attempt);
    trail.add(format_args!("async {n}"));
}

async fn blocking_handlers_have_threads(stage: Stage) {
    let (wall, gate, trail) = (Wall::default(), Gate::closed(), Trail::new());
    let app = stage
        .app_with(
            handlers![polite, on_a_thread],
            "handlers: { polite: { retry: { max: 0 } } }",
        )
        .state(trail.clone())
        .state(gate.clone())
        .state(wall.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    for n in 1..=3 {
        polite::now(n).send(&producer).await.unwrap();
        on_a_thread::now(n).send(&producer).await.unwrap();
    }
    // On one thread of tokio's, so these could not all be here if they blocked it.
    trail.reach(3).await;
    gate.open(10);
    trail.reach(5).await;
    wall.tear_down();
    let mut reasons: Vec<_> = stage
        .dead(2)
        .await
        .into_iter()
        .map(|l| l.reason.to_string())
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["panic: thread 3 attempt 2", "unwell"]);
    stop(running).await;
}

#[tokio::test]
async fn blocking_handlers_run_side_by_side_on_threads_and_their_panics_are_errors() {
    blocking_handlers_have_threads(Stage::memory()).await;
    blocking_handlers_have_threads(Stage::sqlite().await).await;
}

#[dq_handler(tube = "sleepy", timeout = "50ms", retry = none)]
async fn sleepy(_: ()) {
    tokio::time::sleep(Duration::from_secs(3600)).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_hanging_runs_all_end_in_the_dead_letters() {
    let stage = Stage::memory();
    let running = stage.app(handlers![sleepy]).start().await.unwrap();
    let sent = running
        .producer()
        .send_all((0..100).map(|_| sleepy::now(())))
        .await;
    assert!(sent.iter().all(Result::is_ok));
    stage.dead(100).await;
    stop(running).await;
}
