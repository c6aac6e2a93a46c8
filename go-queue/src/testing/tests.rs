//! The kit on handlers of its own: what its assertions count, when its clock moves, and what its faults do.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{SeenState, TestApp, TestRun};
use crate::engine::PublishError;
use crate::outcome::Outcome;
use crate::prelude::*;
use crate::time::WallTime;

/// What handlers did, in order.
#[derive(Clone, Default)]
struct Trail(Arc<Mutex<Vec<String>>>);

impl Trail {
    fn add(&self, line: impl std::fmt::Display) {
        self.0
            .lock()
            .expect("nobody panics here")
            .push(line.to_string());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics here").clone()
    }
}

/// How often `flaky` fails before it works.
#[derive(Clone)]
struct Failures(Arc<AtomicU32>);

#[dq_handler(tube = "mails", retry(max = 2, backoff = "1s..10s"))]
async fn mail(to: String, State(trail): State<Trail>) -> Result<(), String> {
    trail.add(&to);
    match &*to {
        "nobody" => Err("no mailbox".to_owned()),
        _ => Ok(()),
    }
}

#[kq_handler(topic = "orders", group = "billing")]
async fn charge(
    order: u32,
    State(trail): State<Trail>,
    State(failures): State<Failures>,
    producer: Producer,
) -> Result<(), String> {
    if failures
        .0
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        .is_ok()
    {
        return Err("the bank is busy".to_owned());
    }
    trail.add(format_args!("charged {order}"));
    let reminder = mail::delay(format!("customer of {order}"), minutes(15));
    reminder
        .send(&producer)
        .await
        .map_err(|error| error.to_string())?;
    Ok(())
}

#[kq_handler(topic = "orders", group = "stats", batch = 10, linger = "1s")]
async fn count(batch: Vec<u32>, State(trail): State<Trail>) -> Vec<Outcome> {
    trail.add(format_args!("counted {batch:?}"));
    batch
        .iter()
        .map(|n| {
            if *n == 0 {
                Outcome::Skip
            } else {
                Outcome::Done
            }
        })
        .collect()
}

#[dq_handler(tube = "slow", timeout = "1m")]
async fn slow(seconds: u64, State(trail): State<Trail>) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    trail.add("slept");
}

#[kq_handler(topic = "events", group = "g", when(header = "type", is = "a"))]
async fn event_a(n: u32) {
    let _ = n;
}

#[kq_handler(topic = "events", group = "g", when(header = "type", is = "b"))]
async fn event_b(n: u32) {
    let _ = n;
}

async fn start() -> (TestRun, Trail, Failures) {
    let (trail, failures) = (Trail::default(), Failures(Arc::default()));
    let app = App::new()
        .handlers(handlers![mail, charge, count, slow, event_a, event_b])
        .state(trail.clone())
        .state(failures.clone());
    let app = TestApp::new(app).config("topics: { orders: { partitions: 1 } }");
    (
        app.start().await.expect("the set-up is right"),
        trail,
        failures,
    )
}

#[tokio::test]
async fn the_clock_moves_only_when_the_test_moves_it() {
    let (app, trail, _) = start().await;
    let began = app.now();
    mail::delay("eve".into(), minutes(15))
        .send(app.producer())
        .await
        .expect("stored");
    app.run_due().await;
    assert_eq!(app.now(), began);
    app.of::<mail>()
        .assert_sent(1)
        .assert_pending(1)
        .assert_ran(0);
    app.advance(millis(15 * 60_000 - 2)).await;
    app.of::<mail>().assert_pending(1).assert_ran(0);
    app.advance(millis(2)).await;
    app.of::<mail>()
        .assert_ran(1)
        .assert_done(1)
        .assert_pending(0);
    assert_eq!(trail.lines(), ["eve"]);
    app.assert_all_done();
    app.stop().await.expect("nothing runs");
}

#[tokio::test]
async fn the_kit_takes_a_clock_that_is_paused_already() {
    tokio::time::pause();
    let (app, ..) = start().await;
    mail::now("eve".into())
        .send(app.producer())
        .await
        .expect("stored");
    app.run_due().await;
    app.of::<mail>().assert_done(1);
}

