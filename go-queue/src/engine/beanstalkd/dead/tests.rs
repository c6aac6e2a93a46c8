//! Dead letters on real nodes, with a real Redis.

use std::future::{Future, poll_fn};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command as Process, Stdio};
use std::task::Poll;

use tokio::time::{Instant, timeout};

use super::*;
use crate::dedup::redis::tests::server::{Server as Redis, there_is_redis};
use crate::dedup::redis::{KeyForm, RedisConfig, RedisScope, RedisStore};
use crate::dedup::{Answer as Claimed, Ask as Claim, AskWhat, Verdict};
use crate::delivery::{Delivery, How, Settlement};
use crate::engine::beanstalkd::Beanstalkd;
use crate::engine::beanstalkd::receive::Framing;
use crate::engine::{Engine, Outgoing, Receive, Subscribe, Turn};
use crate::message::{Body, ContentType, Flags};
use crate::time::{hours, seconds};

const BOUND: Duration = Duration::from_secs(30);
const TUBE: Name = Name::literal("reminders");

/// A real node; gone with this value.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Option<Self> {
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").expect("loopback");
            let port = free.local_addr().expect("bound").port();
            drop(free);
            let spawned = Process::new("beanstalkd")
                .args(["-l", "127.0.0.1", "-p", &port.to_string()])
                .stderr(Stdio::null())
                .spawn();
            let Ok(child) = spawned else {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "beanstalkd is not installed"
                );
                eprintln!("skipped: beanstalkd is not installed");
                return None;
            };
            let mut server = Self { child, port };
            while server.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Some(server);
                }
                std::thread::yield_now();
            }
        }
        panic!("beanstalkd does not start");
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nodes, a store and the engine on them.
struct Fleet {
    nodes: Vec<Server>,
    redis: Option<Redis>,
    store: Option<RedisStore>,
    engine: Beanstalkd,
}

