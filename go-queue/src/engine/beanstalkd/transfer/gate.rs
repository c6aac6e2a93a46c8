//! The end of a shared tube: it hands out the records of the private tube, each after the lock of the Go library was taken
//! under the claim of the record.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{BACK_OFF, CLAIM_HEADER, Crew};
use crate::dedup::{GoLock, GoLocked, GoLocks, StoreDown};
use crate::delivery::{Delivery, How, Notice, Settlement};
use crate::engine::{EngineError, Health, HealthState, MAX_SLICE, Receive, Turn};
use crate::message::headers;

/// How long the tasks at the nodes may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

type Answers = Vec<Result<GoLocked, StoreDown>>;

/// One end of a shared tube.
pub(super) struct Gate {
    private: Box<dyn Receive>,
    inner: Turn,
    crew: Arc<Crew>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// Records before the question.
    waiting: Vec<(Delivery, GoLock)>,
    /// Records that are asked for; leases that were lost meanwhile are `None`.
    asked: Vec<Option<(Delivery, GoLock)>>,
    asking: Option<Pin<Box<dyn Future<Output = Answers> + Send>>>,
    /// Records that may start.
    admitted: VecDeque<Delivery>,
    /// After a store that did not answer.
    pause: Option<(Pin<Box<Sleep>>, Arc<str>)>,
    next_pause: Duration,
    stop_by: Option<Pin<Box<Sleep>>>,
    closed: bool,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("tube", &self.crew.fleet.shared)
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

impl Gate {
    pub(super) fn new(
        private: Box<dyn Receive>,
        crew: Arc<Crew>,
        stop: watch::Sender<bool>,
        tasks: JoinSet<()>,
    ) -> Self {
        Self {
            private,
            inner: Turn::new(Instant::now()),
            crew,
            stop,
            tasks,
            waiting: Vec::new(),
            asked: Vec::new(),
            asking: None,
            admitted: VecDeque::new(),
            pause: None,
            next_pause: BACK_OFF.start,
            stop_by: None,
            closed: false,
        }
    }

    fn held(&self) -> usize {
        self.waiting.len() + self.asked.iter().flatten().count() + self.admitted.len()
    }

    /// Gives back what has not been handed out. What is asked for now follows with its answer.
    fn give_back(&mut self) {
        let waiting = self.waiting.drain(..).map(|(delivery, _)| delivery);
        for delivery in waiting.chain(self.admitted.drain(..)) {
            self.inner.settle.push(Settlement {
                receipt: delivery.receipt,
                how: How::RELEASE,
            });
        }
        self.pause = None;
    }

    /// One exchange with the private tube.
    fn exchange(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.inner.now = turn.now;
        self.inner.open = turn.open;
        let room = turn.free.saturating_sub(turn.deliver.len());
        self.inner.free = room.saturating_sub(self.held());
        let over = self.private.turn(cx, &mut self.inner);
        self.sort(turn);
        over
    }

    /// Takes what the private tube has brought.
    fn sort(&mut self, turn: &mut Turn) {
        for delivery in self.inner.deliver.drain(..) {
            match claim(&delivery) {
                Some(lock) => self.waiting.push((delivery, lock)),
                // Somebody put it there by hand; nobody else knows of it.
                None => self.admitted.push_back(delivery),
            }
        }
        for notice in self.inner.notice.drain(..) {
            let is_over = |delivery: &Delivery| match notice {
                Notice::Lost(epoch) => delivery.receipt.epoch == epoch,
                Notice::LostOne(receipt) => delivery.receipt == receipt,
                Notice::Leaving(_) => false,
            };
            self.waiting.retain(|(delivery, _)| !is_over(delivery));
            self.admitted.retain(|delivery| !is_over(delivery));
            for asked in &mut self.asked {
                if asked
                    .as_ref()
                    .is_some_and(|(delivery, _)| is_over(delivery))
                {
                    *asked = None;
                }
            }
            turn.notice.push(notice);
        }
    }

