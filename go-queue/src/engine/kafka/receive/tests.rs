//! Ends on librdkafka's own cluster for tests: what a real broker does only by accident.

use std::collections::HashSet;
use std::future::poll_fn;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tokio::time::timeout;

use super::*;
use crate::delivery::{Delivery, Notice};
use crate::engine::kafka::{Config, Kafka};
use crate::engine::{Engine, HealthState, MAX_SLICE, Outgoing};
use crate::message::{Body, ContentType, Flags, Id};
use crate::time::{Clock, WallTime};

const TOPIC: Name = Name::literal("orders");
const GROUP: Name = Name::literal("billing");
const PATIENCE: Duration = Duration::from_secs(60);

type Cluster = MockCluster<'static, DefaultProducerContext>;

async fn open(partitions: i32) -> (Cluster, Kafka) {
    let cluster: Cluster = MockCluster::new(1).expect("it lives in this process");
    for topic in ["orders", "orders-dlt"] {
        cluster
            .create_topic(topic, partitions, 1)
            .expect("a new topic");
    }
    let mut config = Config::new([cluster.bootstrap_servers()]);
    config.producer.compression = crate::engine::kafka::Compression::Lz4;
    let engine = Kafka::open(config, Clock::system()).await;
    (cluster, engine.expect("it answers"))
}

fn record(n: usize) -> Outgoing {
    Outgoing {
        place: Place::Topic(TOPIC),
        id: Id::unique(),
        named: false,
        body: Body::pack(format!("key-{n}").as_bytes(), b"", b"x"),
        flags: Flags::default(),
        content: ContentType::Raw,
        due: WallTime::EPOCH,
        priority: 0,
    }
}

async fn publish(engine: &Kafka, numbers: std::ops::Range<usize>) {
    let answers = engine
        .publisher()
        .publish(numbers.map(record).collect())
        .await;
    assert!(answers.iter().all(Result::is_ok));
}

async fn end(engine: &Kafka) -> TopicEnd {
    let to = Subscribe::topic(TOPIC, GROUP);
    engine.open_end(&to).await.expect("the topics are there")
}

#[tokio::test]
async fn a_topic_that_is_on_its_way_to_the_brokers_is_waited_for() {
    let cluster: Cluster = MockCluster::new(1).expect("it lives in this process");
    cluster.create_topic("orders", 1, 1).expect("a new topic");
    let config = Config::new([cluster.bootstrap_servers()]);
    let engine = Kafka::open(config, Clock::system()).await;
    let engine = engine.expect("it answers");
    let to = Subscribe::topic(TOPIC, GROUP);
    let opened = engine.open_end(&to);
    let created = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.create_topic("orders-dlt", 1, 1)
    };
    let (opened, created) = tokio::join!(opened, created);
    created.expect("a new topic");
    opened.expect("it was waited for");
}

