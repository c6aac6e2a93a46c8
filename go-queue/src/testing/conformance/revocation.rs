//! What holds for tasks that are taken back or moved: the answer is the truth.

use std::collections::HashSet;
use std::sync::Arc;

use super::tasks::{Bench, SILENCE, TUBE, delayed, ids, named, numbered};
use super::{Subject, eventually, publish, task};
use crate::delivery::How;
use crate::engine::{Published, Rescheduled, Revoked, TaskId};
use crate::message::Id;
use crate::name::{Name, Side};
use crate::time::{WallTime, hours, millis};

/// Revoked while ready or delayed, it never comes.
pub async fn a_revoked_task_never_starts(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let ready = bench.send(task(&TUBE, "x")).await;
    let later = bench.send(delayed(subject, millis(300))).await;
    let stays = bench.send(task(&TUBE, "y")).await;
    assert_eq!(bench.revoke(&ready).await, Revoked::Revoked);
    assert_eq!(bench.revoke(&later).await, Revoked::Revoked);
    let mut consumer = bench.consumer().await;
    let got = consumer.take(1).await;
    assert_eq!(ids(&got), [stays.id()]);
    consumer.ack(&got).await;
    consumer.nothing(millis(600)).await;
    consumer.close().await;
}

/// Revoked, running, run already, unknown: each when it is so.
pub async fn revoke_tells_the_truth(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let first = bench.send(named("a")).await;
    let second = bench.send(task(&TUBE, "x")).await;
    let mut consumer = bench.consumer().await;
    let mut got = consumer.take(2).await;
    // An engine of several nodes hands them out in any order.
    got.sort_by_key(|delivery| delivery.message.id != first.id());
    assert_eq!(ids(&got), [first.id(), second.id()]);
    assert_eq!(bench.revoke(&first).await, Revoked::Running);
    assert_eq!(bench.revoke(&second).await, Revoked::Running);
    consumer.ack(&got[..1]).await;
    bench
        .until_revoke_says(&first, Revoked::AlreadyRun, &mut consumer)
        .await;
    if subject.capabilities(Side::Tasks).dead_letter {
        consumer
            .settle(
                got[1].receipt,
                How::Dead {
                    reason: "why".into(),
                    attempts: 1,
                },
            )
            .await;
        bench
            .until_revoke_says(&second, Revoked::AlreadyRun, &mut consumer)
            .await;
    } else {
        consumer.ack(&got[1..]).await;
    }
    let waits = bench.send(delayed(subject, hours(1))).await;
    assert_eq!(bench.revoke(&waits).await, Revoked::Revoked);
    assert_eq!(
        bench.revoke(&waits).await,
        Revoked::Unknown,
        "revoked before"
    );
    // A well-formed id of a task that was never accepted.
    let never = Published {
        id: Id::unique(),
        existed: false,
        token: waits.token().map(Arc::from),
        partition: 0,
        offset: 0,
    };
    assert_eq!(
        bench.revoke(&TaskId::new(TUBE, &never)).await,
        Revoked::Unknown
    );
    let elsewhere = TaskId::new(
        Name::literal("nowhere"),
        &Published {
            token: None,
            ..never
        },
    );
    assert_eq!(bench.revoke(&elsewhere).await, Revoked::Unknown);
    consumer.close().await;
}

/// It has been started, and still it can be stopped: it can no longer start anywhere.
pub async fn a_task_waiting_for_its_retry_can_be_revoked(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let task = bench.send(task(&TUBE, "x")).await;
    let mut consumer = bench.consumer().await;
    let got = consumer.take(1).await;
    consumer
        .settle(got[0].receipt, How::Retry { after: millis(800) })
        .await;
    bench
        .until_revoke_says(&task, Revoked::Revoked, &mut consumer)
        .await;
    consumer.nothing(millis(1200)).await;
    consumer.close().await;
}

/// A revocation frees the name.
pub async fn a_revoked_name_can_be_sent_again(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    for _ in 0..3 {
        let task = bench.send(named("a")).await;
        assert!(!task.existed());
        assert_eq!(bench.revoke(&task).await, Revoked::Revoked);
    }
    let task = bench.send(named("a")).await;
    let mut consumer = bench.consumer().await;
    let got = consumer.take(1).await;
    assert_eq!(ids(&got), [task.id()]);
    consumer.nothing(SILENCE).await;
    consumer.close().await;
}