    /// Asks for the locks of what waits, and sorts by the answers. Registers the waker.
    fn ask(&mut self, cx: &mut Context<'_>) {
        loop {
            if let Some((pause, _)) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return;
                }
                self.pause = None;
            }
            if let Some(asking) = &mut self.asking {
                let Poll::Ready(answers) = asking.as_mut().poll(cx) else {
                    return;
                };
                self.asking = None;
                self.hear(answers);
            } else if self.waiting.is_empty() {
                return;
            } else {
                let locks: Vec<GoLock> = self.waiting.iter().map(|(_, lock)| *lock).collect();
                self.asked.extend(self.waiting.drain(..).map(Some));
                let store = Arc::clone(&self.crew.fleet.locks);
                self.asking = Some(Box::pin(ask(store, locks)));
            }
        }
    }

    fn hear(&mut self, answers: Answers) {
        let mut down = None;
        let mut answers = answers.into_iter();
        for asked in self.asked.drain(..) {
            let answer = answers.next();
            let Some((delivery, lock)) = asked else {
                continue;
            };
            match answer {
                Some(Ok(GoLocked::Ours)) => self.admitted.push_back(delivery),
                Some(Ok(GoLocked::Theirs)) => self.inner.settle.push(Settlement {
                    receipt: delivery.receipt,
                    how: How::Ack,
                }),
                Some(Err(error)) => {
                    down = Some(error.why);
                    self.waiting.push((delivery, lock));
                }
                None => self.waiting.push((delivery, lock)),
            }
        }
        if let Some(why) = down {
            self.pause = Some((Box::pin(sleep(self.next_pause)), why));
            self.next_pause = (self.next_pause * 2).min(BACK_OFF.end);
        } else {
            self.next_pause = BACK_OFF.start;
        }
    }

    /// How the private tube, the shared one and the store are, as one.
    fn health(&self, cx: &mut Context<'_>) -> Health {
        let mut nodes = self
            .crew
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &mut nodes.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        let mut health = self.inner.health.clone();
        let down = nodes.each.iter().find_map(|node| node.down.clone());
        if health.state == HealthState::Up {
            if nodes.each.iter().any(|node| node.up) {
                // One node that is served is enough, as in the private tube.
            } else if let Some(why) = down.clone() {
                health.state = HealthState::Down(why);
            } else {
                health.state = HealthState::Starting;
            }
        }
        if let Some((_, why)) = &self.pause {
            health.state = HealthState::Down(format!("the dedup store: {why}").into());
        }
        health.empty &= self.held() == 0 && nodes.each.iter().all(|node| node.idle);
        let shared = nodes.each.iter().filter_map(|node| node.next_due);
        health.next_due = shared.chain(health.next_due).min();
        health
    }

    fn begin_to_stop(&mut self) {
        if self.stop_by.is_none() {
            self.stop.send_replace(true);
            self.stop_by = Some(Box::pin(sleep_until(Instant::now() + STOP_WITHIN)));
        }
    }

    /// Whether the tasks at the nodes are gone.
    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.tasks.poll_join_next(cx) {
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(_)) => {}
                Poll::Pending => break,
            }
        }
        let bound = self.stop_by.as_mut();
        if bound.is_some_and(|bound| bound.as_mut().poll(cx).is_ready()) {
            self.tasks.abort_all();
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

async fn ask(store: Arc<dyn GoLocks>, locks: Vec<GoLock>) -> Answers {
    store.lock(locks).await
}

/// The claim of a record.
fn claim(delivery: &Delivery) -> Option<GoLock> {
    headers::iter(delivery.message.body.raw_headers())
        .find(|(name, _)| *name == CLAIM_HEADER.as_bytes())
        .and_then(|(_, value)| value.try_into().ok())
        .map(|claim| GoLock {
            id: delivery.message.id,
            claim,
        })
}

impl Receive for Gate {
    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.inner.settle.append(&mut turn.settle);
        if !turn.open {
            self.stop.send_replace(true);
            self.give_back();
        }
        let before = turn.deliver.len() + turn.notice.len();
        let over = self.exchange(cx, turn);
        if let Poll::Ready(Err(error)) = over {
            return Poll::Ready(Err(error));
        }
        self.ask(cx);
        if !turn.open {
            self.give_back();
        }
        let room = turn.free.min(MAX_SLICE).saturating_sub(turn.deliver.len());
        let ready = room.min(self.admitted.len());
        turn.deliver.extend(self.admitted.drain(..ready));
        turn.health = self.health(cx);
        let appended = turn.deliver.len() + turn.notice.len() > before;
        // What was decided here has to reach the private tube.
        let more = !self.inner.settle.is_empty();
        if appended || more || over.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn close(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.begin_to_stop();
        self.inner.settle.append(&mut turn.settle);
        // Answers are of no use any more: the lock stays with the record.
        self.asking = None;
        let asked: Vec<_> = self.asked.drain(..).flatten().collect();
        self.waiting.extend(asked);
        self.give_back();
        self.inner.now = turn.now;
        self.inner.open = false;
        self.inner.free = 0;
        if !self.closed {
            if let Poll::Ready(closed) = self.private.close(cx, &mut self.inner) {
                closed?;
                self.closed = true;
            }
            self.sort(turn);
            self.admitted.clear();
            self.waiting.clear();
        }
        turn.health = self.inner.health.clone();
        if self.poll_stopped(cx).is_ready() && self.closed {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }
}
