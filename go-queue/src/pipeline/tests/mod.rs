//! The pump on the memory engine, on scripted ends where an engine cannot be made to misbehave, and at random.

mod memory;
mod random;
mod scripted;

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

    /// Forgets what was not handed out of an epoch.
    fn drop_epoch(&self, epoch: u32) {
        self.0
            .lock()
            .expect("unpoisoned")
            .deliver
            .retain(|one| one.receipt.epoch != epoch);
    }

    /// What was not handed out.
    fn left(&self) -> Vec<u64> {
        self.0
            .lock()
            .expect("unpoisoned")
            .deliver
            .iter()
            .map(|one| one.receipt.token)
            .collect()
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

type Say = Box<dyn FnMut(&Ask) -> Option<Verdict> + Send>;

/// A store that answers what it is told, in slices, one turn later.
struct Scribe {
    verdict: Say,
    log: AskLog,
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
