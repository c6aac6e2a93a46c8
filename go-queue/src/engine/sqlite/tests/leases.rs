//! A process that stood still for longer than its lease: what had come ahead may be somebody else's by then.

use std::sync::atomic::Ordering;

use super::*;

/// An end with one task that lies ahead of it, claimed and not handed out, in a process whose leases seem to be over.
async fn stood_still(engine: &Sqlite) -> Hand {
    let mut hand = Hand::tube(engine).await;
    poll_fn(|cx| {
        hand.step(cx, 1);
        Poll::Ready(())
    })
    .await;
    send(engine, task(b"ahead")).await;
    let claimed = async {
        while leases(engine).await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, claimed)
        .await
        .expect("the waiting end gets the task");
    let long_ago = host::boot_millis() - 61_000;
    engine.0.shared.renewed.store(long_ago, Ordering::Relaxed);
    poll_fn(|cx| {
        hand.step(cx, 1);
        Poll::Ready(())
    })
    .await;
    assert!(
        hand.got.is_empty(),
        "nobody knows whether it is still ours: it must not start"
    );
    hand
}

async fn leases(engine: &Sqlite) -> i64 {
    engine
        .0
        .ask("count the leases", |tx| {
            tx.conn
                .query_row("SELECT count(*) FROM lease", [], |row| row.get(0))
        })
        .await
        .expect("counted")
}

#[tokio::test]
async fn what_came_ahead_is_handed_out_when_the_lease_turns_out_to_hold() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let mut hand = stood_still(&engine).await;
    // A new end has the leases renewed.
    let other = Hand::on(&engine, &Subscribe::tube(Name::literal("other"))).await;
    let one = hand.one().await;
    assert_eq!(one.message.body.payload(), b"ahead");
    assert!(hand.notices.is_empty());
    hand.settle(one.receipt, How::Ack);
    hand.empty().await;
    hand.close().await;
    other.close().await;
}

#[tokio::test]
async fn what_came_ahead_of_a_lost_lease_comes_again_and_only_in_the_new_epoch() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let mut hand = stood_still(&engine).await;
    engine
        .0
        .ask("take it away", |tx| {
            let session = tx
                .conn
                .query_row("SELECT min(id) FROM session", [], |row| row.get(0))?;
            tx.end_session(session)
        })
        .await
        .expect("taken away");
    let other = Hand::on(&engine, &Subscribe::tube(Name::literal("other"))).await;
    let one = hand.one().await;
    let [Notice::Lost(old)] = hand.notices[..] else {
        panic!("the loss is said: {:?}", hand.notices)
    };
    assert_ne!(one.receipt.epoch, old);
    hand.settle(one.receipt, How::Ack);
    hand.empty().await;
    assert_eq!(hand.turn.health.stale, 0);
    hand.close().await;
    other.close().await;
}
