//! What holds for tasks: order, priority, time, names, revocation.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Consumer, KEEP, Subject, eventually, publish, task};
use crate::delivery::{Delivery, How};
use crate::engine::{Engine, Outgoing, Published, Rescheduled, Revoked, Subscribe, TaskId};
use crate::message::Id;
use crate::name::{Name, Side};
use crate::time::{WallTime, hours, millis, seconds};

const TUBE: Name = Name::literal("work");

/// Long enough for a task that should not come to come.
const SILENCE: Duration = Duration::from_millis(300);

struct Bench {
    engine: Arc<dyn Engine>,
    to: Subscribe,
}

impl Bench {
    /// `None` where the engine keeps no tasks.
    fn of(subject: &dyn Subject) -> Option<Self> {
        let supported = subject.capabilities(Side::Tasks).supported;
        supported.then(|| Self {
            engine: subject.engine(),
            to: Subscribe::tube(TUBE),
        })
    }

    async fn consumer(&self) -> Consumer {
        Consumer::open(&self.engine, &self.to).await
    }

    async fn send(&self, out: Outgoing) -> TaskId {
        let published = publish(&self.engine, vec![out]).await;
        TaskId::new(TUBE, &published[0])
    }

    async fn revoke(&self, task: &TaskId) -> Revoked {
        let tasks = self.engine.tasks().expect("declared");
        let answers = tasks.revoke(vec![task.clone()]).await;
        assert_eq!(answers.len(), 1, "one truth for each");
        answers
            .into_iter()
            .next()
            .expect("one")
            .expect("the engine is there")
    }

    async fn reschedule(&self, task: &TaskId, due: WallTime) -> Rescheduled {
        let tasks = self.engine.tasks().expect("declared");
        let answers = tasks.reschedule(vec![(task.clone(), due)]).await;
        assert_eq!(answers.len(), 1, "one truth for each");
        answers
            .into_iter()
            .next()
            .expect("one")
            .expect("the engine is there")
    }

    /// Waits until a settlement that was taken is what the store says.
    async fn until_revoke_says(&self, task: &TaskId, wanted: Revoked) {
        eventually("the settlement is stored", async || {
            let said = self.revoke(task).await;
            assert!(
                said == wanted || said == Revoked::Running,
                "{said:?} instead of {wanted:?}"
            );
            said == wanted
        })
        .await;
    }
}

fn numbered(count: usize) -> Vec<Outgoing> {
    (0..count)
        .map(|number| task(&TUBE, format!("{number}")))
        .collect()
}

fn named(name: &str) -> Outgoing {
    Outgoing {
        id: Id::named(&TUBE, name.as_bytes()),
        named: true,
        ..task(&TUBE, name)
    }
}

fn delayed(subject: &dyn Subject, by: Duration) -> Outgoing {
    Outgoing {
        due: subject.now().saturating_add(by),
        ..task(&TUBE, "later")
    }
}

fn ids(deliveries: &[Delivery]) -> Vec<Id> {
    deliveries
        .iter()
        .map(|delivery| delivery.message.id)
        .collect()
}

/// Tasks of one priority start in the order in which they were accepted.
pub async fn first_in_first_out(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let sent = numbered(600);
    for slice in sent.chunks(100) {
        publish(&bench.engine, slice.to_vec()).await;
    }
    let mut consumer = bench.consumer().await;
    let got = consumer.take(600).await;
    assert_eq!(ids(&got), sent.iter().map(|out| out.id).collect::<Vec<_>>());
    consumer.close().await;
}

/// The lower number goes first, whatever was accepted first.
pub async fn lower_priority_goes_first(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    if !subject.capabilities(Side::Tasks).priority {
        return;
    }
    let priorities = [5, 1024, 0, u32::MAX, 5, 0, 3];
    let sent: Vec<Outgoing> = priorities
        .iter()
        .map(|priority| Outgoing {
            priority: *priority,
            ..task(&TUBE, "x")
        })
        .collect();
    publish(&bench.engine, sent.clone()).await;
    let mut consumer = bench.consumer().await;
    let mut wanted = sent;
    wanted.sort_by_key(|out| out.priority);
    let got = consumer.take(priorities.len()).await;
    assert_eq!(
        ids(&got),
        wanted.iter().map(|out| out.id).collect::<Vec<_>>()
    );
    consumer.close().await;
}

/// What was given back goes before what was accepted later, in its old order.
pub async fn a_released_task_is_next(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let sent = numbered(6);
    publish(&bench.engine, sent.clone()).await;
    let mut first = bench.consumer().await;
    let got = first.take(3).await;
    first.quiet();
    first
        .settle_all(got.iter().map(|delivery| (delivery.receipt, How::RELEASE)))
        .await;
    first.close().await;
    let mut second = bench.consumer().await;
    assert_eq!(
        ids(&second.take(6).await),
        sent.iter().map(|out| out.id).collect::<Vec<_>>()
    );
    second.close().await;
}