#[tokio::test]
async fn what_is_due_on_the_way_runs_at_its_time() {
    let (app, ..) = start().await;
    let began = app.now();
    charge::push(7).send(app.producer()).await.expect("stored");
    app.advance(hours(1)).await;
    let reminder = app.of::<mail>().only();
    assert_eq!(reminder.payload::<String>(), "customer of 7");
    assert_eq!((reminder.due_in(), reminder.runs()), (minutes(15), 1));
    assert_eq!(reminder.due(), began + minutes(15));
    assert!(
        reminder.history().contains("+15m "),
        "{}",
        reminder.history()
    );
    assert_eq!(app.now(), began + hours(1));
}

/// Longer than a test would wait if the kit looked at the clock each second of the way.
#[tokio::test]
async fn a_clock_that_moves_by_years_comes_there_in_a_few_steps() {
    let (app, ..) = start().await;
    mail::delay("eve".into(), days(3 * 365))
        .send(app.producer())
        .await
        .expect("stored");
    app.advance(days(3 * 365)).await;
    app.of::<mail>().assert_done(1);
}

#[tokio::test]
async fn failures_of_a_task_are_counted_and_end_in_the_dead_letters() {
    let (app, ..) = start().await;
    mail::now("nobody".into())
        .send(app.producer())
        .await
        .expect("stored");
    app.run_due().await;
    app.of::<mail>()
        .assert_ran(1)
        .assert_retried(1)
        .assert_pending(1);
    app.advance(minutes(1)).await;
    app.of::<mail>()
        .assert_ran(3)
        .assert_retried(2)
        .assert_dead_lettered(1)
        .assert_pending(0);
    assert_eq!(
        app.of::<mail>().only().reason().as_deref(),
        Some("no mailbox")
    );
    let letters = app.dead_letters().await.expect("memory answers");
    assert_eq!((letters.len(), letters[0].attempts), (1, 3));

    assert_eq!(app.replay_dead_letters().await.expect("memory answers"), 1);
    app.of::<mail>().assert_ran(4).assert_pending(1);
}

#[tokio::test]
async fn failures_of_a_record_are_counted_where_the_pump_holds_it() {
    let (app, trail, failures) = start().await;
    failures.0.store(2, Ordering::SeqCst);
    charge::push(7)
        .key("eve")
        .send(app.producer())
        .await
        .expect("stored");
    app.run_due().await;
    app.of::<charge>()
        .assert_ran(1)
        .assert_retried(1)
        .assert_pending(1)
        .assert_done(0);
    app.advance(minutes(1)).await;
    app.of::<charge>()
        .assert_ran(3)
        .assert_retried(2)
        .assert_done(1);
    assert!(trail.lines().contains(&"charged 7".to_owned()));
}

#[tokio::test]
async fn a_batch_waits_for_its_linger_and_each_message_has_its_own_outcome() {
    let (app, trail, _) = start().await;
    for n in [1, 0, 2] {
        charge::push(n).send(app.producer()).await.expect("stored");
    }
    app.run_due().await;
    app.of::<count>()
        .assert_sent(3)
        .assert_ran(0)
        .assert_pending(3);
    app.of::<charge>().assert_done(3);
    app.advance(seconds(1)).await;
    app.of::<count>()
        .assert_ran(3)
        .assert_done(2)
        .assert_skipped(1);
    assert!(
        trail.lines().contains(&"counted [1, 0, 2]".to_owned()),
        "{:?}",
        trail.lines()
    );
}

