//! Tasks: send, receive, settle, revoke, reschedule, replay, purge, crash.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::{Consumer, Subject, eventually, publish, task};
use super::{cursor_of, turn};
use crate::delivery::{Delivery, How};
use crate::engine::{Engine, Outgoing, Rescheduled, Revoked, Subscribe, TaskId};
use crate::message::Id;
use crate::name::{Name, Place};
use crate::time::{WallTime, hours, millis};

const TUBE: Name = Name::literal("model");

/// What is ready comes by then; shorter than elsewhere, since shrinking a failure waits for it many times.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Ack,
    Release,
    ReleaseLater,
    Retry,
    RetryLater,
    Dead,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
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

pub(super) fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        4 => Just(End::Ack),
        2 => Just(End::Release),
        1 => Just(End::ReleaseLater),
        2 => Just(End::Retry),
        1 => Just(End::RetryLater),
        2 => Just(End::Dead),
    ];
    prop_oneof![
        4 => (1..6_usize, any::<bool>()).prop_map(|(count, later)| Step::Send { count, later }),
        3 => (0..4_u8, any::<bool>()).prop_map(|(name, later)| Step::SendNamed { name, later }),
        6 => (0..2_usize, 1..8_usize).prop_map(|(who, room)| Step::Receive { who, room }),
        8 => (any::<usize>(), end).prop_map(|(nth, end)| Step::Settle { nth, end }),
        2 => any::<usize>().prop_map(|nth| Step::Revoke { nth }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(nth, later)| Step::Reschedule { nth, later }),
        1 => any::<usize>().prop_map(|nth| Step::Replay { nth }),
        1 => any::<usize>().prop_map(|nth| Step::Purge { nth }),
        1 => (0..2_usize).prop_map(|who| Step::Leave { who }),
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
    /// Revoked.
    Gone,
    /// It has run, and was purged from the dead letters.
    Purged,
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

pub(super) async fn run(subject: &dyn Subject, steps: &[Step]) {
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
    async fn step(&mut self, step: Step) {
        tracing::debug!(?step);
        match step {
            Step::Send { count, later } => {
                let slice = (0..count).map(|_| self.outgoing(later)).collect();
                self.send(slice, later).await;
            }
            Step::SendNamed { name, later } => {
                let id = Id::named(&TUBE, &[name]);
                let out = Outgoing {
                    id,
                    named: true,
                    ..self.outgoing(later)
                };
                self.send(vec![out], later).await;
            }
            Step::Receive { who, room } => {
                let ready = self.count(At::Ready);
                if ready > 0 {
                    self.receive(who, room.min(ready)).await;
                }
            }
            Step::Settle { nth, end } => {
                if !self.held.is_empty() {
                    let (who, delivery) = self.held.swap_remove(nth % self.held.len());
                    self.settle(who, &delivery, end).await;
                }
            }
            Step::Revoke { nth } => {
                if let Some(id) = self.nth(nth) {
                    self.revoke(id).await;
                }
            }
            Step::Reschedule { nth, later } => {
                if let Some(id) = self.nth(nth) {
                    self.reschedule(id, later).await;
                }
            }
            Step::Replay { nth } => {
                if let Some(id) = self.nth_dead(nth) {
                    self.replay(id).await;
                }
            }
            Step::Purge { nth } => {
                if let Some(id) = self.nth_dead(nth) {
                    let cursor = self.cursor(id).await;
                    let dead = self.engine.dead_letters().expect("declared");
                    assert_eq!(dead.purge(vec![cursor]).await.expect("purged"), 1);
                    self.put(id, At::Purged);
                }
            }
            Step::Leave { who } => self.leave(who).await,
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

    fn ready(&self) -> Vec<Id> {
        let ready = |known: &&Known| known.at == At::Ready;
        self.known
            .values()
            .filter(ready)
            .map(|known| known.task.id())
            .collect()
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
            tracing::debug!(id = %published.id, later, existed = published.existed, "sent");
            assert_eq!(published.id.in_generation(0), out.id);
            let id = out.id;
            let before = self.known.get(&id).map(|known| (known.at, known.named));
            let existed = match before {
                None | Some((At::Gone | At::Purged, _)) => Some(false),
                // Whether it is still known depends on how fast this runs.
                Some((At::Done(since), _)) if began - since > self.subject.keep() / 2 => None,
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

    /// Receives so many by one consumer, and from the other what an engine may have fetched ahead for it.
    async fn receive(&mut self, who: usize, count: usize) {
        self.consumer(who).await;
        let began = Instant::now();
        let mut left = count;
        while left > 0 {
            let waited = began.elapsed();
            assert!(
                waited < DEADLINE,
                "{left} of {count} ready tasks did not come within {waited:?}: {:?}",
                self.ready()
            );
            for who in [who, 1 - who] {
                let Some(consumer) = self.consumers[who].as_mut() else {
                    continue;
                };
                for delivery in consumer.take_within(left, millis(200)).await {
                    left -= 1;
                    let known = self
                        .known
                        .get_mut(&delivery.message.id.in_generation(0))
                        .expect("it was sent");
                    assert_eq!(
                        delivery.message.id,
                        known.task.id(),
                        "what has the name now"
                    );
                    assert_eq!(known.at, At::Ready, "only what is ready is delivered");
                    assert_eq!(delivery.message.attempt, known.starts + 1);
                    tracing::debug!(id = %delivery.message.id, who, "received");
                    known.at = At::Held(who);
                    self.held.push((who, delivery));
                }
                if left == 0 {
                    break;
                }
            }
        }
    }

    async fn settle(&mut self, who: usize, delivery: &Delivery, end: End) {
        let early = "release_after_is_not_early_and_does_not_count";
        let end = match end {
            // Another copy may come before its time.
            End::ReleaseLater if self.subject.lacks(early).is_some() => End::Release,
            end => end,
        };
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
        tracing::debug!(id = %delivery.message.id, who, ?how, "settled");
        self.consumer(who).await.settle(delivery.receipt, how).await;
        self.settled[who] = true;
        let known = self
            .known
            .get_mut(&delivery.message.id.in_generation(0))
            .expect("known");
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
                    turn(self.consumers.iter_mut().flatten()).await;
                    said = ask().await;
                }
                said != Revoked::Running
            })
            .await;
        }
        tracing::debug!(%id, ?at, ?said, "revoked");
        match at {
            At::Ready | At::Later => {
                assert_eq!(said, Revoked::Revoked);
                self.put(id, At::Gone);
            }
            At::Held(_) => assert_eq!(said, Revoked::Running),
            At::Dead => assert_eq!(said, Revoked::AlreadyRun),
            At::Done(since) if named && since.elapsed() < self.subject.keep() / 2 => {
                assert_eq!(said, Revoked::AlreadyRun);
            }
            // Without a name an engine need not remember for long.
            At::Done(_) | At::Purged => assert!(
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
                    turn(self.consumers.iter_mut().flatten()).await;
                    said = ask().await;
                }
                said != Rescheduled::Running
            })
            .await;
        }
        tracing::debug!(%id, ?at, later, ?said, "moved");
        match at {
            At::Ready | At::Later => {
                assert_eq!(said, Rescheduled::Rescheduled);
                self.put(id, if later { At::Later } else { At::Ready });
            }
            At::Held(_) => assert_eq!(said, Rescheduled::Running),
            At::Dead => assert_eq!(said, Rescheduled::AlreadyRun),
            At::Done(_) | At::Purged => {
                assert!(
                    matches!(said, Rescheduled::AlreadyRun | Rescheduled::Unknown),
                    "{said:?}"
                );
            }
            At::Gone => assert_eq!(said, Rescheduled::Unknown),
        }
    }

    /// The cursor of a dead task, once it is listed.
    async fn cursor(&mut self, id: Id) -> u64 {
        let id = self.known[&id].task.id();
        cursor_of(&self.engine, &self.to, id, &mut self.consumers).await
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
            let known = self
                .known
                .get_mut(&delivery.message.id.in_generation(0))
                .expect("known");
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
        // Who shows a task that was revoked shows it here as well.
        let knows_due = self
            .subject
            .lacks("health_knows_what_is_due_next")
            .is_none();
        let consumer = self.consumer(0).await;
        consumer.ack(&got).await;
        consumer.nothing(millis(50)).await;
        consumer.until_empty().await;
        if knows_due {
            consumer
                .until_health("that nothing is due", |health| {
                    health.empty && health.next_due.is_none()
                })
                .await;
        }
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