/// Each retry is a start.
pub async fn retry_counts(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    publish(&bench.engine, numbered(1)).await;
    let mut consumer = bench.consumer().await;
    for attempt in 1..=5 {
        let got = consumer.take(1).await;
        assert_eq!(got[0].message.attempt, attempt);
        consumer
            .settle(
                got[0].receipt,
                How::Retry {
                    after: Duration::ZERO,
                },
            )
            .await;
    }
    consumer.close().await;
}

/// A retry waits for its time, and then comes soon.
pub async fn retry_is_not_early(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    publish(&bench.engine, numbered(1)).await;
    let mut consumer = bench.consumer().await;
    let got = consumer.take(1).await;
    let failed = subject.now();
    consumer
        .settle(got[0].receipt, How::Retry { after: millis(700) })
        .await;
    let again = consumer.take(1).await;
    let waited = subject.now().since(failed);
    assert!(waited >= millis(700), "early: {waited:?}");
    assert_eq!(
        (again[0].message.id, again[0].message.attempt),
        (got[0].message.id, 2)
    );
    consumer.close().await;
}

/// A release may wait too, and is still no start.
pub async fn release_after_is_not_early_and_does_not_count(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    publish(&bench.engine, numbered(1)).await;
    let mut consumer = bench.consumer().await;
    let got = consumer.take(1).await;
    let released = subject.now();
    consumer
        .settle(got[0].receipt, How::Release { after: millis(700) })
        .await;
    let again = consumer.take(1).await;
    let waited = subject.now().since(released);
    assert!(waited >= millis(700), "early: {waited:?}");
    assert_eq!(again[0].message.attempt, 1);
    consumer.close().await;
}

/// A task that kills its worker is counted, so that it ends among the dead letters and not in an endless loop.
pub async fn a_crash_counts_as_a_start(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    publish(&bench.engine, numbered(1)).await;
    for attempt in 1..=3 {
        let mut consumer = bench.consumer().await;
        let got = consumer.take(1).await;
        assert_eq!(got[0].message.attempt, attempt);
        drop(consumer);
    }
}

/// Never early, all of them, and those due earlier first; the due time is told.
pub async fn delayed_tasks_are_never_early_and_come_in_order(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    if !subject.capabilities(Side::Tasks).delayed {
        return;
    }
    // Odd steps, so that no engine's grid fits, and not in the order of their times.
    let mut sent: Vec<Outgoing> = (0..40_u64)
        .map(|n| {
            delayed(
                subject,
                Duration::from_micros(300_000 + (n * 17 % 40) * 12_345),
            )
        })
        .collect();
    publish(&bench.engine, sent.clone()).await;
    let mut consumer = bench.consumer().await;
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let some = consumer.receive(sent.len() - got.len()).await;
        let now = subject.now();
        for Delivery { message, .. } in &some {
            assert!(
                message.due <= now,
                "early: due {} and now {now}",
                message.due
            );
        }
        got.extend(some);
    }
    sent.sort_by_key(|out| out.due);
    assert_eq!(ids(&got), sent.iter().map(|out| out.id).collect::<Vec<_>>());
    let told = got.iter().map(|delivery| delivery.message.due);
    for (told, out) in told.zip(&sent) {
        // Engines keep at least milliseconds, and never round down.
        assert!(
            told >= out.due && told <= out.due.saturating_add(millis(1)),
            "{told} for {}",
            out.due
        );
    }
    consumer.close().await;
}

/// A consumer that sleeps until one due time hears of an earlier one.
pub async fn pending_turn_wakes_for_a_task_that_is_due_earlier(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    if !subject.capabilities(Side::Tasks).delayed {
        return;
    }
    bench.send(delayed(subject, hours(1))).await;
    let mut consumer = bench.consumer().await;
    consumer.nothing(millis(100)).await;
    let engine = subject.another().await;
    let soon = delayed(subject, millis(400));
    let due = soon.due;
    let sent = soon.id;
    let (got, ()) = tokio::join!(consumer.take(1), async {
        // While the other sleeps.
        tokio::time::sleep(millis(50)).await;
        publish(&engine, vec![soon]).await;
    });
    assert_eq!(ids(&got), [sent]);
    assert!(subject.now() >= due);
    consumer.close().await;
}

/// The past, the epoch and now itself are now.
pub async fn a_due_time_in_the_past_is_now(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let dues = [
        WallTime::EPOCH,
        WallTime::from_nanos(i64::MIN),
        subject.now().saturating_sub(hours(24)),
        subject.now(),
    ];
    publish(
        &bench.engine,
        dues.map(|due| Outgoing {
            due,
            ..task(&TUBE, "x")
        })
        .to_vec(),
    )
    .await;
    let mut consumer = bench.consumer().await;
    consumer.take(4).await;
    consumer.close().await;
}

