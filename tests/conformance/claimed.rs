//! An engine together with its dedup store, as a lane uses the two: what is delivered has been claimed, and what is settled has
//! been said to the store first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use go_queue::dedup::{Answer, Ask, AskWhat, Claims, Verdict};
use go_queue::delivery::{Delivery, How, Notice, Receipt, Settlement};
use go_queue::engine::{
    BoxFuture, Capabilities, DeadLetters, Engine, EngineError, Publish, Receive, Subscribe, Tasks,
    Turn,
};
use go_queue::message::Id;
use go_queue::name::Side;
use tokio::time::{Instant, Sleep};

/// Makes the store's end for one end of a subscription.
pub(crate) type MakeClaims = Arc<dyn Fn(&Subscribe) -> Box<dyn Claims> + Send + Sync>;

/// The engine, asked through the store.
pub(crate) struct Claimed {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) claims: MakeClaims,
}

impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimed").finish_non_exhaustive()
    }
}

impl Engine for Claimed {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn capabilities(&self, side: Side) -> Capabilities {
        self.engine.capabilities(side)
    }

    fn subscribe<'a>(
        &'a self,
        to: &'a Subscribe,
    ) -> BoxFuture<'a, Result<Box<dyn Receive>, EngineError>> {
        Box::pin(async move {
            Ok(Box::new(End {
                inner: self
                    .engine
                    .subscribe(&Subscribe {
                        claimed: true,
                        ..to.clone()
                    })
                    .await?,
                turn: Turn::new(Instant::now()),
                claims: (self.claims)(to),
                asks: Vec::new(),
                answers: Vec::new(),
                next: 0,
                entries: HashMap::new(),
                ready: VecDeque::new(),
                again: Vec::new(),
                alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
            }) as Box<dyn Receive>)
        })
    }

    fn publisher(&self) -> Arc<dyn Publish> {
        self.engine.publisher()
    }

    fn tasks(&self) -> Option<Arc<dyn Tasks>> {
        self.engine.tasks()
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        self.engine.dead_letters()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.engine.close()
    }
}

struct End {
    inner: Box<dyn Receive>,
    turn: Turn,
    claims: Box<dyn Claims>,
    asks: Vec<Ask>,
    answers: Vec<Answer>,
    next: u32,
    entries: HashMap<u32, Entry>,
    /// Claimed, not handed out yet.
    ready: VecDeque<u32>,
    /// Asks to be repeated, and when.
    again: Vec<(Instant, u32)>,
    alarm: Pin<Box<Sleep>>,
}

struct Entry {
    receipt: Receipt,
    id: Id,
    stage: Stage,
}

enum Stage {
    Claiming(Delivery),
    Ready(Delivery),
    Out,
    Confirming(How),
}

impl End {
    fn ask(&mut self, ticket: u32, what: AskWhat) {
        let id = self.entries[&ticket].id;
        self.asks.push(Ask {
            ticket,
            round: 0,
            id,
            what,
        });
    }

    fn settle(&mut self, ticket: u32, how: How) {
        if let Some(entry) = self.entries.remove(&ticket) {
            let receipt = entry.receipt;
            self.turn.settle.push(Settlement { receipt, how });
        }
    }

    /// Says to the store how a run ended; the engine hears of it when that is stored.
    fn end(&mut self, settlement: Settlement) {
        let Settlement { receipt, how } = settlement;
        let found = self
            .entries
            .iter()
            .find(|(_, entry)| entry.receipt == receipt && matches!(entry.stage, Stage::Out));
        let Some((&ticket, _)) = found else {
            // Of an epoch that was lost: the engine counts it.
            self.turn.settle.push(Settlement { receipt, how });
            return;
        };
        let what = match &how {
            How::Ack => AskWhat::Confirm,
            How::Retry { after } => AskWhat::Retry { after: *after },
            How::Dead { .. } => AskWhat::Dead,
            How::Release { .. } => AskWhat::Abandon,
        };
        let waits = what != AskWhat::Abandon;
        self.ask(ticket, what);
        if waits {
            if let Some(entry) = self.entries.get_mut(&ticket) {
                entry.stage = Stage::Confirming(how);
            }
        } else {
            self.settle(ticket, how);
        }
    }

