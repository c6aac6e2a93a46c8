//! Storing on real nodes: quorum, stand-ins, nodes that come and go.

use std::collections::HashSet;
use std::time::Duration;

use super::notes::{Note, Notes};
use super::server::Server;
use super::{later, named, open, open_with, send, send_all, task, until};
use crate::engine::beanstalkd::codec::{Answer, Command};
use crate::engine::beanstalkd::{Config, TubeConfig, Wire};
use crate::engine::{Engine, EngineError, PublishError};
use crate::message::{Body, envelope, go_queue};
use crate::name::{Name, Place};
use crate::time::Clock;

fn servers(n: usize) -> Vec<Server> {
    (0..n).map(|_| Server::start()).collect()
}

fn config(servers: &[Server]) -> Config {
    Config::new(servers.iter().map(Server::endpoint))
}

async fn total(servers: &[Server]) -> u64 {
    let mut total = 0;
    for server in servers {
        total += server.jobs().await;
    }
    total
}

/// The first ready job of a node.
async fn ready_body(server: &Server) -> bytes::Bytes {
    match server.ask(&Command::PeekReady).await {
        Answer::Found { body, .. } => body,
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test]
async fn a_task_is_stored_on_all_its_nodes_with_the_same_bytes() {
    let servers = servers(3);
    let engine = open(config(&servers)).await;
    let out = task(b"hello");
    let id = out.id;
    let published = send(&engine, out).await.expect("stored");
    assert_eq!((published.id, published.existed), (id, false));
    let body = ready_body(&servers[0]).await;
    for server in &servers {
        assert_eq!(ready_body(server).await, body);
    }
    let opened = envelope::open(body).expect("an envelope");
    assert_eq!(opened.message.id, id);
    assert_eq!(opened.message.body.payload(), b"hello");
    engine.close().await.expect("closes");
}

#[tokio::test]
async fn with_more_nodes_than_replicas_the_load_is_spread() {
    let servers = servers(5);
    let engine = open(config(&servers)).await;
    let answers = send_all(&engine, (0..2000).map(|_| task(b"x")).collect()).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(total(&servers).await, 6000);
    for server in &servers {
        assert!(server.jobs().await > 0, "each node has its share");
    }
}

#[tokio::test]
async fn with_a_store_the_quorum_answers_and_the_rest_is_written_behind_it() {
    let servers = servers(3);
    let engine = open_with(config(&servers), Some(Notes::new())).await;
    servers[1].stop();
    let published = send(&engine, task(b"x")).await.expect("two are enough");
    let token = published.token.expect("its replicas");
    assert_eq!(token.split(',').count(), 2, "{token}");
    servers[1].go_on();
    until("the third copy, or its loss", async || {
        total(&servers).await == 3 || engine.replication().missed_behind == 1
    })
    .await;
}

#[tokio::test]
async fn a_stopped_node_holds_nobody_up_and_is_used_again() {
    let servers = servers(3);
    let engine = open(config(&servers)).await;
    servers[0].stop();
    for _ in 0..5 {
        send(&engine, task(b"x")).await.expect("two are enough");
    }
    assert!(engine.replication().under_replicated >= 5);
    servers[0].go_on();
    until("three copies again", async || {
        let published = send(&engine, task(b"x")).await.expect("two are enough");
        published.token.expect("replicas").split(',').count() == 3
    })
    .await;
}

#[tokio::test]
async fn a_node_that_comes_back_is_used_within_two_seconds() {
    let mut servers = servers(2);
    let engine = open(config(&servers)).await;
    // Long enough for the pauses to have grown.
    for _ in 0..2 {
        servers[0].kill();
        let error = send(&engine, task(b"x")).await.expect_err("one is too few");
        assert!(
            matches!(
                error,
                PublishError::UnderReplicated {
                    maybe_stored: false,
                    ..
                } | PublishError::UnderReplicated { confirmed: 1, .. }
            ),
            "{error:?}"
        );
        tokio::time::sleep(Duration::from_millis(1200)).await;
        servers[0].restart();
        let back = tokio::time::Instant::now();
        while send(&engine, task(b"x")).await.is_err() {
            assert!(back.elapsed() < Duration::from_secs(2), "not used again");
        }
    }
}

#[tokio::test]
async fn a_draining_node_is_left_alone_until_it_is_started_anew() {
    let mut servers = servers(3);
    let engine = open(config(&servers)).await;
    send(&engine, task(b"x")).await.expect("stored");
    servers[2].drain().await;
    for _ in 0..3 {
        let published = send(&engine, task(b"x")).await.expect("two are enough");
        assert_eq!(published.token.expect("replicas").split(',').count(), 2);
    }
    assert_eq!(servers[2].jobs().await, 1);
    servers[2].restart();
    until("three copies again", async || {
        let published = send(&engine, task(b"x")).await.expect("two are enough");
        published.token.expect("replicas").split(',').count() == 3
    })
    .await;
}

#[tokio::test]
async fn a_node_that_was_draining_at_the_start_is_not_asked() {
    let servers = servers(3);
    servers[0].drain().await;
    let engine = open(config(&servers)).await;
    let published = send(&engine, task(b"x")).await.expect("two are enough");
    assert_eq!(published.token.expect("replicas").split(',').count(), 2);
}

#[tokio::test]
async fn a_task_too_large_is_refused_before_a_byte_leaves_and_the_rest_goes_on() {
    let small = Server::with(&["-z", "1000"], None);
    let engine = open(Config::new([small.endpoint()])).await;
    let huge = task(&vec![7; 65_535]);
    let answers = send_all(
        &engine,
        vec![task(b"a"), huge, task(&[1; 2000]), task(b"b")],
    )
    .await;
    assert!(answers[0].is_ok() && answers[3].is_ok(), "{answers:?}");
    assert!(
        matches!(
            answers[1],
            Err(PublishError::TooLarge { limit: 65_535, .. })
        ),
        "{:?}",
        answers[1]
    );
    assert!(
        matches!(
            answers[2],
            Err(PublishError::TooLarge {
                size: 2043,
                limit: 1000,
                ..
            })
        ),
        "the limit of the node: {:?}",
        answers[2]
    );
    assert_eq!(small.jobs().await, 2);
}

#[tokio::test]
async fn a_caller_that_goes_away_disturbs_nobody() {
    let servers = servers(3);
    let engine = open(config(&servers)).await;
    let publisher = engine.publisher();
    for round in 0..200 {
        let mut gone = publisher.publish(vec![task(b"gone"), task(b"gone")]);
        if round % 2 == 0 {
            // Handed over, not waited for.
            let polled = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(gone.as_mut().poll(cx).is_ready())
            });
            polled.await;
        }
        drop(gone);
        send(&engine, task(b"stays")).await.expect("stored");
    }
}

