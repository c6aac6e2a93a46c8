//! What holds for the members of a group: they share, come, leave and crash, and nothing is lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Consumer, SINGLE, Subject, eventually, publish, record, settle_down};
use crate::delivery::{Delivery, How, Notice};
use crate::engine::{Engine, Outgoing, Subscribe};
use crate::message::Id;
use crate::name::{Name, Side};
use crate::time::{millis, seconds};

const TOPIC: Name = Name::literal("log");

/// The engine, where it keeps topics.
fn engine(subject: &dyn Subject) -> Option<Arc<dyn Engine>> {
    subject
        .capabilities(Side::Topics)
        .supported
        .then(|| subject.engine())
}

fn readers() -> Subscribe {
    Subscribe::topic(TOPIC, Name::literal("readers"))
}

/// Records over all partitions.
fn records(count: usize) -> Vec<Outgoing> {
    (0..count)
        .map(|n| record(&TOPIC, &format!("key-{}", n % 64), format!("{n}")))
        .collect()
}

fn ids(deliveries: &[Delivery]) -> HashSet<Id> {
    deliveries
        .iter()
        .map(|delivery| delivery.message.id)
        .collect()
}

fn ids_of(slice: &[Outgoing]) -> HashSet<Id> {
    slice.iter().map(|out| out.id).collect()
}

/// Each partition has one reader, and the partitions are dealt evenly.
pub async fn two_members_share(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let mut first = Consumer::open(&engine, &readers()).await;
    let mut second = Consumer::open(&subject.another().await, &readers()).await;
    settle_down(subject, &mut [&mut first, &mut second]).await;
    let sent = records(640);
    publish(&engine, sent.clone()).await;
    let mut got = [Vec::new(), Vec::new()];
    eventually("all are in hand", async || {
        got[0].extend(first.gather(millis(20)).await);
        got[1].extend(second.gather(millis(20)).await);
        got[0].len() + got[1].len() >= 640
    })
    .await;
    let partitions = got.each_ref().map(|got| {
        got.iter()
            .map(|one| one.message.place)
            .collect::<HashSet<_>>()
    });
    assert!(partitions[0].is_disjoint(&partitions[1]), "{partitions:?}");
    assert_eq!((partitions[0].len(), partitions[1].len()), (4, 4));
    let all: Vec<Delivery> = got.into_iter().flatten().collect();
    assert_eq!(all.len(), 640, "each once");
    assert_eq!(ids(&all), ids_of(&sent));
}

/// Who leaves in order leaves nothing undone: the other reads on behind it, and nothing comes twice.
pub async fn a_member_that_closes_hands_over(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let mut first = Consumer::open(&engine, &readers()).await;
    let mut second = Consumer::open(&subject.another().await, &readers()).await;
    settle_down(subject, &mut [&mut first, &mut second]).await;
    let sent = records(320);
    publish(&engine, sent.clone()).await;
    let mut done = HashSet::new();
    let got = first.receive(40).await;
    let (finished, handed_back) = got.split_at(got.len() / 2);
    first.quiet();
    first.ack(finished).await;
    first
        .settle_all(handed_back.iter().map(|one| (one.receipt, How::RELEASE)))
        .await;
    first.close().await;
    done.extend(ids(finished));
    let mut again = 0;
    eventually("the other reads everything", async || {
        let got = second.gather(millis(30)).await;
        second.ack(&got).await;
        again += got
            .iter()
            .filter(|one| !done.insert(one.message.id))
            .count();
        done.len() >= 320
    })
    .await;
    assert_eq!((done, again), (ids_of(&sent), 0));
    second.nothing(subject.silence()).await;
    second.close().await;
}

/// Who vanishes loses only time.
pub async fn a_member_that_crashes_hands_over(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let rival = subject.another().await;
    let mut first = Consumer::open(&rival, &readers()).await;
    let mut second = Consumer::open(&engine, &readers()).await;
    settle_down(subject, &mut [&mut first, &mut second]).await;
    let sent = records(320);
    publish(&engine, sent.clone()).await;
    let held = first.receive(100).await;
    drop(first);
    drop(rival);
    let mut done = HashSet::new();
    eventually("the other reads everything", async || {
        let got = second.gather(millis(30)).await;
        second.ack(&got).await;
        done.extend(ids(&got));
        done.len() >= 320
    })
    .await;
    assert_eq!(done, ids_of(&sent));
    assert!(ids(&held).is_subset(&done));
    second.nothing(subject.silence()).await;
    second.close().await;
}