/// Turns until it is so, with room for `free`; what comes is appended.
async fn until(
    end: &mut TopicEnd,
    turn: &mut Turn,
    free: usize,
    mut so: impl FnMut(&mut TopicEnd, &mut Turn) -> bool,
) {
    let turns = poll_fn(|cx| {
        loop {
            turn.now = Instant::now();
            turn.free = free;
            let answer = end.turn(cx, turn);
            if so(end, turn) {
                return Poll::Ready(());
            }
            match answer {
                Poll::Ready(answer) => answer.expect("it goes on"),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    timeout(PATIENCE, turns).await.expect("it comes about");
}

async fn take(end: &mut TopicEnd, turn: &mut Turn, count: usize) -> Vec<Delivery> {
    until(end, turn, MAX_SLICE, |_, turn| turn.deliver.len() >= count).await;
    std::mem::take(&mut turn.deliver)
}

fn settle(turn: &mut Turn, deliveries: &[Delivery]) {
    turn.settle.extend(deliveries.iter().map(|one| Settlement {
        receipt: one.receipt,
        how: How::Ack,
    }));
}

async fn close(mut end: TopicEnd, turn: &mut Turn) {
    let closing = poll_fn(|cx| {
        turn.now = Instant::now();
        end.close(cx, turn)
    });
    let closed = timeout(PATIENCE, closing).await.expect("it has a bound");
    closed.expect("everything is committed");
}

fn seek(end: &TopicEnd, to: i64) {
    let client = end.client.as_ref().expect("open");
    client.seek(&[(0, to)]).expect("it goes back");
}

#[tokio::test]
async fn a_record_that_is_fetched_twice_is_handed_out_once() {
    let (_cluster, engine) = open(1).await;
    publish(&engine, 0..400).await;
    let (mut end, mut turn) = (end(&engine).await, Turn::new(Instant::now()));
    let got = take(&mut end, &mut turn, 400).await;
    settle(&mut turn, &got[..300]);
    // Some are in hand and some are finished. librdkafka does this by itself when a rebalance comes while a queue is drained.
    seek(&end, 250);
    publish(&engine, 400..410).await;
    let more = take(&mut end, &mut turn, 10).await;
    let offsets: Vec<i64> = more.iter().map(|one| one.message.offset).collect();
    assert_eq!(offsets, (400..410).collect::<Vec<_>>());
    assert!(turn.notice.is_empty());
    settle(&mut turn, &got[300..]);
    settle(&mut turn, &more);
    until(&mut end, &mut turn, 0, |end, _| {
        end.tracks().all(Track::is_confirmed)
    })
    .await;
    assert_eq!(
        (end.stale, end.tracks().next().and_then(Track::base)),
        (0, Some(410))
    );
    close(end, &mut turn).await;
}

#[tokio::test]
async fn a_log_that_begins_anew_is_read_from_where_it_begins() {
    let (_cluster, engine) = open(1).await;
    for from in (0..1200).step_by(200) {
        publish(&engine, from..from + 200).await;
    }
    let (mut end, mut turn) = (end(&engine).await, Turn::new(Instant::now()));
    let got = take(&mut end, &mut turn, 1200).await;
    let epoch = got[0].receipt.epoch;
    // So far back it is not known any more that the records are the same, as they are not in a topic that was made anew.
    seek(&end, 0);
    let again = take(&mut end, &mut turn, 1200).await;
    assert_eq!(turn.notice, [Notice::Lost(epoch)]);
    let offsets: Vec<i64> = again.iter().map(|one| one.message.offset).collect();
    assert_eq!(offsets, (0..1200).collect::<Vec<_>>());
    settle(&mut turn, &got);
    until(&mut end, &mut turn, 0, |_, turn| turn.settle.is_empty()).await;
    assert_eq!(
        end.stale, 1200,
        "what is settled now is of the log that is gone"
    );
    settle(&mut turn, &again);
    close(end, &mut turn).await;
}

#[tokio::test]
async fn a_record_that_does_not_end_stops_its_partition_and_no_other() {
    let (_cluster, engine) = open(2).await;
    let (mut end, mut turn) = (end(&engine).await, Turn::new(Instant::now()));
    let mut stuck = None;
    let mut seen = HashSet::new();
    let mut sent = [0, 0];
    // The cluster keeps little, so what is sent is read at once.
    while sent[0] < usize::try_from(track::SPAN).expect("small") + 5_000 {
        let slice = (0..10_000).map(record).collect();
        for answer in engine.publisher().publish(slice).await {
            sent[answer.expect("accepted").partition as usize] += 1;
        }
        until(&mut end, &mut turn, MAX_SLICE, |_, turn| {
            for delivery in turn.deliver.drain(..) {
                assert!(seen.insert((delivery.message.place, delivery.message.offset)));
                // The first one of partition 0 never ends.
                if delivery.message.place == 0 && delivery.message.offset == 0 {
                    stuck = Some(delivery.receipt);
                } else {
                    turn.settle.push(Settlement {
                        receipt: delivery.receipt,
                        how: How::Ack,
                    });
                }
            }
            let of = |wanted| seen.iter().filter(|(place, _)| *place == wanted).count();
            let down = matches!(turn.health.state, HealthState::Down(_));
            // Counting is slow, so not each time.
            turn.notice.is_empty() && (down || seen.len() == sent[0] + sent[1]) && of(1) == sent[1]
        })
        .await;
    }
    let HealthState::Down(why) = &turn.health.state else {
        panic!("it is down");
    };
    assert!(
        why.contains("partition 0") && why.contains("offset 0") && why.contains("key-"),
        "{why}"
    );
    let of_stuck = seen.iter().filter(|(place, _)| *place == 0).count();
    let bound = usize::try_from(track::SPAN).expect("small") + MAX_SLICE;
    assert!(of_stuck <= bound, "{of_stuck}");
    turn.settle.push(Settlement {
        receipt: stuck.expect("it came"),
        how: How::Ack,
    });
    until(&mut end, &mut turn, MAX_SLICE, |_, turn| {
        for delivery in turn.deliver.drain(..) {
            assert!(seen.insert((delivery.message.place, delivery.message.offset)));
            turn.settle.push(Settlement {
                receipt: delivery.receipt,
                how: How::Ack,
            });
        }
        seen.len() == sent[0] + sent[1]
    })
    .await;
    assert_eq!(turn.health.state, HealthState::Up);
    close(end, &mut turn).await;
}

#[tokio::test]
async fn what_is_in_hand_is_bounded_in_bytes() {
    let (_cluster, engine) = open(1).await;
    let large = |_| Outgoing {
        body: Body::pack(b"k", b"", &vec![b'x'; 100_000]),
        ..record(0)
    };
    let answers = engine
        .publisher()
        .publish((0..40).map(large).collect())
        .await;
    assert!(answers.iter().all(Result::is_ok));
    let (mut end, mut turn) = (end(&engine).await, Turn::new(Instant::now()));
    end.memory = 1_000_000;
    until(&mut end, &mut turn, MAX_SLICE, |end, turn| {
        !turn.deliver.is_empty() && end.spares.held >= end.memory
    })
    .await;
    let mut got = 0;
    until(&mut end, &mut turn, MAX_SLICE, |end, turn| {
        got += turn.deliver.len();
        for delivery in turn.deliver.drain(..) {
            turn.settle.push(Settlement {
                receipt: delivery.receipt,
                how: How::Ack,
            });
        }
        got == 40 && end.spares.held == 0
    })
    .await;
    close(end, &mut turn).await;
}
