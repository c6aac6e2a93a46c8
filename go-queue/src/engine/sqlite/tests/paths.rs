//! The file and its place: links, a file that goes away, a quota that is no quota.

use super::*;

#[tokio::test]
async fn a_file_that_is_moved_away_accepts_nothing_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    send_all(&engine, vec![task(b"x")]).await;
    let path = config(folder.path()).path;
    std::fs::rename(&path, folder.path().join("elsewhere.db")).expect("moved");
    let refused = async {
        loop {
            let answers = engine.publisher().publish(vec![task(b"y")]).await;
            if let [Err(PublishError::Unavailable { why, .. })] = &answers[..] {
                break why.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let why = tokio::time::timeout(BOUND, refused)
        .await
        .expect("it is noticed");
    assert!(why.contains("moved or deleted"), "{why}");
}

#[tokio::test]
async fn a_symbolic_link_names_the_same_store_as_its_target() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = config(folder.path()).path;
    let name = target.file_name().expect("a name");
    let link = folder.path().join("link.db");
    // First dangling, then to a file that is there.
    std::os::unix::fs::symlink(name, &link).expect("linked");
    let through = || Config {
        path: link.clone(),
        ..config(folder.path())
    };
    let first = Sqlite::open(through(), Clock::system())
        .await
        .expect("opens a new file");
    send_all(&first, vec![task(b"x")]).await;
    let second = open(folder.path()).await;
    let third = Sqlite::open(through(), Clock::system())
        .await
        .expect("opens");
    let (mut here, mut there) = (Hand::tube(&second).await, Hand::tube(&third).await);
    let got = tokio::select! {
        got = here.take(1) => got,
        got = there.take(1) => got,
    };
    assert_eq!(got[0].message.body.payload(), b"x");
    assert!(!folder.path().join("link.db-wal").exists());
}

#[tokio::test]
async fn a_quota_without_room_to_work_is_refused_with_the_least() {
    for quota in [1, 1024, 250 * 1024, (1 << 20) - 1] {
        let folder = tempfile::tempdir().expect("a folder");
        let small = Config {
            quota: Some(quota),
            ..config(folder.path())
        };
        let error = Sqlite::open(small, Clock::system())
            .await
            .expect_err("too small");
        assert!(error.to_string().contains("at least 1MiB"), "{error}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let least = Config {
        quota: Some(1 << 20),
        ..config(folder.path())
    };
    let engine = Sqlite::open(least, Clock::system()).await.expect("opens");
    send_all(&engine, vec![task(b"x")]).await;
}

#[tokio::test]
async fn a_file_that_was_moved_while_it_is_in_use_is_not_made_anew_over_its_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    send_all(&engine, (0..20).map(|_| task(b"x")).collect()).await;
    let (path, aside) = (folder.path().join("q.db"), folder.path().join("moved.db"));
    std::fs::rename(&path, &aside).expect("moved");
    // What was accepted last stands in the log only, and SQLite empties the log of a database that begins.
    let again = Sqlite::open(config(folder.path()), Clock::system()).await;
    let why = again.expect_err("the log is of another file").to_string();
    assert!(
        why.contains("was moved or deleted") && why.contains("q.db-wal"),
        "{why}"
    );
    assert!(!path.exists(), "nothing was made");
    engine.close().await.expect("closes");
    std::fs::rename(&aside, &path).expect("moved back");
    let engine = open(folder.path()).await;
    let mut hand = Hand::tube(&engine).await;
    assert_eq!(hand.take(20).await.len(), 20);
}
