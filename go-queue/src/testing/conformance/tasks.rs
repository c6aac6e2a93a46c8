//! What holds for tasks: order, priority, attempts, time.

use std::sync::Arc;
use std::time::Duration;

use super::{Consumer, Subject, eventually, publish, task};
use crate::delivery::{Delivery, How};
use crate::engine::{Engine, Outgoing, Rescheduled, Revoked, Subscribe, TaskId};
use crate::message::Id;
use crate::name::{Name, Side};
use crate::time::{WallTime, hours, millis};

pub(super) const TUBE: Name = Name::literal("work");

/// Long enough for a task that should not come to come.
pub(super) const SILENCE: Duration = Duration::from_millis(300);

pub(super) struct Bench {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) to: Subscribe,
}

impl Bench {
    /// `None` where the engine keeps no tasks.
    pub(super) fn of(subject: &dyn Subject) -> Option<Self> {
        let supported = subject.capabilities(Side::Tasks).supported;
        supported.then(|| Self {
            engine: subject.engine(),
            to: Subscribe::tube(TUBE),
        })
    }

    pub(super) async fn consumer(&self) -> Consumer {
        Consumer::open(&self.engine, &self.to).await
    }

    pub(super) async fn send(&self, out: Outgoing) -> TaskId {
        let published = publish(&self.engine, vec![out]).await;
        TaskId::new(TUBE, &published[0])
    }

    pub(super) async fn revoke(&self, task: &TaskId) -> Revoked {
        let tasks = self.engine.tasks().expect("declared");
        let answers = tasks.revoke(vec![task.clone()]).await;
        assert_eq!(answers.len(), 1, "one truth for each");
        answers
            .into_iter()
            .next()
            .expect("one")
            .expect("the engine is there")
    }

    pub(super) async fn reschedule(&self, task: &TaskId, due: WallTime) -> Rescheduled {
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
    pub(super) async fn until_revoke_says(
        &self,
        task: &TaskId,
        wanted: Revoked,
        consumer: &mut Consumer,
    ) {
        eventually("the settlement is stored", async || {
            // As its pump would: an engine may store a settlement only in a later turn.
            consumer.idle(millis(5)).await;
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

pub(super) fn numbered(count: usize) -> Vec<Outgoing> {
    (0..count)
        .map(|number| task(&TUBE, format!("{number}")))
        .collect()
}

pub(super) fn named(name: &str) -> Outgoing {
    Outgoing {
        id: Id::named(&TUBE, name.as_bytes()),
        named: true,
        ..task(&TUBE, name)
    }
}

pub(super) fn delayed(subject: &dyn Subject, by: Duration) -> Outgoing {
    Outgoing {
        due: subject.now().saturating_add(by),
        ..task(&TUBE, "later")
    }
}

pub(super) fn ids(deliveries: &[Delivery]) -> Vec<Id> {
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

/// Never early, all of them; the due time is told. Which of two goes first when both are overdue is not promised.
pub async fn delayed_tasks_are_never_early_and_all_come(subject: &dyn Subject) {
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
    sent.sort_by_key(|out| out.id);
    got.sort_by_key(|delivery| delivery.message.id);
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
