//! The engine of a test: the one in memory, with a ledger of what passes, and the faults that a test asks for.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::delivery::{Delivery, How, Notice, Receipt, Settlement};
use crate::engine::memory::Memory;
use crate::engine::{
    BoxFuture, Capabilities, DeadLetters, Engine, EngineError, HealthState, Outgoing, Publish,
    PublishError, Published, Receive, Rescheduled, Revoked, Subscribe, TaskId, Tasks, Turn,
};
use crate::message::Message;
use crate::name::{Name, Place, Side};
use crate::time::WallTime;

use super::ledger::{Ledger, What};

/// What the engine says while the test has taken it down.
const DOWN: &str = "the test has taken the engine down";
/// The epoch of deliveries that the kit makes itself. The engine counts its own from 1.
const ECHO: u32 = u32::MAX;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The engine under observation. Cloning shares it.
#[derive(Clone)]
pub(super) struct Observed(Arc<Shared>);

struct Shared {
    memory: Memory,
    ledger: Arc<Ledger>,
    /// Ends of the worker as a test sees it: until this one dies, so many more settlements are heard.
    until_death: Mutex<Option<usize>>,
    /// How often the worker has died.
    deaths: AtomicU64,
    down_until: Mutex<Option<Instant>>,
    doors: Mutex<Vec<Arc<Door>>>,
}

/// The way to one end from outside of its lane.
struct Door {
    place: Place,
    group: Option<Name>,
    /// The handlers that it serves, by name.
    label: Arc<str>,
    state: Mutex<DoorState>,
}

#[derive(Default)]
struct DoorState {
    waker: Option<Waker>,
    /// What was done here, to be delivered again.
    done: Vec<Echo>,
    /// What is to be delivered again, and from when on.
    echoes: Vec<(Instant, Echo)>,
}

/// A message as it was delivered once.
struct Echo {
    message: Message,
    order: u64,
}

impl Observed {
    pub(super) fn new(memory: Memory, ledger: Arc<Ledger>) -> Self {
        Self(Arc::new(Shared {
            memory,
            ledger,
            until_death: Mutex::default(),
            deaths: AtomicU64::new(0),
            down_until: Mutex::default(),
            doors: Mutex::default(),
        }))
    }

    /// The subscriptions of a handler: place and group.
    pub(super) fn served_by(&self, handler: &str) -> Vec<(Place, Option<Name>)> {
        let mut all: Vec<(Place, Option<Name>)> = Vec::new();
        for door in lock(&self.0.doors).iter() {
            let served = (door.place.clone(), door.group.clone());
            if door.label.split('|').any(|name| name == handler) && !all.contains(&served) {
                all.push(served);
            }
        }
        all
    }

    /// Everything that is done is delivered once more. Answers how many messages.
    pub(super) fn redeliver_all(&self) -> usize {
        let now = Instant::now();
        let mut count = 0;
        for door in lock(&self.0.doors).iter() {
            let mut state = lock(&door.state);
            let done = std::mem::take(&mut state.done);
            count += done.len();
            for echo in done {
                let what = What::Redelivered;
                (self.0.ledger).note(&door.place, door.group.as_ref(), &echo.message, what);
                state.echoes.push((now, echo));
            }
        }
        self.wake_all();
        count
    }

    /// The worker dies at the `settlements`th end of a run from now, before the engine hears of it.
    pub(super) fn die_after(&self, settlements: usize) {
        *lock(&self.0.until_death) = Some(settlements.max(1));
    }

    /// Nothing is accepted, delivered or settled for so long.
    pub(super) fn down_for(&self, time: Duration) {
        *lock(&self.0.down_until) = Some(Instant::now() + time);
        self.0.ledger.stir();
        self.wake_all();
    }

    fn wake_all(&self) {
        for door in lock(&self.0.doors).iter() {
            if let Some(waker) = &lock(&door.state).waker {
                waker.wake_by_ref();
            }
        }
    }
}

