//! The database file in every bad state, as a user of the app meets it.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use go_queue::app::AppError;
use go_queue::prelude::*;
use rusqlite::Connection;
use rustix::process::Signal;

use crate::stage::Trail;
use crate::worker::Site;

#[dq_handler(tube = "notes")]
async fn note(n: u32, State(trail): State<Trail>) {
    trail.add(n);
}

/// A database that a worker has made, with a task in it.
fn made() -> Site {
    let site = Site::new();
    site.run(&["send", "job", "1"]).with(0);
    site
}

/// Every way to open it says the same, with exit code 2.
fn is_refused(site: &Site, parts: &[&str]) {
    for args in [&["run", "--until-idle=0s"][..], &["send", "job", "2"]] {
        let ended = site.run(args).with(2);
        ended
            .says(&["the sqlite engine cannot open", "app-worker.db"])
            .says(parts);
        let book = site.book();
        assert!(
            book.iter().all(|line| line == "stopped"),
            "no handler ran: {book:?}"
        );
    }
}

#[test]
fn a_file_of_a_newer_version_is_refused() {
    let site = made();
    let file = Connection::open(site.path("data/app-worker.db")).unwrap();
    let version: i64 = file
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    file.pragma_update(None, "user_version", version + 1)
        .unwrap();
    is_refused(&site, &["newer"]);
    file.pragma_update(None, "user_version", version).unwrap();
    site.run(&["run", "--until-idle=0s"]).with(0);
    assert_eq!(
        site.book_has(1, "end"),
        ["end 1"],
        "nothing was lost meanwhile"
    );
}

#[test]
fn a_truncated_file_is_refused() {
    let site = made();
    let path = site.path("data/app-worker.db");
    // Everything in the file itself, nothing in the log beside it.
    let file = Connection::open(&path).unwrap();
    let _busy: i64 = file
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .unwrap();
    drop(file);
    let len = std::fs::metadata(&path).unwrap().len();
    let cut = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    cut.set_len(len / 2 / 4096 * 4096 + 100).unwrap();
    is_refused(&site, &["damaged"]);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let site = Site::new();
    std::fs::create_dir(site.path("data")).unwrap();
    let text = "Dear diary, ".repeat(1000);
    site.write("data/app-worker.db", &text);
    is_refused(&site, &["not a database"]);
    assert_eq!(
        std::fs::read_to_string(site.path("data/app-worker.db")).unwrap(),
        text
    );
}

#[test]
fn a_database_of_another_program_is_refused_and_left_alone() {
    let site = Site::new();
    std::fs::create_dir(site.path("data")).unwrap();
    let file = Connection::open(site.path("data/app-worker.db")).unwrap();
    file.execute_batch("CREATE TABLE diary (text); INSERT INTO diary VALUES ('dear');")
        .unwrap();
    is_refused(&site, &["another program"]);
    let tables: i64 = file
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 1);
}

#[test]
fn a_folder_in_place_of_the_file_is_refused() {
    let site = Site::new();
    std::fs::create_dir_all(site.path("data/app-worker.db")).unwrap();
    is_refused(&site, &[]);
}

#[test]
fn a_read_only_file_is_refused() {
    let site = made();
    let folder = site.path("data");
    let set = |mode: u32| {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
            }
        }
    };
    set(0o444);
    let can_write_anyway = std::fs::OpenOptions::new()
        .write(true)
        .open(site.path("data/app-worker.db"))
        .is_ok();
    if can_write_anyway {
        // The superuser may write everything; the rights say nothing here.
        set(0o644);
        return;
    }
    is_refused(&site, &["read-only"]);
    set(0o644);
    site.run(&["run", "--until-idle=0s"]).with(0);
}

#[test]
fn a_file_that_another_program_locks_is_refused_within_a_bound() {
    let site = made();
    let file = Connection::open(site.path("data/app-worker.db")).unwrap();
    file.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; UPDATE meta SET value = value;",
    )
    .unwrap();
    let began = Instant::now();
    let ended = site.run(&["run", "--until-idle=0s"]);
    assert!(matches!(ended.code, Some(1 | 2)), "{ended:?}");
    ended.says(&["app-worker.db", "lock"]);
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    drop(file);
    site.run(&["run", "--until-idle=0s"]).with(0);
    assert_eq!(site.book_has(1, "end"), ["end 1"]);
}

#[test]
fn a_worker_goes_on_when_a_lock_on_its_file_ends() {
    let site = made();
    let worker = site.start(&["run"]);
    site.book_has(1, "end");
    let file = Connection::open(site.path("data/app-worker.db")).unwrap();
    file.busy_timeout(Duration::from_secs(10)).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    let sender = site.start(&["send", "job", "2"]);
    std::thread::sleep(Duration::from_millis(300));
    file.execute_batch("COMMIT").unwrap();
    sender.wait().with(0);
    assert_eq!(site.book_has(2, "end"), ["end 1", "end 2"]);
    worker.signal(Signal::TERM);
    worker.wait().with(0);
}

#[tokio::test]
async fn an_app_and_a_producer_say_what_is_wrong_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("diary.db");
    std::fs::write(&path, "Dear diary, ".repeat(1000)).unwrap();
    let yaml = format!("sqlite: {{ path: {} }}", path.display());
    let app = go_queue::app::App::new()
        .handlers(handlers![note])
        .state(Trail::new())
        .config(crate::stage::config(&yaml));
    let Err(AppError::Setup(problems)) = app.start().await else {
        unreachable!("it is a diary")
    };
    assert_eq!(problems.len(), 1);
    assert!(problems[0].what.contains("diary.db"), "{problems:?}");
    let opened = Producer::open(crate::stage::config(&yaml)).await;
    assert!(matches!(opened, Err(AppError::Setup(_))), "{opened:?}");
    let opened = Producer::open("/nowhere/app.yaml").await;
    assert!(matches!(opened, Err(AppError::Setup(_))), "{opened:?}");
}