#[tokio::test]
async fn many_callers_at_once_each_get_their_own_answer() {
    let servers = servers(3);
    let engine = open(config(&servers)).await;
    let callers = (0..64).map(|_| {
        let engine = engine.clone();
        #[expect(clippy::disallowed_methods, reason = "it is waited for")]
        tokio::spawn(async move {
            let mut tokens = Vec::new();
            for _ in 0..50 {
                let out = task(b"x");
                let id = out.id;
                let published = send(&engine, out).await.expect("stored");
                assert_eq!(published.id, id);
                tokens.push(published.token.expect("replicas"));
            }
            tokens
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut copies = HashSet::new();
    for caller in callers {
        for token in caller.await.expect("no caller fails") {
            assert_eq!(token.split(',').count(), 3);
            for copy in token.split(',') {
                assert!(copies.insert(copy.to_owned()), "{copy} was given twice");
            }
        }
    }
    assert_eq!(total(&servers).await, 64 * 50 * 3);
}

#[tokio::test]
async fn while_all_nodes_are_healthy_no_copy_is_given_up_however_much_is_sent() {
    let servers = servers(3);
    let mut config = config(&servers);
    // Of the size of one node's share of the window, on a busy machine.
    config.deadline = Duration::from_secs(2);
    let engine = open_with(config, Some(Notes::new())).await;
    // One node is slower than the quorum: it gets its copies behind the answers.
    let slices = (0..8).map(|_| {
        let engine = engine.clone();
        #[expect(clippy::disallowed_methods, reason = "it is waited for")]
        tokio::spawn(async move {
            let slice = (0..4000).map(|_| task(&[0; 300])).collect();
            send_all(&engine, slice).await
        })
    });
    for slice in slices.collect::<Vec<_>>() {
        let answers = slice.await.expect("no caller fails");
        assert!(answers.iter().all(Result::is_ok));
    }
    until("the last copies", async || total(&servers).await == 96_000).await;
    let replication = engine.replication();
    assert_eq!(
        (replication.missed_behind, replication.under_replicated),
        (0, 0)
    );
}

#[tokio::test]
async fn all_nodes_down_at_the_start_is_said_of_each() {
    let mut servers = servers(2);
    let config = config(&servers);
    for server in &mut servers {
        server.kill();
    }
    let opened = super::Beanstalkd::open(config.clone(), None, Clock::system()).await;
    let Err(EngineError::Unavailable { why, .. }) = opened else {
        unreachable!("{opened:?}");
    };
    for server in &servers {
        assert!(why.contains(&server.endpoint()), "{why}");
    }

    let mut waits = config;
    waits.at_start = crate::engine::beanstalkd::AtStart::Wait;
    let opening = open(waits);
    tokio::pin!(opening);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut opening).await;
    assert!(early.is_err(), "it waits");
    servers[0].restart();
    tokio::time::timeout(super::BOUND, opening)
        .await
        .expect("one is there");
}

#[tokio::test]
async fn some_nodes_down_at_the_start_is_no_reason_not_to_start() {
    let mut servers = servers(3);
    servers[1].kill();
    let engine = open(config(&servers)).await;
    send(&engine, task(b"x")).await.expect("two are enough");
}

#[tokio::test]
async fn a_delay_is_rounded_down_and_counted_from_the_moment_of_writing() {
    let server = Server::start();
    let engine = open(Config::new([server.endpoint()])).await;
    let out = later(Duration::from_millis(2900));
    let due = out.due;
    send(&engine, out).await.expect("stored");
    let Answer::Found { id, body } = server.ask(&Command::PeekDelayed).await else {
        unreachable!("it is delayed");
    };
    assert_eq!(envelope::open(body).expect("opens").message.due, due);
    let Answer::Stats(text) = server.ask(&Command::StatsJob(id)).await else {
        unreachable!("it is there");
    };
    let field = |name| crate::engine::beanstalkd::codec::stat(&text, name).map(str::to_owned);
    assert_eq!(field("delay").as_deref(), Some("2"));
    assert_eq!(field("ttr").as_deref(), Some("60"));
    assert_eq!(field("pri").as_deref(), Some("1024"));
}

#[tokio::test]
async fn a_tube_of_the_go_library_holds_what_go_would_write() {
    let server = Server::start();
    let mut config = Config::new([server.endpoint()]);
    config.tube = TubeConfig {
        wire: Wire::GoQueue { late: None },
        ..TubeConfig::default()
    };
    let engine = open(config).await;
    let answers = send_all(&engine, vec![task(b"same"), task(b"same")]).await;
    let ids: HashSet<_> = answers
        .iter()
        .map(|answer| answer.as_ref().expect("stored").id)
        .collect();
    assert_eq!(ids.len(), 2, "equal tasks differ in their bytes");
    let first = answers[0].as_ref().expect("stored");
    assert_eq!(
        first.token.as_deref(),
        Some(&*format!("{}/t/1", server.endpoint()))
    );
    let Answer::Found { body, .. } = server.ask(&Command::Peek(1)).await else {
        unreachable!("it is there");
    };
    assert_eq!(go_queue::id(&body), first.id);
    let (_, prefix) = go_queue::unwrap(&body).expect("a body of the Go library");
    assert_eq!(&body[prefix..], b"same");

    let mut keyed = task(b"x");
    keyed.body = Body::pack(b"key", b"", b"x");
    for refused in [keyed, named("a")] {
        let error = send(&engine, refused).await.expect_err("no room for it");
        assert!(matches!(error, PublishError::Unsupported { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_named_task_is_stored_once() {
    let servers = servers(3);
    let notes = Notes::new();
    let engine = open_with(config(&servers), Some(notes.clone())).await;
    let first = send(&engine, named("a")).await.expect("stored");
    assert!(!first.existed);
    let again = send(&engine, named("a")).await.expect("known");
    assert!(again.existed);
    assert_eq!((again.id, &again.token), (first.id, &first.token));
    let twins = send_all(&engine, vec![named("b"), named("b"), named("a")]).await;
    let existed: Vec<bool> = twins
        .iter()
        .map(|twin| twin.as_ref().expect("stored or known").existed)
        .collect();
    assert_eq!(existed, [false, true, true]);
    // Each of the two waits for its last copy here.
    until("six copies", async || total(&servers).await == 6).await;

    notes.set(first.id, Note::Done);
    assert!(send(&engine, named("a")).await.expect("known").existed);
    // A producer that died between announcing and storing.
    let lost = named("c");
    notes.set(lost.id, Note::Announced(1));
    assert!(!send(&engine, lost).await.expect("stored").existed);
}

#[tokio::test]
async fn a_named_task_that_is_not_stored_gives_its_name_back() {
    let mut servers = servers(2);
    let notes = Notes::new();
    let engine = open_with(config(&servers), Some(notes.clone())).await;
    servers[1].kill();
    let out = named("a");
    until("the loss of the node", async || {
        matches!(
            send(&engine, out.clone()).await,
            Err(PublishError::UnderReplicated { confirmed: 0, .. })
        )
    })
    .await;
    assert_eq!(notes.of(out.id), None);
    notes.away.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = send(&engine, out).await.expect_err("nobody knows the name");
    assert!(
        matches!(
            error,
            PublishError::Unavailable {
                maybe_stored: false,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn closing_writes_what_was_handed_over_and_refuses_the_rest() {
    let server = Server::start();
    let engine = open(Config::new([server.endpoint()])).await;
    let publisher = engine.publisher();
    let mut sending = publisher.publish((0..1000).map(|_| task(b"x")).collect());
    let polled =
        std::future::poll_fn(|cx| std::task::Poll::Ready(sending.as_mut().poll(cx).is_ready()));
    assert!(!polled.await, "on its way");
    tokio::time::timeout(super::BOUND, engine.close())
        .await
        .expect("in time")
        .expect("closes");
    let answers = tokio::time::timeout(super::BOUND, sending)
        .await
        .expect("answered");
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(server.jobs().await, 1000);
    let error = send(&engine, task(b"x")).await.expect_err("closed");
    assert!(matches!(error, PublishError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_record_is_refused() {
    let server = Server::start();
    let engine = open(Config::new([server.endpoint()])).await;
    let mut record = task(b"x");
    record.place = Place::Topic(Name::literal("orders"));
    let error = send(&engine, record).await.expect_err("tasks only");
    assert!(matches!(error, PublishError::Unsupported { .. }), "{error}");
    assert_eq!(server.tube("current-jobs-ready").await, 0);
}