impl Shared {
    fn down_until(&self) -> Option<Instant> {
        let mut until = lock(&self.down_until);
        *until = until.filter(|until| Instant::now() < *until);
        *until
    }

    fn deaths(&self) -> u64 {
        self.deaths.load(Ordering::Acquire)
    }

    /// One more run has ended. True if the worker dies of it.
    fn dies_now(&self) -> bool {
        let mut until = lock(&self.until_death);
        let Some(left) = until.as_mut() else {
            return false;
        };
        *left -= 1;
        if *left > 0 {
            return false;
        }
        *until = None;
        self.deaths.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// Ends every lease in the engine, as the death of a worker does.
    fn cut(&self) {
        let mut places: Vec<Place> = Vec::new();
        for door in lock(&self.doors).iter() {
            if !places.contains(&door.place) {
                places.push(door.place.clone());
            }
        }
        for place in &places {
            self.memory.cut(place);
        }
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observed").field(&self.0.memory).finish()
    }
}

impl Engine for Observed {
    fn name(&self) -> &'static str {
        self.0.memory.name()
    }

    fn capabilities(&self, side: Side) -> Capabilities {
        self.0.memory.capabilities(side)
    }

    fn subscribe<'a>(
        &'a self,
        to: &'a Subscribe,
    ) -> BoxFuture<'a, Result<Box<dyn Receive>, EngineError>> {
        Box::pin(async move {
            let inner = self.0.memory.subscribe(to).await?;
            let door = Arc::new(Door {
                place: to.place.clone(),
                group: to.group.clone(),
                label: to.label.clone(),
                state: Mutex::default(),
            });
            lock(&self.0.doors).push(Arc::clone(&door));
            let end = End {
                inner,
                door,
                deaths: self.0.deaths(),
                shared: Arc::clone(&self.0),
                in_hand: HashMap::new(),
                heard: Vec::new(),
                tokens: 0,
                alarm: None,
            };
            Ok(Box::new(end) as Box<dyn Receive>)
        })
    }

    fn publisher(&self) -> Arc<dyn Publish> {
        Arc::new(self.clone())
    }

    fn tasks(&self) -> Option<Arc<dyn Tasks>> {
        Some(Arc::new(self.clone()))
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        self.0.memory.dead_letters()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.0.memory.close()
    }
}

impl Publish for Observed {
    fn publish(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<Published, PublishError>>> {
        Box::pin(async move {
            if self.0.down_until().is_some() {
                let refused = || {
                    Err(PublishError::Unavailable {
                        engine: self.name(),
                        why: DOWN.into(),
                        maybe_stored: false,
                    })
                };
                return slice.iter().map(|_| refused()).collect();
            }
            let answers = self.0.memory.publisher().publish(slice.clone()).await;
            for (out, answer) in slice.iter().zip(&answers) {
                if let Ok(published) = answer {
                    self.0.ledger.sent(out, published);
                }
            }
            answers
        })
    }
}

impl Observed {
    /// The engine's own, unless it is down.
    fn own_tasks(&self, what: &str) -> Result<Arc<dyn Tasks>, EngineError> {
        let unavailable = |why: &str| EngineError::Unavailable {
            engine: self.name(),
            what: what.to_owned(),
            why: why.into(),
        };
        if self.0.down_until().is_some() {
            return Err(unavailable(DOWN));
        }
        (self.0.memory.tasks()).ok_or_else(|| unavailable("it keeps no tasks"))
    }
}

impl Tasks for Observed {
    fn revoke(&self, tasks: Vec<TaskId>) -> BoxFuture<'_, Vec<Result<Revoked, EngineError>>> {
        Box::pin(async move {
            let own = match self.own_tasks("revoke a task") {
                Ok(own) => own,
                Err(error) => return tasks.iter().map(|_| Err(error.clone())).collect(),
            };
            let answers = own.revoke(tasks.clone()).await;
            for (task, answer) in tasks.iter().zip(&answers) {
                if let Ok(Revoked::Revoked) = answer {
                    self.0.ledger.note_task(task, What::Revoked);
                }
            }
            answers
        })
    }