#[tokio::test]
async fn a_producer_alone_sends_revokes_and_reschedules() {
    use go_queue::engine::Revoked;
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "sqlite: {{ path: {}/new/file.db }}",
        folder.path().display()
    );
    let producer = Producer::open(crate::stage::config(&yaml)).await.unwrap();
    let later = note::delay(1, hours(1)).send(&producer).await.unwrap();
    assert_eq!(producer.revoke(&later).await.unwrap(), Revoked::Revoked);
    note::now(2).send(&producer).await.unwrap();
    let trail = Trail::new();
    let running = go_queue::app::App::new()
        .handlers(handlers![note])
        .state(trail.clone())
        .config(crate::stage::config(&yaml))
        .start()
        .await
        .unwrap();
    assert_eq!(trail.reach(1).await, ["2"]);
    note::now(3).send(&producer).await.unwrap();
    assert_eq!(trail.reach(2).await, ["2", "3"]);
    crate::stage::stop(running).await;
}

#[dq_handler(tube = "weights", concurrency = 256)]
async fn weigh(text: Text, State(trail): State<Trail>) {
    trail.add(text.0.len());
}

#[tokio::test]
async fn a_full_file_refuses_with_a_type_and_takes_again_when_it_is_drained() {
    use go_queue::engine::PublishError;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.db");
    let yaml = format!("sqlite: {{ path: {}, quota: 2MiB }}", path.display());
    let producer = Producer::open(crate::stage::config(&yaml)).await.unwrap();
    let heavy = || weigh::now(Text("x".repeat(20_000)));
    let mut accepted = 0;
    let refused = loop {
        match heavy().send(&producer).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 1000, "it is never full");
    };
    assert!(matches!(refused, PublishError::Full { .. }), "{refused}");
    assert!(refused.to_string().contains("quota"), "{refused}");
    assert!(accepted > 10, "{accepted}");
    let trail = Trail::new();
    let running = go_queue::app::App::new()
        .handlers(handlers![weigh])
        .state(trail.clone())
        .config(crate::stage::config(&yaml))
        .start()
        .await
        .unwrap();
    trail.reach(accepted).await;
    crate::stage::settled(&running).await;
    // What is handed over as done leaves the file a moment later.
    while let Err(error) = heavy().send(&producer).await {
        assert!(matches!(error, PublishError::Full { .. }), "{error}");
        tokio::time::sleep(millis(5)).await;
    }
    heavy().send(&running.producer()).await.unwrap();
    trail.reach(accepted + 2).await;
    crate::stage::stop(running).await;
    assert_eq!(trail.lines().len(), accepted + 2, "each ran once");
}

#[tokio::test]
async fn a_clock_stepped_back_an_hour_loses_and_doubles_nothing() {
    let stage = crate::stage::Stage::sqlite().await;
    let trail = Trail::new();
    let running = stage
        .app(handlers![note])
        .state(trail.clone())
        .start()
        .await
        .unwrap();
    let producer = running.producer();
    note::now(1).send(&producer).await.unwrap();
    trail.reach(1).await;
    stage.clock.step(-3_600_000_000_000);
    note::now(2).send(&producer).await.unwrap();
    trail.reach(2).await;
    note::delay(3, millis(50)).send(&producer).await.unwrap();
    trail.reach(3).await;
    stage.clock.step(3_600_000_000_000);
    note::now(4).send(&producer).await.unwrap();
    assert_eq!(trail.reach(4).await, ["1", "2", "3", "4"]);
    crate::stage::stop(running).await;
}

/// The limit on the size of a file stands for a disk that takes no more: writes fail while the process runs on.
#[test]
fn a_disk_that_takes_no_more_refuses_what_it_cannot_store_and_keeps_what_it_accepted() {
    let site = Site::new();
    site.run(&["send", "greet", "first"]).with(0);
    let full = |text: &str| {
        let mut command = std::process::Command::new("sh");
        let plain = site.command(&[]);
        command
            .args([
                "-c",
                "trap '' XFSZ; ulimit -f 4096; exec \"$0\" send greet \"$1\"",
            ])
            .arg(plain.get_program())
            .arg(text)
            .current_dir(plain.get_current_dir().unwrap())
            .envs(
                plain
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
        command.output().unwrap()
    };
    let mut accepted = vec!["first".to_owned()];
    let refused = loop {
        let text = format!("{}-{}", accepted.len(), "x".repeat(60_000));
        let output = full(&text);
        if !output.status.success() {
            break output;
        }
        accepted.push(text);
        assert!(accepted.len() < 200, "the limit is never reached");
    };
    assert!(accepted.len() > 3, "some were stored before");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    assert!(said.contains("sqlite engine"), "{said}");
    assert!(
        matches!(refused.status.code(), Some(1 | 2)),
        "{:?} {said}",
        refused.status
    );
    // There is room again.
    site.run(&["run", "--until-idle=1s"]).with(0);
    let book = site.book();
    for text in &accepted {
        let runs = book
            .iter()
            .filter(|line| **line == format!("hello {text} no key"))
            .count();
        assert_eq!(runs, 1, "{}", &text[..8.min(text.len())]);
    }
}
