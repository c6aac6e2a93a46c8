//! The pump on the memory engine.

use super::*;

#[tokio::test(start_paused = true)]
async fn every_task_is_run_and_acked_once() {
    let engine = memory();
    publish(&engine, (0..5000).map(task).collect()).await;
    let seen: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
    let script: Script = Arc::new({
        let seen = seen.clone();
        move |cx| {
            let n = number(cx.message());
            *seen.lock().expect("unpoisoned").entry(n).or_default() += 1;
            Box::pin(async move {
                for _ in 0..n % 4 {
                    tokio::task::yield_now().await;
                }
                if n.is_multiple_of(7) {
                    tokio::time::sleep(Duration::from_millis(n % 5)).await;
                }
                Outcome::Done
            })
        }
    });
    let lane = lane(
        &engine,
        Subscribe::tube(tube()),
        |plan| plan.concurrency = 100,
        script,
    )
    .await;
    lane.until("all done", |status| status.counts().done == 5000)
        .await;
    lane.stop().await;
    let seen = seen.lock().expect("unpoisoned");
    assert_eq!(seen.len(), 5000);
    assert!(seen.values().all(|runs| *runs == 1));
}

/// By key: whether one runs, and which came.
type State = HashMap<u64, (bool, Vec<u64>)>;

/// Fails some records at random, panics at some, and checks that each key is in order and never runs twice at a time.
async fn keys_stay_in_order(concurrency: usize, waiting: usize, lanes: usize) {
    const KEYS: u64 = 40;
    const EACH: u64 = 150;
    let engine = memory();
    let all = (0..KEYS * EACH).map(|n| record(n % KEYS, n)).collect();
    publish(&engine, all).await;
    let state: Arc<Mutex<State>> = Arc::default();
    let running = Arc::new(AtomicUsize::new(0));
    let peak = Arc::new(AtomicUsize::new(0));
    let script: Script = Arc::new({
        let (state, running, peak) = (state.clone(), running.clone(), peak.clone());
        move |cx| {
            let n = number(cx.message());
            let attempt = cx.message().attempt;
            let (state, running, peak) = (state.clone(), running.clone(), peak.clone());
            Box::pin(async move {
                let key = n % KEYS;
                {
                    let mut state = state.lock().expect("unpoisoned");
                    let entry = state.entry(key).or_default();
                    assert!(
                        !std::mem::replace(&mut entry.0, true),
                        "key {key} runs twice at a time"
                    );
                    if entry.1.last() != Some(&n) {
                        entry.1.push(n);
                    }
                }
                peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..n % 3 {
                    tokio::task::yield_now().await;
                }
                if n.is_multiple_of(11) {
                    tokio::time::sleep(Duration::from_millis(n % 4)).await;
                }
                running.fetch_sub(1, Ordering::SeqCst);
                state
                    .lock()
                    .expect("unpoisoned")
                    .get_mut(&key)
                    .expect("there")
                    .0 = false;
                match n % 97 {
                    0 if attempt < 3 => Outcome::retry("again"),
                    1 if attempt < 2 => std::panic::panic_any("boom"),
                    2 => Outcome::dead("no"),
                    _ => Outcome::Done,
                }
            })
        }
    });
    let to = Subscribe::topic(tube(), Name::literal("g"));
    let mut running_lanes = Vec::new();
    for _ in 0..lanes {
        let shape = |plan: &mut Plan| {
            plan.concurrency = concurrency;
            plan.waiting = waiting;
            plan.retry = quick_retry(8);
        };
        running_lanes.push(lane(&engine, to.clone(), shape, script.clone()).await);
    }
    let total = |status: &LaneStatus| status.counts().done + status.counts().dead;
    let wait = async {
        while running_lanes
            .iter()
            .map(|lane| total(&lane.status))
            .sum::<u64>()
            < KEYS * EACH
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), wait)
        .await
        .expect("all records end");
    for lane in running_lanes {
        lane.stop().await;
    }
    assert!(peak.load(Ordering::SeqCst) <= concurrency * lanes);
    for (key, (_, seen)) in state.lock().expect("unpoisoned").iter() {
        let expected: Vec<u64> = (0..KEYS * EACH).filter(|n| n % KEYS == *key).collect();
        assert_eq!(seen, &expected, "key {key}");
    }
    let dead = engine
        .dead_letters()
        .expect("memory keeps dead letters")
        .count(None)
        .await;
    assert_eq!(
        dead.expect("counts"),
        (0..KEYS * EACH).filter(|n| n % 97 == 2).count() as u64
    );
}

