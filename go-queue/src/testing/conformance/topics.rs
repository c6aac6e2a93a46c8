//! What holds for topics: order, partitions, groups, where they begin, what is kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Consumer, DROPPING, SHORT, SINGLE, SMALL, Subject, eventually, publish, record};
use crate::delivery::{Delivery, How};
use crate::engine::{DeadQuery, Engine, Order, Outgoing, PublishError, Start, Subscribe};
use crate::message::{Id, partition};
use crate::name::{Name, Side};
use crate::time::{hours, millis, seconds};

const TOPIC: Name = Name::literal("log");

/// The engine, where it keeps topics.
fn engine(subject: &dyn Subject) -> Option<Arc<dyn Engine>> {
    subject
        .capabilities(Side::Topics)
        .supported
        .then(|| subject.engine())
}

fn group(name: &'static str) -> Subscribe {
    Subscribe::topic(TOPIC, Name::literal(name))
}

fn key_of(delivery: &Delivery) -> Vec<u8> {
    delivery.message.key().unwrap_or_default().to_vec()
}

fn ids(deliveries: &[Delivery]) -> Vec<Id> {
    deliveries
        .iter()
        .map(|delivery| delivery.message.id)
        .collect()
}

/// Records of a key come in the order in which they were accepted, with rising offsets in one partition.
pub async fn order_within_key_is_kept(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    for round in 0..10 {
        let slice = (0..100).map(|n| {
            record(
                &TOPIC,
                &format!("key-{}", n % 23),
                format!("{}", round * 100 + n),
            )
        });
        publish(&engine, slice.collect()).await;
    }
    let mut consumer = Consumer::open(&engine, &group("readers")).await;
    let got = consumer.take(1000).await;
    let mut last: HashMap<Vec<u8>, (u32, i64, usize)> = HashMap::new();
    for delivery in &got {
        let message = &delivery.message;
        let number = std::str::from_utf8(message.body.payload())
            .expect("text")
            .parse()
            .expect("a number");
        let now = (message.place, message.offset, number);
        if let Some(before) = last.insert(key_of(delivery), now) {
            assert_eq!(before.0, now.0, "one partition for a key");
            assert!(
                before.1 < now.1 && before.2 < now.2,
                "{before:?} before {now:?}"
            );
        }
    }
    consumer.close().await;
}

/// By key: one value for each key, never zero, and records without a key by partition. By partition, by nothing: as
/// asked.
pub async fn equal_order_values_mean_equal_keys(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let keyed = (0..200).map(|n| record(&TOPIC, &format!("key-{}", n % 50), "x"));
    let bare = (0..50).map(|_| record(&TOPIC, "", "x"));
    publish(&engine, keyed.chain(bare).collect()).await;
    for (name, order) in [
        ("none", Order::None),
        ("key", Order::Key),
        ("partition", Order::Partition),
    ] {
        let to = Subscribe {
            order,
            ..group(name)
        };
        let mut consumer = Consumer::open(&engine, &to).await;
        let got = consumer.take(250).await;
        let mut by_unit: HashMap<String, u64> = HashMap::new();
        for delivery in &got {
            let unit = match (order, delivery.message.key()) {
                (Order::None, _) => "all".to_owned(),
                (Order::Key, Some(key)) => format!("{key:?}"),
                _ => format!("partition {}", delivery.message.place),
            };
            let known = *by_unit.entry(unit.clone()).or_insert(delivery.order);
            assert_eq!(known, delivery.order, "{unit}");
            assert_eq!(delivery.order == 0, order == Order::None);
        }
        let values: HashSet<u64> = by_unit.values().copied().collect();
        assert_eq!(
            values.len(),
            by_unit.len(),
            "different units, different values"
        );
        consumer.close().await;
    }
}

