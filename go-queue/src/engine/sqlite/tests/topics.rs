//! Topics, beyond what the conformance suite says of every engine.

use super::*;

#[tokio::test]
async fn a_topic_that_grows_keeps_its_records_and_groups_read_the_new_partitions() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut small = config(folder.path());
    small.topic.partitions = 1;
    let engine = Sqlite::open(small.clone(), Clock::system())
        .await
        .expect("opens");
    send_all(
        &engine,
        (0..10)
            .map(|n| record(Some(&n.to_string()), b"old"))
            .collect(),
    )
    .await;
    let mut hand = Hand::group(&engine, "g").await;
    let got = hand.take(10).await;
    hand.ack_all(&got[..4]);
    hand.until("confirmed", 0, |hand| hand.turn.health.empty)
        .await;
    hand.close().await;
    engine.close().await.expect("closes");

    let mut large = small.clone();
    large.topic.partitions = 4;
    let engine = Sqlite::open(large, Clock::system()).await.expect("opens");
    send_all(
        &engine,
        (0..40)
            .map(|n| record(Some(&n.to_string()), b"new"))
            .collect(),
    )
    .await;
    let mut hand = Hand::group(&engine, "g").await;
    let got = hand.take(46).await;
    let partitions: std::collections::HashSet<u32> = got.iter().map(|d| d.message.place).collect();
    assert_eq!(partitions.len(), 4, "every partition has its part");
    hand.ack_all(&got);
    hand.empty().await;
    engine.close().await.expect("closes");

    // A smaller number does not shrink it.
    let engine = Sqlite::open(small, Clock::system()).await.expect("opens");
    let answers = engine
        .publisher()
        .publish(
            (0..40)
                .map(|n| record(Some(&n.to_string()), b"x"))
                .collect(),
        )
        .await;
    let used: std::collections::HashSet<u32> = answers
        .into_iter()
        .map(|answer| answer.expect("stored").partition)
        .collect();
    assert_eq!(used.len(), 4);
}

#[tokio::test]
async fn one_record_that_does_not_end_holds_its_partition_only_at_the_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.topic.partitions = 1;
    config.durability = Durability::Process;
    let engine = Sqlite::open(config, Clock::system()).await.expect("opens");
    let span = usize::try_from(super::super::record::SPAN).expect("a small number");
    for _ in 0..=(span / 1000) {
        send_all(&engine, (0..1000).map(|_| record(Some("k"), b"")).collect()).await;
    }
    let mut hand = Hand::group(&engine, "g").await;
    let stuck = hand.one().await;
    let mut taken = 1;
    while taken < span {
        let want = (span - taken).min(200);
        let got = hand.take(want).await;
        hand.ack_all(&got);
        taken += got.len();
    }
    hand.nothing_for(Duration::from_millis(300)).await;
    assert!(
        matches!(&hand.turn.health.state, crate::engine::HealthState::Down(why) if why.contains("offset 0")),
        "{:?}",
        hand.turn.health
    );
    hand.settle(stuck.receipt, How::Ack);
    assert_eq!(hand.take(100).await.len(), 100);
}

#[tokio::test]
async fn a_record_given_back_on_a_live_partition_comes_once_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    send_all(&engine, (0..5).map(|n| record(Some("k"), &[n])).collect()).await;
    let mut hand = Hand::group(&engine, "g").await;
    let got = hand.take(5).await;
    hand.settle(got[1].receipt, How::RELEASE);
    for n in [0, 2, 3, 4] {
        hand.settle(got[n].receipt, How::Ack);
    }
    let again = hand.one().await;
    assert_eq!(
        (again.message.id, again.message.offset),
        (got[1].message.id, 1)
    );
    hand.settle(again.receipt, How::Ack);
    hand.empty().await;
    hand.close().await;
    let mut next = Hand::group(&engine, "g").await;
    next.empty().await;
}

#[tokio::test]
async fn a_group_that_nobody_uses_for_a_month_is_forgotten_and_retention_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.topic = TopicConfig {
        partitions: 1,
        size: Some(1000),
        age: None,
        drop_unread: false,
    };
    let clock = Clock::system();
    let engine = Sqlite::open(config, clock.clone()).await.expect("opens");
    Hand::group(&engine, "idle").await.close().await;
    send_all(
        &engine,
        (0..100).map(|_| record(Some("k"), &[0; 100])).collect(),
    )
    .await;
    let mut reader = Hand::group(&engine, "reader").await;
    let got = reader.take(100).await;
    reader.ack_all(&got);
    reader.empty().await;
    drop(reader);
    let count = async || {
        engine
            .0
            .ask("count", |tx| {
                tx.conn
                    .query_row("SELECT count(*) FROM log", [], |row| row.get::<_, i64>(0))
            })
            .await
            .expect("counts")
    };
    assert_eq!(count().await, 100, "an idle group has not read them");
    clock.step(31 * 86_400 * 1_000_000_000);
    // The next look at the groups is a minute away: another process that starts looks at once.
    let mut again = super::config(folder.path());
    again.topic = TopicConfig {
        partitions: 1,
        size: Some(1000),
        age: None,
        drop_unread: false,
    };
    let other = Sqlite::open(again, clock).await.expect("opens");
    let began = Instant::now();
    while count().await > 10 {
        assert!(began.elapsed() < BOUND, "retention never went on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(other);
}