#[tokio::test]
async fn a_handler_that_sleeps_waits_for_the_clock() {
    let (app, trail, _) = start().await;
    slow::now(30).send(app.producer()).await.expect("stored");
    app.run_due().await;
    app.of::<slow>().assert_running(1).assert_done(0);
    app.advance(seconds(31)).await;
    app.of::<slow>().assert_done(1);
    assert_eq!(trail.lines(), ["slept"]);
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_dropped_and_counted_as_a_failure() {
    let (app, ..) = start().await;
    slow::now(3600).send(app.producer()).await.expect("stored");
    app.advance(seconds(90)).await;
    let history = app.of::<slow>().only().history();
    assert!(history.contains("dropped before its end"), "{history}");
    assert!(app.of::<slow>().retried() >= 1);
}

#[tokio::test]
async fn handlers_that_share_a_topic_are_told_apart_by_their_header() {
    let (app, ..) = start().await;
    for kind in ["a", "b", "b"] {
        event_a::push(1)
            .header("type", kind)
            .send(app.producer())
            .await
            .expect("stored");
    }
    app.run_due().await;
    app.of::<event_a>().assert_sent(1).assert_done(1);
    app.of::<event_b>().assert_sent(2).assert_done(2);
    app.topic("events").assert_sent(3);
}

#[tokio::test]
async fn what_is_revoked_is_neither_pending_nor_done() {
    let (app, ..) = start().await;
    let task = mail::delay("eve".into(), minutes(15))
        .send(app.producer())
        .await
        .expect("stored");
    app.producer().revoke(&task).await.expect("memory answers");
    app.advance(hours(1)).await;
    assert_eq!(app.of::<mail>().count(SeenState::Revoked), 1);
    app.of::<mail>().assert_ran(0).assert_pending(0);
    app.assert_all_done();
}

#[tokio::test]
async fn redelivery_runs_everything_that_is_done_once_more_in_order() {
    let (app, trail, _) = start().await;
    for n in 1..=3 {
        charge::push(n)
            .key("eve")
            .send(app.producer())
            .await
            .expect("stored");
    }
    app.advance(seconds(1)).await;
    app.of::<charge>().assert_ran(3).assert_done(3);
    let again = app.redeliver_all().await;
    assert_eq!(again, 6, "for both groups");
    app.of::<charge>().assert_ran(6).assert_done(3);
    let charged: Vec<_> = trail
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("charged"))
        .collect();
    assert_eq!(
        charged,
        [
            "charged 1",
            "charged 2",
            "charged 3",
            "charged 1",
            "charged 2",
            "charged 3"
        ]
    );
    let ids: Vec<_> = app
        .of::<charge>()
        .messages()
        .iter()
        .map(super::Seen::runs)
        .collect();
    assert_eq!(ids, [2, 2, 2]);
}

#[tokio::test]
async fn a_worker_that_dies_runs_again_what_the_engine_did_not_hear_of() {
    let (app, trail, _) = start().await;
    app.crash_after(2);
    for to in ["a", "b", "c"] {
        mail::now(to.into())
            .send(app.producer())
            .await
            .expect("stored");
    }
    app.run_due().await;
    app.of::<mail>().assert_done(3).assert_retried(0);
    let runs = app.of::<mail>().ran();
    assert!(
        (4..=5).contains(&runs),
        "{runs}: one or more ran twice\n{}",
        app.of::<mail>()
    );
    assert!(
        trail.lines().iter().filter(|to| *to == "b").count() == 2,
        "{:?}",
        trail.lines()
    );
    assert!(app.of::<mail>().to_string().contains("the worker died"));
}

#[tokio::test]
async fn a_record_whose_end_was_not_heard_runs_again() {
    let (app, trail, _) = start().await;
    app.crash_after(1);
    charge::push(7).send(app.producer()).await.expect("stored");
    app.run_due().await;
    app.of::<charge>().assert_ran(2).assert_done(1);
    assert_eq!(trail.lines(), ["charged 7", "charged 7"]);
}

#[tokio::test]
async fn while_the_engine_is_down_nothing_is_accepted_and_afterwards_all_goes_on() {
    let (app, ..) = start().await;
    mail::delay("eve".into(), seconds(10))
        .send(app.producer())
        .await
        .expect("stored");
    app.engine_down(minutes(1));
    app.run_due().await;
    assert!(
        app.running()
            .ready()
            .expect_err("down")
            .contains("taken the engine down")
    );
    let refused = mail::now("bob".into()).send(app.producer()).await;
    assert!(
        matches!(refused, Err(PublishError::Unavailable { .. })),
        "{refused:?}"
    );
    app.advance(seconds(30)).await;
    app.of::<mail>()
        .assert_sent(1)
        .assert_ran(0)
        .assert_pending(1);
    app.advance(seconds(31)).await;
    app.of::<mail>().assert_done(1);
    assert_eq!(app.running().ready(), Ok(()));
}

#[tokio::test]
async fn what_ends_while_the_engine_is_down_is_settled_when_it_is_back() {
    let (app, ..) = start().await;
    slow::now(5).send(app.producer()).await.expect("stored");
    app.run_due().await;
    app.engine_down(seconds(30));
    app.advance(minutes(1)).await;
    app.of::<slow>().assert_ran(1).assert_done(1);
}

