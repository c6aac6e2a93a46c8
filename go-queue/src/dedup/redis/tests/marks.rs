//! Marks, the index of dead letters and the locks of the Go library against a real server.

use std::sync::Arc;

use super::server::{Server, there_is_redis};
use super::*;
use crate::dedup::{DeadEntry, GoLock, GoLocked, Mark, MarkWhat, Marked, Marks, Told};
use crate::name::Name;
use crate::time::{WallTime, millis};

async fn mark(marks: &Arc<dyn Marks>, id: u128, what: MarkWhat) -> Marked {
    told(marks, Id(id), what).await.marked
}

async fn told(marks: &Arc<dyn Marks>, id: Id, what: MarkWhat) -> Told {
    let mark = Mark {
        tube: Name::literal("tube"),
        id,
        what,
        keep: HOUR,
    };
    let mut answers = marks.mark(vec![mark]).await;
    assert_eq!(answers.len(), 1);
    answers.pop().unwrap().expect("Redis answers")
}

#[tokio::test]
async fn the_next_task_of_a_revoked_name_is_not_taken_for_the_one_before() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let marks = store.marks([]);
    let first = Id::named("tube", b"n");
    let announce = || MarkWhat::Announce { token: 7 };
    assert_eq!(told(&marks, first, announce()).await.id, first);
    assert_eq!(
        told(&marks, first, MarkWhat::Revoke).await.marked,
        Marked::Set
    );
    let next = told(&marks, first, announce()).await;
    assert_eq!(next.marked, Marked::Set);
    assert_eq!(next.id, first.in_generation(1));
    let mut lane = Lane::new(&store);
    assert_eq!(
        lane.claim(first.0).await,
        Verdict::Done,
        "a copy that was left"
    );
    assert_eq!(lane.claim(next.id.0).await, FIRST);
    assert_eq!(
        lane.claim(first.0).await,
        Verdict::Done,
        "also while it runs"
    );
    assert_eq!(
        told(&marks, first, MarkWhat::Revoke).await.marked,
        Marked::Revoked
    );
    assert_eq!(lane.ask(next.id.0, AskWhat::Confirm).await, Verdict::Stored);
    assert_eq!(lane.claim(first.0).await, Verdict::Done);
    let known = told(&marks, first, announce()).await;
    assert_eq!((known.marked, known.id), (Marked::Done, next.id));
}

#[tokio::test]
async fn a_run_of_a_revoked_task_that_ends_too_late_leaves_the_next_one_alone() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let marks = store.marks([]);
    let first = Id::named("tube", b"n");
    let mut stopped = Lane::new(&store);
    let mut lane = Lane::new(&store);
    assert_eq!(
        told(&marks, first, MarkWhat::Revoke).await.marked,
        Marked::Set
    );
    let next = told(&marks, first, MarkWhat::Announce { token: 7 })
        .await
        .id;
    assert_eq!(lane.claim(next.0).await, FIRST);
    // It was never granted here: as of a worker that was silent beyond its lease.
    assert_eq!(
        stopped.ask(first.0, AskWhat::Confirm).await,
        Verdict::Stored
    );
    assert_eq!(
        told(&marks, next, MarkWhat::Revoke).await.marked,
        Marked::Running
    );
    assert_eq!(lane.ask(next.0, AskWhat::Confirm).await, Verdict::Stored);
}

