//! Tubes.

use super::*;

#[tokio::test]
async fn a_task_comes_as_it_was_sent_and_goes_when_it_is_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let mut out = task(b"");
    out.body = Body::pack(b"key", b"\x01h\x00\x01v", b"payload");
    out.flags = Flags(0);
    out.content = ContentType::Json;
    let sent = send(&engine, out.clone()).await;
    assert_eq!((sent.id, sent.existed), (out.id, false));
    let mut hand = Hand::tube(&engine).await;
    let got = hand.one().await;
    let message = &got.message;
    assert_eq!(message.id, out.id);
    assert_eq!(message.key(), Some(&b"key"[..]));
    assert_eq!(message.headers().get("h"), Some(&b"v"[..]));
    assert_eq!(message.payload(), Some(&b"payload"[..]));
    assert_eq!((message.attempt, message.content), (1, ContentType::Json));
    hand.settle(got.receipt, How::Ack);
    hand.empty().await;
    hand.close().await;
    engine.close().await.expect("closes");
    let engine = open(folder.path()).await;
    Hand::tube(&engine).await.empty().await;
}

#[tokio::test]
async fn many_tasks_come_in_order_of_priority_and_age() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let slice = (0..3000).map(|n: u32| Outgoing {
        priority: 10 - n % 3,
        ..task(n.to_string().as_bytes())
    });
    send_all(&engine, slice.collect()).await;
    let mut hand = Hand::tube(&engine).await;
    let mut seen = Vec::new();
    while seen.len() < 3000 {
        let got = hand.take(100).await;
        hand.ack_all(&got);
        seen.extend(
            payloads(&got)
                .iter()
                .map(|p| p.parse::<u32>().expect("a number")),
        );
    }
    let mut expected: Vec<u32> = (0..3000).collect();
    expected.sort_by_key(|n| (10 - n % 3, *n));
    assert_eq!(seen, expected);
    hand.empty().await;
    assert_eq!(hand.turn.health.stale, 0);
}

#[tokio::test]
async fn a_waiting_end_gets_a_task_the_moment_it_is_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let mut hand = Hand::tube(&engine).await;
    hand.empty().await;
    let (got, _) = tokio::join!(hand.one(), send(&engine, task(b"now")));
    assert_eq!(got.message.payload(), Some(&b"now"[..]));
}

#[tokio::test]
async fn a_delayed_task_is_never_early() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let mut hand = Hand::tube(&engine).await;
    for delay in [1, 7, 50, 120] {
        let due = Clock::system()
            .now()
            .saturating_add(Duration::from_millis(delay));
        send(
            &engine,
            Outgoing {
                due,
                ..task(b"later")
            },
        )
        .await;
        let got = hand.one().await;
        assert!(Clock::system().now() >= due, "early");
        assert_eq!(got.message.due, due);
        hand.settle(got.receipt, How::Ack);
    }
    let due = Clock::system()
        .now()
        .saturating_add(Duration::from_secs(3600));
    send(
        &engine,
        Outgoing {
            due,
            ..task(b"much later")
        },
    )
    .await;
    hand.until("the next due time", 1, |hand| {
        hand.turn.health.next_due == Some(due)
    })
    .await;
}

#[tokio::test]
async fn a_retry_counts_and_waits_and_a_release_does_neither() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    send(&engine, task(b"x")).await;
    let mut hand = Hand::tube(&engine).await;
    let first = hand.one().await;
    hand.settle(first.receipt, How::RELEASE);
    let second = hand.one().await;
    assert_eq!(second.message.attempt, 1);
    let began = Instant::now();
    hand.settle(
        second.receipt,
        How::Retry {
            after: Duration::from_millis(80),
        },
    );
    let third = hand.one().await;
    assert!(began.elapsed() >= Duration::from_millis(80), "early");
    assert_eq!(third.message.attempt, 2);
    hand.settle(
        third.receipt,
        How::Release {
            after: Duration::from_millis(30),
        },
    );
    assert_eq!(hand.one().await.message.attempt, 2);
}

