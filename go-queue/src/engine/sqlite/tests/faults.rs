//! What can go wrong: files, locks, quotas, clocks, processes that die or hang.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use super::*;

async fn refused(config: Config) -> String {
    let error = Sqlite::open(config, Clock::system())
        .await
        .expect_err("it cannot be used");
    assert!(
        matches!(
            error,
            EngineError::Unusable { .. } | EngineError::Unavailable { .. }
        ),
        "{error:?}"
    );
    error.to_string()
}

/// Another program's connection to the same file.
fn shell(folder: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(folder.join("q.db")).expect("SQLite opens it")
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused_with_advice() {
    let folder = tempfile::tempdir().expect("a folder");
    open(folder.path()).await.close().await.expect("closes");
    shell(folder.path())
        .execute_batch("PRAGMA user_version=99")
        .expect("changed");
    let text = refused(config(folder.path())).await;
    assert!(
        text.contains("version 99") && text.contains("newer"),
        "{text}"
    );
}

#[tokio::test]
async fn the_file_of_another_program_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    shell(folder.path())
        .execute_batch("CREATE TABLE theirs(x)")
        .expect("made");
    let text = refused(config(folder.path())).await;
    assert!(text.contains("another program"), "{text}");
    std::fs::write(
        folder.path().join("q.db"),
        "a shopping list, by no means a database".repeat(200),
    )
    .expect("written");
    let text = refused(config(folder.path())).await;
    assert!(text.contains("not a SQLite database"), "{text}");
    let text = refused(Config::new(folder.path())).await;
    assert!(text.contains("folder"), "{text}");
}

#[tokio::test]
async fn a_file_that_was_cut_off_or_damaged_is_refused_with_advice() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    send_all(&engine, (0..1000).map(|_| task(&[7; 200])).collect()).await;
    engine.close().await.expect("closes");
    let path = folder.path().join("q.db");
    let whole = std::fs::read(&path).expect("read");
    std::fs::write(&path, &whole[..whole.len() / 2]).expect("cut");
    let text = refused(config(folder.path())).await;
    assert!(text.contains("damaged or cut off"), "{text}");
    let mut torn = whole.clone();
    torn[4096 * 3..4096 * 30].fill(0xa5);
    std::fs::write(&path, &torn).expect("torn");
    let text = refused(config(folder.path())).await;
    assert!(text.contains("damaged"), "{text}");
    std::fs::write(&path, &whole).expect("restored");
    let engine = open(folder.path()).await;
    assert_eq!(Hand::tube(&engine).await.take(200).await.len(), 200);
}

#[tokio::test]
async fn a_read_only_file_is_refused_with_advice() {
    let folder = tempfile::tempdir().expect("a folder");
    open(folder.path()).await.close().await.expect("closes");
    let path = folder.path().join("q.db");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).expect("changed");
    let text = refused(config(folder.path())).await;
    assert!(text.contains("read-only"), "{text}");
}

#[tokio::test]
async fn a_locked_file_is_refused_with_advice() {
    let folder = tempfile::tempdir().expect("a folder");
    open(folder.path()).await.close().await.expect("closes");
    let holder = shell(folder.path());
    holder.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let text = refused(config(folder.path())).await;
    assert!(text.contains("write lock"), "{text}");
    holder.execute_batch("ROLLBACK").expect("unlocked");
    open(folder.path()).await;
}

#[tokio::test]
async fn files_are_for_this_user_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = Sqlite::open(
        Config::new(folder.path().join("data/q.db")),
        Clock::system(),
    )
    .await
    .expect("opens");
    send(&engine, task(b"x")).await;
    let mode = |path: &str| {
        let path = folder.path().join(path);
        std::fs::metadata(path).expect("there").permissions().mode() & 0o777
    };
    assert_eq!(mode("data"), 0o700);
    assert_eq!(mode("data/q.db-peers"), 0o700);
    for file in [
        "data/q.db",
        "data/q.db-wal",
        "data/q.db-shm",
        "data/q.db-open",
    ] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}

