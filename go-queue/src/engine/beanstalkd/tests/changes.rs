//! Revoking and moving tasks across replicas.

use std::time::Duration;

use super::notes::{Note, Notes};
use super::server::Server;
use super::{Beanstalkd, id_of, later, named, open, open_with, send, until};
use crate::engine::beanstalkd::Config;
use crate::engine::beanstalkd::codec::{Answer, Command};
use crate::engine::beanstalkd::link::{Link, Tubes};
use crate::engine::{Engine, EngineError, Rescheduled, Revoked, TaskId};
use crate::message::{Id, envelope};
use crate::time::{Clock, WallTime, hours};

async fn revoke(engine: &Beanstalkd, task: &TaskId) -> Result<Revoked, EngineError> {
    let tasks = engine.tasks().expect("it has them");
    let mut answers = tokio::time::timeout(super::BOUND, tasks.revoke(vec![task.clone()]))
        .await
        .expect("in time");
    answers.pop().expect("one answer")
}

async fn reschedule(
    engine: &Beanstalkd,
    task: &TaskId,
    due: WallTime,
) -> Result<Rescheduled, EngineError> {
    let tasks = engine.tasks().expect("it has them");
    let mut answers =
        tokio::time::timeout(super::BOUND, tasks.reschedule(vec![(task.clone(), due)]))
            .await
            .expect("in time");
    answers.pop().expect("one answer")
}

async fn jobs(servers: &[Server]) -> Vec<u64> {
    let mut jobs = Vec::new();
    for server in servers {
        jobs.push(server.jobs().await);
    }
    jobs
}

fn three() -> (Vec<Server>, Config) {
    let servers: Vec<Server> = (0..3).map(|_| Server::start()).collect();
    let config = Config::new(servers.iter().map(Server::endpoint));
    (servers, config)
}

#[tokio::test]
async fn a_revoked_task_is_gone_from_every_node() {
    let (servers, config) = three();
    for notes in [None, Some(Notes::new())] {
        let with = notes.clone().map(|notes| notes as _);
        let engine = open_with(config.clone(), with).await;
        let task = id_of(&send(&engine, later(hours(1))).await.expect("stored"));
        until("the last copy", async || jobs(&servers).await == [1, 1, 1]).await;
        assert_eq!(
            revoke(&engine, &task).await.expect("told"),
            Revoked::Revoked
        );
        let left: u64 = jobs(&servers).await.iter().sum();
        // A copy that was written behind is not named in the id; the mark stops it.
        assert!(left <= u64::from(notes.is_some()), "{left} copies are left");
        if let Some(notes) = &notes {
            assert_eq!(notes.of(task.id()), Some(Note::Revoked));
        }
        assert_eq!(
            revoke(&engine, &task).await.expect("told"),
            Revoked::Unknown
        );
    }
}

