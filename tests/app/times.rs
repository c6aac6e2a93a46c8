//! When tasks run: delays, times in the past and far away, priorities, lateness, rates, and moving a task.

use std::time::{Duration, SystemTime};

use go_queue::engine::{PublishError, Rescheduled, Revoked};
use go_queue::prelude::*;
use go_queue::time::Clock;
use tokio::time::Instant;

use crate::stage::{Gate, Stage, Trail, on_both_engines, stop};

#[dq_handler(tube = "notes")]
async fn note(text: String, State(trail): State<Trail>) {
    trail.add(text);
}

/// Says whether it was early, and how long after its time it began.
#[dq_handler(tube = "timed")]
async fn timed(n: u32, meta: Meta, State(clock): State<Clock>, State(trail): State<Trail>) {
    let now = clock.now();
    let early = if now < meta.due { "early" } else { "in time" };
    trail.add(format_args!("{n} {early}"));
}

on_both_engines!(
    no_delay_a_zero_delay_and_a_time_in_the_past_run_now,
    a_delay_beyond_the_calendar_is_refused_and_a_century_is_stored,
    no_task_is_early,
    a_lower_priority_number_goes_first,
    the_priority_of_the_configuration_goes_before_that_of_the_attribute,
    a_task_met_too_late_becomes_a_dead_letter_and_one_in_time_runs,
    no_more_start_in_a_time_than_the_rate_says,
    a_task_that_waits_is_moved_to_another_time,
    a_task_that_has_started_is_not_moved,
);

async fn no_delay_a_zero_delay_and_a_time_in_the_past_run_now(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![note]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let text = str::to_owned;
    note::now(text("now")).send(&producer).await.unwrap();
    note::delay(text("zero"), Duration::ZERO)
        .send(&producer)
        .await
        .unwrap();
    note::at(text("hour ago"), stage.ago(hours(1)))
        .send(&producer)
        .await
        .unwrap();
    note::at(text("1970"), SystemTime::UNIX_EPOCH)
        .send(&producer)
        .await
        .unwrap();
    let before = SystemTime::UNIX_EPOCH - days(1);
    note::at(text("1969"), before)
        .send(&producer)
        .await
        .unwrap();
    trail.reach(5).await;
    assert_eq!(trail.sorted(), ["1969", "1970", "hour ago", "now", "zero"]);
    stop(running).await;
}

async fn a_delay_beyond_the_calendar_is_refused_and_a_century_is_stored(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![note]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    // Beyond an i64 of nanoseconds, of milliseconds, and of seconds.
    for delay in [
        days(300 * 365),
        Duration::from_millis(u64::MAX),
        Duration::MAX,
    ] {
        let refused = note::delay("never".to_owned(), delay).send(&producer).await;
        let Err(PublishError::DelayOutOfRange { delay: said }) = &refused else {
            unreachable!("{refused:?}")
        };
        assert_eq!(*said, delay);
        assert!(refused.unwrap_err().to_string().contains("2262"));
    }
    let beyond = SystemTime::UNIX_EPOCH + days(300 * 365);
    let refused = note::at("never".to_owned(), beyond).send(&producer).await;
    assert!(
        matches!(refused, Err(PublishError::DelayOutOfRange { .. })),
        "{refused:?}"
    );
    let century = note::delay("far".to_owned(), days(100 * 365));
    let far = century.send(&producer).await.unwrap();
    note::now("near".to_owned()).send(&producer).await.unwrap();
    assert_eq!(trail.reach(1).await, ["near"]);
    let moved = producer.reschedule(&far, beyond).await;
    assert!(moved.is_err(), "{moved:?}");
    assert_eq!(producer.revoke(&far).await.unwrap(), Revoked::Revoked);
    stop(running).await;
    assert_eq!(trail.lines(), ["near"]);
}

