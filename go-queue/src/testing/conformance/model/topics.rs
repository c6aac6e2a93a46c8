//! Topics: push, receive, settle, replay, crash; two groups.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::super::{Consumer, Subject, publish, record};
use super::cursor_of;
use crate::delivery::{Delivery, How};
use crate::engine::{Engine, Subscribe};
use crate::message::Id;
use crate::name::{Name, Side};
use crate::time::millis;

const TOPIC: Name = Name::literal("model");

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
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

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6_u8, 1..5_usize).prop_map(|(key, count)| Step::Push { key, count }),
        4 => (0..2_usize, 1..8_usize).prop_map(|(group, room)| Step::Receive { group, room }),
        8 => (0..2_usize, any::<usize>(), prop::bool::weighted(0.2))
            .prop_map(|(group, nth, dead)| Step::Settle { group, nth, dead }),
        1 => (0..2_usize, any::<usize>()).prop_map(|(group, nth)| Step::Replay { group, nth }),
        1 => (0..2_usize).prop_map(|group| Step::Leave { group }),
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

pub(super) async fn run(subject: &dyn Subject, steps: &[Step]) {
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
    async fn step(&mut self, step: Step) {
        match step {
            Step::Push { key, count } => {
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
            Step::Receive { group, room } => self.receive(group, room).await,
            Step::Settle { group, nth, dead } => {
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
            Step::Replay { group, nth } => {
                let reader = &self.readers[group];
                let dead = self.sent.iter().map(|(id, ..)| *id);
                let dead: Vec<Id> = dead.filter(|id| reader.read[id] == Read::Dead).collect();
                if !dead.is_empty() {
                    self.replay(group, dead[nth % dead.len()]).await;
                }
            }
            Step::Leave { group } => self.leave(group).await,
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
        let reader = &mut self.readers[group];
        let consumers = std::slice::from_mut(&mut reader.consumer);
        let cursor = cursor_of(&self.engine, &reader.to, id, consumers).await;
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
                Read::Unread => {
                    open.insert(*partition);
                }
                // What died is kept elsewhere and counts as read; an engine may still bring it again from the log.
                Read::Done if open.contains(partition) => {
                    reader.read.insert(*id, Read::Perhaps);
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