#[tokio::test]
async fn a_named_task_is_stored_once_until_it_is_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = Clock::system();
    let engine = Sqlite::open(config(folder.path()), clock.clone())
        .await
        .expect("opens");
    let named = || Outgoing {
        id: Id::named("t", b"job 1"),
        named: true,
        ..task(b"x")
    };
    let first = send(&engine, named()).await;
    let again = send(&engine, named()).await;
    assert!(!first.existed && again.existed);
    assert_eq!(first.token, again.token);
    let mut hand = Hand::tube(&engine).await;
    let got = hand.one().await;
    assert!(send(&engine, named()).await.existed, "running");
    hand.settle(got.receipt, How::Ack);
    hand.empty().await;
    assert!(send(&engine, named()).await.existed, "done");
    clock.step(25 * 3600 * 1_000_000_000);
    assert!(!send(&engine, named()).await.existed, "forgotten");
}

#[tokio::test]
async fn the_same_unnamed_id_is_stored_once_while_it_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let out = task(b"x");
    let answers = engine
        .publisher()
        .publish(vec![out.clone(), out.clone()])
        .await;
    let existed: Vec<bool> = answers
        .into_iter()
        .map(|a| a.expect("stored").existed)
        .collect();
    assert_eq!(existed, [false, true]);
    let mut other_tube = out;
    other_tube.place = Place::Tube(Name::literal("u"));
    assert!(!send(&engine, other_tube).await.existed);
}

#[tokio::test]
async fn revoke_tells_the_truth() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let tasks = engine.tasks().expect("keeps tasks");
    let revoke = async |published: &Published| {
        tasks
            .revoke(vec![task_id(published)])
            .await
            .pop()
            .expect("one")
            .expect("answered")
    };
    let due = Clock::system()
        .now()
        .saturating_add(Duration::from_secs(60));
    let ready = send(&engine, task(b"a")).await;
    let delayed = send(&engine, Outgoing { due, ..task(b"b") }).await;
    for waiting in [&ready, &delayed] {
        assert_eq!(revoke(waiting).await, Revoked::Revoked);
        assert_eq!(revoke(waiting).await, Revoked::Unknown, "revoked before");
    }
    let mut hand = Hand::tube(&engine).await;
    hand.empty().await;
    let taken = send(&engine, task(b"c")).await;
    let got = hand.one().await;
    assert_eq!(revoke(&taken).await, Revoked::Running);
    hand.settle(
        got.receipt,
        How::Retry {
            after: Duration::from_secs(60),
        },
    );
    hand.empty().await;
    assert_eq!(
        revoke(&taken).await,
        Revoked::Revoked,
        "it waits for a retry"
    );
    let done = send(&engine, task(b"d")).await;
    let got = hand.one().await;
    hand.settle(got.receipt, How::Ack);
    hand.empty().await;
    assert_eq!(revoke(&done).await, Revoked::AlreadyRun);
    let dead = send(&engine, task(b"e")).await;
    let got = hand.one().await;
    hand.settle(
        got.receipt,
        How::Dead {
            reason: Arc::from("no"),
            attempts: 1,
        },
    );
    hand.empty().await;
    assert_eq!(revoke(&dead).await, Revoked::AlreadyRun);
    let mut never = done.clone();
    never.id = Id::unique();
    never.token = None;
    assert_eq!(revoke(&never).await, Revoked::Unknown);
    let mut foreign = never;
    foreign.token = Some(Arc::from("77.1"));
    assert_eq!(revoke(&foreign).await, Revoked::Unknown, "of another store");
}

