//! A node that says what a test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::server::Server;
use super::{later, open, open_with, send, send_all, task};
use crate::engine::beanstalkd::{Beanstalkd, Config};
use crate::engine::{Engine, PublishError};
use crate::time::Clock;

/// What it does with a put.
#[derive(Clone, Debug)]
enum Put {
    /// These bytes.
    Says(&'static str),
    /// These bytes, and then it cuts the connection.
    SaysAndCuts(&'static str),
    /// Nothing, ever.
    Silent,
}

struct Fake {
    endpoint: String,
    deleted: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    async fn new(put: Put) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let deleted = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, connected) = (deleted.clone(), connections.clone());
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        let task = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                connected.fetch_add(1, Ordering::Relaxed);
                all.push(tokio::spawn(serve(stream, put.clone(), counted.clone())));
            }
        });
        Self {
            endpoint,
            deleted,
            connections,
            task,
        }
    }
}

async fn serve(stream: TcpStream, put: Put, deleted: Arc<AtomicUsize>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|n| n > 0) {
        let mut words = line.split_whitespace();
        let answer = match words.next() {
            Some("put") => {
                let len: usize = words
                    .next_back()
                    .and_then(|len| len.parse().ok())
                    .expect("a length");
                let mut body = vec![0; len + 2];
                if stream.read_exact(&mut body).await.is_err() {
                    return;
                }
                match &put {
                    Put::Says(text) => *text,
                    Put::SaysAndCuts(text) => {
                        let _ = stream.write_all(text.as_bytes()).await;
                        return;
                    }
                    Put::Silent => std::future::pending().await,
                }
            }
            Some("use" | "list-tube-used") => "USING t\r\n",
            Some("stats") => "OK 4\r\n---\n\r\n",
            Some("delete") => {
                deleted.fetch_add(1, Ordering::Relaxed);
                "DELETED\r\n"
            }
            _ => "NOT_FOUND\r\n",
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        line.clear();
    }
}

/// One node that misbehaves, and no other.
async fn alone(put: Put) -> PublishError {
    let fake = Fake::new(put).await;
    let engine = open(Config::new([&*fake.endpoint])).await;
    send(&engine, task(b"x")).await.expect_err("not stored")
}

#[tokio::test]
async fn every_refusal_of_a_node_has_its_own_error() {
    let full = alone(Put::Says("OUT_OF_MEMORY\r\n")).await;
    assert!(matches!(full, PublishError::Full { .. }), "{full}");
    let draining = alone(Put::Says("DRAINING\r\n")).await;
    assert!(
        matches!(&draining, PublishError::Unavailable { why, maybe_stored: false, .. } if why.contains("draining")),
        "{draining}"
    );
    let big = alone(Put::Says("JOB_TOO_BIG\r\n")).await;
    assert!(
        matches!(big, PublishError::TooLarge { size: 44, .. }),
        "{big:?}"
    );
}

