//! What holds for every side: the rules of `turn`, and what publish and receive owe each other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::{Consumer, Subject, eventually, publish, record, settle_down, task};
use crate::delivery::{Delivery, How, Notice};
use crate::engine::{MAX_SLICE, Outgoing, Subscribe};
use crate::message::Id;
use crate::name::{Name, Place, Side};
use crate::time::{millis, seconds};

/// A subscription of each side that the engine has.
pub(super) fn sides(subject: &dyn Subject) -> Vec<Subscribe> {
    let tube = Subscribe::tube(Name::literal("work"));
    let topic = Subscribe::topic(Name::literal("log"), Name::literal("readers"));
    [(Side::Tasks, tube), (Side::Topics, topic)]
        .into_iter()
        .filter(|(side, _)| subject.capabilities(*side).supported)
        .map(|(_, to)| to)
        .collect()
}

/// A message for the place of the subscription. Records get one of 16 keys.
pub(super) fn message(to: &Subscribe, number: usize) -> Outgoing {
    let payload = format!("message {number}");
    match &to.place {
        Place::Tube(name) => task(name, payload),
        Place::Topic(name) => record(name, &format!("key-{}", number % 16), payload),
    }
}

pub(super) fn messages(to: &Subscribe, count: usize) -> Vec<Outgoing> {
    (0..count).map(|number| message(to, number)).collect()
}

pub(super) fn ids(deliveries: &[Delivery]) -> HashSet<Id> {
    let ids: HashSet<Id> = deliveries
        .iter()
        .map(|delivery| delivery.message.id)
        .collect();
    assert_eq!(ids.len(), deliveries.len(), "each is delivered once");
    ids
}

pub(super) fn ids_of(slice: &[Outgoing]) -> HashSet<Id> {
    slice.iter().map(|out| out.id).collect()
}

/// The declaration is what this suite was told: then no case below is left out by mistake.
pub async fn capabilities_are_as_declared(subject: &dyn Subject) {
    let engine = subject.engine();
    for side in [Side::Tasks, Side::Topics] {
        let declared = engine.capabilities(side);
        assert_eq!(declared, subject.capabilities(side), "{side}");
        assert_eq!(
            declared,
            subject.another().await.capabilities(side),
            "the same for every handle"
        );
        if !declared.supported {
            assert_eq!(
                declared,
                crate::engine::Capabilities::default(),
                "nothing on {side}"
            );
        }
    }
    let tasks = engine.capabilities(Side::Tasks);
    assert_eq!(
        engine.tasks().is_some(),
        tasks.supported,
        "revoke and reschedule where tasks are"
    );
    let dead = [Side::Tasks, Side::Topics]
        .iter()
        .any(|side| engine.capabilities(*side).dead_letter);
    assert_eq!(
        engine.dead_letters().is_some(),
        dead,
        "dead letters where they are kept"
    );
}

/// Everything comes, once, as a first start.
pub async fn delivers_what_was_published(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        let sent = messages(&to, 700);
        let before = subject.now();
        let answers = publish(&engine, sent.clone()).await;
        assert!(
            answers
                .iter()
                .zip(&sent)
                .all(|(answer, out)| answer.id == out.id && !answer.existed)
        );
        let mut consumer = Consumer::open(&engine, &to).await;
        let got = consumer.take(700).await;
        assert_eq!(ids(&got), ids_of(&sent));
        for Delivery { message, .. } in &got {
            assert_eq!(message.attempt, 1);
            // Half a second for clocks that are read in two places.
            assert!(
                message.at >= before.saturating_sub(millis(500)),
                "{} < {before}",
                message.at
            );
            assert!(message.at <= subject.now().saturating_add(millis(500)));
        }
        consumer.ack(&got).await;
        consumer.nothing(subject.silence()).await;
        consumer.close().await;
    }
}

/// A consumer hears only of its own place, also from a slice for several.
pub async fn places_do_not_mix(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        let other = match &to.place {
            Place::Tube(_) => Subscribe::tube(Name::literal("other")),
            Place::Topic(_) => Subscribe::topic(Name::literal("other"), Name::literal("readers")),
        };
        let slice: Vec<Outgoing> = (0..40)
            .map(|n| message(if n % 2 == 0 { &to } else { &other }, n))
            .collect();
        publish(&engine, slice.clone()).await;
        for (at, subscription) in [&to, &other].into_iter().enumerate() {
            let mut consumer = Consumer::open(&engine, subscription).await;
            let got = consumer.take(20).await;
            let wanted: Vec<Outgoing> = slice.iter().skip(at).step_by(2).cloned().collect();
            assert_eq!(ids(&got), ids_of(&wanted));
            consumer.nothing(subject.silence()).await;
            consumer.close().await;
        }
    }
}