/// A member that must give partitions away hears `Leaving`, finishes, hears `Lost`; its last acknowledgements count.
pub async fn leaving_then_lost_loses_nothing(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    // Who has finished need not sit out the bound: every wait of this case is shorter.
    let to = Subscribe {
        drain: seconds(600),
        ..readers()
    };
    let mut first = Consumer::open(&engine, &to).await;
    let sent = records(320);
    publish(&engine, sent.clone()).await;
    let got = first.take(200).await;
    let mut second = Consumer::open(&subject.another().await, &to).await;
    let mut leaving = HashSet::new();
    let mut lost = HashSet::new();
    let mut done: HashMap<Id, usize> = HashMap::new();
    let mut held: Vec<Delivery> = got;
    eventually(
        "four partitions are given away and everything is read",
        async || {
            first.idle(millis(10)).await;
            for notice in first.notices() {
                match notice {
                    Notice::Leaving(epoch) => {
                        leaving.insert(epoch);
                    }
                    Notice::Lost(epoch) => {
                        assert!(leaving.contains(&epoch), "it was announced");
                        lost.insert(epoch);
                        let left = held.iter().filter(|one| one.receipt.epoch == epoch).count();
                        assert_eq!(left, 0, "it was not over before all was settled");
                    }
                    Notice::LostOne(receipt) => {
                        assert!(!held.iter().any(|one| one.receipt == receipt));
                    }
                }
            }
            if leaving.len() < 4 {
                second.idle(millis(10)).await;
                return false;
            }
            // Half of what is leaving was running and finishes, the other half goes back.
            let (going, staying) = held
                .drain(..)
                .partition::<Vec<_>, _>(|one| leaving.contains(&one.receipt.epoch));
            held = staying;
            for (n, delivery) in going.iter().enumerate() {
                if n % 2 == 0 {
                    *done.entry(delivery.message.id).or_default() += 1;
                    first.settle(delivery.receipt, How::Ack).await;
                } else {
                    first.settle(delivery.receipt, How::RELEASE).await;
                }
            }
            let read = second.gather(millis(20)).await;
            second.ack(&read).await;
            let more = first.gather(millis(20)).await;
            held.extend(more);
            if lost.len() >= 4 {
                first.ack(&held).await;
                for delivery in held.drain(..) {
                    *done.entry(delivery.message.id).or_default() += 1;
                }
            }
            for delivery in read {
                *done.entry(delivery.message.id).or_default() += 1;
            }
            done.len() >= 320
        },
    )
    .await;
    assert_eq!(done.keys().copied().collect::<HashSet<_>>(), ids_of(&sent));
    assert!(
        done.values().all(|runs| *runs == 1),
        "nothing is done twice"
    );
    first.idle(millis(50)).await;
    assert_eq!(first.health().stale, 0);
    first.close().await;
    second.close().await;
}

/// Who does not finish within the drain bound loses the rest; it runs elsewhere, and the late word is void.
pub async fn a_member_that_does_not_finish_is_bounded(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let to = Subscribe {
        drain: millis(500),
        ..readers()
    };
    let mut first = Consumer::open(&engine, &to).await;
    publish(&engine, records(128)).await;
    let held = first.take(128).await;
    let mut second = Consumer::open(&subject.another().await, &to).await;
    let mut lost = HashSet::new();
    eventually("four partitions are taken away", async || {
        second.idle(millis(20)).await;
        first.idle(millis(20)).await;
        lost.extend(
            first
                .notices()
                .into_iter()
                .filter_map(|notice| match notice {
                    Notice::Lost(epoch) => Some(epoch),
                    _ => None,
                }),
        );
        lost.len() >= 4
    })
    .await;
    let (late, kept): (Vec<_>, Vec<_>) = held
        .into_iter()
        .partition(|one| lost.contains(&one.receipt.epoch));
    assert!(!late.is_empty() && !kept.is_empty());
    let again = second.take(late.len()).await;
    assert_eq!(ids(&again), ids(&late));
    first.ack(&late).await;
    let stale = late.len() as u64;
    first
        .until_health("the late ones as stale", |health| health.stale == stale)
        .await;
    first.ack(&kept).await;
    second.ack(&again).await;
    first.nothing(subject.silence()).await;
    second.nothing(subject.silence()).await;
    first.close().await;
    second.close().await;
}

/// A member without a partition reads nothing and takes over when one is free.
pub async fn more_members_than_partitions_wait_their_turn(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let to = Subscribe::topic(SINGLE, Name::literal("readers"));
    let mut first = Consumer::open(&engine, &to).await;
    let mut second = Consumer::open(&subject.another().await, &to).await;
    settle_down(subject, &mut [&mut first, &mut second]).await;
    publish(
        &engine,
        (0..10).map(|_| record(&SINGLE, "k", "x")).collect(),
    )
    .await;
    let got = first.take(10).await;
    first.ack(&got[..6]).await;
    second.nothing(subject.silence()).await;
    first.quiet();
    first
        .settle_all(got[6..].iter().map(|one| (one.receipt, How::RELEASE)))
        .await;
    first.close().await;
    let rest = second.take(4).await;
    assert_eq!(ids(&rest), ids(&got[6..]));
    second.ack(&rest).await;
    second.close().await;
}

/// Members join, leave and crash while records flow: all are read.
pub async fn members_come_and_go_and_nothing_is_lost(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let to = Subscribe {
        drain: millis(200),
        ..readers()
    };
    let mut sent = HashSet::new();
    let mut done = HashSet::new();
    let mut members: Vec<Consumer> = Vec::new();
    for round in 0..12 {
        let slice = records(64);
        sent.extend(ids_of(&slice));
        publish(&engine, slice).await;
        match round % 4 {
            0 | 1 => members.push(Consumer::open(&engine, &to).await),
            2 => {
                let mut member = members.remove(0);
                // It crashes with records in hand.
                member.gather(millis(10)).await;
                drop(member);
            }
            _ => members.remove(0).close().await,
        }
        for member in &mut members {
            let got = member.gather(millis(10)).await;
            member.ack(&got).await;
            done.extend(ids(&got));
        }
    }
    members.push(Consumer::open(&engine, &to).await);
    eventually("everything is read", async || {
        for member in &mut members {
            let got = member.gather(millis(20)).await;
            member.ack(&got).await;
            done.extend(ids(&got));
        }
        done.len() >= sent.len()
    })
    .await;
    assert_eq!(done, sent);
    tokio::time::sleep(seconds(1)).await;
    for member in members {
        member.close().await;
    }
}
