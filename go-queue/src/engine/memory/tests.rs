//! What the conformance suite cannot see: who is woken, clock steps, memory that is given back, drain at stop.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};

use tokio::time::{Instant, advance};

use super::*;
use crate::delivery::{Delivery, How, Notice, Settlement};
use crate::engine::{DEFAULT_PRIORITY, MAX_SLICE, Turn};
use crate::message::{Body, ContentType, Flags, Id};
use crate::time::{millis, minutes, seconds};

const TUBE: Name = Name::literal("work");
const TOPIC: Name = Name::literal("log");

/// Counts how often it was woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    fn rings(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A lane with a bell for its task.
struct Ear {
    receive: Box<dyn Receive>,
    turn: Turn,
    bell: Arc<Bell>,
}

impl Ear {
    async fn open(engine: &Memory, to: &Subscribe) -> Self {
        let receive = engine.subscribe(to).await.expect("served");
        Self {
            receive,
            turn: Turn::new(Instant::now()),
            bell: Arc::default(),
        }
    }

    fn turn(&mut self, free: usize) -> Poll<Vec<Delivery>> {
        let waker = Waker::from(Arc::clone(&self.bell));
        self.turn.now = Instant::now();
        self.turn.free = free;
        let polled = self
            .receive
            .turn(&mut Context::from_waker(&waker), &mut self.turn);
        polled.map(|answer| {
            answer.expect("the subscription goes on");
            std::mem::take(&mut self.turn.deliver)
        })
    }

    fn got(&mut self, free: usize) -> Vec<Delivery> {
        match self.turn(free) {
            Poll::Ready(got) => got,
            Poll::Pending => Vec::new(),
        }
    }

    fn settle(&mut self, delivery: &Delivery, how: How) {
        self.turn.settle.push(Settlement {
            receipt: delivery.receipt,
            how,
        });
    }
}

fn out(place: Place, key: &str) -> Outgoing {
    Outgoing {
        place,
        id: Id::unique(),
        named: false,
        body: Body::pack(key.as_bytes(), b"", b"x"),
        flags: if key.is_empty() {
            Flags::NULL_KEY
        } else {
            Flags::default()
        },
        content: ContentType::Raw,
        due: WallTime::EPOCH,
        priority: DEFAULT_PRIORITY,
    }
}

fn task() -> Outgoing {
    out(Place::Tube(TUBE), "")
}

async fn publish(engine: &Memory, slice: Vec<Outgoing>) -> Vec<Published> {
    let answers = engine.publisher().publish(slice).await;
    answers
        .into_iter()
        .map(|answer| answer.expect("accepted"))
        .collect()
}

fn engine() -> (Memory, Clock) {
    let clock = Clock::following_tokio(WallTime::from_millis(1_700_000_000_000));
    (Memory::new(clock.clone()), clock)
}