async fn fleet(nodes: usize, with_store: bool) -> Option<Fleet> {
    if with_store && !there_is_redis() {
        return None;
    }
    let nodes: Vec<Server> = (0..nodes).map(|_| Server::start()).collect::<Option<_>>()?;
    let redis = with_store.then(Redis::start);
    let store = redis
        .as_ref()
        .map(|redis| RedisStore::open(RedisConfig::node(redis.address())).unwrap());
    let mut config = Config::new(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
    config.deadline = seconds(2);
    let marks = store.as_ref().map(|store| store.marks([]));
    let engine = Beanstalkd::open(config, marks, Clock::system())
        .await
        .expect("opens");
    Some(Fleet {
        nodes,
        redis,
        store,
        engine,
    })
}

impl Fleet {
    fn dead(&self) -> &DeadTubes {
        &self.engine.0.dead
    }

    async fn send(&self, id: u128, payload: &[u8]) {
        let task = Outgoing {
            place: Place::Tube(TUBE),
            id: Id(id),
            named: false,
            body: Body::pack(b"", b"", payload),
            flags: Flags::NULL_KEY,
            content: ContentType::Json,
            due: WallTime::EPOCH,
            priority: 7,
        };
        let mut sent = self.engine.publisher().publish(vec![task]).await;
        sent.pop().expect("one answer").expect("accepted");
    }

    async fn list(&self) -> Vec<DeadLetter> {
        self.dead()
            .list(DeadQuery::default())
            .await
            .expect("listed")
    }

    /// Jobs of a tube on all nodes, and how many of them are buried.
    async fn jobs(&self, tube: &str) -> (u64, u64) {
        let mut sums = (0, 0);
        for node in self.engine.0.nodes.iter() {
            let Ok(Answer::Stats(text)) = node.ask(Ask::StatsTube(Name::new(tube).unwrap())).await
            else {
                continue;
            };
            let number = |field: &str| -> u64 {
                let text = crate::engine::beanstalkd::codec::stat(&text, field).expect("the field");
                text.parse().expect("a number")
            };
            for state in ["ready", "reserved", "delayed", "buried"] {
                sums.0 += number(&format!("current-jobs-{state}"));
            }
            sums.1 += number("current-jobs-buried");
        }
        sums
    }

    async fn claim(&self, id: u128) -> Verdict {
        let store = self.store.as_ref().expect("a fleet with a store");
        let mut end = store.end(&RedisScope {
            scope: TUBE.as_str().to_owned(),
            form: KeyForm::Native,
            keep: hours(24),
            replicas: true,
        });
        let mut asks = vec![Claim {
            ticket: 1,
            round: 1,
            id: Id(id),
            what: AskWhat::Claim,
        }];
        let mut answers: Vec<Claimed> = Vec::new();
        within(poll_fn(|cx| end.turn(cx, &mut asks, &mut answers))).await;
        answers[0].verdict
    }

    fn letter(id: u128) -> Letter {
        let body = Body::pack(b"", b"", b"{}");
        let parts = crate::message::envelope::Parts {
            id: Id(id),
            due: WallTime::from_millis(5),
            at: WallTime::from_millis(4),
            parked_attempt: 0,
            flags: Flags::NULL_KEY,
            content: ContentType::Json,
            priority: 7,
            extra: &[],
            body: &body,
        };
        let mut bytes = bytes::BytesMut::new();
        crate::message::envelope::encode(&parts, &mut bytes).expect("it fits");
        Letter {
            tube: TUBE,
            framing: Framing::Native,
            handler: Arc::from("app::remind"),
            node: 0,
            job: 1,
            body: bytes.freeze(),
            reason: Arc::from("it failed"),
            attempts: 9,
            died: Clock::system().now(),
        }
    }

    async fn keep(&self, ids: &[u128]) -> Vec<Result<(), EngineError>> {
        let letters = ids.iter().map(|id| Self::letter(*id)).collect();
        within(LetterWriter::keep(self.dead(), letters)).await
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(BOUND, future).await.expect("it ends")
}

/// Consumes until there is a delivery.
async fn next(end: &mut dyn Receive, turn: &mut Turn) -> Delivery {
    turn.free = 1;
    within(poll_fn(|cx| {
        turn.now = Instant::now();
        while let Poll::Ready(result) = end.turn(cx, turn) {
            result.expect("served");
            if !turn.deliver.is_empty() {
                break;
            }
        }
        if turn.deliver.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }))
    .await;
    turn.free = 0;
    turn.deliver.remove(0)
}

/// Consumes nothing, and lets settlements through, until it is so.
async fn drive(end: &mut dyn Receive, turn: &mut Turn, mut so: impl AsyncFnMut() -> bool) {
    turn.free = 0;
    within(async {
        loop {
            let idle = poll_fn(|cx| {
                turn.now = Instant::now();
                end.turn(cx, turn)
            });
            let _ = timeout(Duration::from_millis(10), idle).await;
            if so().await {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_task_that_is_given_up_is_a_letter_on_a_quorum_and_runs_again_when_replayed() {
    let Some(fleet) = fleet(3, true).await else {
        return;
    };
    fleet.send(77, b"{\"n\":1}").await;
    let mut end = fleet
        .engine
        .subscribe(&Subscribe::tube(TUBE))
        .await
        .unwrap();
    let mut turn = Turn::new(Instant::now());
    let delivery = next(&mut *end, &mut turn).await;
    assert_eq!(delivery.message.id, Id(77));
    turn.settle.push(Settlement {
        receipt: delivery.receipt,
        how: How::Dead {
            reason: Arc::from("it failed"),
            attempts: 3,
        },
    });
    // Three copies were sent; the one in hand goes, the others are the claim's to send away.
    drive(&mut *end, &mut turn, async || {
        fleet.jobs("reminders").await.0 == 2
    })
    .await;
    assert_eq!(fleet.jobs("reminders.dead").await, (2, 2));
    assert_eq!(fleet.claim(77).await, Verdict::Done);

    let letters = fleet.list().await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.id, letter.attempts), (Id(77), 3));
    assert_eq!(
        (&*letter.reason, &*letter.handler),
        ("it failed", "reminders")
    );
    assert_eq!(letter.body.payload(), b"{\"n\":1}");
    assert_eq!(
        (letter.content, &letter.place),
        (ContentType::Json, &Place::Tube(TUBE))
    );
    assert_eq!(fleet.dead().count(None).await.unwrap(), 1);
    let shown = fleet.dead().show(letter.cursor).await.unwrap();
    assert_eq!(shown.expect("it is there").id, Id(77));

    assert_eq!(fleet.dead().replay(vec![letter.cursor]).await.unwrap(), 1);
    assert_eq!(fleet.jobs("reminders.dead").await, (0, 0));
    assert_eq!(fleet.list().await.len(), 0);
    assert_eq!(fleet.claim(77).await, Verdict::Fresh { attempt: 1 });
    let again = next(&mut *end, &mut turn).await;
    assert_eq!(again.message.id, Id(77));
    assert_eq!(fleet.dead().replay(vec![letter.cursor]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_letter_outlives_a_node_and_the_index() {
    let Some(mut fleet) = fleet(3, true).await else {
        return;
    };
    for result in fleet.keep(&[1, 2, 3]).await {
        result.expect("kept");
    }
    let before: Vec<_> = fleet.list().await.iter().map(|letter| letter.id).collect();
    // One of the two nodes that have copies.
    fleet.nodes[0].kill();
    let letters = fleet.list().await;
    assert_eq!(letters.len(), 3);
    assert!(letters.iter().all(|letter| &*letter.reason == "it failed"));
    let redis = fleet.redis.as_ref().expect("a store");
    redis.command(&["FLUSHALL"]).await;
    let mut after: Vec<_> = fleet.list().await.iter().map(|letter| letter.id).collect();
    after.sort();
    assert_eq!(after, before);
    let cursors = fleet
        .list()
        .await
        .iter()
        .map(|letter| letter.cursor)
        .collect();
    assert_eq!(fleet.dead().replay(cursors).await.unwrap(), 3);
    assert_eq!(
        fleet.jobs("reminders").await.0,
        6,
        "each on both nodes that are left"
    );
    assert_eq!(fleet.dead().count(None).await.unwrap(), 0);
}

#[tokio::test]
async fn a_letter_that_cannot_be_kept_leaves_nothing_behind() {
    let Some(mut fleet) = fleet(3, true).await else {
        return;
    };
    fleet.nodes[0].kill();
    fleet.nodes[2].kill();
    within(async {
        while fleet
            .engine
            .0
            .nodes
            .iter()
            .filter(|node| node.is_up())
            .count()
            > 1
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let error = fleet.keep(&[1]).await.remove(0).expect_err("one of two");
    assert!(
        error.is_transient() && error.to_string().contains("1 of 2 nodes"),
        "{error}"
    );
    assert_eq!(fleet.jobs("reminders.dead").await, (0, 0));
    assert_eq!(fleet.dead().count(None).await.unwrap(), 0);
    assert_eq!(fleet.claim(1).await, Verdict::Fresh { attempt: 1 });
}

#[tokio::test]
async fn without_its_index_a_letter_is_not_kept_and_leaves_nothing_behind() {
    let Some(mut fleet) = fleet(2, true).await else {
        return;
    };
    fleet.redis.as_mut().expect("a store").kill();
    let error = fleet.keep(&[1]).await.remove(0).expect_err("no index");
    assert!(error.is_transient(), "{error}");
    assert_eq!(fleet.jobs("reminders.dead").await, (0, 0));
    fleet.redis.as_mut().expect("a store").restart();
    within(async {
        while fleet.keep(&[1]).await.remove(0).is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(fleet.jobs("reminders.dead").await, (2, 2));
}

#[tokio::test]
async fn a_task_that_is_given_up_twice_is_one_letter() {
    let Some(fleet) = fleet(3, true).await else {
        return;
    };
    for _ in 0..2 {
        fleet.keep(&[5]).await.remove(0).expect("kept");
    }
    assert_eq!(fleet.jobs("reminders.dead").await, (2, 2));
    assert_eq!(fleet.list().await.len(), 1);
}

#[tokio::test]
async fn what_is_purged_never_runs_and_may_be_sent_again() {
    let Some(fleet) = fleet(3, true).await else {
        return;
    };
    for result in fleet.keep(&[1, 2]).await {
        result.expect("kept");
    }
    let cursors: Vec<u64> = fleet
        .list()
        .await
        .iter()
        .map(|letter| letter.cursor)
        .collect();
    assert_eq!(fleet.dead().purge(vec![cursors[0]]).await.unwrap(), 1);
    assert_eq!(fleet.dead().purge(vec![cursors[0]]).await.unwrap(), 0);
    assert_eq!(fleet.jobs("reminders.dead").await, (2, 2));
    assert_eq!(
        fleet.claim(1).await,
        Verdict::Done,
        "replicas on nodes that return"
    );
    let marks = fleet.engine.0.marks.as_ref().expect("a store");
    let announced = marks
        .mark(vec![Mark {
            tube: TUBE,
            id: Id(1),
            what: MarkWhat::Announce { token: 1 },
            keep: hours(1),
        }])
        .await;
    assert!(matches!(&announced[0], Ok(told) if told.marked == Marked::Set));
}

#[tokio::test]
async fn a_task_that_has_run_since_is_not_run_again_by_a_replay() {
    let Some(fleet) = fleet(3, true).await else {
        return;
    };
    fleet.keep(&[1]).await.remove(0).expect("kept");
    let redis = fleet.redis.as_ref().expect("a store");
    let key = format!("gq:{TUBE}:{:032x}", 1);
    redis.command(&["SET", &key, "D"]).await;
    let cursor = fleet.list().await[0].cursor;
    assert_eq!(fleet.dead().replay(vec![cursor]).await.unwrap(), 1);
    assert_eq!(fleet.jobs("reminders").await.0, 0);
    assert_eq!(fleet.jobs("reminders.dead").await.0, 0);
}

#[tokio::test]
async fn one_node_without_a_store_keeps_its_letters_itself() {
    let Some(fleet) = fleet(1, false).await else {
        return;
    };
    for result in fleet.keep(&[1, 2, 3]).await {
        result.expect("kept");
    }
    // As a crash between put and bury leaves it.
    let node = &fleet.engine.0.nodes[0];
    let astray = Ask::Put {
        tube: dead_tube(&TUBE).unwrap(),
        priority: 1,
        delay: 0,
        ttr: TTR,
        body: record::encode(&Fleet::letter(4), 65_535),
    };
    node.ask(astray).await.expect("stored");
    let letters = fleet.list().await;
    assert_eq!(letters.len(), 4);
    assert_eq!(fleet.jobs("reminders.dead").await, (4, 4));
    assert!(letters.is_sorted_by_key(|letter| letter.cursor));
    let cursors: Vec<u64> = letters.iter().map(|letter| letter.cursor).collect();
    let page = DeadQuery {
        place: Some(Place::Tube(TUBE)),
        after: Some(cursors[0]),
        limit: 2,
        ..DeadQuery::default()
    };
    let page: Vec<u64> = fleet
        .dead()
        .list(page)
        .await
        .unwrap()
        .iter()
        .map(|l| l.cursor)
        .collect();
    assert_eq!(page, cursors[1..3]);
    assert_eq!(fleet.dead().count(None).await.unwrap(), 4);
    assert_eq!(fleet.dead().replay(vec![cursors[0]]).await.unwrap(), 1);
    assert_eq!(fleet.dead().purge(vec![cursors[1]]).await.unwrap(), 1);
    assert_eq!(fleet.jobs("reminders").await.0, 1);
    let left: Vec<u64> = fleet
        .list()
        .await
        .iter()
        .map(|letter| letter.cursor)
        .collect();
    assert_eq!(left, cursors[2..]);
}

#[tokio::test]
async fn a_handle_outlives_the_engine_that_gave_it_out() {
    let Some(fleet) = fleet(1, false).await else {
        return;
    };
    for result in fleet.keep(&[1]).await {
        result.expect("kept");
    }
    let cursor = fleet.list().await[0].cursor;
    let dead = fleet.engine.dead_letters().expect("it keeps them");
    let mut end = fleet
        .engine
        .subscribe(&Subscribe::tube(TUBE))
        .await
        .expect("a tube");
    let Fleet { nodes, engine, .. } = fleet;
    drop(engine);
    assert_eq!(within(dead.replay(vec![cursor])).await.unwrap(), 1);
    drop(dead);
    // A subscription keeps letters too.
    let mut turn = Turn::new(Instant::now());
    let delivery = next(&mut *end, &mut turn).await;
    turn.settle.push(Settlement {
        receipt: delivery.receipt,
        how: How::Dead {
            reason: "again".into(),
            attempts: 1,
        },
    });
    within(poll_fn(|cx| {
        turn.now = Instant::now();
        end.close(cx, &mut turn)
    }))
    .await
    .expect("closes");
    let config = Config::new([format!("127.0.0.1:{}", nodes[0].port)]);
    let other = Beanstalkd::open(config, None, Clock::system())
        .await
        .expect("opens");
    let found = other.0.dead.count(Some(Place::Tube(TUBE))).await;
    assert_eq!(found.expect("counted"), 1);
}

#[test]
fn a_tube_whose_letters_would_have_no_name_is_refused() {
    let long = |len| Name::new(&"x".repeat(len)).unwrap();
    assert!(dead_tube(&long(195)).is_ok());
    let error = dead_tube(&long(196)).expect_err("too long");
    assert!(error.to_string().contains("195"), "{error}");
}