/// A key goes where Kafka's own producer would send it, so that a topic can move.
pub async fn partitions_are_those_of_kafka(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let keys = [
        "21",
        "foobar",
        "a-little-bit-long-string",
        "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
        "abc",
    ];
    let answers = publish(
        &engine,
        keys.iter().map(|key| record(&TOPIC, key, "x")).collect(),
    )
    .await;
    let mut consumer = Consumer::open(&engine, &group("readers")).await;
    let got = consumer.take(keys.len()).await;
    for (key, answer) in keys.iter().zip(answers) {
        assert_eq!(
            answer.partition,
            partition::of_key(key.as_bytes(), 8),
            "{key}"
        );
        let delivery = got
            .iter()
            .find(|delivery| delivery.message.id == answer.id)
            .expect("delivered");
        assert_eq!(
            (delivery.message.place, delivery.message.offset),
            (answer.partition, answer.offset)
        );
    }
    consumer.close().await;
}

/// Offsets of a partition have no holes, and producer and consumer hear the same ones.
pub async fn offsets_count_from_zero(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let mut told = Vec::new();
    for _ in 0..5 {
        let slice = (0..20)
            .map(|n| record(&SINGLE, &format!("{n}"), "x"))
            .collect();
        told.extend(publish(&engine, slice).await);
    }
    assert!(
        (0..)
            .zip(&told)
            .all(|(n, one)| one.offset == n && one.partition == 0)
    );
    let to = Subscribe::topic(SINGLE, Name::literal("readers"));
    let mut consumer = Consumer::open(&engine, &to).await;
    let got = consumer.take(100).await;
    assert!(
        (0..)
            .zip(&got)
            .all(|(n, delivery)| delivery.message.offset == n)
    );
    assert_eq!(ids(&got), told.iter().map(|one| one.id).collect::<Vec<_>>());
    consumer.close().await;
}

/// Without a key the load is spread.
pub async fn records_without_a_key_use_every_partition(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let mut used = HashSet::new();
    for _ in 0..16 {
        let slice = (0..50).map(|_| record(&TOPIC, "", "x")).collect();
        used.extend(
            publish(&engine, slice)
                .await
                .into_iter()
                .map(|one| one.partition),
        );
    }
    assert_eq!(used, (0..8).collect());
}

/// Groups do not hear of each other.
pub async fn two_groups_each_see_everything(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let sent: Vec<Outgoing> = (0..100)
        .map(|n| record(&TOPIC, &format!("{n}"), "x"))
        .collect();
    let mut early = Consumer::open(&engine, &group("early")).await;
    publish(&engine, sent.clone()).await;
    let mut late = Consumer::open(&subject.another().await, &group("late")).await;
    let wanted: HashSet<Id> = sent.iter().map(|out| out.id).collect();
    for consumer in [&mut early, &mut late] {
        let got = consumer.take(100).await;
        assert_eq!(ids(&got).into_iter().collect::<HashSet<_>>(), wanted);
        consumer.ack(&got).await;
        consumer.nothing(subject.silence()).await;
    }
    early.close().await;
    late.close().await;
}

/// First: all that is kept. Last: what comes from now on. Only for a group that is new.
pub async fn a_group_starts_first_or_last(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let old: Vec<Outgoing> = (0..40)
        .map(|n| record(&TOPIC, &format!("{n}"), "old"))
        .collect();
    publish(&engine, old).await;
    let last = Subscribe {
        start: Start::Last,
        ..group("last")
    };
    let mut from_last = Consumer::open(&engine, &last).await;
    from_last.nothing(subject.silence()).await;
    let new: Vec<Outgoing> = (0..40)
        .map(|n| record(&TOPIC, &format!("{n}"), "new"))
        .collect();
    publish(&engine, new.clone()).await;
    let got = from_last.take(40).await;
    let wanted: HashSet<Id> = new.iter().map(|out| out.id).collect();
    assert_eq!(ids(&got).into_iter().collect::<HashSet<_>>(), wanted);
    from_last.close().await;
    let mut from_first = Consumer::open(&engine, &group("first")).await;
    let all = from_first.take(80).await;
    from_first.ack(&all).await;
    from_first.close().await;
    // It is known by now; where a new one begins does not concern it: all forty come again, none was acknowledged.
    let mut again = Consumer::open(&engine, &last).await;
    assert_eq!(again.take(40).await.len(), 40);
    again.nothing(subject.silence()).await;
    again.close().await;
}

