//! Due times, against real nodes.

use super::nodes::Node;
use super::*;
use crate::time::millis;

#[tokio::test]
async fn a_delayed_task_is_never_early() {
    let node = Node::start();
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    hand.empty().await;
    for delay in [1, 7, 120, 990, 1700, 3] {
        let due = after(delay);
        let (got, ()) = tokio::join!(hand.one(), node.put_due(due, b"later"));
        assert!(Clock::system().now() >= due, "early");
        assert_eq!(got.message.due, due);
        hand.ack(&[got]);
    }
    hand.empty().await;
}

#[tokio::test]
async fn a_task_made_ready_long_before_its_time_goes_back() {
    let node = Node::start();
    let due = after(3_600_000);
    node.put(&[(0, 60, body_due(due, b"much later"))]).await;
    let mut hand = Hand::new(site(&[&node.endpoint()]));
    hand.nothing(millis(200)).await;
    hand.until("the time", 10, |hand| {
        hand.turn.health.empty && hand.turn.health.next_due == Some(due)
    })
    .await;
    assert_eq!(node.count("current-jobs-delayed").await, 1);
}

#[tokio::test]
async fn a_wall_clock_that_is_stepped_loses_and_doubles_nothing_and_makes_nothing_early() {
    const HOUR: i64 = 3_600_000_000_000;
    let node = Node::start();
    let site = site(&[&node.endpoint()]);
    let clock = site.clock.clone();
    let mut hand = Hand::new(site);
    hand.empty().await;
    let soon = |clock: &Clock| clock.now().saturating_add(millis(400));
    for step in [-HOUR, HOUR, HOUR, -HOUR] {
        clock.step(step);
        let due = soon(&clock);
        node.put(&[(0, 60, body(b"now")), (0, 60, body_due(due, b"soon"))])
            .await;
        let got = hand.take(2).await;
        assert!(clock.now() >= due, "early");
        hand.ack(&got);
    }
    // While it is held: it comes when this clock says so, and once.
    let due = soon(&clock);
    node.put(&[(0, 60, body_due(due, b"held"))]).await;
    hand.within(millis(50), 10, |_| false).await;
    clock.step(-HOUR);
    hand.nothing(millis(600)).await;
    clock.step(HOUR);
    let got = hand.one().await;
    assert!(clock.now() >= due, "early");
    hand.ack(&[got]);
    hand.empty().await;
    assert_eq!(node.alive().await, 0);
}