#[tokio::test]
async fn processes_that_start_at_once_on_a_new_file_all_come_up() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().expect("a folder");
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..6 {
            opening.spawn(Sqlite::open(config(folder.path()), Clock::system()));
        }
        let mut engines = Vec::new();
        while let Some(one) = opening.join_next().await {
            engines.push(one.expect("no panic").expect("opens"));
        }
        for engine in &engines {
            send(engine, task(b"x")).await;
        }
        assert_eq!(Hand::tube(&engines[0]).await.take(6).await.len(), 6);
    }
}

#[tokio::test]
async fn at_the_quota_producers_are_told_and_consumers_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.quota = Some(4 << 20);
    config.durability = Durability::Process;
    let engine = Sqlite::open(config, Clock::system()).await.expect("opens");
    for _ in 0..3 {
        let mut stored = 0;
        let full = 'full: loop {
            for answer in engine
                .publisher()
                .publish((0..50).map(|_| task(&[1; 2000])).collect())
                .await
            {
                match answer {
                    Ok(_) => stored += 1,
                    Err(error) => break 'full error,
                }
            }
            assert!(stored < 100_000, "there is no quota");
        };
        assert!(matches!(full, PublishError::Full { .. }), "{full}");
        assert!(full.to_string().contains("sqlite.quota"), "{full}");
        let records = engine
            .publisher()
            .publish(vec![record(None, &[1; 2000])])
            .await;
        assert!(
            matches!(records[..], [Err(PublishError::Full { .. })]),
            "{records:?}"
        );
        // Claims, retries, dead letters and acknowledgements all find room.
        let mut hand = Hand::tube(&engine).await;
        let first = hand.take(100).await;
        for delivery in &first {
            hand.settle(
                delivery.receipt,
                How::Retry {
                    after: Duration::from_millis(1),
                },
            );
        }
        let mut done = 0;
        while done < stored {
            let got = hand.take(usize::min(256, stored - done)).await;
            done += got.len();
            hand.ack_all(&got);
        }
        hand.empty().await;
        assert_eq!(hand.turn.health.stale, 0);
        let left: usize = hand.got.len();
        assert_eq!(left, 0);
    }
}

#[tokio::test]
async fn settlements_that_could_not_be_stored_are_kept_and_stored_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    send_all(&engine, (0..10).map(|_| task(b"x")).collect()).await;
    let mut hand = Hand::tube(&engine).await;
    let got = hand.take(10).await;
    let holder = shell(folder.path());
    holder.execute_batch("BEGIN IMMEDIATE").expect("locked");
    hand.ack_all(&got);
    let publisher = engine.publisher();
    let (answers, ()) = tokio::join!(
        publisher.publish(vec![task(b"y")]),
        hand.until("the store is down", 0, |hand| {
            matches!(&hand.turn.health.state, crate::engine::HealthState::Down(why) if why.contains("write lock"))
        })
    );
    assert!(
        matches!(
            &answers[..],
            [Err(PublishError::Unavailable {
                maybe_stored: false,
                ..
            })]
        ),
        "{answers:?}"
    );
    holder.execute_batch("ROLLBACK").expect("unlocked");
    hand.until("up again", 0, |hand| {
        hand.turn.health.state == crate::engine::HealthState::Up
    })
    .await;
    hand.empty().await;
    assert_eq!(hand.turn.health.stale, 0);
    hand.close().await;
    let left: i64 = holder
        .query_row("SELECT count(*) FROM job", [], |row| row.get(0))
        .expect("counted");
    assert_eq!(left, 0, "all were removed");
}

