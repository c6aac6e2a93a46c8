//! The life of an app: start, hooks, readiness, quiet, stop, `run_until`, and the end of its own accord.

use std::future::{pending, ready};
use std::time::Duration;

use go_queue::app::{App, AppError, Exit};
use go_queue::engine::PublishError;
use go_queue::prelude::*;
use tokio::time::Instant;

use crate::stage::{Gate, Stage, Trail, on_both_engines, stop, until};

on_both_engines!(
    an_app_is_ready_until_it_is_told_to_be_quiet,
    quiet_finishes_what_runs_and_takes_nothing_new,
    what_was_waiting_at_stop_comes_back_uncounted,
    run_until_stops_in_order_when_its_future_ends,
    hooks_run_in_order_and_the_start_hook_can_send,
    a_start_hook_that_fails_ends_the_app_and_the_stop_hooks_run,
    an_app_that_stops_leaves_what_is_due_later_for_the_next,
);

#[dq_handler(tube = "work", concurrency = 2, waiting = 4)]
async fn work(n: u32, meta: Meta, State(gate): State<Gate>, State(trail): State<Trail>) {
    trail.add(format_args!("+{n}.{}", meta.attempt));
    gate.pass().await;
    trail.add(format_args!("-{n}"));
}

#[kq_handler(topic = "work", group = "g", order = key, concurrency = 2)]
async fn work_record(n: u32, meta: Meta, State(gate): State<Gate>, State(trail): State<Trail>) {
    trail.add(format_args!("+{n}.{}", meta.attempt));
    gate.pass().await;
    trail.add(format_args!("-{n}"));
}

fn app(stage: &Stage, gate: &Gate, trail: &Trail) -> App {
    stage
        .app(handlers![work, work_record])
        .state(gate.clone())
        .state(trail.clone())
}

async fn an_app_is_ready_until_it_is_told_to_be_quiet(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    let running = app(&stage, &gate, &trail).start().await.unwrap();
    until("it is ready", || running.ready().is_ok()).await;
    running.quiet();
    assert_eq!(running.ready(), Err("the app is stopping".to_owned()));
    running.stop(Duration::from_secs(5)).await.unwrap();
}

async fn quiet_finishes_what_runs_and_takes_nothing_new(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    let running = app(&stage, &gate, &trail).start().await.unwrap();
    let producer = running.producer();
    work::now(1).send(&producer).await.unwrap();
    work_record::push(2).key("k").send(&producer).await.unwrap();
    trail.reach(2).await;
    running.quiet();
    // What is accepted from here on is for the next app.
    work::now(3).send(&producer).await.unwrap();
    work_record::push(4).key("k").send(&producer).await.unwrap();
    gate.open(10);
    trail.reach(4).await;
    running.stop(Duration::from_secs(10)).await.unwrap();
    let mut lines = trail.lines();
    lines.sort();
    assert_eq!(lines, ["+1.1", "+2.1", "-1", "-2"]);
    if stage.is_memory() {
        return; // Its engine is closed with the app.
    }
    let running = app(&stage, &gate, &trail).start().await.unwrap();
    trail.reach(8).await;
    stop(running).await;
    assert_eq!(trail.sorted()[..4], ["+1.1", "+2.1", "+3.1", "+4.1"]);
}

async fn what_was_waiting_at_stop_comes_back_uncounted(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    let running = app(&stage, &gate, &trail).start().await.unwrap();
    let producer = running.producer();
    // Two of each run, the others wait in hand or in the engine.
    for n in 0..6 {
        work::now(n).send(&producer).await.unwrap();
        work_record::push(10 + n)
            .key("k")
            .send(&producer)
            .await
            .unwrap();
    }
    trail.reach(3).await;
    until("some wait in hand", || {
        running
            .handlers()
            .iter()
            .all(|handler| handler.in_hand > handler.running)
    })
    .await;
    let began = Instant::now();
    let ended = running.stop(millis(50)).await;
    let Err(
        error @ AppError::Deadline {
            handed_back,
            deadline,
        },
    ) = ended
    else {
        unreachable!("{ended:?}")
    };
    assert_eq!((handed_back, deadline), (3, millis(50)));
    assert_eq!(
        error.to_string(),
        "3 messages were still running after 50ms and were handed back"
    );
    assert_eq!(Exit::from(Err(error)).code(), 3);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    if stage.is_memory() {
        return;
    }
    gate.open(100);
    let trail = Trail::new();
    let running = app(&stage, &gate, &trail).start().await.unwrap();
    trail.reach(24).await;
    stop(running).await;
    let begun: Vec<_> = trail
        .sorted()
        .into_iter()
        .filter(|l| l.starts_with('+'))
        .collect();
    let tasks = ["+0.1", "+1.1"];
    let records = ["+10.1", "+11.1", "+12.1", "+13.1", "+14.1", "+15.1"];
    let wanted: Vec<_> = tasks
        .into_iter()
        .chain(records)
        .chain(["+2.1", "+3.1", "+4.1", "+5.1"])
        .collect();
    assert_eq!(begun, wanted, "each at its first attempt");
}

async fn run_until_stops_in_order_when_its_future_ends(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    gate.open(10);
    let done = trail.clone();
    app(&stage, &gate, &trail)
        .on_start(|producer| async move {
            work::now(1).send(&producer).await?;
            Ok::<_, PublishError>(())
        })
        .on_stop({
            let trail = trail.clone();
            move || async move { trail.add("stopped") }
        })
        .run_until(async move {
            done.reach(1).await;
        })
        .await
        .unwrap();
    assert_eq!(trail.lines(), ["+1.1", "-1", "stopped"]);
}