#[tokio::test]
async fn a_mark_and_a_claim_of_one_task_exclude_each_other() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let marks = store.marks([]);
    let mut lane = Lane::new(&store);

    assert_eq!(
        mark(&marks, 1, MarkWhat::Announce { token: 9 }).await,
        Marked::Set
    );
    assert_eq!(
        mark(
            &marks,
            1,
            MarkWhat::Stored {
                place: "a/1".into()
            }
        )
        .await,
        Marked::Set
    );
    assert_eq!(
        mark(&marks, 1, MarkWhat::Announce { token: 10 }).await,
        Marked::Stored(Some("a/1".into()))
    );
    assert_eq!(lane.claim(1).await, FIRST);
    lane.abandon(1).await;
    lane.idle(millis(100)).await;
    assert_eq!(
        mark(&marks, 1, MarkWhat::Announce { token: 10 }).await,
        Marked::Stored(None),
        "a worker that gives it back does not make it unknown"
    );
    assert_eq!(lane.claim(1).await, FIRST);
    assert_eq!(mark(&marks, 1, MarkWhat::Revoke).await, Marked::Running);
    assert_eq!(lane.ask(1, AskWhat::Confirm).await, Verdict::Stored);
    assert_eq!(
        mark(&marks, 1, MarkWhat::Announce { token: 11 }).await,
        Marked::Done
    );

    assert_eq!(mark(&marks, 2, MarkWhat::Revoke).await, Marked::Set);
    assert_eq!(lane.claim(2).await, Verdict::Done);
    assert_eq!(mark(&marks, 2, MarkWhat::Forget).await, Marked::Set);
    assert_eq!(lane.claim(2).await, FIRST);

    let clock = crate::time::Clock::system();
    let due = clock.now().saturating_add(millis(400));
    assert_eq!(
        mark(&marks, 3, MarkWhat::NotBefore { due }).await,
        Marked::Set
    );
    let Verdict::Busy(rest) = lane.claim(3).await else {
        panic!("it is not due");
    };
    tokio::time::sleep(rest).await;
    assert!(clock.now() >= due, "never early");
    assert_eq!(lane.claim(3).await, FIRST);
}

#[tokio::test]
async fn a_task_that_was_given_up_waits_for_its_dead_letter_and_runs_again_after_a_replay() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let (one, other) = (store(&server), store(&server));
    let marks = one.marks([]);
    let (mut lane, mut twin) = (Lane::new(&one), Lane::new(&other));
    assert_eq!(lane.claim(1).await, FIRST);
    assert_eq!(lane.ask(1, AskWhat::Dead).await, Verdict::Stored);
    // Until the letter is kept a replica may not be acked away: it may be the last copy of the task.
    assert!(matches!(twin.claim(1).await, Verdict::Busy(_)));
    assert_eq!(
        mark(&marks, 1, MarkWhat::Dead { attempts: 1 }).await,
        Marked::Set
    );
    assert_eq!(twin.claim(1).await, Verdict::Done);
    assert_eq!(mark(&marks, 1, MarkWhat::Replay).await, Marked::Set);
    assert_eq!(twin.claim(1).await, FIRST);
}

#[tokio::test]
async fn a_claim_without_replicas_that_ends_dead_is_gone() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let alone = RedisScope {
        replicas: false,
        ..scope()
    };
    let mut lane = Lane::of(&store, &alone);
    assert_eq!(lane.claim(1).await, FIRST);
    assert_eq!(lane.ask(1, AskWhat::Dead).await, Verdict::Stored);
    assert_eq!(lane.claim(1).await, FIRST);
}

#[tokio::test]
async fn marks_that_overtake_each_other_agree_on_one() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let (one, other) = (store(&server), store(&server));
    let (a, b) = (one.marks([]), other.marks([]));
    for id in 0..50 {
        let announced = mark(&a, id, MarkWhat::Announce { token: 1 }).await;
        assert_eq!(announced, Marked::Set);
        let (first, second) = tokio::join!(
            mark(&a, id, MarkWhat::Revoke),
            mark(&b, id, MarkWhat::Revoke)
        );
        let mut both = [first, second];
        both.sort_by_key(|one| *one != Marked::Set);
        assert_eq!(both, [Marked::Set, Marked::Revoked]);
    }
}

#[tokio::test]
async fn a_slice_of_marks_is_answered_in_order_and_down_when_redis_is() {
    if !there_is_redis() {
        return;
    }
    let mut server = Server::start();
    let store = store(&server);
    let marks = store.marks([Name::literal("go")]);
    let all = |what: MarkWhat| -> Vec<Mark> {
        ["tube", "go"]
            .into_iter()
            .flat_map(|tube| {
                let what = what.clone();
                (0..40).map(move |id| Mark {
                    tube: Name::new(tube).unwrap(),
                    id: Id(id),
                    what: what.clone(),
                    keep: HOUR,
                })
            })
            .collect()
    };
    let set = marks.mark(all(MarkWhat::Announce { token: 1 })).await;
    assert_eq!(set.len(), 80);
    assert!(
        set.iter()
            .all(|one| matches!(one, Ok(told) if told.marked == Marked::Set))
    );
    assert_eq!(
        server
            .get("00000000000000000000000000000001")
            .await
            .as_deref(),
        Some("P:1"),
        "the key of a tube with the bytes of the Go library has no prefix"
    );
    let revoked = marks.mark(all(MarkWhat::Revoke)).await;
    assert!(
        revoked
            .iter()
            .all(|one| matches!(one, Ok(told) if told.marked == Marked::Set))
    );
    server.kill();
    let down = marks.mark(all(MarkWhat::Forget)).await;
    assert_eq!(down.len(), 80);
    assert!(down.iter().all(Result::is_err));
}