#[tokio::test]
async fn two_engines_on_one_file_never_hold_one_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (open(folder.path()).await, open(folder.path()).await);
    let mut ids = std::collections::HashSet::new();
    let mut hands = [Hand::tube(&one).await, Hand::tube(&two).await];
    for round in 0..20 {
        let engine = if round % 2 == 0 { &one } else { &two };
        send_all(engine, (0..50).map(|_| task(b"x")).collect()).await;
        let [first, second] = &mut hands;
        let mut came = 0;
        while came < 50 {
            tokio::select! {
                () = first.until("some", 7, |hand| !hand.got.is_empty()) => {}
                () = second.until("some", 7, |hand| !hand.got.is_empty()) => {}
            }
            for hand in [&mut *first, &mut *second] {
                let got: Vec<Delivery> = hand.got.drain(..).collect();
                came += got.len();
                for delivery in &got {
                    assert!(ids.insert(delivery.message.id), "one message twice");
                    assert_eq!(delivery.message.attempt, 1);
                }
                hand.ack_all(&got);
            }
        }
    }
    assert_eq!(ids.len(), 1000);
    for hand in &mut hands {
        hand.empty().await;
        assert_eq!(hand.turn.health.stale, 0);
    }
}

#[tokio::test]
async fn without_a_nudge_the_poll_finds_what_another_process_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let (here, there) = (open(folder.path()).await, open(folder.path()).await);
    let mut hand = Hand::tube(&here).await;
    hand.empty().await;
    for entry in std::fs::read_dir(folder.path().join("q.db-peers")).expect("there") {
        let path = entry.expect("read").path();
        if path.extension().is_some_and(|ending| ending == "sock") {
            std::fs::remove_file(path).expect("removed");
        }
    }
    send(&there, task(b"x")).await;
    let got = hand.one().await;
    hand.settle(got.receipt, How::Ack);
    let due = Clock::system()
        .now()
        .saturating_add(Duration::from_millis(150));
    send(&there, Outgoing { due, ..task(b"y") }).await;
    assert_eq!(payloads(&[hand.one().await]), ["y"]);
}

#[tokio::test]
async fn a_clock_stepped_back_an_hour_runs_nothing_twice_and_holds_nothing_that_is_due() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = Clock::system();
    let mut config = config(folder.path());
    config.sweep = Duration::from_millis(50);
    let engine = Sqlite::open(config, clock.clone()).await.expect("opens");
    send_all(&engine, vec![task(b"a"), task(b"b")]).await;
    let short = Subscribe {
        lease: Duration::from_millis(200),
        ..Subscribe::tube(T)
    };
    let mut hand = Hand::on(&engine, &short).await;
    let got = hand.take(2).await;
    let mut other = Hand::on(&engine, &short).await;
    for step in [-3600, 7200, -3600] {
        clock.step(step * 1_000_000_000);
        other.nothing_for(Duration::from_millis(400)).await;
    }
    clock.step(-3600 * 1_000_000_000);
    send(&engine, task(b"c")).await;
    let third = other.one().await;
    assert_eq!(payloads(std::slice::from_ref(&third)), ["c"]);
    other.settle(
        third.receipt,
        How::Retry {
            after: Duration::from_millis(30),
        },
    );
    let again = other.one().await;
    assert_eq!(again.message.attempt, 2);
    other.settle(again.receipt, How::Ack);
    hand.ack_all(&got);
    hand.until("confirmed", 0, |hand| hand.turn.health.empty)
        .await;
    assert_eq!(hand.turn.health.stale, 0);
}

#[tokio::test]
async fn leases_of_another_boot_are_void() {
    let folder = tempfile::tempdir().expect("a folder");
    let before = open(folder.path()).await;
    send_all(&before, (0..5).map(|_| task(b"x")).collect()).await;
    let mut late = Hand::tube(&before).await;
    let got = late.take(5).await;
    shell(folder.path())
        .execute_batch("UPDATE instance SET boot='an earlier one'")
        .expect("changed");
    let after = open(folder.path()).await;
    let mut hand = Hand::tube(&after).await;
    let again = hand.take(5).await;
    assert!(again.iter().all(|delivery| delivery.message.attempt == 2));
    // The one from before learns it, and what it says now is void.
    late.until("the loss", 0, |hand| {
        hand.notices.contains(&Notice::Lost(got[0].receipt.epoch))
    })
    .await;
    late.ack_all(&got);
    late.until("stale ones", 0, |hand| hand.turn.health.stale == 5)
        .await;
    hand.ack_all(&again);
    hand.empty().await;
    assert_eq!(hand.turn.health.stale, 0);
}

