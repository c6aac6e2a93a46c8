//! Claim and transfer beside Go workers, on real nodes. The private tube, the locks and the Go workers are models of a few lines, so that
//! they can be broken at every step; the tests of interoperation run the real ones.

use std::collections::{HashMap, HashSet};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;

use tokio::net::TcpStream;

use super::*;
use crate::dedup::{GoLocked, StoreDown};
use crate::delivery::{Delivery, How, Receipt, Settlement};
use crate::engine::{HealthState, MAX_SLICE, Turn};
use crate::message::{Id, Message};

const BOUND: Duration = Duration::from_secs(60);
const TUBE: &str = "reminders";

/// A real node; gone with this value.
struct Node {
    child: Child,
    endpoint: Arc<str>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node, or `None` where beanstalkd is not installed; in CI that is a failure.
async fn node() -> Option<Node> {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let child = std::process::Command::new("beanstalkd")
        .args(["-l", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = child else {
        assert!(
            std::env::var_os("CI").is_none(),
            "beanstalkd is not installed"
        );
        return None;
    };
    let endpoint: Arc<str> = format!("127.0.0.1:{port}").into();
    let node = Node { child, endpoint };
    tokio::time::timeout(BOUND, async {
        while TcpStream::connect(&*node.endpoint).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the node answers");
    Some(node)
}

async fn nodes(n: usize) -> Option<Vec<Node>> {
    let mut all = Vec::new();
    for _ in 0..n {
        all.push(node().await?);
    }
    Some(all)
}

/// A connection for what the test itself does.
struct Hand(Link<()>);

impl Hand {
    async fn to(node: &Node) -> Self {
        let tubes = Tubes {
            used: Some(TUBE.into()),
            watched: Some(TUBE.into()),
        };
        let link = Link::dial(Arc::clone(&node.endpoint), tubes, BOUND, 1 << 20);
        Self(link.await.expect("a connection"))
    }

    async fn ask(&mut self, command: Command<'_>) -> Answer {
        self.0.push(&command, ()).expect("a good command");
        std::future::poll_fn(|cx| self.0.poll_flush(cx))
            .await
            .expect("written");
        std::future::poll_fn(|cx| self.0.poll_answer(cx))
            .await
            .expect("answered")
            .1
    }

    async fn put(&mut self, body: &[u8], delay: u32) {
        let command = Command::Put {
            priority: go_queue::PRIORITY,
            delay,
            ttr: 5,
            body: &[body],
            limit: 1 << 20,
        };
        assert!(matches!(self.ask(command).await, Answer::Inserted(_)));
    }

    /// A counter of the shared tube.
    async fn count(&mut self, field: &str) -> u64 {
        match self.ask(Command::StatsTube(TUBE)).await {
            Answer::Stats(text) => super::super::codec::stat(&text, field)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
            _ => 0,
        }
    }

    async fn jobs(&mut self) -> u64 {
        let mut sum = 0;
        for state in ["ready", "reserved", "delayed"] {
            sum += self.count(&format!("current-jobs-{state}")).await;
        }
        sum
    }
}

/// Everything outside of the processes: the private tube, the locks, the claims of the private tube, and what was run.
#[derive(Debug, Default)]
struct World {
    state: Mutex<State>,
    next: AtomicU64,
    /// Answers to `store` and `lock` that are lost, in percent.
    lossy: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    locks: HashMap<Id, [u8; 16]>,
    done: HashSet<Id>,
    running: HashMap<Id, u64>,
    ran: HashMap<Id, u32>,
    stores: u32,
}

#[derive(Debug)]
struct Record {
    token: u64,
    message: Message,
    holder: Option<u64>,
}

impl World {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn loses(&self) -> bool {
        fastrand::u64(..100) < self.lossy.load(Ordering::Relaxed)
    }

    fn lock_one(&self, id: Id, claim: [u8; 16]) -> bool {
        *self.state().locks.entry(id).or_insert(claim) == claim
    }
}

#[derive(Clone, Debug)]
struct Store(Arc<World>);

impl Records for Store {
    fn store(&self, records: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<(), PublishError>>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let stored = records.into_iter().map(|out| {
                assert_eq!(out.place.name().as_str(), "reminders.taken");
                let message = Message {
                    id: out.id,
                    body: out.body,
                    flags: out.flags,
                    due: out.due,
                    ..Message::default()
                };
                let mut state = self.0.state();
                state.stores += 1;
                state.records.push(Record {
                    token: self.0.number(),
                    message,
                    holder: None,
                });
                drop(state);
                if self.0.loses() {
                    Err(PublishError::UnderReplicated {
                        confirmed: 1,
                        wanted: 2,
                        maybe_stored: true,
                    })
                } else {
                    Ok(())
                }
            });
            stored.collect()
        })
    }
}

impl GoLocks for Store {
    fn lock(&self, locks: Vec<GoLock>) -> BoxFuture<'_, Vec<Result<GoLocked, StoreDown>>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let locked = locks.into_iter().map(|lock| {
                let ours = self.0.lock_one(lock.id, lock.claim);
                if self.0.loses() {
                    Err(StoreDown {
                        why: "the answer was lost".into(),
                    })
                } else if ours {
                    Ok(GoLocked::Ours)
                } else {
                    Ok(GoLocked::Theirs)
                }
            });
            locked.collect()
        })
    }

    fn keep(
        &self,
        locks: Vec<GoLock>,
        _: Duration,
    ) -> BoxFuture<'_, Vec<Result<GoLocked, StoreDown>>> {
        self.lock(locks)
    }
}

