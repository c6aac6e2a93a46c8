//! The pump on the memory engine, and on scripted ends where an engine cannot be made to misbehave.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::sync::Notify;

use crate::dedup::{Answer, Ask, AskWhat, Claims, Verdict};
use crate::delivery::{Delivery, How, Notice, Receipt, Settlement};
use crate::engine::memory::Memory;
use crate::engine::{
    Capabilities, DEFAULT_PRIORITY, Engine, EngineError, Outgoing, Receive, Subscribe, Turn,
};
use crate::handler::slot::erase;
use crate::handler::{Context, Run};
use crate::message::{Body, ContentType, Flags, Id, Message};
use crate::name::{Name, Place, Side};
use crate::outcome::Outcome;
use crate::time::{Clock, WallTime};

use super::control::{Control, LaneStatus};
use super::plan::{Batch, Plan};
use super::policy::RetryPolicy;
use super::pump::Pump;

type Script = Arc<dyn Fn(&Context) -> crate::engine::BoxFuture<'static, Outcome> + Send + Sync>;

struct Scripted(Script);

impl Run for Scripted {
    async fn run<'a>(&'a self, cx: &'a Context) -> Outcome {
        (self.0)(cx).await
    }
}

fn plan(capabilities: Capabilities, script: Script) -> Plan {
    let about = Arc::default();
    Plan::new(
        Arc::clone(&about),
        erase(Scripted(script), about, false),
        capabilities,
    )
}

fn tube() -> Name {
    Name::literal("work")
}

fn task(n: u64) -> Outgoing {
    Outgoing {
        place: Place::Tube(tube()),
        id: Id(u128::from(n) + 1),
        named: false,
        body: Body::pack(b"", b"", n.to_string().as_bytes()),
        flags: Flags::NULL_KEY,
        content: ContentType::Json,
        due: WallTime::EPOCH,
        priority: DEFAULT_PRIORITY,
    }
}

fn record(key: u64, n: u64) -> Outgoing {
    Outgoing {
        place: Place::Topic(tube()),
        body: Body::pack(key.to_string().as_bytes(), b"", n.to_string().as_bytes()),
        flags: Flags::default(),
        ..task(n)
    }
}

fn number(message: &Message) -> u64 {
    std::str::from_utf8(message.body.payload())
        .expect("utf-8")
        .parse()
        .expect("a number")
}

async fn publish(engine: &Memory, all: Vec<Outgoing>) {
    for result in engine.publisher().publish(all).await {
        result.expect("memory accepts");
    }
}

struct Lane {
    control: Arc<Control>,
    status: Arc<LaneStatus>,
    end: tokio::task::JoinHandle<Result<(), EngineError>>,
}

impl Lane {
    fn over(plan: Plan, engine: Box<dyn Receive>, claims: Option<Box<dyn Claims>>) -> Self {
        let control = Control::new();
        let mut pump = Pump::new(Arc::new(plan), engine, claims, control.clone());
        let status = pump.status();
        #[expect(clippy::disallowed_methods, reason = "a test spawns its own lane")]
        let end = tokio::spawn(async move { pump.run().await });
        Self {
            control,
            status,
            end,
        }
    }

    async fn stop(self) {
        self.control.quiet();
        self.end
            .await
            .expect("the lane does not panic")
            .expect("a clean end");
    }

    async fn until(&self, what: &str, done: impl Fn(&LaneStatus) -> bool) {
        let wait = async {
            while !done(&self.status) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(600), wait).await;
        assert!(
            waited.is_ok(),
            "{what}: {:?} {:?}",
            self.status.counts(),
            self.status
        );
    }
}

async fn lane(
    engine: &Memory,
    to: Subscribe,
    shape: impl FnOnce(&mut Plan),
    script: Script,
) -> Lane {
    let mut plan = plan(engine.capabilities(to.place.side()), script);
    shape(&mut plan);
    Lane::over(
        plan,
        engine.subscribe(&to).await.expect("memory subscribes"),
        None,
    )
}

fn memory() -> Memory {
    Memory::new(Clock::following_tokio(WallTime::from_millis(1_000_000)))
}

fn quick_retry(max: u32) -> RetryPolicy {
    RetryPolicy {
        max,
        first: Duration::from_millis(2),
        cap: Duration::from_millis(5),
    }
}

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