#[tokio::test(start_paused = true)]
async fn keys_stay_in_order_with_failures_and_panics() {
    keys_stay_in_order(5, 59, 1).await;
}

#[tokio::test(start_paused = true)]
async fn keys_stay_in_order_with_one_place() {
    keys_stay_in_order(1, 62, 1).await;
}

#[tokio::test(start_paused = true)]
async fn keys_stay_in_order_over_three_lanes() {
    keys_stay_in_order(8, 100, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_task_backs_off_is_retried_and_ends_as_a_dead_letter() {
    let engine = memory();
    publish(&engine, vec![task(1)]).await;
    let starts = Arc::new(Mutex::new(Vec::new()));
    let script: Script = Arc::new({
        let starts = starts.clone();
        move |cx| {
            starts
                .lock()
                .expect("unpoisoned")
                .push((cx.message().attempt, tokio::time::Instant::now()));
            Box::pin(async { Outcome::retry("disk on fire") })
        }
    });
    let shape = |plan: &mut Plan| plan.retry = quick_retry(3);
    let lane = lane(&engine, Subscribe::tube(tube()), shape, script).await;
    lane.until("dead", |status| status.counts().dead == 1).await;
    lane.stop().await;
    let attempts: Vec<u32> = starts
        .lock()
        .expect("unpoisoned")
        .iter()
        .map(|(attempt, _)| *attempt)
        .collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    let letters = engine.dead_letters().expect("kept");
    let letters = letters
        .list(crate::engine::DeadQuery {
            limit: 10,
            ..Default::default()
        })
        .await
        .expect("lists");
    assert_eq!(
        (letters.len(), &*letters[0].reason, letters[0].attempts),
        (1, "disk on fire", 4)
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_is_dropped_at_its_timeout_and_one_that_listens_has_a_grace() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let engine = memory();
    publish(&engine, vec![task(0), task(1)]).await;
    let drops = Arc::new(AtomicUsize::new(0));
    let script: Script = Arc::new({
        let drops = drops.clone();
        move |cx| {
            let guard = Dropped(drops.clone());
            if number(cx.message()) == 0 {
                Box::pin(async move {
                    let _guard = guard;
                    std::future::pending().await
                })
            } else {
                let token = cx.cancel_token();
                Box::pin(async move {
                    let _guard = guard;
                    token.cancelled().await;
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    Outcome::Done
                })
            }
        }
    });
    let shape = |plan: &mut Plan| {
        plan.concurrency = 2;
        plan.retry = quick_retry(0);
    };
    let began = tokio::time::Instant::now();
    let lane = lane(&engine, Subscribe::tube(tube()), shape, script).await;
    lane.until("one dead", |status| status.counts().dead == 1)
        .await;
    assert!(
        began.elapsed() >= Duration::from_secs(60) && began.elapsed() < Duration::from_secs(61)
    );
    lane.until("one done in its grace", |status| status.counts().done == 1)
        .await;
    assert_eq!(drops.load(Ordering::SeqCst), 2);
    assert_eq!(lane.status.counts().timeouts, 2, "each once");
    lane.stop().await;
}

#[tokio::test(start_paused = true)]
async fn quiet_hands_back_what_waits_and_lets_the_rest_finish() {
    let engine = memory();
    // One key: one runs, the others wait behind it.
    publish(&engine, (0..8).map(|n| record(1, n)).collect()).await;
    let go = Arc::new(Notify::new());
    let script: Script = Arc::new({
        let go = go.clone();
        move |_| {
            let go = go.clone();
            Box::pin(async move {
                go.notified().await;
                Outcome::Done
            })
        }
    });
    let to = Subscribe::topic(tube(), Name::literal("g"));
    let shape = |plan: &mut Plan| {
        plan.concurrency = 4;
        plan.waiting = 20;
    };
    let first = lane(&engine, to.clone(), shape, script).await;
    first
        .until("eight in hand", |status| {
            status.in_hand() == 8 && status.running() == 1
        })
        .await;
    first.control.quiet();
    first
        .until("only the running one", |status| status.in_hand() == 1)
        .await;
    assert_eq!(first.status.counts().released, 7);
    go.notify_one();
    first.stop().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let script: Script = Arc::new({
        let seen = seen.clone();
        move |cx| {
            seen.lock()
                .expect("unpoisoned")
                .push((number(cx.message()), cx.message().attempt));
            Box::pin(async { Outcome::Done })
        }
    });
    let second = lane(&engine, to, |_| {}, script).await;
    second
        .until("the rest", |status| status.counts().done == 7)
        .await;
    second.stop().await;
    let seen = seen.lock().expect("unpoisoned");
    assert_eq!(
        *seen,
        (1..8).map(|n| (n, 1)).collect::<Vec<_>>(),
        "in order, uncounted"
    );
}

#[tokio::test(start_paused = true)]
async fn abort_cancels_what_runs_and_gives_it_back_uncounted() {
    let engine = memory();
    publish(&engine, (0..5).map(task).collect()).await;
    let script: Script = Arc::new(|_| Box::pin(std::future::pending()));
    let first = lane(
        &engine,
        Subscribe::tube(tube()),
        |plan| plan.concurrency = 3,
        script,
    )
    .await;
    first
        .until("three run", |status| status.running() == 3)
        .await;
    first.control.abort();
    first.end.await.expect("no panic").expect("a clean end");
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let script: Script = Arc::new({
        let attempts = attempts.clone();
        move |cx| {
            attempts
                .lock()
                .expect("unpoisoned")
                .push(cx.message().attempt);
            Box::pin(async { Outcome::Done })
        }
    });
    let second = lane(&engine, Subscribe::tube(tube()), |_| {}, script).await;
    second
        .until("all five", |status| status.counts().done == 5)
        .await;
    second.stop().await;
    assert_eq!(*attempts.lock().expect("unpoisoned"), [1; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_and_polled_again_loses_nothing() {
    let engine = memory();
    publish(&engine, (0..2000).map(task).collect()).await;
    let done = Arc::new(AtomicUsize::new(0));
    let script: Script = Arc::new({
        let done = done.clone();
        move |cx| {
            let n = number(cx.message());
            let done = done.clone();
            Box::pin(async move {
                tokio::time::sleep(Duration::from_micros(n % 900)).await;
                done.fetch_add(1, Ordering::SeqCst);
                Outcome::Done
            })
        }
    });
    let mut shaped = plan(engine.capabilities(Side::Tasks), script);
    shaped.concurrency = 16;
    let receive = engine
        .subscribe(&Subscribe::tube(tube()))
        .await
        .expect("subscribes");
    let mut pump = Pump::new(Arc::new(shaped), receive, None, Control::new());
    let status = pump.status();
    for round in 0..300_u64 {
        let some = Duration::from_micros(200 + (round * 37) % 900);
        let _ = tokio::time::timeout(some, pump.run()).await;
    }
    while status.counts().done < 2000 {
        let _ = tokio::time::timeout(Duration::from_millis(10), pump.run()).await;
    }
    assert_eq!(done.load(Ordering::SeqCst), 2000);
    assert_eq!(status.health().stale, 0);
}

#[tokio::test(start_paused = true)]
async fn batches_are_full_or_linger_and_answer_for_each() {
    let engine = memory();
    publish(&engine, (0..25).map(task).collect()).await;
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let script: Script = Arc::new({
        let sizes = sizes.clone();
        move |cx| {
            let each = cx
                .messages()
                .map(|message| match (number(message), message.attempt) {
                    (3, 1) => Outcome::retry("later"),
                    (4, _) => Outcome::dead("never"),
                    _ => Outcome::Done,
                });
            let each: Vec<_> = each.collect();
            sizes.lock().expect("unpoisoned").push(each.len());
            Box::pin(async move { Outcome::Each(each) })
        }
    });
    let shape = |plan: &mut Plan| {
        plan.concurrency = 2;
        plan.waiting = 30;
        plan.retry = quick_retry(2);
        plan.batch = Some(Batch {
            size: 10,
            linger: Duration::from_millis(50),
        });
    };
    let lane = lane(&engine, Subscribe::tube(tube()), shape, script).await;
    lane.until("all settled", |status| {
        status.counts().done == 24 && status.counts().dead == 1
    })
    .await;
    lane.stop().await;
    let sizes = sizes.lock().expect("unpoisoned");
    assert_eq!(
        sizes.iter().sum::<usize>(),
        26,
        "one was run twice: {sizes:?}"
    );
    assert_eq!(sizes[..2], [10, 10], "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_by_key_keeps_each_key_in_order_and_repeats_only_what_failed() {
    let engine = memory();
    publish(&engine, (0..200).map(|n| record(n % 3, n)).collect()).await;
    let seen: Arc<Mutex<Vec<(u64, u32)>>> = Arc::default();
    let script: Script = Arc::new({
        let seen = seen.clone();
        move |cx| {
            let batch: Vec<_> = cx.messages().map(|m| (number(m), m.attempt)).collect();
            seen.lock().expect("unpoisoned").extend(&batch);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(3)).await;
                let fails = |n: &(u64, u32)| n.0 % 50 == 7 && n.1 == 1;
                Outcome::Each(
                    batch
                        .iter()
                        .map(|n| {
                            if fails(n) {
                                Outcome::retry("x")
                            } else {
                                Outcome::Done
                            }
                        })
                        .collect(),
                )
            })
        }
    });
    let shape = |plan: &mut Plan| {
        plan.concurrency = 4;
        plan.waiting = 100;
        plan.retry = quick_retry(2);
        plan.batch = Some(Batch {
            size: 8,
            linger: Duration::from_millis(5),
        });
    };
    let lane = lane(
        &engine,
        Subscribe::topic(tube(), Name::literal("g")),
        shape,
        script,
    )
    .await;
    lane.until("all done", |status| status.counts().done == 200)
        .await;
    lane.stop().await;
    let seen = seen.lock().expect("unpoisoned");
    assert_eq!(seen.len(), 204, "only the four that failed ran again");
    for key in 0..3 {
        let firsts: Vec<u64> = seen
            .iter()
            .filter(|(n, a)| n % 3 == key && *a == 1)
            .map(|(n, _)| *n)
            .collect();
        assert!(firsts.is_sorted(), "key {key}: {firsts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept() {
    let engine = memory();
    publish(&engine, (0..50).map(task).collect()).await;
    let script: Script = Arc::new(|_| Box::pin(async { Outcome::Done }));
    let shape = |plan: &mut Plan| {
        plan.concurrency = 8;
        plan.rate = Some(crate::handler::options::Rate {
            count: 10,
            per: Duration::from_secs(1),
        });
    };
    let began = tokio::time::Instant::now();
    let lane = lane(&engine, Subscribe::tube(tube()), shape, script).await;
    lane.until("all done", |status| status.counts().done == 50)
        .await;
    // Ten at once, then ten a second.
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(3900) && took < Duration::from_secs(6),
        "{took:?}"
    );
    lane.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_one_is_judged_like_any_other_message() {
    let engine = memory();
    publish(&engine, vec![task(1)]).await;
    let script: Script = Arc::new(|cx| {
        // A list of the wrong length at first, then one of the right length.
        let len = if cx.message().attempt == 1 { 2 } else { 1 };
        Box::pin(async move { Outcome::Each(vec![Outcome::Done; len]) })
    });
    let shape = |plan: &mut Plan| {
        plan.retry = quick_retry(2);
        plan.batch = Some(Batch {
            size: 10,
            linger: Duration::from_millis(1),
        });
    };
    let lane = lane(&engine, Subscribe::tube(tube()), shape, script).await;
    lane.until("done", |status| status.counts().done == 1).await;
    assert_eq!(lane.status.counts().retried, 1);
    lane.stop().await;
}