#[tokio::test]
async fn an_answer_that_is_lost_or_makes_no_sense_may_mean_stored() {
    for put in [
        Put::Says("EXPECTED_CRLF\r\n"),
        Put::Says("UNKNOWN_COMMAND\r\n"),
        Put::Says("\x16\x03\x01 garbage\r\n"),
        Put::SaysAndCuts("INSER"),
        Put::SaysAndCuts(""),
        Put::Silent,
    ] {
        let error = alone(put.clone()).await;
        assert!(
            matches!(
                error,
                PublishError::Unavailable {
                    maybe_stored: true,
                    ..
                }
            ),
            "{put:?}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_job_that_was_buried_at_once_is_removed_and_not_counted() {
    let fake = Fake::new(Put::Says("BURIED 7\r\n")).await;
    let engine = open(Config::new([&*fake.endpoint])).await;
    let error = send(&engine, task(b"x")).await.expect_err("not stored");
    assert!(matches!(error, PublishError::Full { .. }), "{error}");
    super::until("its removal", async || {
        fake.deleted.load(Ordering::Relaxed) == 1
    })
    .await;
}

#[tokio::test]
async fn a_black_hole_costs_its_deadline_once_and_others_stand_in() {
    let (one, two) = (Server::start(), Server::start());
    let hole = Fake::new(Put::Silent).await;
    let endpoints = [one.endpoint(), two.endpoint(), hole.endpoint.clone()];
    let mut config = Config::new(endpoints);
    config.deadline = Duration::from_millis(500);
    let engine = open(config).await;
    // Without a store every chosen node is waited for; the hole is cut off and the quorum stands.
    let published = send(&engine, task(b"x")).await.expect("a quorum");
    let token = published.token.expect("its replicas");
    assert_eq!(token.split(',').count(), 2, "{token}");
    assert!(!token.contains(&hole.endpoint), "{token}");
    let replication = engine.replication();
    assert_eq!(replication.under_replicated, 1);
    assert_eq!((one.jobs().await, two.jobs().await), (1, 1));
}

#[tokio::test]
async fn with_a_store_a_black_hole_is_not_waited_for() {
    let (one, two) = (Server::start(), Server::start());
    let hole = Fake::new(Put::Silent).await;
    let mut config = Config::new([one.endpoint(), two.endpoint(), hole.endpoint.clone()]);
    // Longer than the test may take.
    config.deadline = Duration::from_secs(3600);
    let engine = open_with(config, Some(super::notes::Notes::new())).await;
    for _ in 0..3 {
        send(&engine, task(b"x")).await.expect("a quorum");
    }
    assert_eq!((one.jobs().await, two.jobs().await), (3, 3));
}

#[tokio::test]
async fn a_node_that_fails_is_replaced_by_one_that_was_not_chosen() {
    let servers: Vec<Server> = (0..3).map(|_| Server::start()).collect();
    let (bad, worse) = (
        Fake::new(Put::Says("OUT_OF_MEMORY\r\n")).await,
        Fake::new(Put::SaysAndCuts("")).await,
    );
    let mut endpoints: Vec<String> = servers.iter().map(Server::endpoint).collect();
    endpoints.extend([bad.endpoint.clone(), worse.endpoint.clone()]);
    let engine = open(Config::new(endpoints)).await;
    let answers = send_all(&engine, (0..200).map(|_| later(super::BOUND)).collect()).await;
    for answer in answers {
        let token = answer.expect("three good nodes").token.expect("replicas");
        assert_eq!(token.split(',').count(), 3, "{token}");
    }
    for server in &servers {
        assert_eq!(server.jobs().await, 200);
    }
}

#[tokio::test]
async fn what_cannot_be_stored_on_enough_nodes_is_taken_back() {
    let good = Server::start();
    let full = Fake::new(Put::Says("OUT_OF_MEMORY\r\n")).await;
    let engine = open(Config::new([good.endpoint(), full.endpoint.clone()])).await;
    let error = send(&engine, task(b"x")).await.expect_err("one is too few");
    assert!(
        matches!(
            error,
            PublishError::UnderReplicated {
                confirmed: 1,
                wanted: 2,
                maybe_stored: false
            }
        ),
        "{error:?}"
    );
    assert_eq!(good.jobs().await, 0, "taken back");
    assert_eq!(engine.replication().undone, 1);
}

#[tokio::test]
async fn what_cannot_be_taken_back_is_revoked_where_there_is_a_store() {
    let (one, cut) = (Server::start(), Fake::new(Put::SaysAndCuts("")).await);
    let notes = super::notes::Notes::new();
    let endpoints = [one.endpoint(), cut.endpoint.clone()];
    let engine = open_with(Config::new(endpoints.clone()), Some(notes.clone())).await;
    let out = task(b"x");
    let id = out.id;
    let error = send(&engine, out).await.expect_err("one is too few");
    assert!(
        matches!(
            error,
            PublishError::UnderReplicated {
                maybe_stored: false,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(notes.of(id), Some(super::notes::Note::Revoked));
    assert_eq!(one.jobs().await, 0);
    engine.close().await.expect("closes");

    let engine = open(Config::new(endpoints)).await;
    let error = send(&engine, task(b"x")).await.expect_err("one is too few");
    assert!(
        matches!(
            error,
            PublishError::UnderReplicated {
                maybe_stored: true,
                ..
            }
        ),
        "nobody can tell what the other has: {error:?}"
    );
    assert_eq!(engine.replication().left_over, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cuts_every_connection_is_not_stormed() {
    // Nothing else advances the clock, so that the pauses are exact.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let endpoint = listener.local_addr().expect("an address").to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    let mut config = Config::new([&*endpoint]);
    config.at_start = crate::engine::beanstalkd::AtStart::Wait;
    let waiting = tokio::time::timeout(Duration::from_secs(60), open(config)).await;
    assert!(waiting.is_err(), "it waits for a node");
    let tries = count.load(Ordering::Relaxed);
    assert!((60..=130).contains(&tries), "{tries} in a minute");
    server.abort();
}

#[tokio::test]
async fn a_node_that_answers_too_late_is_asked_again_before_opening_fails() {
    let fake = Fake::new(Put::SaysAndCuts("")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let front = listener.local_addr().expect("an address").to_string();
    let behind = fake.endpoint.clone();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    let server = tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if silent.len() < 2 {
                silent.push(stream);
                continue;
            }
            let mut node = TcpStream::connect(&*behind).await.expect("it listens");
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut node).await;
        }
    });
    let mut config = Config::new([&*front]);
    config.connect_timeout = Duration::from_millis(50);
    drop(open(config).await);
    server.abort();

    // One that never answers is given up.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let mut config = Config::new([&*listener.local_addr().expect("an address").to_string()]);
    config.connect_timeout = Duration::from_millis(50);
    let error = Beanstalkd::open(config, None, Clock::system()).await;
    let error = error.expect_err("nobody answers").to_string();
    assert!(error.contains("no answer within 50ms"), "{error}");
}

#[tokio::test]
async fn a_connection_that_breaks_again_and_again_is_made_anew_with_growing_pauses() {
    let fake = Fake::new(Put::SaysAndCuts("")).await;
    let mut config = Config::new([&*fake.endpoint]);
    config.deadline = Duration::from_millis(20);
    let engine = open(config).await;
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_millis(400) {
        let _ = send(&engine, task(b"x")).await;
    }
    let tries = fake.connections.load(Ordering::Relaxed);
    // Pauses of at least 25, 50, 100, 200 ms.
    assert!(tries <= 6, "{tries} connections in 400 ms");
}
