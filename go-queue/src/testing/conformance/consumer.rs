//! A consumer for tests: drives one [`Receive`] by hand, with a deadline on every wait.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Subject;
use crate::delivery::{Delivery, How, Notice, Receipt, Settlement};
use crate::engine::{
    DEFAULT_PRIORITY, Engine, Health, MAX_SLICE, Outgoing, Published, Receive, Subscribe, Turn,
};
use crate::message::{Body, ContentType, Flags, Id};
use crate::name::{Name, Place};
use crate::time::WallTime;

/// Every wait ends by then; far beyond what a loaded machine needs.
const DEADLINE: Duration = Duration::from_secs(30);

/// So often an engine may say `Ready` in one wait and bring nothing.
const IDLE_ROUNDS: usize = 10_000;

/// One end of a subscription in the hands of a test.
pub struct Consumer {
    receive: Box<dyn Receive>,
    turn: Turn,
    /// What was heard and not yet taken.
    notices: Vec<Notice>,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    /// Opens an end.
    pub async fn open(engine: &Arc<dyn Engine>, to: &Subscribe) -> Self {
        let receive = engine
            .subscribe(to)
            .await
            .expect("the engine serves this place");
        Self {
            receive,
            turn: Turn::new(Instant::now()),
            notices: Vec::new(),
        }
    }

    /// One turn, held to the rules that hold for every turn.
    pub fn turn(&mut self, cx: &mut Context<'_>, free: usize) -> Poll<()> {
        self.turn.now = Instant::now();
        self.turn.free = free.min(MAX_SLICE);
        let before = self.turn.deliver.len();
        let answer = self.receive.turn(cx, &mut self.turn);
        assert!(self.turn.settle.is_empty(), "a turn takes all settlements");
        assert!(
            self.turn.deliver.len() - before <= self.turn.free,
            "a turn brings at most `free`"
        );
        self.notices.append(&mut self.turn.notice);
        answer.map(|answer| answer.expect("the subscription goes on"))
    }

    /// Turns with the room that `free` gives until `done`, or until the deadline: then false.
    async fn turn_until(
        &mut self,
        deadline: Duration,
        free: impl Fn(&Self) -> usize,
        done: impl Fn(&Self) -> bool,
    ) -> bool {
        let mut rounds = 0;
        let turns = poll_fn(|cx| {
            loop {
                if done(self) {
                    return Poll::Ready(());
                }
                let before = self.turn.deliver.len() + self.notices.len();
                let free = free(self);
                if self.turn(cx, free).is_pending() {
                    // Deliveries may come with either answer.
                    return if done(self) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    };
                }
                if self.turn.deliver.len() + self.notices.len() == before {
                    rounds += 1;
                    assert!(rounds < IDLE_ROUNDS, "`Ready` must bring something");
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        });
        timeout(deadline, turns).await.is_ok()
    }

    /// Waits for at least one delivery, and takes at most `room` of them.
    pub async fn receive(&mut self, room: usize) -> Vec<Delivery> {
        let some = self
            .turn_until(DEADLINE, |_| room, |me| !me.turn.deliver.is_empty())
            .await;
        assert!(some, "nothing came within {DEADLINE:?}");
        std::mem::take(&mut self.turn.deliver)
    }

    /// Waits for so many deliveries, in as many turns as it takes.
    pub async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let all = self
            .turn_until(
                DEADLINE,
                |me| count - me.turn.deliver.len(),
                |me| me.turn.deliver.len() == count,
            )
            .await;
        let got = self.turn.deliver.len();
        assert!(all, "{got} of {count} deliveries came within {DEADLINE:?}");
        std::mem::take(&mut self.turn.deliver)
    }

    /// What comes within the time, at most so many.
    pub async fn take_within(&mut self, count: usize, during: Duration) -> Vec<Delivery> {
        self.turn_until(
            during,
            |me| count - me.turn.deliver.len(),
            |me| me.turn.deliver.len() == count,
        )
        .await;
        std::mem::take(&mut self.turn.deliver)
    }

    /// Whatever comes within the time.
    pub async fn gather(&mut self, during: Duration) -> Vec<Delivery> {
        self.turn_until(during, |_| MAX_SLICE, |_| false).await;
        std::mem::take(&mut self.turn.deliver)
    }

    /// Nothing may come within the time.
    pub async fn nothing(&mut self, during: Duration) {
        let got = self.gather(during).await;
        let ids: Vec<_> = got.iter().map(|delivery| delivery.message.id).collect();
        assert!(ids.is_empty(), "nothing was to come, but {ids:?} did");
    }

    /// Turns without room for the time: the engine keeps its leases.
    pub async fn idle(&mut self, during: Duration) {
        self.turn_until(during, |_| 0, |_| false).await;
    }

