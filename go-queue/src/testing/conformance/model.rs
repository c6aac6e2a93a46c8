//! Random operations, on the engine and on a model of a few lines at once: both must say the same at every step, and in
//! the end everything that was accepted has been seen.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use tokio::time::Instant;

use super::{Consumer, KEEP, Subject, eventually, publish, record, task};
use crate::delivery::{Delivery, How};
use crate::engine::{DeadQuery, Engine, Outgoing, Rescheduled, Revoked, Subscribe, TaskId};
use crate::message::Id;
use crate::name::{Name, Place, Side};
use crate::time::{WallTime, hours, millis};

const TUBE: Name = Name::literal("model");
const TOPIC: Name = Name::literal("model");

/// How many operations a sequence has at most.
const LONGEST: usize = 60;

/// Runs random sequences on fresh subjects. A failure is shrunk, and printed as the shortest sequence that fails.
pub fn run<S: Subject>(make: impl AsyncFn() -> S) {
    let mut sequences = 0;
    let mut sides = [false; 2];
    super::run(async {
        let subject = make().await;
        sequences = subject.sequences();
        sides = [Side::Tasks, Side::Topics].map(|side| subject.capabilities(side).supported);
    });
    if sides[0] {
        check(sequences, vec(task_step(), 1..LONGEST), async |steps| {
            let subject = make().await;
            tasks(&subject, steps).await;
        });
    }
    if sides[1] {
        check(sequences, vec(topic_step(), 1..LONGEST), async |steps| {
            let subject = make().await;
            topics(&subject, steps).await;
        });
    }
}

fn check<T: std::fmt::Debug>(
    sequences: u32,
    strategy: impl Strategy<Value = Vec<T>>,
    body: impl AsyncFn(&[T]),
) {
    let config = Config {
        cases: sequences,
        max_shrink_iters: 256,
        failure_persistence: None,
        ..Config::default()
    };
    let failed = TestRunner::new(config).run(&strategy, |steps| {
        let run = std::panic::AssertUnwindSafe(|| super::run(body(&steps)));
        std::panic::catch_unwind(run).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            TestCaseError::fail(text.unwrap_or_default())
        })
    });
    let report = match failed {
        Ok(()) => None,
        Err(TestError::Fail(why, steps)) => Some(format!("{why}\nafter {steps:#?}")),
        Err(TestError::Abort(why)) => Some(format!("gave up: {why}")),
    };
    assert!(report.is_none(), "{}", report.unwrap_or_default());
}

// Tasks.

#[derive(Clone, Copy, Debug)]
enum End {
    Ack,
    Release,
    ReleaseLater,
    Retry,
    RetryLater,
    Dead,
}

#[derive(Clone, Copy, Debug)]
enum TaskStep {
    Send {
        count: usize,
        later: bool,
    },
    SendNamed {
        name: u8,
        later: bool,
    },
    Receive {
        who: usize,
        room: usize,
    },
    Settle {
        nth: usize,
        end: End,
    },
    Revoke {
        nth: usize,
    },
    Reschedule {
        nth: usize,
        later: bool,
    },
    Replay {
        nth: usize,
    },
    Purge {
        nth: usize,
    },
    /// The consumer is gone: crashed if all that it has settled is known to be confirmed, else closed.
    Leave {
        who: usize,
    },
}

