//! Ends of subscriptions against real nodes, and against nodes that follow a script.

mod due;
mod nodes;
mod real;
mod scripted;

use std::future::poll_fn;

use super::*;
use crate::delivery::How;
use crate::engine::DEFAULT_PRIORITY;
use crate::message::envelope;
use crate::message::{Body, ContentType, Id};

/// Longer than anything here takes; reaching it is a failure.
const BOUND: Duration = Duration::from_secs(60);

const TUBE: &str = "t";

fn site(endpoints: &[&str]) -> Site {
    Site {
        endpoints: endpoints
            .iter()
            .map(|endpoint| Arc::from(*endpoint))
            .collect(),
        connect: Duration::from_secs(5),
        patience: Duration::from_secs(10),
        lease: Duration::from_secs(60),
        quorum: endpoints.len().min(2),
        unacked: 256,
        clock: Clock::system(),
        letters: None,
        epochs: AtomicU32::new(1),
    }
}

/// So many milliseconds from now.
fn after(n: u64) -> WallTime {
    Clock::system().now().saturating_add(crate::time::millis(n))
}

fn body_due(due: WallTime, payload: &[u8]) -> Vec<u8> {
    let parts = envelope::Parts {
        id: Id::unique(),
        due,
        at: Clock::system().now(),
        parked_attempt: 0,
        flags: Flags::NULL_KEY,
        content: ContentType::Raw,
        priority: DEFAULT_PRIORITY,
        extra: b"",
        body: &Body::pack(b"", b"", payload),
    };
    let mut body = Vec::new();
    envelope::encode(&parts, &mut body).expect("fits");
    body
}

fn body(payload: &[u8]) -> Vec<u8> {
    body_due(WallTime::EPOCH, payload)
}

/// One end, driven by hand.
struct Hand {
    end: Box<dyn Receive>,
    turn: Turn,
    got: Vec<Delivery>,
    notices: Vec<Notice>,
}

impl Hand {
    fn new(site: Site) -> Self {
        Self::with(site, Framing::Native)
    }

    fn with(site: Site, framing: Framing) -> Self {
        Self::on(site, framing, false)
    }

    /// As of a pump that claims, or not.
    fn claiming(site: Site, claimed: bool) -> Self {
        Self::on(site, Framing::Native, claimed)
    }

    fn on(site: Site, framing: Framing, claimed: bool) -> Self {
        let to = Subscribe {
            claimed,
            ..Subscribe::tube(Name::literal(TUBE))
        };
        Self {
            end: open(Arc::new(site), &to, framing).expect("a tube"),
            turn: Turn::new(Instant::now()),
            got: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// Drives it with room for so many more in hand until the condition holds.
    async fn until(&mut self, what: &str, room: usize, holds: impl FnMut(&mut Self) -> bool) {
        let held = self.within(BOUND, room, holds).await;
        assert!(held, "never: {what}; {:?}", self.turn.health);
    }

    async fn within(
        &mut self,
        bound: Duration,
        room: usize,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let driven = poll_fn(|cx| {
            loop {
                self.turn.now = Instant::now();
                self.turn.free = room
                    .saturating_sub(self.got.len())
                    .min(crate::engine::MAX_SLICE);
                let free = self.turn.free;
                let answer = self.end.turn(cx, &mut self.turn);
                assert!(self.turn.settle.is_empty(), "a turn takes all settlements");
                assert!(self.turn.deliver.len() <= free, "at most what is free");
                self.got.append(&mut self.turn.deliver);
                self.notices.append(&mut self.turn.notice);
                if holds(self) {
                    return Poll::Ready(());
                }
                if answer.is_pending() {
                    return Poll::Pending;
                }
            }
        });
        tokio::time::timeout(bound, driven).await.is_ok()
    }

    async fn take(&mut self, count: usize) -> Vec<Delivery> {
        self.until("enough deliveries", count, |hand| hand.got.len() == count)
            .await;
        std::mem::take(&mut self.got)
    }

    async fn one(&mut self) -> Delivery {
        self.take(1).await.pop().expect("one")
    }

    /// Nothing comes within the time.
    async fn nothing(&mut self, during: Duration) {
        self.within(during, 10, |_| false).await;
        assert!(self.got.is_empty(), "{} came", self.got.len());
    }

    fn settle(&mut self, receipt: Receipt, how: How) {
        self.turn.settle.push(Settlement { receipt, how });
    }

    fn ack(&mut self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            self.settle(delivery.receipt, How::Ack);
        }
    }

    async fn empty(&mut self) {
        self.until("empty", 10, |hand| hand.turn.health.empty).await;
    }

    async fn close(mut self) {
        let closing = poll_fn(|cx| {
            self.turn.now = Instant::now();
            self.end.close(cx, &mut self.turn)
        });
        tokio::time::timeout(BOUND, closing)
            .await
            .expect("`close` has a bound")
            .expect("closes");
    }
}

fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    deliveries
        .iter()
        .map(|delivery| String::from_utf8_lossy(delivery.message.body.payload()).into_owned())
        .collect()
}
