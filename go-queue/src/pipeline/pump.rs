//! The pump: one loop that serves a subscription of any engine.
//!
//! It owns what is in hand, knows tickets, keys as numbers and outcomes, and never hears of offsets, jobs or connections.
//! A message whose handler is ready at once costs no entry, no spawn, no queue and no allocation.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::dedup::{Answer, Ask, Claims};
use crate::delivery::{Delivery, How, Settlement};
use crate::engine::{BoxFuture, EngineError, Health, MAX_SLICE, Receive, Turn};
use crate::handler::Slot;
use crate::outcome::Outcome;

use super::control::{Control, Counts, LaneStatus, Phase};
use super::plan::Plan;
use super::policy;
use super::table::{NIL, OrderMap, Runs, Stage, Table};
use super::wake::WakeSet;

/// After so many starts and polls the pump lets timers and sockets of the handlers have a turn.
const BUDGET: usize = 1024;

/// One lane: one end of a subscription and everything that it has in hand.
pub struct Pump {
    pub(super) plan: Arc<Plan>,
    pub(super) engine: Box<dyn Receive>,
    pub(super) claims: Option<Box<dyn Claims>>,
    pub(super) control: Arc<Control>,
    pub(super) status: Arc<LaneStatus>,
    pub(super) turn: Turn,
    pub(super) table: Table,
    pub(super) places: Vec<Place>,
    /// Places that are free, the warmest last.
    pub(super) idle: Vec<u32>,
    pub(super) wake: Arc<WakeSet>,
    pub(super) running: usize,
    pub(super) in_hand: usize,
    /// Running and waiting together.
    pub(super) room: usize,
    /// Fewer free places than this are not worth a request.
    pub(super) least: usize,
    /// From the order value of a key in hand to its last entry.
    pub(super) busy: OrderMap,
    /// Open batches by order value, and by age.
    pub(super) gathers: OrderMap,
    pub(super) gather_ages: VecDeque<(u32, u32)>,
    /// Who only needs a place, in order; stale ones are known by their round.
    pub(super) ready: VecDeque<(u32, u32)>,
    pub(super) ready_len: usize,
    /// Held ones and those that back off, by time.
    pub(super) later: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    pub(super) runs: Runs,
    /// Cancelled runs with a grace, by its end.
    pub(super) ending: VecDeque<(Instant, u32, u32)>,
    pub(super) asks: Vec<Ask>,
    pub(super) answers: Vec<Answer>,
    /// Entries whose key has come to them.
    pub(super) work: Vec<u32>,
    pub(super) phase: Phase,
    pub(super) counts: Counts,
    /// Starts and polls of this step.
    pub(super) spent: usize,
    bucket: Option<Bucket>,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires; `None`: it is of no use.
    armed: Option<Instant>,
    published: Health,
    /// Rounds begun and ended: odd inside of one.
    rounds: u64,
    closing: bool,
}

/// A running place: a slot, its waker, and who has it.
pub(super) struct Place {
    pub(super) slot: Box<dyn Slot>,
    pub(super) waker: Waker,
    pub(super) owner: u32,
    pub(super) detour: Option<BoxFuture<'static, Vec<How>>>,
}

/// So many deliveries in a time, saved up to one second's worth.
struct Bucket {
    tokens: f64,
    per_second: f64,
    most: f64,
    filled: Instant,
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.most);
        self.filled = now;
    }

    /// When the next whole one will be there.
    fn next(&self) -> Instant {
        let missing = (1.0 - self.tokens).max(0.0) / self.per_second;
        self.filled + Duration::from_secs_f64(missing.clamp(0.001, 86_400.0))
    }
}