#[tokio::test(start_paused = true)]
async fn a_task_wakes_the_lanes_of_its_tube_with_room_and_nobody_else() {
    let (engine, _) = engine();
    let mut idle = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    let mut full = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    let mut other = Ear::open(&engine, &Subscribe::tube(Name::literal("other"))).await;
    assert!(idle.turn(8).is_pending());
    assert!(full.turn(0).is_pending());
    assert!(other.turn(8).is_pending());
    publish(&engine, vec![task(), task()]).await;
    publish(&engine, vec![task()]).await;
    assert_eq!(
        (idle.bell.rings(), full.bell.rings(), other.bell.rings()),
        (1, 0, 0)
    );
    assert_eq!(idle.got(8).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_takes_less_than_there_is_wakes_the_next() {
    let (engine, _) = engine();
    let mut first = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    let mut second = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    publish(&engine, (0..10).map(|_| task()).collect()).await;
    let got = first.got(10);
    assert!(second.turn(4).is_pending());
    // Released while the first has no more room.
    got.iter()
        .take(6)
        .for_each(|delivery| first.settle(delivery, How::RELEASE));
    assert_eq!(first.got(2).len(), 2);
    assert_eq!(second.bell.rings(), 1);
    assert_eq!(second.got(4).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_dropped_wakes_the_others_for_what_it_had() {
    let (engine, _) = engine();
    let mut first = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    let mut second = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    publish(&engine, vec![task()]).await;
    assert_eq!(first.got(1).len(), 1);
    assert!(second.turn(1).is_pending());
    drop(first);
    assert_eq!(second.bell.rings(), 1);
    assert_eq!(second.got(1)[0].message.attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn a_record_wakes_the_member_that_holds_its_partition_in_each_group() {
    let (engine, _) = engine();
    let group = |name: &'static str| Subscribe::topic(TOPIC, Name::literal(name));
    let mut first = Ear::open(&engine, &group("a")).await;
    let mut second = Ear::open(&engine, &group("a")).await;
    let mut other = Ear::open(&engine, &group("b")).await;
    for ear in [&mut first, &mut second, &mut other] {
        while ear.turn(8).is_ready() {}
    }
    publish(&engine, vec![out(Place::Topic(TOPIC), "some key")]).await;
    assert_eq!(
        first.bell.rings() + second.bell.rings(),
        1,
        "one of the two holds it"
    );
    assert_eq!(other.bell.rings(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_is_not_early_by_a_nanosecond() {
    let (engine, clock) = engine();
    let mut ear = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    for wait in [1, 999_999, 1_234_567, 1_048_576, 87_654_321_987] {
        let due = clock.now().saturating_add(Duration::from_nanos(wait));
        publish(&engine, vec![Outgoing { due, ..task() }]).await;
        advance(Duration::from_nanos(wait - 1)).await;
        assert!(ear.turn(1).is_pending(), "early by a nanosecond of {wait}");
        advance(Duration::from_nanos(1)).await;
        let got = ear.got(1);
        assert_eq!(got.len(), 1, "{wait}");
        ear.settle(&got[0], How::Ack);
    }
}

#[tokio::test(start_paused = true)]
async fn overdue_tasks_start_in_the_order_of_their_due_times() {
    let (engine, clock) = engine();
    let mut ear = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    let start = clock.now();
    let mut sent: Vec<Outgoing> = (0..1000_u64)
        .map(|n| Outgoing {
            due: start.saturating_add(Duration::from_nanos(1 + n * 617 % 1000 * 2_345_678)),
            ..task()
        })
        .collect();
    publish(&engine, sent.clone()).await;
    advance(seconds(5)).await;
    let mut got = Vec::new();
    while got.len() < sent.len() {
        got.extend(
            ear.got(MAX_SLICE)
                .iter()
                .map(|delivery| delivery.message.id),
        );
    }
    sent.sort_by_key(|out| out.due);
    assert_eq!(got, sent.iter().map(|out| out.id).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_waits_hears_of_a_retry_that_another_lane_has_set() {
    let (engine, _) = engine();
    let mut failing = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    let mut waiting = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    publish(&engine, vec![task()]).await;
    let got = failing.got(1);
    assert!(waiting.turn(1).is_pending());
    failing.settle(&got[0], How::Retry { after: millis(500) });
    assert!(failing.turn(0).is_pending());
    assert_eq!(waiting.bell.rings(), 1, "it must arm its timer");
    assert!(waiting.turn(1).is_pending());
    tokio::time::sleep(millis(502)).await;
    assert_eq!(waiting.bell.rings(), 2, "its timer rang");
    assert_eq!(waiting.got(1)[0].message.attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn a_due_time_follows_the_wall_clock_when_it_is_stepped_back() {
    let (engine, clock) = engine();
    let mut ear = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    let due = clock.now().saturating_add(minutes(1));
    publish(&engine, vec![Outgoing { due, ..task() }]).await;
    assert!(ear.turn(1).is_pending());
    clock.step(-3_600_000_000_000);
    // Set after the step, due before it: the wheel has passed that time.
    let soon = clock.now().saturating_add(seconds(2));
    let early = publish(
        &engine,
        vec![Outgoing {
            due: soon,
            ..task()
        }],
    )
    .await;
    advance(seconds(2)).await;
    let got = ear.got(8);
    assert_eq!(
        got.iter().map(|one| one.message.id).collect::<Vec<_>>(),
        [early[0].id]
    );
    advance(minutes(59)).await;
    assert!(
        ear.turn(8).is_pending(),
        "an hour and a minute have not passed"
    );
    advance(minutes(2)).await;
    assert_eq!(ear.got(8).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_step_forward_is_noticed_within_a_second() {
    let (engine, clock) = engine();
    let mut ear = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    let due = clock.now().saturating_add(minutes(60));
    publish(&engine, vec![Outgoing { due, ..task() }]).await;
    assert!(ear.turn(1).is_pending());
    clock.step(3_600_000_000_000);
    let stepped = Instant::now();
    let got = tokio::time::timeout(
        minutes(5),
        std::future::poll_fn(|cx| {
            ear.turn.now = Instant::now();
            ear.turn.free = 1;
            ear.receive.turn(cx, &mut ear.turn)
        }),
    );
    got.await
        .expect("it was woken")
        .expect("the subscription goes on");
    assert_eq!(ear.turn.deliver.len(), 1);
    assert!(
        stepped.elapsed() <= millis(1_010),
        "{:?}",
        stepped.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn drain_takes_what_has_not_started_in_the_order_in_which_it_would_have() {
    let (engine, clock) = engine();
    let mut ear = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    let in_time = |time| Outgoing {
        due: clock.now().saturating_add(time),
        ..task()
    };
    let sent = vec![
        in_time(minutes(2)),
        task(),
        in_time(minutes(1)),
        Outgoing {
            priority: 1,
            ..task()
        },
    ];
    let ids: Vec<Id> = sent.iter().map(|out| out.id).collect();
    publish(
        &engine,
        vec![Outgoing {
            priority: 0,
            ..task()
        }],
    )
    .await;
    let running = ear.got(1);
    publish(&engine, sent).await;
    let left: Vec<Id> = engine
        .drain(&TUBE)
        .iter()
        .map(|message| message.id)
        .collect();
    assert_eq!(left, [ids[3], ids[1], ids[2], ids[0]]);
    assert!(engine.drain(&TUBE).is_empty());
    advance(minutes(3)).await;
    assert!(ear.turn(8).is_pending());
    // What runs is not drained, and its end counts.
    ear.settle(&running[0], How::Ack);
    assert!(ear.turn(8).is_pending());
    assert_eq!((ear.turn.health.stale, ear.turn.health.next_due), (0, None));
    assert!(engine.drain(&Name::literal("nowhere")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_burst_gives_its_memory_back_and_old_receipts_stay_void() {
    let (engine, clock) = engine();
    let mut ear = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
    let count: usize = 70_000;
    for n in 0..count / 700 {
        let due = clock.now().saturating_add(millis(n as u64));
        publish(
            &engine,
            (0..700).map(|_| Outgoing { due, ..task() }).collect(),
        )
        .await;
    }
    advance(seconds(1)).await;
    let mut last = None;
    let mut done = 0;
    while done < count {
        for delivery in ear.got(MAX_SLICE) {
            ear.settle(&delivery, How::Ack);
            last = Some(delivery);
            done += 1;
        }
    }
    assert!(ear.turn(0).is_pending());
    assert_eq!(engine.0.tube(&TUBE).lock().slots(), 0);
    publish(&engine, vec![task()]).await;
    let got = ear.got(1);
    ear.settle(&last.expect("there were some"), How::Ack);
    assert!(ear.turn(0).is_pending());
    assert_eq!(ear.turn.health.stale, 1);
    ear.settle(&got[0], How::Ack);
    assert!(ear.turn(0).is_pending());
    assert_eq!((ear.turn.health.stale, ear.turn.health.empty), (1, true));
}

#[tokio::test(start_paused = true)]
async fn a_cut_tells_every_lane_and_counts_what_was_in_hand() {
    let (engine, _) = engine();
    let mut ears = [
        Ear::open(&engine, &Subscribe::tube(TUBE)).await,
        Ear::open(&engine, &Subscribe::tube(TUBE)).await,
    ];
    publish(&engine, (0..4).map(|_| task()).collect()).await;
    for ear in &mut ears {
        assert_eq!(ear.got(2).len(), 2);
        assert!(ear.turn(0).is_pending());
    }
    engine.cut(&Place::Tube(TUBE));
    for ear in &mut ears {
        assert_eq!(ear.bell.rings(), 1);
        let got = ear.got(2);
        assert!(matches!(ear.turn.notice[..], [Notice::Lost(_)]));
        assert!(got.len() == 2 && got.iter().all(|one| one.message.attempt == 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_engine_says_so() {
    let (engine, _) = engine();
    engine.close().await.expect("closed");
    let answers = engine.publisher().publish(vec![task()]).await;
    assert!(matches!(answers[..], [Err(PublishError::Closed { .. })]));
    assert!(matches!(
        engine.subscribe(&Subscribe::tube(TUBE)).await.map(|_| ()),
        Err(EngineError::Closed { .. })
    ));
    let text = format!("{engine:?}");
    assert!(text.starts_with("Memory"), "{text}");
}

#[tokio::test]
async fn eight_threads_share_one_engine_and_lose_nothing() {
    const EACH: usize = 5_000;
    let engine = Memory::new(Clock::system());
    let mut producers = Vec::new();
    for _ in 0..4 {
        let engine = engine.clone();
        producers.push(std::thread::Builder::new().spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                for _ in 0..EACH / 50 {
                    publish(&engine, (0..50).map(|_| task()).collect()).await;
                }
            });
        }));
    }
    let done = Arc::new(AtomicUsize::new(0));
    let mut consumers = Vec::new();
    for _ in 0..4 {
        let (engine, done) = (engine.clone(), Arc::clone(&done));
        consumers.push(std::thread::Builder::new().spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let mut ear = Ear::open(&engine, &Subscribe::tube(TUBE)).await;
                let began = Instant::now();
                while done.load(Ordering::SeqCst) < 4 * EACH {
                    assert!(began.elapsed() < seconds(60), "stuck");
                    let got = ear.got(64);
                    for one in &got {
                        ear.settle(one, How::Ack);
                    }
                    assert!(got.iter().all(|one| one.message.attempt == 1));
                    let _ = ear.turn(0);
                    done.fetch_add(got.len(), Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
                ear.turn.health.stale
            })
        }));
    }
    for producer in producers {
        producer.expect("a thread").join().expect("no panic");
    }
    for consumer in consumers {
        assert_eq!(consumer.expect("a thread").join().expect("no panic"), 0);
    }
    assert_eq!(done.load(Ordering::SeqCst), 4 * EACH);
}