/// Room is the most that comes, whatever waits; no room brings nothing.
pub async fn turn_never_exceeds_free(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        publish(&engine, messages(&to, 600)).await;
        let mut consumer = Consumer::open(&engine, &to).await;
        let mut got = Vec::new();
        for room in [1, 7, 64, MAX_SLICE] {
            consumer.idle(millis(20)).await;
            // The consumer itself asserts the bound in every turn.
            got.extend(consumer.receive(room).await);
        }
        got.extend(consumer.take(600 - got.len()).await);
        ids(&got);
        consumer.close().await;
    }
}

/// Settlements are taken also when there is no room, and they count.
pub async fn turn_takes_all_settlements_at_free_zero(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        publish(&engine, messages(&to, 300)).await;
        let mut consumer = Consumer::open(&engine, &to).await;
        let got = consumer.take(300).await;
        // More than one slice at once; the consumer asserts that all are taken.
        consumer.ack(&got).await;
        consumer.until_empty().await;
        consumer.close().await;
        let mut later = Consumer::open(&subject.another().await, &to).await;
        later.nothing(subject.silence()).await;
        later.close().await;
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A turn that found nothing wakes its task when something arrives, from any handle.
pub async fn pending_turn_wakes_on_arrival(subject: &dyn Subject) {
    for to in sides(subject) {
        for producer in [subject.engine(), subject.another().await] {
            let mut consumer = Consumer::open(&subject.engine(), &to).await;
            consumer.nothing(millis(50)).await;
            let flag = Arc::new(Flag::default());
            let waker = Waker::from(Arc::clone(&flag));
            let mut rounds = 0;
            while let Poll::Ready(()) = consumer.turn(&mut Context::from_waker(&waker), 10) {
                rounds += 1;
                assert!(rounds < 1000, "nothing is there, so the turn is pending");
            }
            let sent = messages(&to, 1);
            publish(&producer, sent.clone()).await;
            eventually("the waker is called", async || {
                flag.0.load(Ordering::SeqCst)
            })
            .await;
            let got = consumer.take(1).await;
            assert_eq!(ids(&got), ids_of(&sent));
            consumer.ack(&got).await;
            consumer.close().await;
        }
    }
}

/// After quiet nothing comes, and nothing that was fetched ahead is kept from others.
pub async fn closed_intake_hands_out_nothing_and_holds_nothing_back(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        let sent = messages(&to, 50);
        publish(&engine, sent.clone()).await;
        let mut first = Consumer::open(&engine, &to).await;
        let got = first.receive(1).await;
        assert_eq!(got.len(), 1);
        first.quiet();
        first.nothing(subject.silence()).await;
        first.ack(&got).await;
        first.close().await;
        let mut second = Consumer::open(&subject.another().await, &to).await;
        let rest = second.take(49).await;
        let mut all = ids(&rest);
        assert!(
            rest.iter().all(|delivery| delivery.message.attempt == 1),
            "fetched is not started"
        );
        all.extend(ids(&got));
        assert_eq!(all, ids_of(&sent));
        second.nothing(subject.silence()).await;
        second.close().await;
    }
}

/// Two consumers on two handles share: no message is in two hands.
pub async fn two_consumers_never_hold_one_message(subject: &dyn Subject) {
    for to in sides(subject) {
        let mut first = Consumer::open(&subject.engine(), &to).await;
        let mut second = Consumer::open(&subject.another().await, &to).await;
        // Members of a group have their shares before anything is there.
        settle_down(subject, &mut [&mut first, &mut second]).await;
        let sent = messages(&to, 400);
        publish(&subject.engine(), sent.clone()).await;
        let mut got = Vec::new();
        eventually("all are in hand", async || {
            got.extend(first.gather(millis(30)).await.into_iter().take(400));
            got.extend(second.gather(millis(30)).await);
            got.len() >= 400
        })
        .await;
        assert_eq!(ids(&got), ids_of(&sent));
        first.nothing(subject.silence()).await;
        second.nothing(subject.silence()).await;
    }
}