async fn hooks_run_in_order_and_the_start_hook_can_send(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    gate.open(10);
    let write = |text: &'static str| {
        let trail = trail.clone();
        move || async move { trail.add(text) }
    };
    let (one, two) = (trail.clone(), trail.clone());
    let running = app(&stage, &gate, &trail)
        .on_start(|producer| async move {
            one.add("start 1");
            work::now(1).send(&producer).await?;
            one.reach(3).await;
            Ok::<_, PublishError>(())
        })
        .on_start(move |_| {
            two.add("start 2");
            ready(Ok::<_, PublishError>(()))
        })
        .on_stop(write("stop 1"))
        .on_stop(write("stop 2"))
        .start()
        .await
        .unwrap();
    assert_eq!(trail.lines(), ["start 1", "+1.1", "-1", "start 2"]);
    stop(running).await;
    assert_eq!(trail.lines()[4..], ["stop 1", "stop 2"]);
}

async fn a_start_hook_that_fails_ends_the_app_and_the_stop_hooks_run(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    let stopped = trail.clone();
    let error = app(&stage, &gate, &trail)
        .on_start(|_| ready(Err::<(), _>("no licence")))
        .on_start(|_| async { unreachable!("the first has failed") as Result<(), String> })
        .on_stop(move || async move { stopped.add("stopped") })
        .start()
        .await
        .unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        "the app failed: a start hook failed: no licence"
    );
    assert_eq!(Exit::from(Err(error)).code(), 1);
    assert_eq!(trail.lines(), ["stopped"]);
}

async fn an_app_that_stops_leaves_what_is_due_later_for_the_next(stage: Stage) {
    if stage.is_memory() {
        return;
    }
    let (gate, trail) = (Gate::closed(), Trail::new());
    gate.open(10);
    let running = app(&stage, &gate, &trail).start().await.unwrap();
    let later = work::delay(1, millis(200));
    later.send(&running.producer()).await.unwrap();
    stop(running).await;
    assert!(trail.lines().is_empty());
    let running = app(&stage, &gate, &trail).start().await.unwrap();
    assert_eq!(trail.reach(2).await, ["+1.1", "-1"]);
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_future_that_never_ends_does_not_hold_an_app_whose_start_fails() {
    let stage = Stage::memory();
    let (gate, trail) = (Gate::closed(), Trail::new());
    let ended = app(&stage, &gate, &trail)
        .on_start(|_| ready(Err::<(), _>("no")))
        .run_until(pending())
        .await;
    assert!(matches!(ended, Err(AppError::Failed { .. })), "{ended:?}");
}

#[dq_handler(tube = "chain")]
async fn chain(n: u32, producer: Producer, State(trail): State<Trail>) -> Result<(), PublishError> {
    trail.add(n);
    if n < 3 {
        chain::delay(n + 1, seconds(4)).send(&producer).await?;
    } else if n == 3 {
        chain::delay(99, seconds(13)).send(&producer).await?;
    }
    Ok(())
}

async fn run(app: App, args: &[&str]) -> Result<(), AppError> {
    let args = std::iter::once("worker").chain(args.iter().copied());
    app.run_command(args.map(Into::into).collect()).await
}

#[tokio::test(start_paused = true)]
async fn until_idle_waits_for_what_is_due_within_the_horizon_and_not_beyond() {
    let stage = Stage::memory();
    let trail = Trail::new();
    let began = Instant::now();
    let app = stage
        .app(handlers![chain])
        .state(trail.clone())
        .on_start(|producer| async move { chain::now(1).send(&producer).await.map(drop) });
    run(app, &["run", "--until-idle"]).await.unwrap();
    assert_eq!(
        trail.lines(),
        ["1", "2", "3"],
        "and not the one due in 13 s"
    );
    let took = began.elapsed();
    assert!(took >= seconds(9) && took < seconds(11), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn until_idle_takes_a_horizon_and_counts_what_runs() {
    let stage = Stage::memory();
    let (gate, trail) = (Gate::closed(), Trail::new());
    let later = gate.clone();
    let app = stage
        .app(handlers![chain, work])
        .state(trail.clone())
        .state(gate.clone())
        .on_start(|producer| async move {
            chain::delay(50, seconds(3)).send(&producer).await?;
            work::now(1).send(&producer).await.map(drop)
        });
    let opens = async move {
        tokio::time::sleep(seconds(30)).await;
        later.open(1);
        pending::<()>().await;
    };
    tokio::select! {
        ended = run(app, &["--until-idle=2s"]) => ended.unwrap(),
        () = opens => {}
    }
    assert_eq!(
        trail.lines(),
        ["+1.1", "50", "-1"],
        "it ran for half a minute and was waited for"
    );
}

#[tokio::test]
async fn until_idle_on_sqlite_ends_when_all_is_done() {
    let stage = Stage::sqlite().await;
    let (gate, trail) = (Gate::closed(), Trail::new());
    gate.open(10);
    let app = app(&stage, &gate, &trail).on_start(|producer| async move {
        work::delay(1, millis(1500)).send(&producer).await?;
        work::delay(2, minutes(5)).send(&producer).await?;
        work_record::push(3)
            .key("k")
            .send(&producer)
            .await
            .map(drop)
    });
    run(app, &["run", "--until-idle=4s"]).await.unwrap();
    assert_eq!(trail.lines(), ["+3.1", "-3", "+1.1", "-1"]);
}