/// Fails some records at random, panics at some, and checks that each key is in order and never runs twice at a time.
async fn keys_stay_in_order(concurrency: usize, waiting: usize, lanes: usize) {
    const KEYS: u64 = 40;
    const EACH: u64 = 150;
    let engine = memory();
    let all = (0..KEYS * EACH).map(|n| record(n % KEYS, n)).collect();
    publish(&engine, all).await;
    let state: Arc<Mutex<HashMap<u64, (bool, Vec<u64>)>>> = Arc::default();
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
                if n % 11 == 0 {
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
        let want: Vec<u64> = (0..KEYS * EACH).filter(|n| n % KEYS == *key).collect();
        assert_eq!(seen, &want, "key {key}");
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

/// An end that delivers what it is told, and remembers what it was given.
#[derive(Default)]
struct Fake {
    deliver: VecDeque<Delivery>,
    notices: Vec<Notice>,
    settled: Vec<Settlement>,
    waker: Option<std::task::Waker>,
}

#[derive(Clone, Default)]
struct FakeEnd(Arc<Mutex<Fake>>);

impl FakeEnd {
    fn add(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        let mut fake = self.0.lock().expect("unpoisoned");
        fake.deliver.extend(deliveries);
        if let Some(waker) = fake.waker.take() {
            waker.wake();
        }
    }

    fn notice(&self, notice: Notice) {
        let mut fake = self.0.lock().expect("unpoisoned");
        fake.notices.push(notice);
        if let Some(waker) = fake.waker.take() {
            waker.wake();
        }
    }

    fn settled(&self) -> Vec<Settlement> {
        self.0.lock().expect("unpoisoned").settled.clone()
    }
}

impl Receive for FakeEnd {
    fn turn(&mut self, cx: &mut TaskContext<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        let mut fake = self.0.lock().expect("unpoisoned");
        fake.settled.append(&mut turn.settle);
        let n = turn.free.min(fake.deliver.len());
        turn.deliver.extend(fake.deliver.drain(..n));
        turn.notice.append(&mut fake.notices);
        fake.waker = Some(cx.waker().clone());
        if n > 0 {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn close(&mut self, _: &mut TaskContext<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.0
            .lock()
            .expect("unpoisoned")
            .settled
            .append(&mut turn.settle);
        Poll::Ready(Ok(()))
    }
}

fn delivery(epoch: u32, token: u64, order: u64) -> Delivery {
    let message = Message {
        id: Id(u128::from(token)),
        body: Body::pack(b"", b"", token.to_string().as_bytes()),
        attempt: 1,
        ..Message::default()
    };
    Delivery {
        message,
        receipt: Receipt {
            epoch,
            group: 0,
            token,
        },
        order,
    }
}

fn gate(go: &Arc<tokio::sync::Semaphore>) -> Script {
    let go = go.clone();
    Arc::new(move |_| {
        let go = go.clone();
        Box::pin(async move {
            go.acquire_owned().await.expect("open").forget();
            Outcome::Done
        })
    })
}

const TASKS: Capabilities = Capabilities {
    supported: true,
    redeliver: true,
    dead_letter: true,
    delayed: true,
    priority: true,
    log: false,
    durable: false,
    fenced: true,
};

#[tokio::test(start_paused = true)]
async fn leaving_gives_back_what_has_not_started_and_the_running_one_is_acked() {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let end = FakeEnd::default();
    end.add(
        (0..4)
            .map(|n| delivery(7, n, 1))
            .chain([delivery(8, 10, 2)]),
    );
    let mut plan = plan(TASKS, gate(&go));
    plan.concurrency = 1;
    plan.waiting = 10;
    let lane = Lane::over(plan, Box::new(end.clone()), None);
    lane.until("five in hand", |status| status.in_hand() == 5)
        .await;
    end.notice(Notice::Leaving(7));
    lane.until("three are back", |status| status.in_hand() == 2)
        .await;
    let back: Vec<u64> = end.settled().iter().map(|s| s.receipt.token).collect();
    assert_eq!(back, [1, 2, 3]);
    assert!(end.settled().iter().all(|s| s.how == How::RELEASE));
    go.add_permits(2);
    lane.until("the others are done", |status| status.counts().done == 2)
        .await;
    lane.stop().await;
    assert_eq!(
        end.settled().iter().filter(|s| s.how == How::Ack).count(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_epoch_is_forgotten_its_runs_are_cancelled_and_nothing_is_settled() {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let end = FakeEnd::default();
    end.add([
        delivery(1, 0, 5),
        delivery(1, 1, 5),
        delivery(1, 2, 6),
        delivery(2, 3, 5),
        delivery(2, 4, 0),
    ]);
    let mut plan = plan(TASKS, gate(&go));
    plan.concurrency = 2;
    plan.waiting = 10;
    let lane = Lane::over(plan, Box::new(end.clone()), None);
    lane.until("five in hand", |status| status.in_hand() == 5)
        .await;
    end.notice(Notice::Lost(1));
    // Two ran and have a grace; one was queued and is gone.
    lane.until("four in hand", |status| status.in_hand() == 4)
        .await;
    // The grace ends, the key passes to the message of the other epoch.
    lane.until("only epoch two", |status| {
        status.in_hand() == 2 && status.running() == 2
    })
    .await;
    go.add_permits(2);
    lane.until("done", |status| status.counts().done == 2).await;
    lane.stop().await;
    let settled: Vec<u64> = end.settled().iter().map(|s| s.receipt.token).collect();
    assert_eq!(settled.len(), 2, "{settled:?}");
    assert!(settled.contains(&3) && settled.contains(&4));
}

/// A store that answers what it is told, in slices, one turn later.
struct Scribe {
    verdict: Box<dyn FnMut(&Ask) -> Option<Verdict> + Send>,
    log: Arc<Mutex<Vec<(u128, AskWhat)>>>,
    turns: Arc<AtomicUsize>,
}

impl Claims for Scribe {
    fn turn(
        &mut self,
        _: &mut TaskContext<'_>,
        asks: &mut Vec<Ask>,
        answers: &mut Vec<Answer>,
    ) -> Poll<()> {
        if asks.is_empty() {
            return Poll::Pending;
        }
        self.turns.fetch_add(1, Ordering::SeqCst);
        for ask in asks.drain(..) {
            self.log
                .lock()
                .expect("unpoisoned")
                .push((ask.id.0, ask.what.clone()));
            if let Some(verdict) = (self.verdict)(&ask) {
                answers.push(Answer {
                    ticket: ask.ticket,
                    round: ask.round,
                    verdict,
                });
            }
        }
        Poll::Ready(())
    }
}

type AskLog = Arc<Mutex<Vec<(u128, AskWhat)>>>;

fn scribe(
    verdict: impl FnMut(&Ask) -> Option<Verdict> + Send + 'static,
) -> (Box<dyn Claims>, AskLog, Arc<AtomicUsize>) {
    let (log, turns) = (AskLog::default(), Arc::new(AtomicUsize::new(0)));
    let claims = Scribe {
        verdict: Box::new(verdict),
        log: log.clone(),
        turns: turns.clone(),
    };
    (Box::new(claims), log, turns)
}

#[tokio::test(start_paused = true)]
async fn claims_travel_in_slices_and_known_messages_are_acked_without_a_run() {
    let end = FakeEnd::default();
    end.add((0..1000).map(|n| delivery(1, n, 0)));
    let (claims, log, turns) = scribe(|ask| match ask.what {
        AskWhat::Claim if ask.id.0 % 100 == 5 => Some(Verdict::Done),
        AskWhat::Claim => Some(Verdict::Fresh { attempt: 1 }),
        _ => Some(Verdict::Stored),
    });
    let script: Script = Arc::new(|_| Box::pin(async { Outcome::Done }));
    let mut plan = plan(TASKS, script);
    plan.concurrency = 250;
    plan.waiting = 250;
    let lane = Lane::over(plan, Box::new(end.clone()), Some(claims));
    lane.until("all settled", |status| {
        status.counts().done + status.counts().duplicates == 1000
    })
    .await;
    let counts = lane.status.counts();
    lane.stop().await;
    assert_eq!(
        (counts.done, counts.duplicates, counts.started),
        (990, 10, 990)
    );
    assert!(end.settled().iter().all(|s| s.how == How::Ack));
    assert_eq!(end.settled().len(), 1000);
    let confirms = log
        .lock()
        .expect("unpoisoned")
        .iter()
        .filter(|(_, w)| *w == AskWhat::Confirm)
        .count();
    assert_eq!(confirms, 990);
    assert!(turns.load(Ordering::SeqCst) < 40, "{turns:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_delays_and_never_drops() {
    let end = FakeEnd::default();
    end.add((0..20).map(|n| delivery(1, n, n % 3)));
    let outage = tokio::time::Instant::now() + Duration::from_secs(30);
    let (claims, log, _) = scribe(move |ask| {
        if ask.what == AskWhat::Abandon {
            None
        } else if tokio::time::Instant::now() < outage {
            Some(Verdict::Down(Duration::from_secs(1)))
        } else if ask.what == AskWhat::Claim {
            Some(Verdict::Fresh { attempt: 1 })
        } else {
            Some(Verdict::Stored)
        }
    });
    let script: Script = Arc::new(|_| Box::pin(async { Outcome::Done }));
    let mut plan = plan(TASKS, script);
    plan.concurrency = 4;
    plan.waiting = 40;
    let lane = Lane::over(plan, Box::new(end.clone()), Some(claims));
    lane.until("all done", |status| status.counts().done == 20)
        .await;
    assert!(tokio::time::Instant::now() >= outage);
    lane.stop().await;
    assert_eq!(end.settled().len(), 20);
    assert!(
        log.lock()
            .expect("unpoisoned")
            .iter()
            .all(|(_, what)| *what != AskWhat::Abandon)
    );
}

#[tokio::test(start_paused = true)]
async fn quiet_abandons_the_claims_of_what_was_ready_and_hands_back_what_was_claiming() {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let end = FakeEnd::default();
    end.add((0..20).map(|n| delivery(1, n, 0)));
    // Ten are answered, ten are not yet.
    let held: Arc<Mutex<Vec<Ask>>> = Arc::default();
    let (claims, log, _) = scribe({
        let held = held.clone();
        move |ask| match ask.what {
            AskWhat::Claim if ask.id.0 < 10 => Some(Verdict::Fresh { attempt: 1 }),
            AskWhat::Claim => {
                held.lock().expect("unpoisoned").push(ask.clone());
                Some(Verdict::Down(Duration::from_secs(5)))
            }
            AskWhat::Abandon => None,
            _ => Some(Verdict::Stored),
        }
    });
    let mut plan = plan(TASKS, gate(&go));
    plan.concurrency = 2;
    plan.waiting = 18;
    let lane = Lane::over(plan, Box::new(end.clone()), Some(claims));
    lane.until("two run", |status| {
        status.running() == 2 && status.in_hand() == 20
    })
    .await;
    lane.control.quiet();
    lane.until("the rest is back", |status| status.in_hand() == 2)
        .await;
    assert_eq!(end.settled().len(), 18);
    assert!(end.settled().iter().all(|s| s.how == How::RELEASE));
    let abandoned = log
        .lock()
        .expect("unpoisoned")
        .iter()
        .filter(|(_, w)| *w == AskWhat::Abandon)
        .count();
    assert_eq!(abandoned, 8);
    go.add_permits(2);
    lane.stop().await;
    let confirmed = log
        .lock()
        .expect("unpoisoned")
        .iter()
        .filter(|(_, w)| *w == AskWhat::Confirm)
        .count();
    assert_eq!(confirmed, 2);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_the_engine_cannot_keep_is_written_before_the_key_goes_on() {
    struct Slow(Arc<Mutex<Vec<u128>>>);
    impl super::detour::Detour for Slow {
        fn divert(&self, message: &Message, how: How) -> crate::engine::BoxFuture<'static, How> {
            assert!(matches!(how, How::Dead { .. }));
            let (log, id) = (self.0.clone(), message.id.0);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                log.lock().expect("unpoisoned").push(id);
                How::Ack
            })
        }
    }
    let written: Arc<Mutex<Vec<u128>>> = Arc::default();
    let end = FakeEnd::default();
    end.add([delivery(1, 1, 9), delivery(1, 2, 9)]);
    let script: Script = Arc::new({
        let written = written.clone();
        move |cx| {
            let first = cx.message().id.0 == 1;
            let written = written.lock().expect("unpoisoned").len();
            assert!(
                first || written == 1,
                "the second began before the first was written"
            );
            Box::pin(async move {
                if first {
                    Outcome::dead("poison")
                } else {
                    Outcome::Done
                }
            })
        }
    });
    let mut plan = plan(
        Capabilities {
            dead_letter: false,
            redeliver: false,
            ..TASKS
        },
        script,
    );
    plan.waiting = 4;
    plan.detour = Some(Arc::new(Slow(written.clone())));
    let lane = Lane::over(plan, Box::new(end.clone()), None);
    lane.until("both", |status| {
        status.counts().done == 1 && status.in_hand() == 0
    })
    .await;
    lane.stop().await;
    assert_eq!(end.settled().len(), 2);
    assert!(end.settled().iter().all(|s| s.how == How::Ack));
}