fn letter(tube: &'static str, id: u128, at: i64) -> DeadEntry {
    DeadEntry {
        tube: Name::literal(tube),
        id: Id(id),
        place: format!("10.0.0.1:11300/{id},b:2/3\nodd").into(),
        died: WallTime::from_millis(at),
    }
}

#[tokio::test]
async fn the_index_lists_letters_in_order_and_each_is_removed_once() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let index = store.marks([]).dead_index();
    let mut cursors = Vec::new();
    for id in 1..=5 {
        let tube = if id % 2 == 0 { "even" } else { "odd" };
        // The clocks of two workers: the second runs behind.
        let at = if id == 3 { 1_000 } else { 2_000 };
        cursors.push(index.put(letter(tube, id, at)).await.unwrap());
    }
    assert!(cursors.is_sorted_by(|a, b| a < b), "{cursors:?}");
    assert_eq!(
        index.put(letter("odd", 3, 9_000)).await.unwrap(),
        cursors[2],
        "renewed"
    );
    assert_eq!(index.count(None).await.unwrap(), 5);
    assert_eq!(index.count(Some(Name::literal("even"))).await.unwrap(), 2);
    let page = index.list(None, Some(cursors[0]), 3).await.unwrap();
    assert_eq!(
        page.iter().map(|(at, _)| *at).collect::<Vec<_>>(),
        cursors[1..4]
    );
    assert_eq!(page[1].1, letter("odd", 3, 9_000));
    let found = index.find(Name::literal("odd"), Id(3)).await.unwrap();
    assert_eq!(found, Some((cursors[2], letter("odd", 3, 9_000))));
    let none = index.find(Name::literal("even"), Id(3)).await.unwrap();
    assert_eq!(none, None);
    let even = index
        .list(Some(Name::literal("even")), None, 100)
        .await
        .unwrap();
    assert_eq!(
        even.iter()
            .map(|(_, letter)| letter.id.0)
            .collect::<Vec<_>>(),
        [2, 4]
    );
    let (first, second) = tokio::join!(index.remove(cursors[1]), index.remove(cursors[1]));
    assert_ne!(first.unwrap(), second.unwrap(), "one of two is told so");
    assert_eq!(index.get(cursors[1]).await.unwrap(), None);
    assert_eq!(
        index.get(cursors[2]).await.unwrap(),
        Some(letter("odd", 3, 9_000))
    );
    assert_eq!(index.count(Some(Name::literal("even"))).await.unwrap(), 1);
    assert!(
        index.put(letter("even", 2, 1)).await.unwrap() > cursors[4],
        "a new letter"
    );
}

#[tokio::test]
async fn a_lock_of_the_go_library_is_reentrant_and_exclusive() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let locks = store.marks([]).go_locks().expect("Redis has them");
    let claim = GoLock::new_claim();
    assert!(claim.starts_with(GoLock::OURS));
    assert_ne!(claim, GoLock::new_claim());
    let lock = |id, claim| GoLock { id: Id(id), claim };
    let other = *b"wGfNigJUK7NKQINV";
    for _ in 0..2 {
        let answers = locks
            .lock(vec![lock(1, claim), lock(1, other), lock(2, other)])
            .await;
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, [GoLocked::Ours, GoLocked::Theirs, GoLocked::Ours]);
    }
    let key = "00000000000000000000000000000001";
    assert_eq!(server.get(key).await.unwrap().as_bytes(), claim);
    assert!(server.ttl(key).await <= 3_600_500);
    let kept = locks
        .keep(vec![lock(1, claim), lock(2, claim)], 24 * HOUR)
        .await;
    let kept: Vec<_> = kept.into_iter().map(Result::unwrap).collect();
    assert_eq!(kept, [GoLocked::Ours, GoLocked::Theirs]);
    assert!(server.ttl(key).await > 80_000_000);
}