/// An id may lie in a database for a while.
pub async fn a_task_id_finds_its_task_after_a_round_trip_as_text(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let task = bench.send(delayed(subject, hours(1))).await;
    let read: TaskId = task.to_string().parse().expect("it reads what it writes");
    let other = Bench {
        engine: subject.another().await,
        to: bench.to.clone(),
    };
    assert_eq!(other.revoke(&read).await, Revoked::Revoked);
    assert_eq!(bench.revoke(&task).await, Revoked::Unknown);
}

/// Earlier, later, now: the last word counts.
pub async fn reschedule_moves_a_task_both_ways(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    if !subject.capabilities(Side::Tasks).delayed {
        return;
    }
    let mut consumer = bench.consumer().await;
    let earlier = bench.send(delayed(subject, hours(1))).await;
    consumer.nothing(millis(50)).await;
    let due = subject.now().saturating_add(millis(400));
    assert_eq!(
        bench.reschedule(&earlier, due).await,
        Rescheduled::Rescheduled
    );
    let got = consumer.take(1).await;
    assert_eq!(ids(&got), [earlier.id()]);
    assert!(subject.now() >= due, "early");
    consumer.ack(&got).await;

    let ready = bench.send(task(&TUBE, "x")).await;
    let due = subject.now().saturating_add(millis(700));
    assert_eq!(
        bench.reschedule(&ready, due).await,
        Rescheduled::Rescheduled
    );
    let soon = bench.send(delayed(subject, millis(200))).await;
    assert_eq!(
        bench.reschedule(&soon, due.saturating_add(hours(1))).await,
        Rescheduled::Rescheduled
    );
    let got = consumer.take(1).await;
    assert_eq!(ids(&got), [ready.id()]);
    assert!(subject.now() >= due, "early");
    consumer.ack(&got).await;
    consumer.nothing(SILENCE).await;

    assert_eq!(
        bench.reschedule(&soon, WallTime::EPOCH).await,
        Rescheduled::Rescheduled
    );
    let got = consumer.take(1).await;
    assert_eq!((got[0].message.id, got[0].message.attempt), (soon.id(), 1));
    consumer.close().await;
}

/// Rescheduled, running, run already, unknown: each when it is so, and nothing is stored by asking.
pub async fn reschedule_tells_the_truth(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let now = subject.now();
    let task = bench.send(named("a")).await;
    let mut consumer = bench.consumer().await;
    let got = consumer.take(1).await;
    assert_eq!(bench.reschedule(&task, now).await, Rescheduled::Running);
    consumer.ack(&got).await;
    bench
        .until_revoke_says(&task, Revoked::AlreadyRun, &mut consumer)
        .await;
    assert_eq!(bench.reschedule(&task, now).await, Rescheduled::AlreadyRun);
    let revoked = bench.send(delayed(subject, hours(1))).await;
    assert_eq!(bench.revoke(&revoked).await, Revoked::Revoked);
    assert_eq!(bench.reschedule(&revoked, now).await, Rescheduled::Unknown);
    consumer.nothing(SILENCE).await;
    consumer.close().await;
}

/// Revocations race a consumer: whoever is told `Revoked` is right, and everything else runs.
pub async fn a_revocation_races_the_run_and_one_wins(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let sent = publish(&bench.engine, numbered(200)).await;
    let tasks: Vec<TaskId> = sent.iter().map(|one| TaskId::new(TUBE, one)).collect();
    let rival = subject.another().await;
    let revoking = async {
        let mut revoked = HashSet::new();
        for chunk in tasks.chunks(7).rev() {
            let answers = rival
                .tasks()
                .expect("declared")
                .revoke(chunk.to_vec())
                .await;
            for (task, answer) in chunk.iter().zip(answers) {
                if answer.expect("the engine is there") == Revoked::Revoked {
                    revoked.insert(task.id());
                }
            }
            tokio::task::yield_now().await;
        }
        revoked
    };
    let mut consumer = bench.consumer().await;
    let mut ran = HashSet::new();
    let running = async {
        for _ in 0..10 {
            let got = consumer.receive(9).await;
            consumer.ack(&got).await;
            ran.extend(ids(&got));
            tokio::task::yield_now().await;
        }
    };
    let (revoked, ()) = tokio::join!(revoking, running);
    eventually("what was not revoked runs", async || {
        let got = consumer.gather(millis(20)).await;
        consumer.ack(&got).await;
        ran.extend(ids(&got));
        ran.len() + revoked.len() >= 200
    })
    .await;
    assert!(
        !ran.is_empty() && !revoked.is_empty(),
        "both had their chance"
    );
    assert!(ran.is_disjoint(&revoked), "a revoked task ran");
    assert_eq!(ran.len() + revoked.len(), 200);
    consumer.close().await;
}