    fn reschedule(
        &self,
        tasks: Vec<(TaskId, WallTime)>,
    ) -> BoxFuture<'_, Vec<Result<Rescheduled, EngineError>>> {
        Box::pin(async move {
            let own = match self.own_tasks("reschedule a task") {
                Ok(own) => own,
                Err(error) => return tasks.iter().map(|_| Err(error.clone())).collect(),
            };
            let answers = own.reschedule(tasks.clone()).await;
            for ((task, due), answer) in tasks.iter().zip(&answers) {
                if let Ok(Rescheduled::Rescheduled) = answer {
                    self.0.ledger.note_task(task, What::Moved { due: *due });
                }
            }
            answers
        })
    }
}

/// One end of a subscription under observation.
struct End {
    inner: Box<dyn Receive>,
    shared: Arc<Shared>,
    door: Arc<Door>,
    /// The deaths of the worker that this end knows of.
    deaths: u64,
    /// What was delivered and not settled.
    in_hand: HashMap<Receipt, Echo>,
    /// Settlements that the engine is still to hear.
    heard: Vec<Settlement>,
    tokens: u64,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl End {
    fn note(&self, message: &Message, what: What) {
        (self.shared.ledger).note(&self.door.place, self.door.group.as_ref(), message, what);
    }

    /// Takes all settlements of a turn, up to the death of the worker. True if it died here.
    fn take_settlements(&mut self, turn: &mut Turn) -> bool {
        let mut died = false;
        for settlement in std::mem::take(&mut turn.settle) {
            let Some(echo) = self.in_hand.remove(&settlement.receipt) else {
                // Of a lease that is lost: the engine counts it.
                self.heard.push(settlement);
                continue;
            };
            let ends_a_run = !matches!(settlement.how, How::Release { .. });
            let was_dead = self.deaths != self.shared.deaths();
            if was_dead || (ends_a_run && self.shared.dies_now()) {
                died |= !was_dead;
                self.note(&echo.message, What::Unheard);
                if settlement.receipt.epoch == ECHO {
                    self.repeat(turn.now, echo, true);
                }
                continue;
            }
            self.note(&echo.message, What::Settled(settlement.how.clone()));
            if settlement.receipt.epoch == ECHO {
                self.settle_echo(turn.now, echo, &settlement.how);
                continue;
            }
            if settlement.how == How::Ack {
                lock(&self.door.state).done.push(echo);
            }
            self.heard.push(settlement);
        }
        let deaths = self.shared.deaths();
        if self.deaths != deaths {
            self.deaths = deaths;
            self.lose(turn, |_| true);
        }
        died
    }

    /// These leases are over. The engine delivers its own again by itself.
    fn lose(&mut self, turn: &mut Turn, is_lost: impl Fn(&Receipt) -> bool) {
        let lost: Vec<Receipt> = self
            .in_hand
            .keys()
            .filter(|one| is_lost(one))
            .copied()
            .collect();
        for receipt in lost {
            let Some(echo) = self.in_hand.remove(&receipt) else {
                continue;
            };
            self.note(&echo.message, What::Lost);
            if receipt.epoch == ECHO {
                turn.notice.push(Notice::LostOne(receipt));
                self.repeat(turn.now, echo, true);
            }
        }
    }

    fn settle_echo(&self, now: Instant, echo: Echo, how: &How) {
        match how {
            How::Ack => lock(&self.door.state).done.push(echo),
            How::Retry { after } => self.repeat(now + *after, echo, true),
            How::Release { after } => self.repeat(now + *after, echo, false),
            // It is in the ledger; the engine knows it as done.
            How::Dead { .. } => {}
        }
    }

    /// Delivers a message of ours once more, from this time on.
    fn repeat(&self, from: Instant, mut echo: Echo, counts: bool) {
        echo.message.attempt += u32::from(counts);
        lock(&self.door.state).echoes.push((from, echo));
    }

    /// Delivers what the test wants to be delivered again, and arms the alarm for the next.
    fn deliver_echoes(&mut self, cx: &mut Context<'_>, turn: &mut Turn, mut room: usize) {
        let now = Instant::now();
        loop {
            let mut state = lock(&self.door.state);
            if !turn.open {
                state.echoes.clear();
            }
            turn.health.empty &= state.echoes.is_empty();
            // In the order in which they were done, for the sake of their keys.
            let due = state.echoes.iter().position(|(from, _)| *from <= now);
            let Some(index) = due.filter(|_| room > 0) else {
                let next = state.echoes.iter().map(|(from, _)| *from).min();
                drop(state);
                if let Some(next) = next.filter(|next| *next > now) {
                    self.wake_at(cx, next);
                }
                return;
            };
            let (_, echo) = state.echoes.remove(index);
            drop(state);
            room -= 1;
            self.tokens += 1;
            let receipt = Receipt {
                epoch: ECHO,
                group: 0,
                token: self.tokens,
            };
            turn.deliver.push(Delivery {
                message: echo.message.clone(),
                receipt,
                order: echo.order,
            });
            self.in_hand.insert(receipt, echo);
        }
    }

    fn wake_at(&mut self, cx: &mut Context<'_>, at: Instant) {
        let mut alarm = Box::pin(sleep_until(at));
        if alarm.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.alarm = Some(alarm);
    }

    fn remember_waker(&self, cx: &Context<'_>) {
        let mut state = lock(&self.door.state);
        let known = state.waker.as_ref();
        if known.is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
    }
}

impl Receive for End {
    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.remember_waker(cx);
        let (delivered, noticed) = (turn.deliver.len(), turn.notice.len());
        let died = self.take_settlements(turn);
        if let Some(until) = self.shared.down_until() {
            turn.health.state = HealthState::Down(DOWN.into());
            turn.health.empty = false;
            if died {
                self.shared.cut();
            }
            self.wake_at(cx, until);
            return if turn.notice.len() > noticed {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        }
        turn.settle.append(&mut self.heard);
        if died {
            // What ended before is heard, and then every lease is over.
            let free = std::mem::take(&mut turn.free);
            let heard = self.inner.turn(cx, turn);
            turn.free = free;
            self.shared.cut();
            if let Poll::Ready(Err(error)) = heard {
                return Poll::Ready(Err(error));
            }
        }
        let polled = self.inner.turn(cx, turn);
        let news: Vec<Notice> = turn.notice[noticed..].to_vec();
        for notice in news {
            match notice {
                Notice::Lost(epoch) => self.lose(turn, |receipt| receipt.epoch == epoch),
                Notice::LostOne(one) if one.epoch != ECHO => {
                    self.lose(turn, |receipt| *receipt == one);
                }
                Notice::LostOne(_) | Notice::Leaving(_) => {}
            }
        }
        for delivery in &turn.deliver[delivered..] {
            let echo = Echo {
                message: delivery.message.clone(),
                order: delivery.order,
            };
            self.in_hand.insert(delivery.receipt, echo);
        }
        let room = turn.free.saturating_sub(turn.deliver.len() - delivered);
        self.deliver_echoes(cx, turn, if turn.open { room } else { 0 });
        let said = turn.deliver.len() > delivered || turn.notice.len() > noticed;
        match polled {
            Poll::Pending if said => Poll::Ready(Ok(())),
            polled => polled,
        }
    }

    fn close(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        // Nobody dies while it stops: what it had is given back by then.
        let _ = self.take_settlements(turn);
        turn.settle.append(&mut self.heard);
        self.inner.close(cx, turn)
    }
}
