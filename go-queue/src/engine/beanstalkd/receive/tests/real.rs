//! Against real nodes.

use std::sync::Mutex;

use super::nodes::Node;
use super::*;
use crate::engine::BoxFuture;
use crate::time::millis;

#[tokio::test]
async fn tasks_come_in_order_as_they_were_sent_and_go_when_acknowledged() {
    let node = Node::start();
    node.put_all((0..1500).map(|n| n.to_string())).await;
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    let mut seen = Vec::new();
    while seen.len() < 1500 {
        let got = hand.take(150).await;
        assert!(got.iter().all(|d| d.message.attempt == 1));
        hand.ack(&got);
        seen.extend(payloads(&got));
    }
    let expected: Vec<String> = (0..1500).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
    hand.empty().await;
    assert_eq!(hand.turn.health.stale, 0);
    assert_eq!(hand.turn.health.state, HealthState::Up);
    assert_eq!(node.alive().await, 0);
}

#[tokio::test]
async fn room_is_for_deliveries_beside_those_that_the_turn_holds_already() {
    let node = Node::start();
    node.put_all((0..20).map(|n| n.to_string())).await;
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    let driven = poll_fn(|cx| {
        loop {
            hand.turn.now = Instant::now();
            hand.turn.free = (20 - hand.turn.deliver.len()).min(3);
            let before = hand.turn.deliver.len();
            let answer = hand.end.turn(cx, &mut hand.turn);
            assert!(hand.turn.deliver.len() - before <= hand.turn.free);
            if hand.turn.deliver.len() == 20 {
                return Poll::Ready(());
            }
            if answer.is_pending() {
                return Poll::Pending;
            }
        }
    });
    tokio::time::timeout(BOUND, driven).await.expect("all come");
}

#[tokio::test]
async fn three_nodes_are_served_together() {
    let nodes = [Node::start(), Node::start(), Node::start()];
    for (n, node) in nodes.iter().enumerate() {
        node.put_all((0..200).map(|k| format!("{n}-{k}"))).await;
    }
    let endpoints = nodes.each_ref().map(Node::endpoint);
    let mut hand = Hand::claiming(site(&endpoints.each_ref().map(String::as_str)), true);
    let got = hand.take(600).await;
    let mut places: Vec<u32> = got.iter().map(|d| d.message.place).collect();
    places.dedup();
    assert!(places.len() > 6, "nodes take turns: {places:?}");
    hand.ack(&got);
    hand.empty().await;
    hand.close().await;
    for node in &nodes {
        assert_eq!(node.alive().await, 0);
    }
}

#[tokio::test]
async fn nodes_that_wait_for_tasks_take_no_room_from_one_that_has_them() {
    let nodes = [Node::start(), Node::start(), Node::start()];
    nodes[1].put_all((0..100).map(|n| n.to_string())).await;
    let endpoints = nodes.each_ref().map(Node::endpoint);
    for claimed in [false, true] {
        let mut hand = Hand::claiming(site(&endpoints.each_ref().map(String::as_str)), claimed);
        // One at a time; each would take seconds if the waits of the others had the only place.
        let all = async {
            for _ in 0..50 {
                let got = hand.one().await;
                hand.ack(&[got]);
            }
        };
        tokio::time::timeout(BOUND / 4, all)
            .await
            .expect("none waits");
        hand.close().await;
    }
    assert_eq!(nodes[1].alive().await, 0);
}

#[tokio::test]
async fn a_waiting_end_is_woken_by_a_task_and_its_acks_do_not_wait() {
    let node = Node::start();
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    hand.empty().await;
    let mut fastest = BOUND;
    for round in 0..5 {
        let (got, _) = tokio::join!(hand.one(), node.put_all([format!("{round}")]));
        // Long enough for a second connection to wait on the server.
        hand.within(millis(150), 1, |_| false).await;
        let began = Instant::now();
        hand.ack(&[got]);
        hand.until("confirmed", 0, |hand| hand.turn.health.empty)
            .await;
        fastest = fastest.min(began.elapsed());
    }
    // Behind a reserve that waits each of them would take the rest of its second.
    assert!(fastest < millis(500), "{fastest:?}");
}