    /// Gives one back; the engine has taken it when this returns, and may still confirm it.
    pub async fn settle(&mut self, receipt: Receipt, how: How) {
        self.settle_all([(receipt, how)]).await;
    }

    /// Gives several back in one slice.
    pub async fn settle_all(&mut self, settlements: impl IntoIterator<Item = (Receipt, How)>) {
        let settlements = settlements.into_iter();
        self.turn
            .settle
            .extend(settlements.map(|(receipt, how)| Settlement { receipt, how }));
        poll_fn(|cx| {
            let _ = self.turn(cx, 0);
            Poll::Ready(())
        })
        .await;
    }

    /// Acknowledges all of them.
    pub async fn ack(&mut self, deliveries: &[Delivery]) {
        self.settle_all(
            deliveries
                .iter()
                .map(|delivery| (delivery.receipt, How::Ack)),
        )
        .await;
    }

    /// Waits until a notice has come, and takes it.
    pub async fn notice(&mut self) -> Notice {
        let some = self
            .turn_until(DEADLINE, |_| 0, |me| !me.notices.is_empty())
            .await;
        assert!(some, "no notice came within {DEADLINE:?}");
        self.notices.remove(0)
    }

    /// The notices so far.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Waits until the engine says of itself what is expected.
    pub async fn until_health(&mut self, what: &str, is: impl Fn(&Health) -> bool) {
        let said = self
            .turn_until(DEADLINE, |_| 0, |me| is(&me.turn.health))
            .await;
        assert!(said, "the health never said {what}: {:?}", self.turn.health);
    }

    /// Waits until the engine says that nothing waits. With room, because copies of what is done may still be there, which only
    /// who has room can take away; none of them is handed out.
    pub async fn until_empty(&mut self) {
        let said = self
            .turn_until(DEADLINE, |_| MAX_SLICE, |me| me.turn.health.empty)
            .await;
        let health = &self.turn.health;
        assert!(said, "the health never said that nothing waits: {health:?}");
        let came = self.turn.deliver.len();
        assert_eq!(came, 0, "nothing was to come");
    }

    /// As the engine said it in the last turn.
    pub fn health(&self) -> &Health {
        &self.turn.health
    }

    /// Stops the intake, as quiet does.
    pub fn quiet(&mut self) {
        self.turn.open = false;
    }

    /// Stops the intake, settles what the engine may still hand out, and waits until everything is confirmed.
    pub async fn close(mut self) {
        self.quiet();
        let closing = poll_fn(|cx| {
            self.turn.now = Instant::now();
            self.turn.free = 0;
            self.receive.close(cx, &mut self.turn)
        });
        let closed = timeout(DEADLINE, closing).await;
        closed
            .expect("`close` has a bound of its own")
            .expect("what was taken is confirmed");
        assert!(self.turn.settle.is_empty(), "`close` takes all settlements");
    }
}

/// A task for now.
pub fn task(tube: &Name, payload: impl AsRef<[u8]>) -> Outgoing {
    Outgoing {
        place: Place::Tube(tube.clone()),
        id: Id::unique(),
        named: false,
        body: Body::pack(b"", b"", payload.as_ref()),
        flags: Flags::NULL_KEY,
        content: ContentType::Raw,
        due: WallTime::EPOCH,
        priority: DEFAULT_PRIORITY,
    }
}

/// A record; an empty key is none.
pub fn record(topic: &Name, key: &str, payload: impl AsRef<[u8]>) -> Outgoing {
    Outgoing {
        place: Place::Topic(topic.clone()),
        body: Body::pack(key.as_bytes(), b"", payload.as_ref()),
        flags: if key.is_empty() {
            Flags::NULL_KEY
        } else {
            Flags::default()
        },
        ..task(topic, b"")
    }
}

/// Publishes a slice; each of it must be accepted.
pub async fn publish(engine: &Arc<dyn Engine>, slice: Vec<Outgoing>) -> Vec<Published> {
    let count = slice.len();
    let answers = engine.publisher().publish(slice).await;
    assert_eq!(answers.len(), count, "one answer for each");
    answers
        .into_iter()
        .map(|answer| answer.expect("accepted"))
        .collect()
}

/// Asks again until it is so, or the deadline is over.
pub async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is().await {
        assert!(
            began.elapsed() < DEADLINE,
            "it never came about within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets members of a group hear of each other until the partitions are dealt.
pub async fn settle_down(subject: &dyn Subject, members: &mut [&mut Consumer]) {
    let until = Instant::now() + 2 * subject.silence();
    while Instant::now() < until {
        for member in &mut *members {
            member.idle(Duration::from_millis(20)).await;
        }
    }
}