fn task_step() -> impl Strategy<Value = TaskStep> {
    let end = prop_oneof![
        4 => Just(End::Ack),
        2 => Just(End::Release),
        1 => Just(End::ReleaseLater),
        2 => Just(End::Retry),
        1 => Just(End::RetryLater),
        2 => Just(End::Dead),
    ];
    prop_oneof![
        4 => (1..6_usize, any::<bool>()).prop_map(|(count, later)| TaskStep::Send { count, later }),
        3 => (0..4_u8, any::<bool>()).prop_map(|(name, later)| TaskStep::SendNamed { name, later }),
        6 => (0..2_usize, 1..8_usize).prop_map(|(who, room)| TaskStep::Receive { who, room }),
        8 => (any::<usize>(), end).prop_map(|(nth, end)| TaskStep::Settle { nth, end }),
        2 => any::<usize>().prop_map(|nth| TaskStep::Revoke { nth }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(nth, later)| TaskStep::Reschedule { nth, later }),
        1 => any::<usize>().prop_map(|nth| TaskStep::Replay { nth }),
        1 => any::<usize>().prop_map(|nth| TaskStep::Purge { nth }),
        1 => (0..2_usize).prop_map(|who| TaskStep::Leave { who }),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Ready,
    Later,
    Held(usize),
    Dead,
    /// Since this time.
    Done(Instant),
    /// Revoked or purged.
    Gone,
}

#[derive(Debug)]
struct Known {
    at: At,
    starts: u32,
    named: bool,
    task: TaskId,
}

struct Tasks<'a> {
    subject: &'a dyn Subject,
    engine: Arc<dyn Engine>,
    to: Subscribe,
    consumers: [Option<Consumer>; 2],
    /// Whether a consumer has settled something, which a crash could void.
    settled: [bool; 2],
    held: Vec<(usize, Delivery)>,
    known: HashMap<Id, Known>,
    /// In the order of the first sending.
    order: Vec<Id>,
}

async fn tasks(subject: &dyn Subject, steps: &[TaskStep]) {
    let mut model = Tasks {
        subject,
        engine: subject.engine(),
        to: Subscribe::tube(TUBE),
        consumers: [None, None],
        settled: [false; 2],
        held: Vec::new(),
        known: HashMap::new(),
        order: Vec::new(),
    };
    for step in steps {
        model.step(*step).await;
    }
    model.finish().await;
}