#[tokio::test]
async fn a_retry_counts_and_is_not_early_and_a_release_does_not_count() {
    let node = Node::start();
    node.put_all(["x".to_owned()]).await;
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    for attempt in 1..5 {
        let got = hand.one().await;
        assert_eq!(got.message.attempt, attempt);
        let began = Instant::now();
        let wait = millis([0, 80, 1050, 0][attempt as usize - 1]);
        hand.settle(got.receipt, How::Retry { after: wait });
        let again = hand.one().await;
        assert!(began.elapsed() >= wait, "early");
        assert_eq!(again.message.attempt, attempt + 1);
        hand.settle(again.receipt, How::RELEASE);
    }
    let got = hand.one().await;
    assert_eq!(got.message.attempt, 5);
    let began = Instant::now();
    let wait = millis(1200);
    hand.settle(got.receipt, How::Release { after: wait });
    let got = hand.one().await;
    assert!(began.elapsed() >= wait, "early");
    assert_eq!(got.message.attempt, 5);
    hand.ack(&[got]);
    hand.empty().await;
    assert_eq!(hand.turn.health.stale, 0);
}

#[tokio::test]
async fn a_start_that_ended_with_its_worker_counts_and_its_neighbours_do_not() {
    let node = Node::start();
    node.put_all(["poison".to_owned(), "neighbour".to_owned()])
        .await;
    for attempt in 1..4 {
        let mut hand = Hand::new(site(&[&node.endpoint()]));
        let got = hand.one().await;
        assert_eq!(payloads(std::slice::from_ref(&got)), ["poison"]);
        assert_eq!(got.message.attempt, attempt);
        drop(hand);
    }
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    let got = hand.take(2).await;
    let attempts: Vec<u32> = got.iter().map(|d| d.message.attempt).collect();
    assert_eq!(attempts, [4, 1]);
}

#[tokio::test]
async fn quiet_hands_back_what_has_not_started_uncounted() {
    for claimed in [false, true] {
        let node = Node::start();
        node.put_all((0..60).map(|n| n.to_string())).await;
        node.put_due(after(600), b"held").await;
        let mut hand = Hand::claiming(site(&[&node.endpoint()]), claimed);
        let got = hand.take(5).await;
        let more = hand.take(20).await;
        hand.until("the held one", 0, |hand| {
            claimed || hand.turn.health.state == HealthState::Up
        })
        .await;
        hand.ack(&got);
        for delivery in &more {
            hand.settle(delivery.receipt, How::RELEASE);
        }
        hand.close().await;
        let mut other = Hand::new(site(&[&node.endpoint()]));
        let rest = other.take(56).await;
        if !claimed {
            // With a claim the count is in the store.
            assert!(rest.iter().all(|d| d.message.attempt == 1));
        }
        other.ack(&rest);
        other.empty().await;
        assert_eq!(node.alive().await, 0);
    }
}

#[tokio::test]
async fn what_is_in_hand_longer_than_its_time_to_run_stays_there() {
    let node = Node::start();
    let jobs: Vec<_> = (0..5).map(|_| (0, 3, body(b"long"))).collect();
    node.put(&jobs).await;
    let mut hand = Hand::new(Site {
        lease: Duration::from_secs(3),
        ..site(&[&node.endpoint()])
    });
    let got = hand.take(5).await;
    let mut other = Hand::new(site(&[&node.endpoint()]));
    let (_, ()) = tokio::join!(
        hand.within(millis(4500), 0, |_| false),
        other.nothing(millis(4500))
    );
    assert!(hand.notices.is_empty(), "{:?}", hand.notices);
    hand.ack(&got);
    hand.empty().await;
    assert_eq!(
        (
            hand.turn.health.stale,
            node.count("current-jobs-ready").await
        ),
        (0, 0)
    );
    assert_eq!(node.alive().await, 0);
}

#[tokio::test]
async fn a_time_to_run_shorter_than_expected_is_kept_alive_as_well() {
    let node = Node::start();
    // Others put with 2 s; this end believes in 60.
    node.put(&[(0, 2, body(b"short"))]).await;
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    let got = hand.one().await;
    let mut other = Hand::new(site(&[&node.endpoint()]));
    tokio::join!(
        async {
            hand.within(millis(4000), 4, |_| false).await;
        },
        other.nothing(millis(4000))
    );
    hand.ack(&[got]);
    hand.empty().await;
    assert_eq!(hand.turn.health.stale, 0);
}

#[tokio::test]
async fn a_node_that_dies_and_returns_loses_nothing_that_it_had_written() {
    let mut node = Node::with_binlog();
    node.put_all((0..20).map(|n| n.to_string())).await;
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    let got = hand.take(20).await;
    let epochs: Vec<u32> = got.iter().map(|d| d.receipt.epoch).collect();
    node.kill();
    hand.until("down", 0, |hand| {
        matches!(hand.turn.health.state, HealthState::Down(_))
    })
    .await;
    assert!(hand.notices.contains(&Notice::Lost(epochs[0])));
    assert!(!hand.turn.health.empty, "nobody knows");
    node.restart();
    let again = hand.take(20).await;
    assert_eq!(payloads(&again), payloads(&got));
    assert!(again.iter().all(|d| !epochs.contains(&d.receipt.epoch)));
    assert!(again.iter().all(|d| d.message.attempt <= 2));
    hand.ack(&got);
    hand.until("stale", 0, |hand| hand.turn.health.stale == 20)
        .await;
    hand.ack(&again);
    hand.empty().await;
    assert_eq!(hand.turn.health.state, HealthState::Up);
    hand.close().await;
    assert_eq!(node.alive().await, 0);
}

