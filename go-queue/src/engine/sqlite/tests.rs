//! Faults and promises of the engine, against real files and real processes' means: locks, sockets, clocks.

mod claims;
mod faults;
mod leases;
mod paths;
mod tasks;
mod topics;

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::delivery::{Delivery, How, Notice, Receipt, Settlement};
use crate::engine::{
    DEFAULT_PRIORITY, DeadQuery, Outgoing, PublishError, Published, Rescheduled, Revoked, TaskId,
    Turn,
};
use crate::message::{Body, ContentType, Flags, Id};
use crate::time::WallTime;

/// Longer than anything here takes; reaching it is a failure.
const BOUND: Duration = Duration::from_secs(60);

const T: Name = Name::literal("t");

fn config(folder: &Path) -> Config {
    Config::new(folder.join("q.db"))
}

async fn open(folder: &Path) -> Sqlite {
    Sqlite::open(config(folder), Clock::system())
        .await
        .expect("a new file opens")
}

fn task(payload: &[u8]) -> Outgoing {
    Outgoing {
        place: Place::Tube(T),
        id: Id::unique(),
        named: false,
        body: Body::pack(b"", b"", payload),
        flags: Flags::NULL_KEY,
        content: ContentType::Raw,
        due: WallTime::EPOCH,
        priority: DEFAULT_PRIORITY,
    }
}

fn record(key: Option<&str>, payload: &[u8]) -> Outgoing {
    Outgoing {
        place: Place::Topic(T),
        body: Body::pack(key.unwrap_or("").as_bytes(), b"", payload),
        flags: if key.is_some() {
            Flags(0)
        } else {
            Flags::NULL_KEY
        },
        ..task(payload)
    }
}

async fn send(engine: &Sqlite, out: Outgoing) -> Published {
    let answers = engine.publisher().publish(vec![out]).await;
    answers
        .into_iter()
        .next()
        .expect("one answer")
        .expect("stored")
}

async fn send_all(engine: &Sqlite, slice: Vec<Outgoing>) {
    for answer in engine.publisher().publish(slice).await {
        answer.expect("stored");
    }
}

fn task_id(published: &Published) -> TaskId {
    TaskId::new(T, published)
}

/// One end, driven by hand.
struct Hand {
    end: Box<dyn Receive>,
    turn: Turn,
    got: Vec<Delivery>,
    notices: Vec<Notice>,
}

impl Hand {
    async fn on(engine: &Sqlite, to: &Subscribe) -> Self {
        let end = engine.subscribe(to).await.expect("subscribes");
        Self {
            end,
            turn: Turn::new(Instant::now()),
            got: Vec::new(),
            notices: Vec::new(),
        }
    }

    async fn tube(engine: &Sqlite) -> Self {
        Self::on(engine, &Subscribe::tube(T)).await
    }

    async fn group(engine: &Sqlite, group: &str) -> Self {
        Self::on(
            engine,
            &Subscribe::topic(T, Name::new(group).expect("a name")),
        )
        .await
    }

    fn step(&mut self, cx: &mut Context<'_>, free: usize) -> bool {
        self.turn.now = Instant::now();
        self.turn.free = free.min(crate::engine::MAX_SLICE);
        let more = match self.end.turn(cx, &mut self.turn) {
            Poll::Ready(result) => {
                result.expect("the end is served");
                true
            }
            Poll::Pending => false,
        };
        assert!(self.turn.settle.is_empty(), "a turn takes all settlements");
        assert!(
            self.turn.deliver.len() <= free,
            "a turn brings at most what is free"
        );
        self.got.append(&mut self.turn.deliver);
        self.notices.append(&mut self.turn.notice);
        more
    }

    /// Drives it with room for so many more in hand until the condition holds.
    async fn until(&mut self, what: &str, room: usize, mut holds: impl FnMut(&mut Self) -> bool) {
        let driven = poll_fn(|cx| {
            loop {
                let free = room.saturating_sub(self.got.len());
                let more = self.step(cx, free);
                if holds(self) {
                    return Poll::Ready(());
                }
                if !more {
                    return Poll::Pending;
                }
            }
        });
        assert!(
            tokio::time::timeout(BOUND, driven).await.is_ok(),
            "never came: {what}"
        );
    }

    /// Takes exactly so many.
    async fn take(&mut self, n: usize) -> Vec<Delivery> {
        self.until("deliveries", n, |hand| hand.got.len() >= n)
            .await;
        self.got.drain(..).collect()
    }

    async fn one(&mut self) -> Delivery {
        self.take(1).await.pop().expect("one")
    }

    fn settle(&mut self, receipt: Receipt, how: How) {
        self.turn.settle.push(Settlement { receipt, how });
    }

    fn ack_all(&mut self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            self.settle(delivery.receipt, How::Ack);
        }
    }

    /// Until the engine says that nothing waits and everything is confirmed.
    async fn empty(&mut self) {
        self.until("empty", 256, |hand| hand.turn.health.empty)
            .await;
        assert!(self.got.is_empty(), "nothing should have come");
    }

    /// Nothing comes within this time.
    async fn nothing_for(&mut self, time: Duration) {
        let driven = poll_fn(|cx| {
            while self.step(cx, 16) {}
            if self.got.is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        });
        assert!(
            tokio::time::timeout(time, driven).await.is_err(),
            "something came that should not"
        );
    }

    async fn close(mut self) {
        self.turn.open = false;
        let closed = poll_fn(|cx| self.end.close(cx, &mut self.turn));
        tokio::time::timeout(BOUND, closed)
            .await
            .expect("in time")
            .expect("closes");
    }
}

fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    deliveries
        .iter()
        .map(|d| String::from_utf8_lossy(d.message.body.payload()).into_owned())
        .collect()
}