#[tokio::test]
async fn a_process_whose_lock_file_was_removed_is_taken_for_dead_once_and_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (here, there) = (open(folder.path()).await, open(folder.path()).await);
    send_all(&here, (0..3).map(|_| task(b"x")).collect()).await;
    let mut hand = Hand::tube(&here).await;
    let got = hand.take(3).await;
    for entry in std::fs::read_dir(folder.path().join("q.db-peers")).expect("there") {
        std::fs::remove_file(entry.expect("read").path()).expect("removed");
    }
    let mut other = Hand::tube(&there).await;
    let again = other.take(3).await;
    hand.until("the loss", 0, |hand| {
        hand.notices.contains(&Notice::Lost(got[0].receipt.epoch))
    })
    .await;
    other.ack_all(&again);
    other.empty().await;
    other.close().await;
    // It is known again, so that its own death would be noticed.
    let known = async || {
        let answer = there.0.ask("count", |tx| {
            tx.conn.query_row(
                "SELECT count(*) FROM session WHERE instance IN (SELECT id FROM instance)",
                [],
                |row| row.get::<_, i64>(0),
            )
        });
        answer.await.expect("counts")
    };
    let began = Instant::now();
    while known().await != 1 {
        assert!(began.elapsed() < BOUND, "never known again");
    }
    send(&there, task(b"y")).await;
    let last = hand.one().await;
    assert_eq!(payloads(std::slice::from_ref(&last)), ["y"]);
    hand.settle(last.receipt, How::Ack);
    hand.empty().await;
}

/// Not a test: what a child process does, if this binary was started as one.
#[tokio::test]
async fn role_of_a_child_process() {
    let Ok(path) = std::env::var("GO_QUEUE_TEST_CHILD") else {
        return;
    };
    let lease = Duration::from_millis(
        std::env::var("GO_QUEUE_TEST_LEASE").map_or(60_000, |ms| ms.parse().expect("a number")),
    );
    let engine = Sqlite::open(Config::new(path), Clock::system())
        .await
        .expect("opens");
    let mut hand = Hand::on(
        &engine,
        &Subscribe {
            lease,
            ..Subscribe::tube(T)
        },
    )
    .await;
    let got = hand.take(3).await;
    let mut out = std::io::stderr();
    writeln!(out, "holding {}", got.len()).expect("said");
    // Goes on as soon as the parent says so; by then it may have been stopped for long.
    let (said, heard) = oneshot::channel();
    let listener = std::thread::Builder::new().spawn(move || {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("read");
        // The other end waits for it.
        let _ = said.send(());
    });
    listener.expect("a thread");
    heard.await.expect("the parent lives");
    hand.ack_all(&got);
    hand.until("stale settlements", 0, |hand| hand.turn.health.stale >= 3)
        .await;
    hand.until("the loss", 0, |hand| !hand.notices.is_empty())
        .await;
    writeln!(
        out,
        "stale {} {:?}",
        hand.turn.health.stale,
        hand.notices.len()
    )
    .expect("said");
}

struct Process(Child, BufReader<std::process::ChildStderr>);

impl Process {
    fn start(folder: &Path, lease: Duration) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args([
                "--exact",
                "engine::sqlite::tests::faults::role_of_a_child_process",
                "--nocapture",
            ])
            .env("GO_QUEUE_TEST_CHILD", folder.join("q.db"))
            .env("GO_QUEUE_TEST_LEASE", lease.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let errors = BufReader::new(child.stderr.take().expect("piped"));
        Self(child, errors)
    }