#[tokio::test]
async fn a_revoke_that_races_a_claim_agrees_with_what_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let tasks = engine.tasks().expect("keeps tasks");
    let mut hand = Hand::tube(&engine).await;
    let (mut revoked, mut ran) = (0, 0);
    for n in 0..200_u32 {
        let published = send(
            &engine,
            Outgoing {
                due: Clock::system()
                    .now()
                    .saturating_add(Duration::from_micros(u64::from(n % 7) * 300)),
                ..task(&n.to_be_bytes())
            },
        )
        .await;
        let revoking = tasks.revoke(vec![task_id(&published)]);
        let mut answer = std::pin::pin!(revoking);
        let mut said = None;
        let driven = poll_fn(|cx| {
            while hand.step(cx, 1) {}
            if said.is_none()
                && let Poll::Ready(mut answers) = answer.as_mut().poll(cx)
            {
                said = answers.pop();
            }
            // A task that was not revoked comes.
            match &said {
                Some(Ok(Revoked::Revoked)) => Poll::Ready(()),
                Some(_) if !hand.got.is_empty() => Poll::Ready(()),
                _ => Poll::Pending,
            }
        });
        tokio::time::timeout(BOUND, driven).await.expect("an end");
        let got: Vec<Delivery> = hand.got.drain(..).collect();
        match said.expect("an answer").expect("no error") {
            Revoked::Revoked => {
                assert!(got.is_empty(), "revoked and run");
                revoked += 1;
            }
            Revoked::Running => {
                assert_eq!(got.len(), 1);
                ran += 1;
            }
            other => panic_with(other),
        }
        hand.ack_all(&got);
    }
    assert_eq!(revoked + ran, 200);
    hand.empty().await;
}

fn panic_with(other: Revoked) {
    assert_eq!(other, Revoked::Revoked, "not a possible truth here");
}

#[tokio::test]
async fn reschedule_moves_what_waits_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let tasks = engine.tasks().expect("keeps tasks");
    let later = Clock::system()
        .now()
        .saturating_add(Duration::from_secs(600));
    let published = send(
        &engine,
        Outgoing {
            due: later,
            ..task(b"x")
        },
    )
    .await;
    let mut hand = Hand::tube(&engine).await;
    hand.empty().await;
    let soon = Clock::system()
        .now()
        .saturating_add(Duration::from_millis(60));
    let moved = tasks.reschedule(vec![(task_id(&published), soon)]).await;
    assert!(
        matches!(moved[..], [Ok(Rescheduled::Rescheduled)]),
        "{moved:?}"
    );
    let got = hand.one().await;
    assert!(Clock::system().now() >= soon);
    assert_eq!(got.message.due, soon);
    let running = tasks.reschedule(vec![(task_id(&published), later)]).await;
    assert!(
        matches!(running[..], [Ok(Rescheduled::Running)]),
        "{running:?}"
    );
    hand.settle(got.receipt, How::Ack);
    hand.empty().await;
    let over = tasks.reschedule(vec![(task_id(&published), later)]).await;
    assert!(
        matches!(over[..], [Ok(Rescheduled::AlreadyRun)]),
        "{over:?}"
    );
}

#[tokio::test]
async fn a_dead_letter_keeps_everything_and_can_be_replayed_or_purged() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let mut out = task(b"payload");
    out.body = Body::pack(b"k", b"", b"payload");
    out.flags = Flags(0);
    let sent = send(&engine, out).await;
    let mut hand = Hand::tube(&engine).await;
    let got = hand.one().await;
    hand.settle(
        got.receipt,
        How::Dead {
            reason: Arc::from("bad luck"),
            attempts: 1,
        },
    );
    hand.empty().await;
    let dead = engine.dead_letters().expect("keeps them");
    assert_eq!(dead.count(Some(Place::Tube(T))).await.expect("counts"), 1);
    let query = DeadQuery {
        place: Some(Place::Tube(T)),
        limit: 10,
        ..DeadQuery::default()
    };
    let letters = dead.list(query).await.expect("lists");
    let [letter] = &letters[..] else {
        unreachable!("one: {letters:?}")
    };
    assert_eq!(
        (
            letter.id,
            &*letter.reason,
            letter.attempts,
            &*letter.handler
        ),
        (sent.id, "bad luck", 1, "t")
    );
    assert_eq!(
        (letter.body.key(), letter.body.payload()),
        (&b"k"[..], &b"payload"[..])
    );
    let cursor = letter.cursor;
    assert_eq!(
        dead.replay(vec![cursor, cursor + 99])
            .await
            .expect("replays"),
        1
    );
    let again = hand.one().await;
    assert_eq!((again.message.id, again.message.attempt), (sent.id, 1));
    hand.settle(
        again.receipt,
        How::Dead {
            reason: Arc::from("again"),
            attempts: 1,
        },
    );
    hand.empty().await;
    let letters = dead
        .list(DeadQuery {
            limit: 10,
            ..DeadQuery::default()
        })
        .await
        .expect("lists");
    assert_eq!(
        dead.purge(vec![letters[0].cursor]).await.expect("purges"),
        1
    );
    assert_eq!(dead.count(None).await.expect("counts"), 0);
    assert!(dead.show(letters[0].cursor).await.expect("shows").is_none());
}