async fn no_task_is_early(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app(handlers![timed])
        .state(trail.clone())
        .state(stage.clock.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let tasks = (0..200_u32).map(|n| timed::delay(n, Duration::from_micros(u64::from(n) * 1371)));
    for result in producer.send_all(tasks).await {
        result.unwrap();
    }
    for line in trail.reach(200).await {
        assert!(line.ends_with("in time"), "{line}");
    }
    stop(running).await;
}

#[dq_handler(tube = "ranked", concurrency = 1)]
async fn ranked(name: String, State(gate): State<Gate>, State(trail): State<Trail>) {
    trail.add(name);
    gate.pass().await;
}

#[dq_handler(tube = "ranked", priority = 7, enabled = false)]
async fn ranked_by_its_attribute(name: String) {
    drop(name);
}

async fn a_lower_priority_number_goes_first(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    let app = stage
        .app(handlers![ranked])
        .state(trail.clone())
        .state(gate.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    ranked::now("in front".to_owned())
        .send(&producer)
        .await
        .unwrap();
    trail.reach(1).await;
    for (name, priority) in [
        ("low", 2000),
        ("urgent", 0),
        ("high", 5),
        ("lowest", u32::MAX),
    ] {
        let task = ranked::now(name.to_owned()).priority(priority);
        task.send(&producer).await.unwrap();
    }
    ranked::now("middle".to_owned())
        .send(&producer)
        .await
        .unwrap();
    let by_attribute = ranked_by_its_attribute::now("attribute".to_owned());
    by_attribute.send(&producer).await.unwrap();
    gate.open(7);
    assert_eq!(
        trail.reach(7).await,
        [
            "in front",
            "urgent",
            "high",
            "attribute",
            "middle",
            "low",
            "lowest"
        ]
    );
    stop(running).await;
}

#[dq_handler(tube = "ranked", concurrency = 1, priority = 7)]
async fn ranked_seven(name: String, State(gate): State<Gate>, State(trail): State<Trail>) {
    trail.add(name);
    gate.pass().await;
}

async fn the_priority_of_the_configuration_goes_before_that_of_the_attribute(stage: Stage) {
    for (yaml, third) in [
        ("", "own"),
        ("handlers: { ranked_seven: { priority: 2000 } }", "usual"),
    ] {
        let (gate, trail) = (Gate::closed(), Trail::new());
        let stage = if stage.is_memory() {
            Stage::memory()
        } else {
            Stage::sqlite().await
        };
        let app = stage
            .app_with(handlers![ranked_seven], yaml)
            .state(trail.clone())
            .state(gate.clone());
        let running = app.start().await.unwrap();
        let producer = running.producer();
        let send = |name: &str| ranked_seven::now(name.to_owned());
        send("in front").send(&producer).await.unwrap();
        trail.reach(1).await;
        send("usual").send(&producer).await.unwrap();
        send("own").priority(1000).send(&producer).await.unwrap();
        gate.open(3);
        assert_eq!(trail.reach(3).await[2], third, "{yaml}");
        stop(running).await;
    }
}

#[dq_handler(tube = "news", max_late = "10m")]
async fn news(text: String, State(trail): State<Trail>) {
    trail.add(text);
}

async fn a_task_met_too_late_becomes_a_dead_letter_and_one_in_time_runs(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![news]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let at = |text: &str, late| news::at(text.to_owned(), stage.ago(late));
    at("old", minutes(11)).send(&producer).await.unwrap();
    at("fresh", minutes(9)).send(&producer).await.unwrap();
    news::now("new".to_owned()).send(&producer).await.unwrap();
    trail.reach(2).await;
    assert_eq!(trail.sorted(), ["fresh", "new"]);
    let letters = stage.dead(1).await;
    assert_eq!(letters[0].body.payload(), br#""old""#);
    assert!(
        letters[0].reason.starts_with("late"),
        "{}",
        letters[0].reason
    );
    stop(running).await;
    assert_eq!(trail.lines().len(), 2);
}

#[dq_handler(tube = "calls", rate = "20/s")]
async fn call(n: u32, State(trail): State<Trail>) {
    trail.add(n);
}

async fn no_more_start_in_a_time_than_the_rate_says(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![call]).state(trail.clone());
    let running = app.start().await.unwrap();
    let began = Instant::now();
    let results = running.producer().send_all((0..35).map(call::now)).await;
    assert!(results.iter().all(Result::is_ok));
    trail.reach(35).await;
    // 20 at once, which were saved up, then 20 each second.
    assert!(
        began.elapsed() >= Duration::from_millis(700),
        "{:?}",
        began.elapsed()
    );
    stop(running).await;
}

async fn a_task_that_waits_is_moved_to_another_time(stage: Stage) {
    let trail = Trail::new();
    let app = stage.app(handlers![note]).state(trail.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let early = note::delay("hour".to_owned(), hours(1));
    let early = early.send(&producer).await.unwrap();
    let late = note::delay("soon".to_owned(), millis(300));
    let late = late.send(&producer).await.unwrap();
    // Their names survive as text.
    let early = early.to_string().parse().unwrap();
    let now = producer.reschedule(&early, stage.ago(hours(1))).await;
    assert_eq!(now.unwrap(), Rescheduled::Rescheduled);
    let later = producer.reschedule(&late, stage.later(days(9))).await;
    assert_eq!(later.unwrap(), Rescheduled::Rescheduled);
    assert_eq!(trail.reach(1).await, ["hour"]);
    note::delay("mark".to_owned(), millis(400))
        .send(&producer)
        .await
        .unwrap();
    assert_eq!(
        trail.reach(2).await,
        ["hour", "mark"],
        "the other one waits for days"
    );
    assert_eq!(producer.revoke(&late).await.unwrap(), Revoked::Revoked);
    stop(running).await;
}

async fn a_task_that_has_started_is_not_moved(stage: Stage) {
    let (gate, trail) = (Gate::closed(), Trail::new());
    let app = stage
        .app(handlers![ranked])
        .state(trail.clone())
        .state(gate.clone());
    let running = app.start().await.unwrap();
    let producer = running.producer();
    let task = ranked::now("one".to_owned()).send(&producer).await.unwrap();
    trail.reach(1).await;
    let soon = stage.later(hours(1));
    assert_eq!(
        producer.reschedule(&task, soon).await.unwrap(),
        Rescheduled::Running
    );
    gate.open(1);
    crate::stage::settled(&running).await;
    crate::stage::until("it is settled", || running.handlers()[0].counts.done == 1).await;
    let mut answer = producer.reschedule(&task, soon).await.unwrap();
    // The count is up a moment before the engine has the settlement.
    while answer == Rescheduled::Running {
        tokio::time::sleep(Duration::from_millis(1)).await;
        answer = producer.reschedule(&task, soon).await.unwrap();
    }
    assert!(
        matches!(answer, Rescheduled::AlreadyRun | Rescheduled::Unknown),
        "{answer:?}"
    );
    stop(running).await;
    assert_eq!(trail.lines(), ["one"]);
}
