//! What holds for tasks that their producer has named: one name, one task.

use super::tasks::{Bench, SILENCE, TUBE, ids, named};
use super::{Consumer, Subject, publish, task};
use crate::delivery::How;
use crate::engine::{Outgoing, Published, Revoked, Subscribe, TaskId};
use crate::message::Id;
use crate::name::{Name, Side};
use crate::time::seconds;

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
        bench
            .until_revoke_says(&task, Revoked::AlreadyRun, &mut consumer)
            .await;
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
    bench
        .until_revoke_says(&task, Revoked::AlreadyRun, &mut consumer)
        .await;
    assert!(send_again(&bench, "a").await.existed, "it is done");
    consumer.nothing(SILENCE).await;
    tokio::time::sleep(subject.keep() + seconds(1)).await;
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