/// What waits for its time is not waiting for a consumer, and its time is known.
pub async fn health_knows_what_is_due_next(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    if !subject.capabilities(Side::Tasks).delayed {
        return;
    }
    let far = delayed(subject, hours(2));
    let near = delayed(subject, hours(1));
    let (far_due, near_due) = (far.due, near.due);
    let far = bench.send(far).await;
    let near = bench.send(near).await;
    let about = |due: WallTime| {
        move |next: Option<WallTime>| {
            next.is_some_and(|next| next.since(due) + due.since(next) <= millis(1))
        }
    };
    let mut consumer = bench.consumer().await;
    consumer.nothing(millis(50)).await;
    consumer
        .until_health("the nearer time", |health| {
            health.empty && about(near_due)(health.next_due)
        })
        .await;
    assert_eq!(bench.revoke(&near).await, Revoked::Revoked);
    consumer.nothing(millis(50)).await;
    consumer
        .until_health("the farther time", |health| about(far_due)(health.next_due))
        .await;
    assert_eq!(bench.revoke(&far).await, Revoked::Revoked);
    consumer.nothing(millis(50)).await;
    consumer
        .until_health("no time at all", |health| health.next_due.is_none())
        .await;
    consumer.close().await;
}

async fn send_again(bench: &Bench, name: &str) -> Published {
    publish(&bench.engine, vec![named(name)]).await.remove(0)
}

/// One name, one task: while it waits, while it runs, while it is dead, and in one slice.
pub async fn a_named_task_is_stored_once(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let twice = publish(&bench.engine, vec![named("a"), named("a")]).await;
    assert_eq!(
        twice.iter().map(|one| one.existed).collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(twice[0].id, twice[1].id);
    assert!(send_again(&bench, "a").await.existed, "it waits");
    let mut consumer = bench.consumer().await;
    let got = consumer.take(1).await;
    assert!(send_again(&bench, "a").await.existed, "it runs");
    let task = TaskId::new(TUBE, &twice[1]);
    if subject.capabilities(Side::Tasks).dead_letter {
        consumer
            .settle(
                got[0].receipt,
                How::Dead {
                    reason: "why".into(),
                    attempts: 1,
                },
            )
            .await;
        bench.until_revoke_says(&task, Revoked::AlreadyRun).await;
        assert!(send_again(&bench, "a").await.existed, "it is dead");
    }
    consumer.nothing(SILENCE).await;
    consumer.close().await;
}

/// Done is known for as long as is configured, and then forgotten.
pub async fn a_named_task_is_known_until_keep_is_over(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let task = bench.send(named("a")).await;
    let mut consumer = bench.consumer().await;
    let got = consumer.take(1).await;
    consumer.ack(&got).await;
    bench.until_revoke_says(&task, Revoked::AlreadyRun).await;
    assert!(send_again(&bench, "a").await.existed, "it is done");
    consumer.nothing(SILENCE).await;
    tokio::time::sleep(KEEP + seconds(1)).await;
    assert!(!send_again(&bench, "a").await.existed, "it is forgotten");
    let again = consumer.take(1).await;
    assert_eq!(
        (again[0].message.id, again[0].message.attempt),
        (task.id(), 1)
    );
    consumer.close().await;
}

/// The id that a producer gives counts within its tube.
pub async fn the_same_name_in_another_tube_is_another_task(subject: &dyn Subject) {
    let Some(bench) = Bench::of(subject) else {
        return;
    };
    let other = Name::literal("other");
    let id = Id::named("shared", b"a");
    let slice = [&TUBE, &other].map(|tube| Outgoing {
        id,
        named: true,
        ..task(tube, "a")
    });
    let published = publish(&bench.engine, slice.to_vec()).await;
    assert!(published.iter().all(|one| !one.existed));
    for tube in [TUBE, other] {
        let mut consumer = Consumer::open(&bench.engine, &Subscribe::tube(tube)).await;
        assert_eq!(ids(&consumer.take(1).await), [id]);
        consumer.close().await;
    }
}

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
    let got = consumer.take(2).await;
    assert_eq!(bench.revoke(&first).await, Revoked::Running);
    assert_eq!(bench.revoke(&second).await, Revoked::Running);
    consumer.ack(&got[..1]).await;
    bench.until_revoke_says(&first, Revoked::AlreadyRun).await;
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
        bench.until_revoke_says(&second, Revoked::AlreadyRun).await;
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
    bench.until_revoke_says(&task, Revoked::Revoked).await;
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
    bench.until_revoke_says(&task, Revoked::AlreadyRun).await;
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
    let revoking = tokio::spawn(async move {
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
    });
    let mut consumer = bench.consumer().await;
    let mut ran = HashSet::new();
    for _ in 0..10 {
        let got = consumer.gather(millis(1)).await;
        consumer.ack(&got).await;
        ran.extend(ids(&got));
        tokio::task::yield_now().await;
    }
    let revoked = revoking.await.expect("no panic");
    eventually("what was not revoked runs", async || {
        let got = consumer.gather(millis(20)).await;
        consumer.ack(&got).await;
        ran.extend(ids(&got));
        ran.len() + revoked.len() >= 200
    })
    .await;
    assert!(ran.is_disjoint(&revoked), "a revoked task ran");
    assert_eq!(ran.len() + revoked.len(), 200);
    consumer.close().await;
}