/// An end of the private tube.
struct Private {
    world: Arc<World>,
    epoch: u64,
}

impl Drop for Private {
    fn drop(&mut self) {
        for record in &mut self.world.state().records {
            if record.holder == Some(self.epoch) {
                record.holder = None;
            }
        }
    }
}

impl Private {
    fn settle(&mut self, turn: &mut Turn) {
        let mut state = self.world.state();
        for Settlement { receipt, how } in turn.settle.drain(..) {
            let mine = |record: &Record| {
                record.token == receipt.token && record.holder == Some(self.epoch)
            };
            match how {
                How::Ack => state.records.retain(|record| !mine(record)),
                _ => {
                    if let Some(record) = state.records.iter_mut().find(|record| mine(record)) {
                        record.holder = None;
                    }
                }
            }
        }
    }
}

impl Receive for Private {
    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) -> std::task::Poll<Result<(), EngineError>> {
        self.settle(turn);
        let mut state = self.world.state();
        let before = turn.deliver.len();
        let room = if turn.open { turn.free } else { 0 };
        for record in state
            .records
            .iter_mut()
            .filter(|record| record.holder.is_none())
            .take(room)
        {
            record.holder = Some(self.epoch);
            turn.deliver.push(Delivery {
                message: record.message.clone(),
                receipt: Receipt {
                    epoch: u32::try_from(self.epoch).unwrap_or(0),
                    group: 0,
                    token: record.token,
                },
                order: 0,
            });
        }
        turn.health.state = HealthState::Up;
        turn.health.empty = state.records.is_empty();
        if turn.deliver.len() > before {
            return std::task::Poll::Ready(Ok(()));
        }
        // Whoever drives the end looks again soon.
        let _ = cx;
        std::task::Poll::Pending
    }

    fn close(
        &mut self,
        _: &mut Context<'_>,
        turn: &mut Turn,
    ) -> std::task::Poll<Result<(), EngineError>> {
        self.settle(turn);
        std::task::Poll::Ready(Ok(()))
    }
}

fn open(world: &Arc<World>, nodes: &[Node]) -> (Box<dyn Receive>, u64) {
    let epoch = world.number();
    let fleet = MixedFleet {
        shared: Name::literal(TUBE),
        endpoints: nodes
            .iter()
            .map(|node| Arc::clone(&node.endpoint))
            .collect(),
        connect_timeout: BOUND,
        records: Arc::new(Store(Arc::clone(world))),
        locks: Arc::new(Store(Arc::clone(world))),
        clock: Clock::system(),
    };
    let private = Private {
        world: Arc::clone(world),
        epoch,
    };
    (fleet.open(Box::new(private)).expect("a good name"), epoch)
}

/// One turn now, without waiting.
async fn turn(end: &mut dyn Receive, turn: &mut Turn) {
    std::future::poll_fn(|cx| {
        while let std::task::Poll::Ready(over) = end.turn(cx, turn) {
            over.expect("an end that goes on");
            if !turn.deliver.is_empty() {
                break;
            }
        }
        std::task::Poll::Ready(())
    })
    .await;
}

/// A worker of a test, which ends with its run-time.
#[expect(
    clippy::disallowed_methods,
    reason = "a worker may die at any point here; that is the test"
)]
fn begin(worker: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    tokio::spawn(worker)
}