    /// The next line that begins so.
    fn line(&mut self, begins: &str) -> String {
        let mut line = String::new();
        while self.1.read_line(&mut line).expect("read") > 0 {
            if line.starts_with(begins) {
                return line;
            }
            line.clear();
        }
        unreachable!("the child ended without `{begins}`")
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, signal).expect("it is there");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_held_comes_back_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    send_all(&engine, (0..3).map(|_| task(b"x")).collect()).await;
    let mut child = Process::start(folder.path(), Duration::from_secs(3600));
    tokio::task::block_in_place(|| child.line("holding 3"));
    let mut hand = Hand::tube(&engine).await;
    hand.nothing_for(Duration::from_millis(300)).await;
    child.signal(rustix::process::Signal::KILL);
    // Its lease is an hour: only its lock tells.
    let got = hand.take(3).await;
    assert!(got.iter().all(|delivery| delivery.message.attempt == 2));
    hand.ack_all(&got);
    hand.empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process_loses_its_lease_and_what_it_says_later_is_void() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    send_all(&engine, (0..3).map(|_| task(b"x")).collect()).await;
    let mut child = Process::start(folder.path(), Duration::from_millis(900));
    tokio::task::block_in_place(|| child.line("holding 3"));
    let mut hand = Hand::tube(&engine).await;
    // Renewed by itself: more than one lease passes.
    hand.nothing_for(Duration::from_secs(2)).await;
    child.signal(rustix::process::Signal::STOP);
    let got = hand.take(3).await;
    assert!(got.iter().all(|delivery| delivery.message.attempt == 2));
    child.signal(rustix::process::Signal::CONT);
    child
        .0
        .stdin
        .take()
        .expect("piped")
        .write_all(b"go on\n")
        .expect("said");
    let line = tokio::task::block_in_place(|| child.line("stale"));
    assert_eq!(line.trim(), "stale 3 1");
    hand.ack_all(&got);
    hand.empty().await;
    assert_eq!(hand.turn.health.stale, 0);
}

#[tokio::test]
async fn a_closed_engine_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let mut hand = Hand::tube(&engine).await;
    hand.empty().await;
    engine.close().await.expect("closes");
    let answers = engine.publisher().publish(vec![task(b"x")]).await;
    assert!(
        matches!(answers[..], [Err(PublishError::Closed { .. })]),
        "{answers:?}"
    );
    assert!(matches!(
        engine.subscribe(&Subscribe::tube(T)).await.err(),
        Some(EngineError::Closed { .. })
    ));
    let ended = poll_fn(|cx| hand.end.turn(cx, &mut hand.turn));
    let ended = tokio::time::timeout(BOUND, ended).await.expect("in time");
    assert!(
        matches!(ended, Err(EngineError::Closed { .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn bad_messages_are_refused_before_anything_is_stored() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.unportable.insert(Name::literal("big"));
    let engine = Sqlite::open(config, Clock::system()).await.expect("opens");
    let large = vec![0; 65_536];
    let mut allowed = task(&large);
    allowed.place = Place::Tube(Name::literal("big"));
    let mut late = record(None, b"x");
    late.due = Clock::system()
        .now()
        .saturating_add(Duration::from_secs(60));
    let never = Outgoing {
        due: WallTime::from_nanos(i64::MAX),
        ..task(b"x")
    };
    let past = Outgoing {
        due: WallTime::from_nanos(-5),
        ..task(b"past")
    };
    let answers = engine
        .publisher()
        .publish(vec![task(&large), allowed, late, never, past])
        .await;
    assert!(matches!(answers[0], Err(PublishError::TooLarge { .. })));
    assert!(answers[1].is_ok());
    assert!(matches!(answers[2], Err(PublishError::Unsupported { .. })));
    assert!(answers[3].is_ok(), "the year 2262 is far, but it is a time");
    assert!(answers[4].is_ok());
    let mut hand = Hand::tube(&engine).await;
    assert_eq!(payloads(&[hand.one().await]), ["past"]);
}