#[tokio::test]
async fn an_end_that_finds_no_node_waits_for_it() {
    let mut node = Node::start();
    node.kill();
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    hand.until("down", 1, |hand| match &hand.turn.health.state {
        HealthState::Down(why) => why.contains("127.0.0.1"),
        _ => false,
    })
    .await;
    node.restart();
    node.put_all(["x".to_owned()]).await;
    let got = hand.one().await;
    hand.ack(&[got]);
    hand.empty().await;
}

#[tokio::test]
async fn more_than_one_connection_may_hold_makes_more_connections() {
    let node = Node::start();
    node.put_all((0..100).map(|n| n.to_string())).await;
    for claimed in [false, true] {
        let mut hand = Hand::claiming(
            Site {
                unacked: 16,
                ..site(&[&node.endpoint()])
            },
            claimed,
        );
        let got = hand.take(100).await;
        let mut epochs: Vec<u32> = got.iter().map(|d| d.receipt.epoch).collect();
        epochs.sort_unstable();
        epochs.dedup();
        assert!(epochs.len() >= 7, "{epochs:?}");
        for delivery in &got {
            hand.settle(delivery.receipt, How::RELEASE);
        }
        hand.close().await;
    }
}

#[tokio::test]
async fn a_settlement_is_good_once_and_for_its_own_delivery() {
    let node = Node::start();
    node.put_all(["a".to_owned(), "b".to_owned()]).await;
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    let got = hand.take(2).await;
    hand.ack(&got[..1]);
    hand.ack(&got[..1]);
    let mut foreign = got[1].receipt;
    foreign.epoch += 1000;
    hand.settle(foreign, How::Ack);
    hand.until("two stale", 0, |hand| hand.turn.health.stale == 2)
        .await;
    hand.ack(&got[1..]);
    hand.empty().await;
    assert_eq!(hand.turn.health.stale, 2);
}

#[tokio::test]
async fn a_body_that_is_no_envelope_is_delivered_with_its_flag() {
    let node = Node::start();
    node.put(&[(0, 60, b"not ours".to_vec())]).await;
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    let got = hand.one().await;
    assert!(got.message.is_malformed());
    assert_eq!(got.message.id, Id::of_raw_body(b"not ours"));
    assert_eq!(got.message.body.payload(), b"not ours");
}

#[tokio::test]
async fn an_envelope_of_a_later_version_is_left_for_newer_workers_and_said_so() {
    let node = Node::start();
    let mut newer = body(b"from the future");
    newer[2] = envelope::VERSION + 1;
    node.put(&[(0, 60, newer)]).await;
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    hand.until("said", 10, |hand| match &hand.turn.health.state {
        HealthState::Down(why) => why.contains("later version"),
        _ => false,
    })
    .await;
    hand.nothing(millis(100)).await;
    assert_eq!(node.count("current-jobs-delayed").await, 1);
}

#[tokio::test]
async fn health_tells_what_waits_and_what_is_due_next() {
    let node = Node::start();
    let due = after(3_600_000);
    node.put_due(due, b"later").await;
    node.put_all(["now".to_owned()]).await;
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    hand.within(millis(300), 0, |_| false).await;
    assert!(!hand.turn.health.empty, "one waits");
    let got = hand.one().await;
    hand.ack(&[got]);
    // Also without room.
    hand.until("empty", 0, |hand| {
        hand.turn.health.empty && hand.turn.health.next_due == Some(due)
    })
    .await;
}

#[tokio::test]
async fn tasks_of_the_go_library_are_opened_and_held() {
    let node = Node::start();
    let due = after(400);
    let mut raw = Vec::new();
    crate::message::go_queue::wrap(due, b"payload", &mut raw);
    node.put(&[(0, 5, raw.clone())]).await;
    let mut hand = Hand::with(site(&[&node.endpoint()]), Framing::GoQueue { late: None });
    let got = hand.one().await;
    assert!(Clock::system().now() >= got.message.due);
    assert_eq!(got.message.body.payload(), b"payload");
    assert_eq!(got.message.id, crate::message::go_queue::id(&raw));
}

/// Keeps letters in memory; refuses the first slice.
#[derive(Debug, Default)]
struct Desk {
    refused: Mutex<bool>,
    letters: Arc<Mutex<Vec<Letter>>>,
}