#[tokio::test]
async fn a_failed_assertion_shows_what_happened() {
    let (app, ..) = start().await;
    mail::now("nobody".into())
        .key("k-1")
        .send(app.producer())
        .await
        .expect("stored");
    app.run_due().await;
    let of_mail = app.of::<mail>();
    let failed = std::panic::catch_unwind(|| {
        of_mail.assert_done(1);
    })
    .expect_err("it is not done");
    let text = failed.downcast_ref::<String>().expect("a text");
    for part in [
        "`mail`: 1 message done was expected, there are 0",
        "in tube `mails`, key k-1: \"nobody\"",
        "+0s             sent",
        "`mail` started, attempt 1",
        "failed: no mailbox",
        "runs again after",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    let of_slow = app.of::<slow>();
    let failed = std::panic::catch_unwind(|| {
        let _ = of_slow.only();
    })
    .expect_err("there is none");
    let text = failed.downcast_ref::<String>().expect("a text");
    assert!(
        text.contains("nothing was sent to it; messages went to tube `mails`"),
        "{text}"
    );
}

#[tokio::test]
async fn a_handler_that_waits_for_another_thread_gets_real_time_and_no_virtual_one() {
    #[dq_handler(tube = "queries", timeout = "1s")]
    async fn query(n: u32) {
        let (answer, wait) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .spawn(move || {
                std::thread::park_timeout(Duration::from_millis(20));
                let _ = answer.send(n);
            })
            .expect("a thread");
        wait.await.expect("answered");
    }
    let app = TestApp::new(App::new().handlers(handlers![query])).patience(seconds(30));
    let app = app.start().await.expect("the set-up is right");
    let began = app.now();
    query::delay(1, seconds(5))
        .send(app.producer())
        .await
        .expect("stored");
    app.advance(seconds(5)).await;
    app.of::<query>().assert_ran(1).assert_done(1);
    assert_eq!(app.now(), began + seconds(5));
}

#[tokio::test]
async fn the_configuration_of_the_app_is_used_and_its_servers_are_not() {
    let yaml = "\
dq: { beanstalks: [\"10.255.255.1:11300\"], redis: { host: \"10.255.255.1:6379\" }, dedup: { store: redis } }
kq: { brokers: [\"10.255.255.1:9092\"] }
handlers: { mail: { retry: { max: 0 } } }
";
    let app = App::new().handlers(handlers![mail]).state(Trail::default());
    let app = TestApp::new(app)
        .config(yaml)
        .start()
        .await
        .expect("nothing is connected");
    mail::now("nobody".into())
        .send(app.producer())
        .await
        .expect("stored");
    app.run_due().await;
    app.of::<mail>().assert_ran(1).assert_dead_lettered(1);
    // Told apart by the dedup store, as it would be there.
    mail::now("eve".into())
        .send(app.producer())
        .await
        .expect("stored");
    app.run_due().await;
    assert_eq!(app.redeliver_all().await, 1);
    app.of::<mail>().assert_ran(2).assert_done(1);
}

#[tokio::test]
async fn the_clock_begins_where_the_test_says() {
    let began = WallTime::from_millis(1_700_000_000_000);
    let app = App::new().handlers(handlers![event_a]);
    let app = TestApp::new(app)
        .starts_at(began.to_system())
        .start()
        .await
        .expect("right");
    assert_eq!((app.now(), app.clock().now()), (began.to_system(), began));
}

#[tokio::test]
async fn retries_wait_as_long_at_every_run() {
    let mut waits = Vec::new();
    for _ in 0..2 {
        let (app, ..) = start().await;
        mail::now("nobody".into())
            .send(app.producer())
            .await
            .expect("stored");
        app.advance(minutes(1)).await;
        waits.push(app.of::<mail>().only().history());
    }
    assert_eq!(waits[0], waits[1]);
}

#[tokio::test]
async fn a_wrong_set_up_is_told_as_the_app_tells_it() {
    let wrong = TestApp::new(App::new().handlers(handlers![mail]))
        .start()
        .await;
    let report = format!("{:?}", wrong.expect_err("the state is missing"));
    assert!(report.contains("State<"), "{report}");
    let wrong = TestApp::new(App::new().handlers(handlers![event_a])).config("oops: 1");
    let report = format!("{:?}", wrong.start().await.expect_err("an unknown key"));
    assert!(
        report.contains("test.yaml:1:1: oops: unknown key"),
        "{report}"
    );
}

#[test]
fn a_runtime_of_several_threads_is_refused_with_advice() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .build()
        .expect("a runtime");
    let app = TestApp::new(App::new().handlers(handlers![event_a]));
    let refused = runtime.block_on(app.start()).expect_err("several threads");
    assert!(
        format!("{refused:?}").contains("#[tokio::test]"),
        "{refused:?}"
    );
}