enum Step {
    Yield,
    End(Result<(), EngineError>),
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump")
            .field("plan", &self.plan)
            .field("running", &self.running)
            .field("in_hand", &self.in_hand)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl Pump {
    /// A lane over one end of a subscription.
    pub fn new(
        plan: Arc<Plan>,
        engine: Box<dyn Receive>,
        claims: Option<Box<dyn Claims>>,
        control: Arc<Control>,
    ) -> Self {
        let now = Instant::now();
        let concurrency = plan.concurrency.max(1);
        let room = concurrency.saturating_add(plan.waiting);
        let wake = WakeSet::new(concurrency);
        control.join(wake.clone());
        let bucket = plan.rate.map(|rate| {
            let seconds = rate.per.as_secs_f64().max(0.001);
            let per_second = f64::from(rate.count.max(1)) / seconds;
            Bucket {
                tokens: per_second.max(1.0),
                per_second,
                most: per_second.max(1.0),
                filled: now,
            }
        });
        Self {
            engine,
            claims,
            control,
            status: Arc::default(),
            turn: Turn::new(now),
            table: Table::new(),
            places: Vec::new(),
            idle: Vec::new(),
            wake,
            running: 0,
            in_hand: 0,
            room,
            least: (room / 16).clamp(1, 64),
            busy: OrderMap::default(),
            gathers: OrderMap::default(),
            gather_ages: VecDeque::new(),
            ready: VecDeque::new(),
            ready_len: 0,
            later: BinaryHeap::new(),
            runs: Runs::new(),
            ending: VecDeque::new(),
            asks: Vec::new(),
            answers: Vec::new(),
            work: Vec::new(),
            phase: Phase::Open,
            counts: Counts::default(),
            spent: 0,
            bucket,
            timer: Box::pin(sleep_until(now)),
            armed: None,
            published: Health::default(),
            rounds: 0,
            closing: false,
            plan,
        }
    }

    /// What this lane is doing.
    pub fn status(&self) -> Arc<LaneStatus> {
        self.status.clone()
    }

    /// Serves the subscription until quiet or abort, and until nothing is in hand and every settlement is confirmed.
    ///
    /// # Errors
    /// If the engine says that the subscription is over for good.
    ///
    /// # Cancel safety
    /// The future may be dropped between polls and made anew: nothing is lost. Dropping the pump drops its handlers; the
    /// engine redelivers what they had.
    pub async fn run(&mut self) -> Result<(), EngineError> {
        loop {
            // The handlers of a lane would share one budget of tokio's and starve each other.
            let step = tokio::task::unconstrained(poll_fn(|cx| self.step(cx))).await;
            match step {
                Step::Yield => tokio::task::yield_now().await,
                Step::End(result) => return result,
            }
        }
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let step = self.rounds(cx);
        // Even: no thread is in it.
        self.rounds = (self.rounds | 1) + 1;
        self.status.turn_over(self.rounds);
        step
    }

    fn rounds(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        self.spent = 0;
        loop {
            self.rounds = (self.rounds + 1) | 1;
            self.status.turn_over(self.rounds);
            self.turn.now = Instant::now();
            self.obey();
            if self.closing {
                return self.close(cx);
            }
            self.turn.free = self.free();
            let more = match self.engine.turn(cx, &mut self.turn) {
                Poll::Ready(Ok(())) => true,
                Poll::Pending => false,
                Poll::Ready(Err(error)) => {
                    self.drop_everything();
                    self.publish();
                    return Poll::Ready(Step::End(Err(error)));
                }
            };
            debug_assert!(
                self.turn.settle.is_empty(),
                "an engine takes all settlements"
            );
            let spent = self.spent;
            self.obey_notices();
            self.accept_all();
            self.begin_full_gathers();
            let answered = self.exchange_claims(cx);
            self.poll_woken();
            let fired = self.fire_due();
            self.begin_waiting();
            if self.phase != Phase::Open
                && self.in_hand == 0
                && self.turn.settle.is_empty()
                && self.asks.is_empty()
            {
                self.closing = true;
                continue;
            }
            let idle = !more
                && !answered
                && !fired
                && self.spent == spent
                && self.turn.settle.is_empty()
                && self.asks.is_empty();
            if idle {
                self.publish();
                if self.sleep(cx) {
                    return Poll::Pending;
                }
            } else if self.spent >= BUDGET {
                self.publish();
                return Poll::Ready(Step::Yield);
            }
        }
    }

    /// Registers for everything that can wake the pump. False if something already has.
    fn sleep(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(at) = self.next_time() {
            // Later than needed is re-armed; earlier is one spurious round.
            if self.armed.is_none_or(|armed| armed > at) {
                self.timer.as_mut().reset(at);
                self.armed = Some(at);
            }
            if self.timer.as_mut().poll(cx).is_ready() {
                self.armed = None;
                return false;
            }
        }
        // The control raises its phase before it rouses: looked at after arming, it cannot be missed.
        self.wake.arm(cx.waker()) && self.control.phase() == self.phase
    }

    fn close(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let closed = self.engine.close(cx, &mut self.turn);
        // What was prefetched and comes now has not started: it goes back with the epoch.
        self.turn.deliver.clear();
        self.turn.notice.clear();
        self.publish();
        closed.map(Step::End)
    }

    /// Room for deliveries in this turn.
    fn free(&mut self) -> usize {
        if self.phase != Phase::Open {
            return 0;
        }
        let mut free = self.room.saturating_sub(self.in_hand);
        if let Some(bucket) = &mut self.bucket {
            bucket.refill(self.turn.now);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "tokens are small and never negative"
            )]
            let tokens = bucket.tokens as usize;
            return free.min(tokens).min(MAX_SLICE);
        }
        if free < self.least && self.in_hand > 0 {
            free = 0;
        }
        free.min(MAX_SLICE)
    }

    fn accept_all(&mut self) {
        if self.turn.deliver.is_empty() {
            return;
        }
        let mut deliver = std::mem::take(&mut self.turn.deliver);
        self.counts.received += deliver.len() as u64;
        if let Some(bucket) = &mut self.bucket {
            #[expect(clippy::cast_precision_loss, reason = "a slice has at most 256")]
            let taken = deliver.len() as f64;
            bucket.tokens -= taken;
        }
        for delivery in deliver.drain(..) {
            self.accept(delivery);
        }
        self.turn.deliver = deliver;
    }

    #[inline]
    fn accept(&mut self, delivery: Delivery) {
        if self.phase != Phase::Open {
            // An engine that delivers after quiet gets it back.
            self.release(delivery.receipt);
            return;
        }
        let order = delivery.order;
        let tail = if order != 0 && !self.busy.is_empty() {
            self.busy.get(&order).copied()
        } else {
            None
        };
        let batch = self.plan.batch.is_some() && self.claims.is_none();
        if batch && self.preflight(&delivery).is_none() {
            self.gather(delivery);
        } else if let Some(tail) = tail {
            let ticket = self.take(delivery, Stage::Queued);
            self.table[tail].next = ticket;
            self.busy.insert(order, ticket);
        } else if self.claims.is_some() {
            let ticket = self.take_key(delivery, Stage::Claiming);
            self.ask_claim(ticket);
        } else if self.running == self.plan.concurrency || self.ready_len > 0 {
            let ticket = self.take_key(delivery, Stage::Ready);
            self.push_ready(ticket);
        } else {
            self.start_at_once(delivery);
        }
    }

    #[inline]
    fn preflight(&self, delivery: &Delivery) -> Option<Outcome> {
        policy::preflight(&self.plan, &delivery.message, || self.plan.clock.now())
    }

    /// Whether the message of an entry without a place may start at all.
    fn may_start(&self, ticket: u32) -> bool {
        let message = self.table[ticket].message.as_ref();
        message.is_none_or(|message| {
            policy::preflight(&self.plan, message, || self.plan.clock.now()).is_none()
        })
    }

    /// The short way: nothing is in front of this message. If its handler is ready at once, it never becomes an entry.
    #[inline]
    fn start_at_once(&mut self, delivery: Delivery) {
        let index = self.next_place();
        let early = self.preflight(&delivery);
        let Delivery {
            message,
            receipt,
            order,
        } = delivery;
        let place = &mut self.places[index as usize];
        place.slot.load(message);
        let polled = if let Some(outcome) = early {
            Poll::Ready(outcome)
        } else {
            self.counts.started += 1;
            self.spent += 1;
            place.slot.start(&mut Context::from_waker(&place.waker))
        };
        if let Poll::Ready(Outcome::Done) = polled {
            // It holds nothing; what would look for something to drop is saved.
            std::mem::forget(polled);
            self.counts.done += 1;
            self.turn.settle.push(Settlement {
                receipt,
                how: How::Ack,
            });
            return;
        }
        self.idle.pop();
        let ticket = self
            .table
            .take(Stage::Running, order, receipt, self.turn.now);
        self.in_hand += 1;
        self.running += 1;
        self.table[ticket].place = index;
        self.places[index as usize].owner = ticket;
        if order != 0 {
            self.busy.insert(order, ticket);
        }
        match polled {
            Poll::Pending => self.runs.push(&mut self.table, ticket),
            Poll::Ready(outcome) => {
                self.finish(ticket, outcome);
                self.begin_waiting();
            }
        }
    }

    /// Makes an entry of a delivery.
    pub(super) fn take(&mut self, delivery: Delivery, stage: Stage) -> u32 {
        let Delivery {
            message,
            receipt,
            order,
        } = delivery;
        let ticket = self.table.take(stage, order, receipt, self.turn.now);
        self.table[ticket].message = Some(message);
        self.in_hand += 1;
        ticket
    }

    /// Makes an entry of a delivery, which from now on has its key.
    fn take_key(&mut self, delivery: Delivery, stage: Stage) -> u32 {
        let ticket = self.take(delivery, stage);
        let order = self.table[ticket].order;
        if order != 0 {
            self.busy.insert(order, ticket);
        }
        ticket
    }

    pub(super) fn push_ready(&mut self, ticket: u32) {
        let entry = &mut self.table[ticket];
        entry.stage = Stage::Ready;
        self.ready.push_back((ticket, entry.round));
        self.ready_len += 1;
    }

    /// A free running place, the warmest first, or a new one.
    #[inline]
    fn place(&mut self) -> u32 {
        let index = self.next_place();
        self.idle.pop();
        index
    }

    /// The place that [`Pump::place`] would take, left where it is.
    #[inline]
    fn next_place(&mut self) -> u32 {
        match self.idle.last() {
            Some(index) => *index,
            None => self.new_place(),
        }
    }

    #[cold]
    fn new_place(&mut self) -> u32 {
        let index = self.places.len();
        self.places.push(Place {
            slot: Arc::clone(&self.plan.handle).slot(),
            waker: self.wake.waker(index),
            owner: NIL,
            detour: None,
        });
        let index = u32::try_from(index).expect("concurrency is a number of 32 bits");
        self.idle.push(index);
        index
    }

    /// Starts what waits for its key or for a place, until nothing more can start.
    pub(super) fn begin_waiting(&mut self) {
        loop {
            if let Some(ticket) = self.work.pop() {
                self.begin(ticket);
            } else if self.running < self.plan.concurrency
                && let Some((ticket, round)) = self.ready.pop_front()
            {
                let entry = &self.table[ticket];
                if entry.round == round && entry.stage == Stage::Ready {
                    self.ready_len -= 1;
                    self.start(ticket);
                }
            } else {
                return;
            }
        }
    }

    /// Its key has come to this entry.
    fn begin(&mut self, ticket: u32) {
        let entry = &self.table[ticket];
        if entry.stage == Stage::Void {
            self.pass_key_on(ticket);
            self.table.free(ticket);
        } else if self.phase != Phase::Open || entry.back {
            self.hand_back(ticket);
        } else if self.claims.is_some() && !entry.claimed {
            self.ask_claim(ticket);
        } else if self.plan.batch.is_some()
            && entry.stage == Stage::Claiming
            && self.may_start(ticket)
        {
            self.gather_claimed(ticket);
        } else if self.running < self.plan.concurrency && self.ready_len == 0 {
            self.start(ticket);
        } else {
            self.push_ready(ticket);
        }
    }

    /// Gives an entry a place and starts its handler.
    fn start(&mut self, ticket: u32) {
        let index = self.place();
        let place = &mut self.places[index as usize];
        place.owner = ticket;
        let entry = &mut self.table[ticket];
        entry.place = index;
        entry.stage = Stage::Running;
        entry.since = self.turn.now;
        self.running += 1;
        let message = entry
            .message
            .take()
            .expect("an entry without a place has its message");
        let single = entry.more.is_empty();
        let early = if single {
            policy::preflight(&self.plan, &message, || self.plan.clock.now())
        } else {
            None
        };
        place.slot.load(message);
        for message in entry.others.drain(..) {
            place.slot.add(message);
        }
        let polled = if let Some(outcome) = early {
            Poll::Ready(outcome)
        } else {
            self.counts.started += entry.len() as u64;
            self.spent += 1;
            place.slot.start(&mut Context::from_waker(&place.waker))
        };
        match polled {
            Poll::Pending => self.runs.push(&mut self.table, ticket),
            Poll::Ready(outcome) => self.finish(ticket, outcome),
        }
    }

    fn poll_woken(&mut self) {
        for word in 0..self.wake.words() {
            let mut bits = self.wake.take(word);
            while bits != 0 {
                let index = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                self.poll_place(index);
            }
        }
    }

    fn poll_place(&mut self, index: usize) {
        // A late wake of an earlier run is one poll too many, and harmless.
        let Some(place) = self.places.get_mut(index) else {
            return;
        };
        let ticket = place.owner;
        if ticket == NIL {
            return;
        }
        self.spent += 1;
        let mut cx = Context::from_waker(&place.waker);
        match self.table[ticket].stage {
            Stage::Running => {
                if let Poll::Ready(outcome) = place.slot.poll(&mut cx) {
                    self.finish(ticket, outcome);
                }
            }
            Stage::Detour => {
                if let Some(detour) = &mut place.detour
                    && let Poll::Ready(hows) = detour.as_mut().poll(&mut cx)
                {
                    place.detour = None;
                    self.table[ticket].hows = hows;
                    self.confirm(ticket);
                }
            }
            _ => {}
        }
        self.begin_waiting();
    }

    /// Does what is due. Answers whether anything was.
    fn fire_due(&mut self) -> bool {
        let now = self.turn.now;
        let mut fired = false;
        if let Some(timeout) = self.plan.timeout {
            while self.runs.first != NIL && self.table[self.runs.first].since + timeout <= now {
                let ticket = self.runs.first;
                self.time_out(ticket, timeout);
                fired = true;
            }
        }
        while let Some(&(at, ticket, round)) = self.ending.front() {
            let entry = &self.table[ticket];
            let live = entry.round == round && entry.stage == Stage::Running && entry.ending;
            if live && at > now {
                break;
            }
            self.ending.pop_front();
            if live {
                self.end_grace(ticket);
                fired = true;
            }
        }
        while let Some(&Reverse((at, ticket, round))) = self.later.peek() {
            if at > now {
                break;
            }
            self.later.pop();
            if self.table[ticket].round == round {
                self.come_back(ticket);
                fired = true;
            }
        }
        fired | self.begin_lingering()
    }

    /// A held one, one that backs off, or a confirmation that the store did not take: its time has come.
    fn come_back(&mut self, ticket: u32) {
        match self.table[ticket].stage {
            Stage::Held => self.ask_claim(ticket),
            Stage::Backoff => self.work.push(ticket),
            Stage::Confirming => self.ask_confirm(ticket),
            _ => {}
        }
    }

    /// When the pump must look again by itself.
    fn next_time(&self) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut at = |time: Instant| next = Some(next.map_or(time, |n| n.min(time)));
        if let Some(timeout) = self.plan.timeout
            && self.runs.first != NIL
        {
            at(self.table[self.runs.first].since + timeout);
        }
        if let Some((end, ..)) = self.ending.front() {
            at(*end);
        }
        if let Some(Reverse((time, ..))) = self.later.peek() {
            at(*time);
        }
        if let Some(batch) = self.plan.batch
            && let Some((ticket, _)) = self.gather_ages.front()
        {
            at(self.table[*ticket].since + batch.linger);
        }
        if let Some(bucket) = &self.bucket
            && bucket.tokens < 1.0
            && self.phase == Phase::Open
        {
            at(bucket.next());
        }
        next
    }

    fn publish(&mut self) {
        self.status
            .publish(self.running, self.in_hand, &self.counts);
        if self.turn.health != self.published {
            self.published.clone_from(&self.turn.health);
            self.status.publish_health(&self.published);
        }
    }
}
