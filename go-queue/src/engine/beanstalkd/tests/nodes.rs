//! One node through its driver: commands of all kinds.

use bytes::Bytes;

use super::server::Server;
use super::{TUBE, open};
use crate::engine::beanstalkd::Config;
use crate::engine::beanstalkd::codec::Answer;
use crate::engine::beanstalkd::node::{Ask, AskError};
use crate::name::Name;

fn put(tube: &Name, body: &'static [u8]) -> Ask {
    Ask::Put {
        tube: tube.clone(),
        priority: 5,
        delay: 0,
        ttr: 10,
        body: Bytes::from_static(body),
    }
}

#[tokio::test]
async fn commands_of_one_call_are_carried_out_in_order_each_in_its_tube() {
    let server = Server::start();
    let engine = open(Config::new([server.endpoint()])).await;
    let node = &engine.0.nodes[0];
    let other = Name::literal("other");
    let answers = node
        .ask_all(vec![
            put(&TUBE, b"one"),
            put(&other, b"two"),
            Ask::PeekReady(TUBE),
            Ask::PeekReady(other.clone()),
            Ask::ReserveJob(1),
            Ask::Touch(1),
            Ask::Bury { id: 1, priority: 9 },
            Ask::PeekBuried(TUBE),
            Ask::KickJob(1),
            Ask::ReserveJob(2),
            Ask::Release {
                id: 2,
                priority: 3,
                delay: 100,
            },
            Ask::PeekDelayed(other.clone()),
            Ask::Delete(1),
            Ask::Delete(1),
            Ask::StatsJob(1),
            Ask::PauseTube(other, 0),
        ])
        .await;
    let answers: Vec<Answer> = answers
        .into_iter()
        .map(|answer| answer.expect("answered"))
        .collect();
    let found = |id, body: &'static [u8]| Answer::Found {
        id,
        body: Bytes::from_static(body),
    };
    assert_eq!(
        answers,
        [
            Answer::Inserted(1),
            Answer::Inserted(2),
            found(1, b"one"),
            found(2, b"two"),
            Answer::Reserved {
                id: 1,
                body: Bytes::from_static(b"one")
            },
            Answer::Touched,
            Answer::Buried,
            found(1, b"one"),
            Answer::Kicked(1),
            Answer::Reserved {
                id: 2,
                body: Bytes::from_static(b"two")
            },
            Answer::Released,
            found(2, b"two"),
            Answer::Deleted,
            Answer::NotFound,
            Answer::NotFound,
            Answer::Paused,
        ]
    );
}

#[tokio::test]
async fn what_a_node_that_is_away_is_asked_comes_back_at_once() {
    let mut server = Server::start();
    let engine = open(Config::new([server.endpoint()])).await;
    let node = &engine.0.nodes[0];
    server.kill();
    super::until("the loss", async || {
        matches!(node.ask(Ask::Stats).await, Err(AskError::Away { .. }))
    })
    .await;
    let error = node.ask(Ask::Stats).await.expect_err("away");
    assert!(error.to_string().contains(&server.endpoint()), "{error}");
    server.restart();
    super::until("its return", async || node.ask(Ask::Stats).await.is_ok()).await;
}

#[tokio::test]
async fn a_stopped_node_is_cut_off_at_the_deadline() {
    let server = Server::start();
    let engine = open(Config::new([server.endpoint()])).await;
    let node = &engine.0.nodes[0];
    node.ask(Ask::Stats).await.expect("answered");
    server.stop();
    let asked = tokio::time::timeout(super::BOUND, node.ask_all(vec![Ask::Stats; 3]));
    for answer in asked.await.expect("in time") {
        assert!(
            matches!(answer, Err(AskError::Unknown { .. })),
            "{answer:?}"
        );
    }
    assert!(!node.is_up());
    server.go_on();
    super::until("its return", async || node.ask(Ask::Stats).await.is_ok()).await;
}