/// What was acknowledged and confirmed never comes again.
pub async fn ack_removes_for_good(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        publish(&engine, messages(&to, 20)).await;
        let mut consumer = Consumer::open(&engine, &to).await;
        let got = consumer.take(20).await;
        consumer.ack(&got).await;
        consumer.close().await;
        for engine in [engine, subject.another().await] {
            let mut later = Consumer::open(&engine, &to).await;
            later.nothing(subject.silence()).await;
            later.close().await;
        }
    }
}

/// What was given back comes again, here or to the next consumer.
pub async fn release_makes_it_deliverable_again(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        let sent = messages(&to, 20);
        publish(&engine, sent.clone()).await;
        let mut first = Consumer::open(&engine, &to).await;
        let got = first.take(20).await;
        first.quiet();
        first
            .settle_all(got.iter().map(|delivery| (delivery.receipt, How::RELEASE)))
            .await;
        first.close().await;
        let mut second = Consumer::open(&subject.another().await, &to).await;
        assert_eq!(ids(&second.take(20).await), ids_of(&sent));
        second.nothing(subject.silence()).await;
        second.close().await;
    }
}

/// A release is no start, however often it happens.
pub async fn release_does_not_count(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        publish(&engine, messages(&to, 1)).await;
        for _ in 0..5 {
            let mut consumer = Consumer::open(&engine, &to).await;
            let got = consumer.take(1).await;
            assert_eq!(got[0].message.attempt, 1);
            consumer.quiet();
            consumer.settle(got[0].receipt, How::RELEASE).await;
            consumer.close().await;
        }
    }
}

/// A consumer that vanishes with messages in hand loses none of them.
pub async fn dropped_consumer_is_redelivered(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.another().await;
        let sent = messages(&to, 30);
        publish(&subject.engine(), sent.clone()).await;
        let mut first = Consumer::open(&engine, &to).await;
        let got = first.take(30).await;
        let (done, rest) = got.split_at(10);
        first.ack(done).await;
        // Confirmed before the crash, as far as the engine says so.
        first.idle(subject.silence()).await;
        drop(first);
        drop(engine);
        let mut second = Consumer::open(&subject.engine(), &to).await;
        let again = second.take(20).await;
        assert_eq!(ids(&again), ids(rest));
        second.ack(&again).await;
        second.nothing(subject.silence()).await;
        second.close().await;
    }
}

/// A settlement for a lease that is over changes nothing and is counted.
pub async fn stale_settlement_is_dropped_and_counted(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        publish(&engine, messages(&to, 2)).await;
        let mut consumer = Consumer::open(&engine, &to).await;
        let got = consumer.take(2).await;
        consumer.ack(&got[..1]).await;
        consumer.ack(&got[..1]).await;
        consumer
            .until_health("a stale settlement", |health| health.stale == 1)
            .await;
        let mut foreign = got[1].receipt;
        foreign.epoch = foreign.epoch.wrapping_add(1_000_000);
        consumer.settle(foreign, How::Ack).await;
        consumer
            .until_health("two stale settlements", |health| health.stale == 2)
            .await;
        // The second message is still in hand, and only that.
        consumer.ack(&got[1..]).await;
        consumer.until_empty().await;
        assert_eq!(consumer.health().stale, 2);
        consumer.close().await;
    }
}

/// A cut connection is told as `Lost`; what was in hand comes again under another epoch, and late settlements are void.
pub async fn cut_connection_gives_lost(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        let sent = messages(&to, 20);
        publish(&engine, sent.clone()).await;
        let mut consumer = Consumer::open(&engine, &to).await;
        let got = consumer.take(20).await;
        if !subject.cut(&to.place) {
            continue;
        }
        let epochs: HashSet<u32> = got.iter().map(|delivery| delivery.receipt.epoch).collect();
        let mut lost = HashSet::new();
        while !epochs.is_subset(&lost) {
            if let Notice::Lost(epoch) = consumer.notice().await {
                lost.insert(epoch);
            }
        }
        let again = consumer.take(20).await;
        assert_eq!(ids(&again), ids_of(&sent));
        assert!(
            again
                .iter()
                .all(|delivery| !epochs.contains(&delivery.receipt.epoch))
        );
        consumer.ack(&got).await;
        consumer
            .until_health("twenty stale settlements", |health| health.stale == 20)
            .await;
        consumer.ack(&again).await;
        consumer.nothing(subject.silence()).await;
        consumer.close().await;
    }
}