/// Runs what comes, with the two-phase claim of the private tube, until `stop`. Returning is like dying: the end is dropped.
async fn work(world: Arc<World>, mut end: Box<dyn Receive>, epoch: u64, until: Duration) {
    let began = Instant::now();
    let mut exchange = Turn::new(began);
    while began.elapsed() < until {
        exchange.free = 16;
        turn(&mut *end, &mut exchange).await;
        for delivery in std::mem::take(&mut exchange.deliver) {
            let id = delivery.message.id;
            let fresh = {
                let mut state = world.state();
                !state.done.contains(&id) && *state.running.entry(id).or_insert(epoch) == epoch
            };
            if fresh {
                tokio::task::yield_now().await;
                let mut state = world.state();
                // Effect and mark in one step: what runs twice has been claimed twice.
                if state.done.insert(id) {
                    *state.ran.entry(id).or_default() += 1;
                }
                state.running.remove(&id);
            }
            let done = world.state().done.contains(&id);
            exchange.settle.push(Settlement {
                receipt: delivery.receipt,
                how: if done { How::Ack } else { How::RELEASE },
            });
        }
        sleep(Duration::from_millis(1)).await;
    }
    world.state().running.retain(|_, owner| *owner != epoch);
}

/// What a Go worker does: remove, lock, run.
async fn go_worker(world: Arc<World>, node: Arc<str>, until: Duration) {
    let tubes = Tubes {
        used: None,
        watched: Some(TUBE.into()),
    };
    let mut hand = Hand(
        Link::dial(node, tubes, BOUND, 1 << 20)
            .await
            .expect("a link"),
    );
    let began = Instant::now();
    while began.elapsed() < until {
        let Answer::Reserved { id: job, body } = hand.ask(Command::ReserveWithTimeout(1)).await
        else {
            continue;
        };
        hand.ask(Command::Delete(job)).await;
        let id = go_queue::id(&body);
        if world.lock_one(id, GoLock::new_claim()) {
            *world.state().ran.entry(id).or_default() += 1;
        }
        sleep(Duration::from_millis(2)).await;
    }
}

fn body(n: u32) -> Vec<u8> {
    let mut body = Vec::new();
    let now = Clock::system().now();
    go_queue::wrap(now, format!("task {n}").as_bytes(), &mut body);
    body
}

/// Puts `count` tasks on all nodes; their ids.
async fn fill(nodes: &[Node], count: u32) -> HashSet<Id> {
    let bodies: Vec<_> = (0..count).map(body).collect();
    for node in nodes {
        let mut hand = Hand::to(node).await;
        for body in &bodies {
            hand.put(body, 0).await;
        }
    }
    bodies.iter().map(|body| go_queue::id(body)).collect()
}

/// Until nothing is left in the shared tube and in the private one.
async fn drained(world: &World, nodes: &[Node]) -> bool {
    for node in nodes {
        if Hand::to(node).await.jobs().await > 0 {
            return false;
        }
    }
    world.state().records.is_empty()
}