impl Tasks<'_> {
    async fn step(&mut self, step: TaskStep) {
        match step {
            TaskStep::Send { count, later } => {
                let slice = (0..count).map(|_| self.outgoing(later)).collect();
                self.send(slice, later).await;
            }
            TaskStep::SendNamed { name, later } => {
                let id = Id::named(&TUBE, &[name]);
                let out = Outgoing {
                    id,
                    named: true,
                    ..self.outgoing(later)
                };
                self.send(vec![out], later).await;
            }
            TaskStep::Receive { who, room } => {
                let ready = self.count(At::Ready);
                if ready > 0 {
                    self.receive(who, room.min(ready)).await;
                }
            }
            TaskStep::Settle { nth, end } => {
                if !self.held.is_empty() {
                    let (who, delivery) = self.held.swap_remove(nth % self.held.len());
                    self.settle(who, &delivery, end).await;
                }
            }
            TaskStep::Revoke { nth } => {
                if let Some(id) = self.nth(nth) {
                    self.revoke(id).await;
                }
            }
            TaskStep::Reschedule { nth, later } => {
                if let Some(id) = self.nth(nth) {
                    self.reschedule(id, later).await;
                }
            }
            TaskStep::Replay { nth } => {
                if let Some(id) = self.nth_dead(nth) {
                    self.replay(id).await;
                }
            }
            TaskStep::Purge { nth } => {
                if let Some(id) = self.nth_dead(nth) {
                    let cursor = self.cursor(id).await;
                    let dead = self.engine.dead_letters().expect("declared");
                    assert_eq!(dead.purge(vec![cursor]).await.expect("purged"), 1);
                    self.put(id, At::Gone);
                }
            }
            TaskStep::Leave { who } => self.leave(who).await,
        }
    }

    fn outgoing(&self, later: bool) -> Outgoing {
        let due = if later {
            self.subject.now().saturating_add(hours(1))
        } else {
            WallTime::EPOCH
        };
        Outgoing {
            due,
            ..task(&TUBE, "x")
        }
    }

    fn count(&self, at: At) -> usize {
        self.known.values().filter(|known| known.at == at).count()
    }

    fn nth(&self, nth: usize) -> Option<Id> {
        (!self.order.is_empty()).then(|| self.order[nth % self.order.len()])
    }

    fn nth_dead(&self, nth: usize) -> Option<Id> {
        let dead = |id: &&Id| self.known[*id].at == At::Dead;
        let dead: Vec<Id> = self.order.iter().filter(dead).copied().collect();
        (!dead.is_empty()).then(|| dead[nth % dead.len()])
    }

    fn put(&mut self, id: Id, at: At) {
        self.known.get_mut(&id).expect("known").at = at;
    }

    async fn send(&mut self, slice: Vec<Outgoing>, later: bool) {
        let sent = slice.clone();
        let began = Instant::now();
        for (published, out) in publish(&self.engine, slice).await.into_iter().zip(sent) {
            assert_eq!(published.id, out.id);
            let id = out.id;
            let before = self.known.get(&id).map(|known| (known.at, known.named));
            let existed = match before {
                None | Some((At::Gone, _)) => Some(false),
                // Whether it is still known depends on how fast this runs.
                Some((At::Done(since), _)) if began - since > KEEP / 2 => None,
                Some(_) => Some(true),
            };
            assert_eq!(
                published.existed,
                existed.unwrap_or(published.existed),
                "{before:?}"
            );
            if !published.existed {
                let at = if later { At::Later } else { At::Ready };
                let task = TaskId::new(TUBE, &published);
                if before.is_none() {
                    self.order.push(id);
                }
                self.known.insert(
                    id,
                    Known {
                        at,
                        starts: 0,
                        named: out.named,
                        task,
                    },
                );
            }
        }
    }

    async fn consumer(&mut self, who: usize) -> &mut Consumer {
        if self.consumers[who].is_none() {
            let engine = if who == 0 {
                Arc::clone(&self.engine)
            } else {
                self.subject.another().await
            };
            self.consumers[who] = Some(Consumer::open(&engine, &self.to).await);
            self.settled[who] = false;
        }
        self.consumers[who].as_mut().expect("opened")
    }

    async fn receive(&mut self, who: usize, count: usize) {
        let got = self.consumer(who).await.take(count).await;
        for delivery in got {
            let known = self
                .known
                .get_mut(&delivery.message.id)
                .expect("it was sent");
            assert_eq!(known.at, At::Ready, "only what is ready is delivered");
            assert_eq!(delivery.message.attempt, known.starts + 1);
            known.at = At::Held(who);
            self.held.push((who, delivery));
        }
    }

    async fn settle(&mut self, who: usize, delivery: &Delivery, end: End) {
        let (how, at, counts) = match end {
            End::Ack => (How::Ack, At::Done(Instant::now()), false),
            End::Release => (How::RELEASE, At::Ready, false),
            End::ReleaseLater => (How::Release { after: hours(1) }, At::Later, false),
            End::Retry => (
                How::Retry {
                    after: Duration::ZERO,
                },
                At::Ready,
                true,
            ),
            End::RetryLater => (How::Retry { after: hours(1) }, At::Later, true),
            End::Dead => {
                let attempts = delivery.message.attempt;
                (
                    How::Dead {
                        reason: "model".into(),
                        attempts,
                    },
                    At::Dead,
                    false,
                )
            }
        };
        self.consumer(who).await.settle(delivery.receipt, how).await;
        self.settled[who] = true;
        let known = self.known.get_mut(&delivery.message.id).expect("known");
        known.at = at;
        known.starts += u32::from(counts);
    }

    async fn revoke(&mut self, id: Id) {
        let (at, named, task) = (
            self.known[&id].at,
            self.known[&id].named,
            self.known[&id].task.clone(),
        );
        let tasks = self.engine.tasks().expect("declared");
        let ask = async || {
            let answers = tasks.revoke(vec![task.clone()]).await;
            answers
                .into_iter()
                .next()
                .expect("one")
                .expect("the engine is there")
        };
        let mut said = ask().await;
        if !matches!(at, At::Held(_)) {
            // The settlement may be under way.
            eventually("the settlement is stored", async || {
                if said == Revoked::Running {
                    said = ask().await;
                }
                said != Revoked::Running
            })
            .await;
        }
        match at {
            At::Ready | At::Later => {
                assert_eq!(said, Revoked::Revoked);
                self.put(id, At::Gone);
            }
            At::Held(_) => assert_eq!(said, Revoked::Running),
            At::Dead => assert_eq!(said, Revoked::AlreadyRun),
            At::Done(since) if named && since.elapsed() < KEEP / 2 => {
                assert_eq!(said, Revoked::AlreadyRun);
            }
            // Without a name an engine need not remember for long.
            At::Done(_) => assert!(
                matches!(said, Revoked::AlreadyRun | Revoked::Unknown),
                "{said:?}"
            ),
            At::Gone => assert_eq!(said, Revoked::Unknown),
        }
    }

    async fn reschedule(&mut self, id: Id, later: bool) {
        let (at, task) = (self.known[&id].at, self.known[&id].task.clone());
        let now = self.subject.now();
        let due = if later {
            now.saturating_add(hours(2))
        } else {
            now
        };
        let tasks = self.engine.tasks().expect("declared");
        let ask = async || {
            let answers = tasks.reschedule(vec![(task.clone(), due)]).await;
            answers
                .into_iter()
                .next()
                .expect("one")
                .expect("the engine is there")
        };
        let mut said = ask().await;
        if !matches!(at, At::Held(_)) {
            eventually("the settlement is stored", async || {
                if said == Rescheduled::Running {
                    said = ask().await;
                }
                said != Rescheduled::Running
            })
            .await;
        }
        match at {
            At::Ready | At::Later => {
                assert_eq!(said, Rescheduled::Rescheduled);
                self.put(id, if later { At::Later } else { At::Ready });
            }
            At::Held(_) => assert_eq!(said, Rescheduled::Running),
            At::Dead => assert_eq!(said, Rescheduled::AlreadyRun),
            At::Done(_) => {
                assert!(
                    matches!(said, Rescheduled::AlreadyRun | Rescheduled::Unknown),
                    "{said:?}"
                );
            }
            At::Gone => assert_eq!(said, Rescheduled::Unknown),
        }
    }

    /// The cursor of a dead task, once it is listed.
    async fn cursor(&self, id: Id) -> u64 {
        cursor_of(&self.engine, &self.to, id).await
    }

    async fn replay(&mut self, id: Id) {
        let cursor = self.cursor(id).await;
        let dead = self.engine.dead_letters().expect("declared");
        assert_eq!(dead.replay(vec![cursor]).await.expect("replayed"), 1);
        self.put(id, At::Ready);
        self.known.get_mut(&id).expect("known").starts = 0;
    }

    async fn leave(&mut self, who: usize) {
        let Some(mut consumer) = self.consumers[who].take() else {
            return;
        };
        let (mine, others): (Vec<_>, Vec<_>) =
            self.held.drain(..).partition(|(owner, _)| *owner == who);
        self.held = others;
        let crash = !self.settled[who];
        if crash {
            drop(consumer);
        } else {
            consumer.quiet();
            consumer
                .settle_all(mine.iter().map(|(_, one)| (one.receipt, How::RELEASE)))
                .await;
            consumer.close().await;
        }
        for (_, delivery) in mine {
            let known = self.known.get_mut(&delivery.message.id).expect("known");
            known.at = At::Ready;
            known.starts += u32::from(crash);
        }
    }

    /// Brings everything to its end: nothing is lost, nothing is left.
    async fn finish(&mut self) {
        for who in [0, 1] {
            self.leave(who).await;
        }
        for id in self.order.clone() {
            match self.known[&id].at {
                At::Later => self.reschedule(id, false).await,
                At::Dead => self.replay(id).await,
                _ => {}
            }
        }
        let ready = self.count(At::Ready);
        if ready > 0 {
            self.receive(0, ready).await;
        }
        let got: Vec<Delivery> = self.held.drain(..).map(|(_, delivery)| delivery).collect();
        let consumer = self.consumer(0).await;
        consumer.ack(&got).await;
        consumer.nothing(millis(50)).await;
        consumer
            .until_health("that nothing waits", |health| {
                health.empty && health.next_due.is_none()
            })
            .await;
        assert_eq!(consumer.health().stale, 0);
        self.consumers[0].take().expect("opened").close().await;
        if let Some(dead) = self.engine.dead_letters() {
            assert_eq!(
                dead.count(Some(Place::Tube(TUBE))).await.expect("counted"),
                0
            );
        }
    }
}