#[tokio::test]
async fn with_a_store_a_task_is_revoked_also_on_a_node_that_is_away() {
    let mut servers: Vec<Server> = (0..3).map(|_| Server::with_binlog()).collect();
    let notes = Notes::new();
    let config = Config::new(servers.iter().map(Server::endpoint));
    let engine = open_with(config.clone(), Some(notes.clone())).await;
    let task = id_of(&send(&engine, later(hours(1))).await.expect("stored"));
    for server in &mut servers[..2] {
        server.kill();
    }
    assert_eq!(
        revoke(&engine, &task).await.expect("told"),
        Revoked::Revoked
    );
    assert_eq!(notes.of(task.id()), Some(Note::Revoked), "the tombstone");

    let engine = open(config).await;
    let error = revoke(&engine, &task).await.expect_err("nobody can tell");
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn what_the_store_knows_is_the_answer() {
    let (_servers, config) = three();
    let notes = Notes::new();
    let engine = open_with(config, Some(notes.clone())).await;
    let due = Clock::system().now().saturating_add(hours(2));
    for (note, revoked, moved) in [
        (Note::Running, Revoked::Running, Rescheduled::Running),
        (Note::Done, Revoked::AlreadyRun, Rescheduled::AlreadyRun),
        (Note::Revoked, Revoked::Unknown, Rescheduled::Unknown),
    ] {
        let task = id_of(&send(&engine, later(hours(1))).await.expect("stored"));
        notes.set(task.id(), note.clone());
        assert_eq!(revoke(&engine, &task).await.expect("told"), revoked);
        assert_eq!(reschedule(&engine, &task, due).await.expect("told"), moved);
        assert_eq!(
            notes.of(task.id()),
            Some(note),
            "nothing was changed by asking"
        );
    }
    let mut never = send(&engine, later(hours(1))).await.expect("stored");
    never.id = Id::unique();
    let never = id_of(&never);
    assert_eq!(
        revoke(&engine, &never).await.expect("told"),
        Revoked::Unknown
    );
    assert_eq!(
        reschedule(&engine, &never, due).await.expect("told"),
        Rescheduled::Unknown
    );
    assert_eq!(notes.of(never.id()), None, "nothing stays behind");

    notes.away.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = revoke(&engine, &never).await.expect_err("nobody can tell");
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_named_task_can_be_revoked_by_what_a_second_send_answered() {
    let (servers, config) = three();
    let notes = Notes::new();
    let engine = open_with(config, Some(notes.clone())).await;
    send(&engine, named("a")).await.expect("stored");
    let again = send(&engine, named("a")).await.expect("known");
    let mut task = again.clone();
    // As it is while nobody has noted where it lies.
    task.token = None;
    assert_eq!(
        revoke(&engine, &id_of(&task)).await.expect("told"),
        Revoked::Revoked
    );
    let left: u64 = jobs(&servers).await.iter().sum();
    assert!(left <= 1, "{left} copies are left");
    let fresh = send(&engine, named("a")).await.expect("stored");
    assert!(!fresh.existed, "the name is free again");
}

#[tokio::test]
async fn a_task_in_the_hands_of_a_worker_is_running() {
    let server = Server::start();
    let engine = open(Config::new([server.endpoint()])).await;
    let task = id_of(&send(&engine, later(hours(1))).await.expect("stored"));
    let worker = take_away(&server).await;
    assert_eq!(
        revoke(&engine, &task).await.expect("told"),
        Revoked::Running
    );
    let now = Clock::system().now();
    assert_eq!(
        reschedule(&engine, &task, now).await.expect("told"),
        Rescheduled::Running
    );
    drop(worker);
    until("it is free again", async || {
        revoke(&engine, &task).await.expect("told") == Revoked::Revoked
    })
    .await;
}

#[tokio::test]
async fn with_a_store_a_task_that_was_only_fetched_ahead_is_moved() {
    let server = Server::start();
    let notes = Notes::new();
    let config = Config::new([server.endpoint()]);
    let engine = open_with(config, Some(notes.clone())).await;
    let task = id_of(&send(&engine, later(hours(1))).await.expect("stored"));
    // Another connection has it, and no claim says that it runs.
    let worker = take_away(&server).await;
    let due = Clock::system().now().saturating_add(hours(2));
    assert_eq!(
        reschedule(&engine, &task, due).await.expect("told"),
        Rescheduled::Rescheduled
    );
    assert_eq!(
        notes.of(task.id()),
        Some(Note::NotBefore(due)),
        "the copy in hand meets it"
    );
    assert_eq!(
        server.jobs().await,
        1,
        "the new one waits beside the old one in hand"
    );
    notes.set(task.id(), Note::Running);
    assert_eq!(
        reschedule(&engine, &task, due).await.expect("told"),
        Rescheduled::Running
    );
    drop(worker);
}

#[tokio::test]
async fn a_task_that_has_the_name_of_a_revoked_one_is_another() {
    let (servers, config) = three();
    let notes = Notes::new();
    let engine = open_with(config.clone(), Some(notes.clone())).await;
    let first = id_of(&send(&engine, named("n")).await.expect("stored"));
    assert_eq!(
        revoke(&engine, &first).await.expect("told"),
        Revoked::Revoked
    );
    let second = send(&engine, named("n")).await.expect("stored");
    assert!(!second.existed, "the name was free");
    assert_ne!(
        second.id,
        first.id(),
        "a copy of the first is not taken for it"
    );
    let again = send(&engine, named("n")).await.expect("known");
    assert!(again.existed);
    assert_eq!(again.id, second.id);
    assert_eq!(
        revoke(&engine, &first).await.expect("told"),
        Revoked::Unknown,
        "the id of the first does not revoke the second"
    );
    let due = Clock::system().now();
    assert_eq!(
        reschedule(&engine, &first, due).await.expect("told"),
        Rescheduled::Unknown
    );
    let id = second.id;
    let mut copies = 0;
    for server in &servers {
        if let Answer::Found { body, .. } = server.ask(&Command::PeekDelayed).await {
            copies += u32::from(envelope::open(body).expect("opens").message.id == id);
        }
    }
    assert!(copies > 0, "what is stored has the id that was told");
    assert_eq!(
        revoke(&engine, &id_of(&again)).await.expect("told"),
        Revoked::Revoked
    );
}

/// A connection that has the first job of a node in its hands.
async fn take_away(server: &Server) -> Link<()> {
    let mut worker: Link<()> = Link::dial(
        server.endpoint().into(),
        Tubes::default(),
        super::BOUND,
        1 << 20,
    )
    .await
    .expect("connects");
    worker.push(&Command::ReserveJob(1), ()).expect("valid");
    std::future::poll_fn(|cx| worker.poll_flush(cx))
        .await
        .expect("writes");
    std::future::poll_fn(|cx| worker.poll_answer(cx))
        .await
        .expect("has it");
    worker
}

#[tokio::test]
async fn a_job_that_has_the_number_of_a_lost_one_is_left_alone() {
    let mut server = Server::start();
    let engine = open(Config::new([server.endpoint()])).await;
    let lost = id_of(&send(&engine, later(hours(1))).await.expect("stored"));
    server.restart();
    let stays = loop {
        if let Ok(published) = send(&engine, later(hours(1))).await {
            break id_of(&published);
        }
    };
    assert_eq!(lost.token(), stays.token(), "numbers begin anew");
    assert_eq!(
        revoke(&engine, &lost).await.expect("told"),
        Revoked::Unknown
    );
    assert_eq!(server.jobs().await, 1);
    assert_eq!(
        revoke(&engine, &stays).await.expect("told"),
        Revoked::Revoked
    );
}

#[tokio::test]
async fn a_task_is_moved_both_ways_and_found_again() {
    let (servers, config) = three();
    for notes in [None, Some(Notes::new())] {
        let with = notes.clone().map(|notes| notes as _);
        let engine = open_with(config.clone(), with).await;
        let task = id_of(&send(&engine, later(hours(1))).await.expect("stored"));
        until("the last copy", async || jobs(&servers).await == [1, 1, 1]).await;
        for due in [
            WallTime::EPOCH,
            Clock::system().now().saturating_add(hours(3)),
            Clock::system().now().saturating_add(hours(2)),
        ] {
            assert_eq!(
                reschedule(&engine, &task, due).await.expect("told"),
                Rescheduled::Rescheduled
            );
        }
        let due = Clock::system().now().saturating_add(hours(2));
        let mut seen = 0;
        for server in &servers {
            let Answer::Found { body, .. } = server.ask(&Command::PeekDelayed).await else {
                continue;
            };
            let message = envelope::open(body).expect("opens").message;
            if message.id == task.id()
                && message.due <= due
                && message.due.since(WallTime::EPOCH) > Duration::ZERO
            {
                seen += 1;
            }
        }
        assert!(seen >= 2, "it lies on {seen} nodes");
        // Another process, where there is a store that knows.
        let other = match &notes {
            None => engine,
            Some(notes) => open_with(config.clone(), Some(notes.clone())).await,
        };
        assert_eq!(revoke(&other, &task).await.expect("told"), Revoked::Revoked);
        let left: u64 = jobs(&servers).await.iter().sum();
        assert!(left <= u64::from(notes.is_some()), "{left} copies are left");
    }
}

#[tokio::test]
async fn what_cannot_be_moved_stays_where_it_is() {
    let servers: Vec<Server> = (0..2).map(|_| Server::start()).collect();
    let config = Config::new(servers.iter().map(Server::endpoint));
    for notes in [None, Some(Notes::new())] {
        let with = notes.clone().map(|notes| notes as _);
        let engine = open_with(config.clone(), with).await;
        let before = jobs(&servers).await;
        let task = id_of(&send(&engine, later(hours(1))).await.expect("stored"));
        // The node takes no more jobs, so that the new copies are too few.
        engine.0.nodes[1].close_for_writes(Duration::from_secs(3600));
        let due = Clock::system().now().saturating_add(hours(2));
        let error = reschedule(&engine, &task, due)
            .await
            .expect_err("too few nodes");
        assert!(error.is_transient(), "{error}");
        assert_eq!(jobs(&servers).await, [before[0] + 1, before[1] + 1]);
        if let Some(notes) = &notes {
            assert_eq!(notes.of(task.id()), None, "it may start at its old time");
        }
    }
}

#[tokio::test]
async fn a_name_that_was_moved_and_revoked_can_be_sent_and_moved_again() {
    let (_servers, config) = three();
    let engine = open_with(config, Some(Notes::new() as _)).await;
    let soon = Clock::system().now().saturating_add(hours(2));
    let first = id_of(&send(&engine, named("n")).await.expect("stored"));
    assert_eq!(
        reschedule(&engine, &first, soon).await.expect("told"),
        Rescheduled::Rescheduled
    );
    assert_eq!(
        revoke(&engine, &first).await.expect("told"),
        Revoked::Revoked
    );
    let second = send(&engine, named("n")).await.expect("stored");
    assert!(!second.existed);
    assert_eq!(
        reschedule(&engine, &id_of(&second), soon)
            .await
            .expect("told"),
        Rescheduled::Rescheduled
    );
}