#[tokio::test]
async fn quiet_hands_back_what_came_ahead_uncounted() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    send_all(&engine, (0..50).map(|_| task(b"x")).collect()).await;
    let mut hand = Hand::tube(&engine).await;
    // Room that shrinks: the claim was for 50, only 3 are taken.
    hand.until("a claim", 50, |hand| !hand.got.is_empty()).await;
    let got: Vec<Delivery> = hand.got.drain(..).collect();
    hand.ack_all(&got[..3]);
    for delivery in &got[3..] {
        hand.settle(delivery.receipt, How::RELEASE);
    }
    hand.close().await;
    let mut other = Hand::tube(&engine).await;
    let rest = other.take(47).await;
    assert!(rest.iter().all(|d| d.message.attempt == 1));
    other.ack_all(&rest);
    other.empty().await;
}

#[tokio::test]
async fn a_dropped_end_gives_everything_back_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    send_all(&engine, (0..10).map(|_| task(b"x")).collect()).await;
    let mut hand = Hand::tube(&engine).await;
    assert_eq!(hand.take(10).await.len(), 10);
    drop(hand);
    let mut other = Hand::tube(&engine).await;
    let got = other.take(10).await;
    assert!(
        got.iter().all(|d| d.message.attempt == 2),
        "a start that ended with its end counts"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_closes_under_load_counts_no_start_that_did_not_happen() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let mut sent = 0;
    for _ in 0..100 {
        let mut hand = Hand::tube(&engine).await;
        let publisher = engine.publisher();
        // Large room, so that claims are under way when it closes.
        let (answers, ()) = tokio::join!(
            publisher.publish((0..8).map(|_| task(b"x")).collect()),
            hand.until("some", 256, |hand| !hand.got.is_empty())
        );
        sent += answers.into_iter().flatten().count();
        let got: Vec<Delivery> = hand.got.drain(..).collect();
        for delivery in got {
            hand.settle(delivery.receipt, How::RELEASE);
        }
        // More comes while it closes.
        let (answers, ()) = tokio::join!(
            publisher.publish((0..8).map(|_| task(b"y")).collect()),
            hand.close()
        );
        sent += answers.into_iter().flatten().count();
    }
    let mut hand = Hand::tube(&engine).await;
    let mut came = 0;
    while came < sent {
        let got = hand.take(usize::min(200, sent - came)).await;
        assert!(
            got.iter().all(|delivery| delivery.message.attempt == 1),
            "a start that never was is counted"
        );
        came += got.len();
        hand.ack_all(&got);
    }
    hand.empty().await;
}

#[tokio::test]
async fn a_new_value_of_a_parameter_does_not_have_a_statement_prepared_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let again = engine
        .0
        .ask("count preparations", |tx| {
            let mut find = tx
                .conn
                .prepare("SELECT id FROM job WHERE uid=?1 AND tube=?2 ORDER BY id LIMIT ?3")?;
            for n in 1..=5_i64 {
                let _ = find.exists(rusqlite::params![&n.to_be_bytes()[..], n, n])?;
            }
            Ok(find.get_status(rusqlite::StatementStatus::RePrepare))
        })
        .await
        .expect("counted");
    assert_eq!(again, 0);
}