/// The cursor of a dead message, once it is listed for this subscription.
async fn cursor_of(engine: &Arc<dyn Engine>, to: &Subscribe, id: Id) -> u64 {
    let dead = engine.dead_letters().expect("declared");
    let mut cursor = None;
    eventually("it is among the dead letters", async || {
        let query = DeadQuery {
            place: Some(to.place.clone()),
            group: to.group.clone(),
            after: None,
            limit: 1000,
        };
        let list = dead.list(query).await.expect("listed");
        cursor = list
            .iter()
            .find(|letter| letter.id == id)
            .map(|letter| letter.cursor);
        cursor.is_some()
    })
    .await;
    cursor.expect("found")
}

// Topics.

#[derive(Clone, Copy, Debug)]
enum TopicStep {
    Push {
        key: u8,
        count: usize,
    },
    Receive {
        group: usize,
        room: usize,
    },
    Settle {
        group: usize,
        nth: usize,
        dead: bool,
    },
    Replay {
        group: usize,
        nth: usize,
    },
    Leave {
        group: usize,
    },
}

fn topic_step() -> impl Strategy<Value = TopicStep> {
    prop_oneof![
        3 => (0..6_u8, 1..5_usize).prop_map(|(key, count)| TopicStep::Push { key, count }),
        4 => (0..2_usize, 1..8_usize).prop_map(|(group, room)| TopicStep::Receive { group, room }),
        8 => (0..2_usize, any::<usize>(), prop::bool::weighted(0.2))
            .prop_map(|(group, nth, dead)| TopicStep::Settle { group, nth, dead }),
        1 => (0..2_usize, any::<usize>()).prop_map(|(group, nth)| TopicStep::Replay { group, nth }),
        1 => (0..2_usize).prop_map(|group| TopicStep::Leave { group }),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Read {
    /// It must still come.
    Unread,
    Held,
    Done,
    Dead,
    /// Done, but not below the committed offset when the reader left: it may come again.
    Perhaps,
}

struct Reader {
    to: Subscribe,
    consumer: Option<Consumer>,
    settled: bool,
    held: Vec<Delivery>,
    read: HashMap<Id, Read>,
}

struct Topics<'a> {
    subject: &'a dyn Subject,
    engine: Arc<dyn Engine>,
    /// Id, key, partition: in the order of sending.
    sent: Vec<(Id, u8, u32)>,
    readers: [Reader; 2],
    mortal: bool,
}

async fn topics(subject: &dyn Subject, steps: &[TopicStep]) {
    let reader = |group| Reader {
        to: Subscribe::topic(TOPIC, group),
        consumer: None,
        settled: false,
        held: Vec::new(),
        read: HashMap::new(),
    };
    let mut model = Topics {
        subject,
        engine: subject.engine(),
        sent: Vec::new(),
        readers: [reader(Name::literal("one")), reader(Name::literal("two"))],
        mortal: subject.capabilities(Side::Topics).dead_letter,
    };
    for step in steps {
        model.step(*step).await;
    }
    model.finish().await;
}

impl Topics<'_> {
    async fn step(&mut self, step: TopicStep) {
        match step {
            TopicStep::Push { key, count } => {
                let slice = (0..count)
                    .map(|_| record(&TOPIC, &format!("key-{key}"), "x"))
                    .collect();
                for one in publish(&self.engine, slice).await {
                    self.sent.push((one.id, key, one.partition));
                    for reader in &mut self.readers {
                        reader.read.insert(one.id, Read::Unread);
                    }
                }
            }
            TopicStep::Receive { group, room } => self.receive(group, room).await,
            TopicStep::Settle { group, nth, dead } => {
                let reader = &mut self.readers[group];
                if reader.held.is_empty() {
                    return;
                }
                let delivery = reader.held.swap_remove(nth % reader.held.len());
                let dead = dead && self.mortal;
                let how = if dead {
                    How::Dead {
                        reason: "model".into(),
                        attempts: delivery.message.attempt,
                    }
                } else {
                    How::Ack
                };
                reader
                    .consumer
                    .as_mut()
                    .expect("open")
                    .settle(delivery.receipt, how)
                    .await;
                reader.settled = true;
                reader.read.insert(
                    delivery.message.id,
                    if dead { Read::Dead } else { Read::Done },
                );
            }
            TopicStep::Replay { group, nth } => {
                let reader = &self.readers[group];
                let dead = self.sent.iter().map(|(id, ..)| *id);
                let dead: Vec<Id> = dead.filter(|id| reader.read[id] == Read::Dead).collect();
                if !dead.is_empty() {
                    self.replay(group, dead[nth % dead.len()]).await;
                }
            }
            TopicStep::Leave { group } => self.leave(group).await,
        }
    }

    async fn receive(&mut self, group: usize, room: usize) {
        if !self.readers[group]
            .read
            .values()
            .any(|read| *read == Read::Unread)
        {
            return;
        }
        if self.readers[group].consumer.is_none() {
            let engine = if group == 0 {
                Arc::clone(&self.engine)
            } else {
                self.subject.another().await
            };
            let consumer = Consumer::open(&engine, &self.readers[group].to).await;
            self.readers[group].consumer = Some(consumer);
            self.readers[group].settled = false;
        }
        let reader = &mut self.readers[group];
        for delivery in reader.consumer.as_mut().expect("open").receive(room).await {
            let read = reader
                .read
                .get_mut(&delivery.message.id)
                .expect("it was sent");
            assert!(
                matches!(read, Read::Unread | Read::Perhaps),
                "{read:?} came again"
            );
            *read = Read::Held;
            reader.held.push(delivery);
        }
    }

    async fn replay(&mut self, group: usize, id: Id) {
        let cursor = cursor_of(&self.engine, &self.readers[group].to, id).await;
        let dead = self.engine.dead_letters().expect("declared");
        assert_eq!(dead.replay(vec![cursor]).await.expect("replayed"), 1);
        self.readers[group].read.insert(id, Read::Unread);
    }

    async fn leave(&mut self, group: usize) {
        let reader = &mut self.readers[group];
        let Some(mut consumer) = reader.consumer.take() else {
            return;
        };
        let held = std::mem::take(&mut reader.held);
        if reader.settled {
            consumer.quiet();
            consumer
                .settle_all(held.iter().map(|one| (one.receipt, How::RELEASE)))
                .await;
            consumer.close().await;
        } else {
            drop(consumer);
        }
        for delivery in held {
            reader.read.insert(delivery.message.id, Read::Unread);
        }
        let mut open = HashSet::new();
        for (id, _, partition) in &self.sent {
            match reader.read[id] {
                Read::Unread => drop(open.insert(*partition)),
                // What died is kept elsewhere and counts as read; an engine may still bring it again from the log.
                Read::Done if open.contains(partition) => {
                    drop(reader.read.insert(*id, Read::Perhaps))
                }
                _ => {}
            }
        }
    }

    /// Reads everything to its end in both groups: nothing is lost.
    async fn finish(&mut self) {
        for group in [0, 1] {
            self.leave(group).await;
            for id in self.sent.iter().map(|(id, ..)| *id).collect::<Vec<_>>() {
                if self.readers[group].read[&id] == Read::Dead {
                    self.replay(group, id).await;
                }
            }
            let mut last: HashMap<u8, usize> = HashMap::new();
            while self.readers[group]
                .read
                .values()
                .any(|read| *read == Read::Unread)
            {
                self.receive(group, 64).await;
                let reader = &mut self.readers[group];
                let held = std::mem::take(&mut reader.held);
                for delivery in &held {
                    let id = delivery.message.id;
                    reader.read.insert(id, Read::Done);
                    // Replayed dead letters stand beside their key.
                    if delivery.message.attempt == 1 && !self.mortal {
                        let at = self
                            .sent
                            .iter()
                            .position(|(sent, ..)| *sent == id)
                            .expect("sent");
                        let before = last.insert(self.sent[at].1, at);
                        assert!(
                            before.is_none_or(|before| before < at),
                            "the order of a key"
                        );
                    }
                }
                reader.consumer.as_mut().expect("open").ack(&held).await;
            }
            if let Some(mut consumer) = self.readers[group].consumer.take() {
                let rest = consumer.gather(millis(50)).await;
                let read = &self.readers[group].read;
                assert!(
                    rest.iter()
                        .all(|one| read[&one.message.id] == Read::Perhaps),
                    "nothing comes twice"
                );
                consumer.ack(&rest).await;
                consumer.close().await;
            }
        }
    }
}