impl LetterWriter for Desk {
    fn keep(&self, letters: Vec<Letter>) -> BoxFuture<'static, Vec<Result<(), EngineError>>> {
        let refused = std::mem::replace(&mut *self.refused.lock().expect("alone"), true);
        let kept = Arc::clone(&self.letters);
        Box::pin(async move {
            tokio::task::yield_now().await;
            let answers = letters.iter().map(|_| {
                if refused {
                    Ok(())
                } else {
                    Err(EngineError::Closed { engine: "test" })
                }
            });
            let answers = answers.collect();
            if refused {
                kept.lock().expect("alone").extend(letters);
            }
            answers
        })
    }
}

#[tokio::test]
async fn a_dead_job_goes_only_when_its_letter_is_kept() {
    let node = Node::start();
    let ids = node.put_all(["bad".to_owned()]).await;
    let writer = Arc::new(Desk::default());
    let mut hand = Hand::new(Site {
        letters: Some(Arc::clone(&writer) as Arc<dyn LetterWriter>),
        ..site(&[&node.endpoint()])
    });
    let got = hand.one().await;
    hand.settle(
        got.receipt,
        How::Dead {
            reason: Arc::from("no good"),
            attempts: 3,
        },
    );
    hand.until("refused once", 0, |_| {
        *writer.refused.lock().expect("alone")
    })
    .await;
    assert_eq!(node.count("current-jobs-reserved").await, 1);
    assert!(!hand.turn.health.empty);
    hand.empty().await;
    assert_eq!(node.alive().await, 0);
    let letters = std::mem::take(&mut *writer.letters.lock().expect("alone"));
    let [letter] = &letters[..] else {
        unreachable!("one: {letters:?}")
    };
    assert_eq!((letter.job, letter.attempts), (ids[0], 3));
    assert_eq!((&*letter.reason, &*letter.handler), ("no good", TUBE));
    let opened = envelope::open(letter.body.clone()).expect("an envelope");
    assert_eq!(opened.message.body.payload(), b"bad");
}

#[tokio::test]
async fn close_waits_for_letters_and_confirms_everything() {
    let node = Node::start();
    node.put_all((0..50).map(|n| n.to_string())).await;
    let writer = Arc::new(Desk::default());
    let mut hand = Hand::new(Site {
        letters: Some(Arc::clone(&writer) as Arc<dyn LetterWriter>),
        ..site(&[&node.endpoint()])
    });
    let got = hand.take(50).await;
    hand.ack(&got[..40]);
    for delivery in &got[40..] {
        hand.settle(
            delivery.receipt,
            How::Dead {
                reason: Arc::from("no good"),
                attempts: 1,
            },
        );
    }
    hand.close().await;
    assert_eq!(writer.letters.lock().expect("alone").len(), 10);
    assert_eq!(node.alive().await, 0);
}

#[tokio::test]
async fn without_a_place_for_letters_a_dead_job_is_buried_where_it_is() {
    let node = Node::start();
    node.put_all(["bad".to_owned()]).await;
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    let got = hand.one().await;
    hand.settle(
        got.receipt,
        How::Dead {
            reason: Arc::from("no good"),
            attempts: 3,
        },
    );
    hand.empty().await;
    assert_eq!(node.count("current-jobs-buried").await, 1);
}

#[tokio::test]
async fn a_node_that_is_away_does_not_hide_that_a_tube_is_empty_while_every_task_is_elsewhere_too()
{
    let mut away = Node::start();
    let nodes = [Node::start(), Node::start()];
    let endpoints = [&away, &nodes[0], &nodes[1]].map(Node::endpoint);
    let endpoints = endpoints.each_ref().map(String::as_str);
    away.kill();
    let mut hand = Hand::new(Site {
        quorum: 2,
        ..site(&endpoints)
    });
    hand.empty().await;
    nodes[1].put_all(["one".to_owned()]).await;
    let got = hand.take(1).await;
    hand.until("something in hand or unconfirmed", 0, |hand| {
        !hand.turn.health.empty
    })
    .await;
    hand.ack(&got);
    hand.empty().await;
    hand.close().await;
}

#[tokio::test]
async fn what_only_a_node_that_is_away_may_have_keeps_a_tube_from_being_empty() {
    let mut away = Node::start();
    let node = Node::start();
    let endpoints = [&away, &node].map(Node::endpoint);
    let endpoints = endpoints.each_ref().map(String::as_str);
    away.kill();
    let mut hand = Hand::new(Site {
        quorum: 1,
        ..site(&endpoints)
    });
    let empty = hand
        .within(Duration::from_millis(500), 10, |hand| {
            hand.turn.health.empty
        })
        .await;
    assert!(!empty, "a task of one copy may lie there");
    away.restart();
    hand.empty().await;
    hand.close().await;
}