/// What is committed stays committed, across consumers and handles.
pub async fn a_group_goes_on_where_it_was(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let to = Subscribe::topic(SINGLE, Name::literal("readers"));
    let mut sent = Vec::new();
    let mut seen = Vec::new();
    for round in 0..4 {
        let slice: Vec<Outgoing> = (0..10).map(|_| record(&SINGLE, "k", "x")).collect();
        sent.extend(slice.iter().map(|out| out.id));
        publish(&engine, slice).await;
        let handle = if round % 2 == 0 {
            subject.another().await
        } else {
            Arc::clone(&engine)
        };
        let mut consumer = Consumer::open(&handle, &to).await;
        let got = consumer.take(7).await;
        seen.extend(ids(&got));
        consumer.ack(&got).await;
        consumer.quiet();
        consumer.close().await;
    }
    assert_eq!(seen, sent[..28]);
}

/// A log has no delay: a typed error, and nothing is stored.
pub async fn a_record_cannot_be_delayed(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let due = subject.now().saturating_add(hours(1));
    let answers = engine
        .publisher()
        .publish(vec![Outgoing {
            due,
            ..record(&TOPIC, "k", "x")
        }])
        .await;
    assert!(
        matches!(answers[..], [Err(PublishError::Unsupported { .. })]),
        "{answers:?}"
    );
    let mut consumer = Consumer::open(&engine, &group("readers")).await;
    consumer.nothing(subject.silence()).await;
    consumer.close().await;
}

/// The other groups have had it, and do not see it twice.
pub async fn a_dead_letter_is_replayed_to_its_group_only(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    if !subject.capabilities(Side::Topics).dead_letter {
        return;
    }
    let sent = publish(&engine, vec![record(&TOPIC, "k", "x")]).await;
    let mut failing = Consumer::open(&engine, &group("failing")).await;
    let mut other = Consumer::open(&engine, &group("other")).await;
    let got = other.take(1).await;
    other.ack(&got).await;
    let got = failing.take(1).await;
    failing
        .settle(
            got[0].receipt,
            How::Dead {
                reason: "why".into(),
                attempts: 1,
            },
        )
        .await;
    let dead = engine.dead_letters().expect("declared");
    let all = || DeadQuery {
        limit: 10,
        ..DeadQuery::default()
    };
    eventually("it is dead", async || {
        failing.idle(millis(5)).await;
        dead.list(all()).await.expect("listed").len() == 1
    })
    .await;
    let letter = dead.list(all()).await.expect("listed").remove(0);
    assert_eq!(letter.group, Some(Name::literal("failing")));
    assert_eq!(dead.replay(vec![letter.cursor]).await.expect("replayed"), 1);
    let again = failing.take(1).await;
    assert_eq!(ids(&again), [sent[0].id]);
    assert_eq!(again[0].order, got[0].order, "it still follows its key");
    failing.ack(&again).await;
    other.nothing(subject.silence()).await;
    failing.nothing(subject.silence()).await;
    failing.close().await;
    other.close().await;
}

/// Partitions are served in turn: a backlog in one does not hold up the few records of the others.
pub async fn a_full_partition_does_not_starve_the_others(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let hot = partition::of_key(b"hot", 8);
    for _ in 0..10 {
        publish(
            &engine,
            (0..200).map(|_| record(&TOPIC, "hot", "x")).collect(),
        )
        .await;
    }
    let quiet = (0..64).map(|n| format!("quiet-{n}"));
    let quiet: Vec<Outgoing> = quiet
        .filter(|key| partition::of_key(key.as_bytes(), 8) != hot)
        .map(|key| record(&TOPIC, &key, "x"))
        .collect();
    let mut wanted: HashSet<Id> = quiet.iter().map(|out| out.id).collect();
    publish(&engine, quiet).await;
    let mut consumer = Consumer::open(&engine, &group("readers")).await;
    let mut received = 0;
    while !wanted.is_empty() && received < 2000 {
        let got = consumer.receive(64).await;
        received += got.len();
        for delivery in &got {
            wanted.remove(&delivery.message.id);
        }
        consumer.ack(&got).await;
    }
    assert!(
        received <= 1024,
        "the quiet ones came after {received} records"
    );
    consumer.close().await;
}