/// Whatever the order of acknowledgements, what was not acknowledged comes again.
pub async fn acks_out_of_order_lose_nothing(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        publish(&engine, messages(&to, 64)).await;
        let mut first = Consumer::open(&engine, &to).await;
        let got = first.take(64).await;
        let (open, done): (Vec<_>, Vec<_>) =
            got.into_iter().enumerate().partition(|(n, _)| n % 5 == 0);
        for (_, delivery) in done.iter().rev() {
            first.settle(delivery.receipt, How::Ack).await;
        }
        first.quiet();
        first.idle(millis(50)).await;
        drop(first);
        let open: HashSet<Id> = open
            .iter()
            .map(|(_, delivery)| delivery.message.id)
            .collect();
        let mut second = Consumer::open(&subject.another().await, &to).await;
        let mut again = HashSet::new();
        eventually("what was open comes again", async || {
            let got = second.gather(millis(50)).await;
            again.extend(got.iter().map(|delivery| delivery.message.id));
            second.ack(&got).await;
            open.is_subset(&again)
        })
        .await;
        second.close().await;
    }
}

/// `close` returns when every settlement that was taken is confirmed.
pub async fn close_confirms_everything(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        publish(&engine, messages(&to, 500)).await;
        let mut consumer = Consumer::open(&engine, &to).await;
        let got = consumer.take(500).await;
        consumer.ack(&got).await;
        consumer.close().await;
        let mut later = Consumer::open(&subject.another().await, &to).await;
        later.nothing(subject.silence()).await;
        later.close().await;
    }
}

/// The end of `--until-idle` hangs on this word.
pub async fn health_knows_when_nothing_waits(subject: &dyn Subject) {
    for to in sides(subject) {
        let engine = subject.engine();
        publish(&engine, messages(&to, 10)).await;
        let mut consumer = Consumer::open(&engine, &to).await;
        consumer.idle(millis(100)).await;
        assert!(!consumer.health().empty, "ten wait");
        let got = consumer.take(10).await;
        consumer.ack(&got).await;
        consumer.nothing(millis(50)).await;
        consumer.until_empty().await;
        assert_eq!(consumer.health().next_due, None);
        consumer.close().await;
    }
}

/// What is in hand stays there as long as its consumer is polled, however short the lease.
pub async fn in_hand_longer_than_the_lease_runs_once(subject: &dyn Subject) {
    for mut to in sides(subject) {
        to.lease = seconds(1);
        let engine = subject.engine();
        let mut first = Consumer::open(&engine, &to).await;
        publish(&engine, messages(&to, 5)).await;
        let got = first.take(5).await;
        if to.place.side() == Side::Tasks {
            let mut second = Consumer::open(&subject.another().await, &to).await;
            for _ in 0..30 {
                first.idle(millis(50)).await;
                second.nothing(millis(50)).await;
            }
            second.close().await;
        } else {
            first.idle(seconds(3)).await;
        }
        assert!(
            !first
                .notices()
                .iter()
                .any(|notice| matches!(notice, Notice::LostOne(_)))
        );
        first.ack(&got).await;
        first.close().await;
        let mut later = Consumer::open(&engine, &to).await;
        later.nothing(subject.silence()).await;
        later.close().await;
    }
}

/// Two producers and two consumers on two handles: in the end everything has run once.
pub async fn producers_and_consumers_at_once_lose_nothing(subject: &dyn Subject) {
    for to in sides(subject) {
        let (here, there) = (subject.engine(), subject.another().await);
        let mut first = Consumer::open(&here, &to).await;
        let mut second = Consumer::open(&there, &to).await;
        settle_down(subject, &mut [&mut first, &mut second]).await;
        let mut sent = HashSet::new();
        let mut done: HashMap<Id, u32> = HashMap::new();
        for round in 0..20 {
            let producer = if round % 2 == 0 { &here } else { &there };
            let slice = messages(&to, 30);
            sent.extend(ids_of(&slice));
            publish(producer, slice).await;
            for consumer in [&mut first, &mut second] {
                let got = consumer.gather(millis(5)).await;
                consumer.ack(&got).await;
                for delivery in got {
                    *done.entry(delivery.message.id).or_default() += 1;
                }
            }
        }
        eventually("everything has run", async || {
            for consumer in [&mut first, &mut second] {
                let got = consumer.gather(millis(20)).await;
                consumer.ack(&got).await;
                for delivery in got {
                    *done.entry(delivery.message.id).or_default() += 1;
                }
            }
            done.len() >= sent.len()
        })
        .await;
        assert_eq!(done.keys().copied().collect::<HashSet<_>>(), sent);
        assert!(
            done.values().all(|runs| *runs == 1),
            "nothing runs twice without cause"
        );
        first.close().await;
        second.close().await;
    }
}
