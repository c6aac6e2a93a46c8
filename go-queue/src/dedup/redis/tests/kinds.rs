//! A cluster, and a server that is found through a sentinel.

use std::time::Duration;

use super::server::{Server, there_is_redis};
use super::*;
use crate::dedup::redis::RedisKind;
use crate::dedup::{DeadEntry, Mark, MarkWhat, Marked};
use crate::name::Name;
use crate::time::{WallTime, seconds};

/// Everything once, through whatever stands between.
async fn works(store: &RedisStore) {
    let mut lane = Lane::new(store);
    let mut asks: Vec<_> = (0..100)
        .map(|n| ask(n, u128::from(n), AskWhat::Claim))
        .collect();
    let mut answers = Vec::new();
    while answers.len() < 100 {
        let turn = poll_fn(|cx| lane.end.turn(cx, &mut asks, &mut answers));
        timeout(LONG, turn).await.expect("the end answers");
    }
    assert!(
        answers.iter().all(|answer| answer.verdict == FIRST),
        "{answers:?}"
    );
    let retry = AskWhat::Retry {
        after: Duration::ZERO,
    };
    assert_eq!(lane.ask(1, retry).await, Verdict::Stored);
    assert_eq!(lane.claim(1).await, SECOND);
    assert_eq!(lane.ask(1, AskWhat::Confirm).await, Verdict::Stored);

    let marks = store.marks([]);
    let revoke = |id| Mark {
        tube: Name::literal("tube"),
        id: Id(id),
        what: MarkWhat::Revoke,
        keep: HOUR,
    };
    let marked = marks
        .mark(vec![revoke(1), revoke(2), revoke(1000), revoke(1001)])
        .await;
    let marked: Vec<_> = marked
        .into_iter()
        .map(|told| told.unwrap().marked)
        .collect();
    assert_eq!(
        marked,
        [Marked::Done, Marked::Running, Marked::Set, Marked::Set]
    );

    let index = marks.dead_index();
    let cursor = index
        .put(DeadEntry {
            tube: Name::literal("tube"),
            id: Id(1),
            place: "a:1/1".into(),
            died: WallTime::from_millis(1),
        })
        .await
        .unwrap();
    assert_eq!(index.list(None, None, 10).await.unwrap().len(), 1);
    assert!(index.remove(cursor).await.unwrap());
}

#[tokio::test]
async fn keys_that_lie_in_different_slots_of_a_cluster_are_all_reached() {
    if !there_is_redis() {
        return;
    }
    let server = Server::with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-announce-ip",
        "127.0.0.1",
        "--cluster-port",
        "OTHER",
    ]);
    server
        .command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])
        .await;
    let mut config = config(&server);
    config.kind = RedisKind::Cluster;
    config.timeout = seconds(2);
    let store = RedisStore::open(config).unwrap();
    let ready = async {
        while store.check().await.is_err() || !is_well(&server).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, ready).await.expect("the cluster is well");
    works(&store).await;
}

async fn is_well(server: &Server) -> bool {
    let info: String = redis::from_redis_value(server.command(&["CLUSTER", "INFO"]).await).unwrap();
    info.contains("cluster_state:ok")
}

#[tokio::test]
async fn a_sentinel_knows_where_the_server_is() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let sentinel = server.sentinel("main");
    let mut config = config(&sentinel);
    config.kind = RedisKind::Sentinel {
        master: "main".to_owned(),
        user: None,
        pass: None,
    };
    config.timeout = seconds(2);
    config.connect_timeout = seconds(5);
    let store = RedisStore::open(config.clone()).unwrap();
    timeout(LONG, async {
        while let Err(fault) = store.check().await {
            assert!(!fault.to_string().is_empty());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the sentinel answers");
    works(&store).await;
    config.kind = RedisKind::Sentinel {
        master: "other".to_owned(),
        user: None,
        pass: None,
    };
    let fault = RedisStore::open(config).unwrap().check().await;
    assert!(fault.is_err(), "it knows no such server");
}