/// Reads all of a topic for a group of its own, to its end.
async fn read_all(engine: &Arc<dyn Engine>, topic: &Name, group: &str) -> Vec<Vec<u8>> {
    let to = Subscribe::topic(topic.clone(), Name::new(group).expect("a good name"));
    let mut consumer = Consumer::open(engine, &to).await;
    let mut seen = Vec::new();
    loop {
        let got = consumer.gather(millis(150)).await;
        if got.is_empty() {
            break;
        }
        consumer.ack(&got).await;
        seen.extend(
            got.iter()
                .map(|delivery| delivery.message.body.payload().to_vec()),
        );
    }
    consumer.close().await;
    seen
}

/// What every group has read goes when it is old.
pub async fn retention_removes_what_is_old_and_read(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    publish(
        &engine,
        (0..10).map(|_| record(&SHORT, "k", "old")).collect(),
    )
    .await;
    assert_eq!(read_all(&engine, &SHORT, "first").await.len(), 10);
    tokio::time::sleep(seconds(2)).await;
    let mut tries = 0;
    eventually("the old ones are gone", async || {
        tries += 1;
        publish(&engine, vec![record(&SHORT, "k", "new")]).await;
        read_all(&engine, &SHORT, "first").await;
        // Each reader is new, and reads to the end, so that it holds nothing back.
        let seen = read_all(&engine, &SHORT, &format!("reader-{tries}")).await;
        assert!(seen.contains(&b"new".to_vec()), "what is new stays");
        !seen.contains(&b"old".to_vec())
    })
    .await;
}

/// A group that was away finds everything.
pub async fn retention_never_removes_unread(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let to = Subscribe::topic(SHORT, Name::literal("slow"));
    Consumer::open(&engine, &to).await.close().await;
    publish(
        &engine,
        (0..10).map(|_| record(&SHORT, "k", "old")).collect(),
    )
    .await;
    for _ in 0..4 {
        tokio::time::sleep(seconds(1)).await;
        publish(&engine, vec![record(&SHORT, "k", "new")]).await;
        read_all(&engine, &SHORT, "fast").await;
    }
    let mut slow = Consumer::open(&engine, &to).await;
    let got = slow.take(14).await;
    assert!(
        got[..10]
            .iter()
            .all(|delivery| delivery.message.body.payload() == b"old")
    );
    slow.close().await;
}

/// Where it is said, age goes before groups; what is in hand stays in hand.
pub async fn retention_drops_unread_where_it_is_said(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let to = Subscribe::topic(DROPPING, Name::literal("slow"));
    Consumer::open(&engine, &to).await.close().await;
    publish(
        &engine,
        (0..10).map(|_| record(&DROPPING, "k", "old")).collect(),
    )
    .await;
    tokio::time::sleep(seconds(2)).await;
    let mut tries = 0;
    eventually("the old ones are gone", async || {
        tries += 1;
        publish(&engine, vec![record(&DROPPING, "k", "new")]).await;
        tokio::time::sleep(millis(100)).await;
        !read_all(&engine, &DROPPING, &format!("reader-{tries}"))
            .await
            .contains(&b"old".to_vec())
    })
    .await;
    let mut slow = Consumer::open(&engine, &to).await;
    let got = slow.receive(100).await;
    assert!(
        got.iter()
            .all(|delivery| delivery.message.body.payload() == b"new")
    );
    slow.ack(&got).await;
    slow.close().await;
}

/// Beyond its size a topic loses the oldest, never the newest.
pub async fn retention_by_size_keeps_the_newest(subject: &dyn Subject) {
    let Some(engine) = engine(subject) else {
        return;
    };
    let payload = |n: usize| format!("{n:0>1000}");
    for n in 0..50 {
        publish(&engine, vec![record(&SMALL, "k", payload(n))]).await;
    }
    let mut tries = 0;
    eventually("the oldest are gone", async || {
        tries += 1;
        let seen = read_all(&engine, &SMALL, &format!("reader-{tries}")).await;
        assert!(seen.contains(&payload(49).into_bytes()), "the newest stays");
        // About ten fit; pages and chunks of an engine may keep some more.
        seen.len() < 30
    })
    .await;
}