#[tokio::test]
async fn each_task_of_three_nodes_is_transferred_and_run_once() {
    let Some(nodes) = nodes(3).await else { return };
    let world = Arc::new(World::default());
    let ids = fill(&nodes, 200).await;
    let (end, epoch) = open(&world, &nodes);
    let worker = begin(work(Arc::clone(&world), end, epoch, BOUND));
    tokio::time::timeout(BOUND, async {
        while !drained(&world, &nodes).await {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("all is done");
    worker.abort();
    let state = world.state();
    assert_eq!(state.ran.len(), ids.len());
    assert!(state.ran.values().all(|runs| *runs == 1));
    assert_eq!(state.stores, 200, "replicas share their record");
}

#[tokio::test]
async fn beside_go_workers_nothing_is_lost_and_nothing_runs_twice_however_workers_die() {
    let Some(nodes) = nodes(3).await else { return };
    let world = Arc::new(World::default());
    world.lossy.store(10, Ordering::Relaxed);
    let count = if std::env::var_os("GO_QUEUE_TEST_LONG").is_some() {
        9_000
    } else {
        900
    };
    let ids = fill(&nodes, count).await;
    for node in &nodes {
        let endpoint = Arc::clone(&node.endpoint);
        begin(go_worker(Arc::clone(&world), endpoint, BOUND * 10));
    }
    let mut deaths = 0;
    tokio::time::timeout(BOUND * 5, async {
        while !drained(&world, &nodes).await {
            let lives = (0..3).map(|_| {
                let (end, epoch) = open(&world, &nodes);
                let life = Duration::from_micros(fastrand::u64(100..40_000));
                begin(work(Arc::clone(&world), end, epoch, life))
            });
            for life in lives.collect::<Vec<_>>() {
                life.await.expect("a worker");
                deaths += 1;
            }
        }
    })
    .await
    .expect("all is done");
    let state = world.state();
    let lost = ids.iter().filter(|id| !state.ran.contains_key(id)).count();
    let twice = state.ran.values().filter(|runs| **runs > 1).count();
    assert_eq!((lost, twice), (0, 0), "after {deaths} deaths");
    assert!(deaths > 10, "{deaths}");
    assert!(!state.done.is_empty(), "some were run here");
}

#[tokio::test]
async fn a_task_too_late_for_proof_is_buried() {
    let Some(nodes) = nodes(1).await else { return };
    let world = Arc::new(World::default());
    let mut hand = Hand::to(&nodes[0]).await;
    let ago = |time| {
        let mut body = Vec::new();
        go_queue::wrap(Clock::system().now().saturating_sub(time), b"x", &mut body);
        body
    };
    hand.put(&ago(Duration::from_secs(3_600)), 0).await;
    // A Go worker would remove this one; we run it.
    hand.put(&ago(Duration::from_secs(3_000)), 0).await;
    let (end, epoch) = open(&world, &nodes);
    let worker = begin(work(Arc::clone(&world), end, epoch, BOUND));
    tokio::time::timeout(BOUND, async {
        while hand.jobs().await > 0 || world.state().ran.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("both are settled");
    worker.abort();
    assert_eq!(hand.count("current-jobs-buried").await, 1);
    assert_eq!(world.state().ran.len(), 1);
}

#[tokio::test]
async fn a_task_without_room_in_an_envelope_is_left_to_go_workers() {
    let Some(nodes) = nodes(1).await else { return };
    let world = Arc::new(World::default());
    let mut hand = Hand::to(&nodes[0]).await;
    let mut large = Vec::new();
    go_queue::wrap(Clock::system().now(), &vec![b'x'; 65_515], &mut large);
    hand.put(&large, 0).await;
    hand.put(&body(1), 0).await;
    let (end, epoch) = open(&world, &nodes);
    let worker = begin(work(Arc::clone(&world), end, epoch, BOUND));
    tokio::time::timeout(BOUND, async {
        while world.state().ran.is_empty() || hand.count("current-jobs-delayed").await == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the small one is run, the large one waits");
    worker.abort();
    assert!(!world.state().locks.contains_key(&go_queue::id(&large)));
}

#[tokio::test]
async fn a_body_that_does_not_open_is_handed_out_as_malformed() {
    let Some(nodes) = nodes(1).await else { return };
    let world = Arc::new(World::default());
    Hand::to(&nodes[0]).await.put(b"no time in front", 0).await;
    let (mut end, _) = open(&world, &nodes);
    let mut exchange = Turn::new(Instant::now());
    exchange.free = MAX_SLICE;
    tokio::time::timeout(BOUND, async {
        while exchange.deliver.is_empty() {
            turn(&mut *end, &mut exchange).await;
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it comes");
    let message = &exchange.deliver[0].message;
    assert!(message.is_malformed());
    assert_eq!(message.body.payload(), b"no time in front");
}

#[tokio::test]
async fn a_stop_gives_back_what_is_in_hand() {
    let Some(nodes) = nodes(2).await else { return };
    let world = Arc::new(World::default());
    // No lock is ever answered: records wait at the gate, jobs wait at their nodes.
    world.lossy.store(100, Ordering::Relaxed);
    fill(&nodes, 5).await;
    let (mut end, _) = open(&world, &nodes);
    let mut exchange = Turn::new(Instant::now());
    exchange.free = MAX_SLICE;
    tokio::time::timeout(BOUND, async {
        while world
            .state()
            .records
            .iter()
            .filter(|r| r.holder.is_some())
            .count()
            < 5
        {
            turn(&mut *end, &mut exchange).await;
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the gate holds them");
    assert!(exchange.deliver.is_empty());
    exchange.open = false;
    turn(&mut *end, &mut exchange).await;
    let closed = std::future::poll_fn(|cx| end.close(cx, &mut exchange));
    tokio::time::timeout(BOUND, closed)
        .await
        .expect("in time")
        .expect("closed");
    assert!(
        world
            .state()
            .records
            .iter()
            .all(|record| record.holder.is_none())
    );
    for node in &nodes {
        assert_eq!(Hand::to(node).await.count("current-jobs-ready").await, 5);
    }
}

#[test]
fn a_name_without_room_is_refused() {
    let long = Name::new(&"x".repeat(190)).expect("a name");
    assert!(
        private_tube(&long)
            .expect_err("too long")
            .to_string()
            .contains("189 bytes")
    );
    let fits = Name::new(&"x".repeat(189)).expect("a name");
    assert!(private_tube(&fits).is_ok());
}