    fn hear(&mut self, answer: &Answer) {
        let ticket = answer.ticket;
        let Some(mut entry) = self.entries.remove(&ticket) else {
            return;
        };
        tracing::debug!(id = %entry.id, verdict = ?answer.verdict, receipt = ?entry.receipt, "claims");
        let mut settled = None;
        entry.stage = match (entry.stage, answer.verdict) {
            (Stage::Claiming(mut delivery), Verdict::Fresh { attempt }) => {
                delivery.message.attempt = attempt;
                self.ready.push_back(ticket);
                Stage::Ready(delivery)
            }
            (stage @ Stage::Claiming(_), Verdict::Done) => {
                settled = Some(How::Ack);
                stage
            }
            (stage @ Stage::Claiming(_), Verdict::Busy(after)) => {
                settled = Some(How::Release { after });
                stage
            }
            (Stage::Confirming(how), Verdict::Stored | Verdict::Lost) => {
                settled = Some(how.clone());
                Stage::Confirming(how)
            }
            (stage, Verdict::Down(after)) => {
                self.again.push((Instant::now() + after, ticket));
                stage
            }
            (stage, _) => stage,
        };
        self.entries.insert(ticket, entry);
        if let Some(how) = settled {
            self.settle(ticket, how);
        }
    }

    /// What is lost with an epoch, or alone.
    fn lose(&mut self, is_lost: impl Fn(&Receipt) -> bool) {
        let lost: Vec<u32> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_lost(&entry.receipt))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in lost {
            match self.entries[&ticket].stage {
                Stage::Confirming(_) => {}
                // Whoever took it hears that it is lost, and will not say how it ended. The start counts.
                Stage::Out => {
                    let after = Duration::ZERO;
                    self.ask(ticket, AskWhat::Retry { after });
                    self.entries.remove(&ticket);
                }
                Stage::Claiming(_) | Stage::Ready(_) => {
                    self.ask(ticket, AskWhat::Abandon);
                    self.entries.remove(&ticket);
                    self.ready.retain(|ready| *ready != ticket);
                }
            }
        }
    }

    fn hand_back_what_has_not_started(&mut self) {
        let waiting: Vec<u32> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.stage, Stage::Ready(_)))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in waiting {
            self.ask(ticket, AskWhat::Abandon);
            self.settle(ticket, How::RELEASE);
        }
        self.ready.clear();
    }

    fn repeat_what_is_due(&mut self, cx: &mut Context<'_>) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = self.again.drain(..).partition(|(at, _)| *at <= now);
        self.again = later;
        for (_, ticket) in due {
            let what = match self.entries.get(&ticket).map(|entry| &entry.stage) {
                Some(Stage::Claiming(_)) => AskWhat::Claim,
                Some(Stage::Confirming(How::Ack)) => AskWhat::Confirm,
                Some(Stage::Confirming(How::Retry { after })) => AskWhat::Retry { after: *after },
                Some(Stage::Confirming(How::Dead { .. })) => AskWhat::Dead,
                _ => continue,
            };
            self.ask(ticket, what);
        }
        if let Some(next) = self.again.iter().map(|(at, _)| *at).min() {
            self.alarm.as_mut().reset(next);
            // It has not passed: what was due is gone from the list.
            let _ = self.alarm.as_mut().poll(cx);
        }
    }

    /// How many may be handed out of what is here. A replica of what runs here waits for the store, and is none of them.
    fn coming(&self) -> usize {
        let of = |waits: bool| {
            let stages = self.entries.values().filter(move |entry| {
                matches!(entry.stage, Stage::Claiming(_) | Stage::Ready(_)) == waits
            });
            stages.map(|entry| entry.id).collect::<HashSet<Id>>()
        };
        of(true).difference(&of(false)).count()
    }

    /// Lets both sides go on until neither has anything to say.
    fn exchange(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Turn,
        mut drive: impl FnMut(
            &mut dyn Receive,
            &mut Context<'_>,
            &mut Turn,
        ) -> Poll<Result<(), EngineError>>,
    ) -> Poll<Result<(), EngineError>> {
        for settlement in std::mem::take(&mut out.settle) {
            self.end(settlement);
        }
        let given = out.deliver.len();
        let told = out.notice.len();
        loop {
            self.repeat_what_is_due(cx);
            let inside = self.coming();
            self.turn.now = Instant::now();
            self.turn.open = out.open;
            self.turn.free = out
                .free
                .saturating_sub(out.deliver.len() - given)
                .saturating_sub(inside);
            let inner = drive(&mut *self.inner, cx, &mut self.turn);
            if let Poll::Ready(Err(error)) = inner {
                return Poll::Ready(Err(error));
            }
            for notice in std::mem::take(&mut self.turn.notice) {
                match notice {
                    Notice::Lost(epoch) => self.lose(|receipt| receipt.epoch == epoch),
                    Notice::LostOne(one) => self.lose(|receipt| *receipt == one),
                    Notice::Leaving(_) => {}
                }
                out.notice.push(notice);
            }
            for delivery in std::mem::take(&mut self.turn.deliver) {
                let ticket = self.next;
                self.next = self.next.wrapping_add(1);
                let entry = Entry {
                    receipt: delivery.receipt,
                    id: delivery.message.id,
                    stage: Stage::Claiming(delivery),
                };
                self.entries.insert(ticket, entry);
                self.ask(ticket, AskWhat::Claim);
            }
            let claims = self.claims.turn(cx, &mut self.asks, &mut self.answers);
            for answer in std::mem::take(&mut self.answers) {
                self.hear(&answer);
            }
            if !out.open {
                self.hand_back_what_has_not_started();
            }
            while out.deliver.len() - given < out.free
                && let Some(ticket) = self.ready.pop_front()
            {
                if let Some(entry) = self.entries.get_mut(&ticket)
                    && let Stage::Ready(delivery) = std::mem::replace(&mut entry.stage, Stage::Out)
                {
                    out.deliver.push(delivery);
                }
            }
            out.health = self.turn.health.clone();
            out.health.empty &= self.entries.is_empty();
            if out.deliver.len() > given || out.notice.len() > told {
                return Poll::Ready(Ok(()));
            }
            let quiet = self.asks.is_empty() && self.turn.settle.is_empty();
            if inner.is_pending() && claims.is_pending() && quiet {
                return Poll::Pending;
            }
            if inner.is_ready() && claims.is_pending() && quiet && self.entries.is_empty() {
                // A close that is over; in a turn it would be a round with nothing in it.
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Drop for End {
    /// Whoever vanishes takes with him only what he was handed: what was claimed for him and not handed out has not started.
    fn drop(&mut self) {
        let waiting: Vec<u32> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.stage, Stage::Ready(_)))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in waiting {
            self.ask(ticket, AskWhat::Abandon);
        }
        let mut cx = Context::from_waker(Waker::noop());
        // A claim that is granted in this very moment is given back as well.
        while self
            .claims
            .turn(&mut cx, &mut self.asks, &mut self.answers)
            .is_ready()
        {
            for answer in std::mem::take(&mut self.answers) {
                if matches!(answer.verdict, Verdict::Fresh { .. }) {
                    self.ask(answer.ticket, AskWhat::Abandon);
                }
            }
        }
    }
}

impl Receive for End {
    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.exchange(cx, turn, |inner, cx, turn| inner.turn(cx, turn))
    }

    fn close(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        turn.open = false;
        turn.free = 0;
        // The engine takes settlements until the store has heard of every end.
        while self
            .entries
            .values()
            .any(|entry| !matches!(entry.stage, Stage::Out))
            || !turn.settle.is_empty()
        {
            match self.exchange(cx, turn, |inner, cx, turn| inner.turn(cx, turn)) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
        // The last settlements are still with us.
        self.turn.open = false;
        self.turn.free = 0;
        let answer = self.inner.close(cx, &mut self.turn);
        turn.notice.append(&mut self.turn.notice);
        turn.health = self.turn.health.clone();
        answer
    }
}
