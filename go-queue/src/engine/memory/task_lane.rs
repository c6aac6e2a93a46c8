//! One end of a subscription to a tube.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::{DeadLetter, EngineError, HealthState, Receive, Subscribe, Turn};
use crate::name::Place;

use super::Shared;
use super::alarm::Alarm;
use super::dead::Home;
use super::order::Ordering;
use super::tube::{Died, Tube};

#[derive(Debug)]
pub(super) struct TaskLane {
    shared: Arc<Shared>,
    tube: Arc<Tube>,
    place: Place,
    label: Arc<str>,
    lane: usize,
    ordering: Ordering,
    /// How long names of finished tasks stay known.
    keep: Duration,
    alarm: Alarm,
    /// Kept for its memory.
    wakers: Vec<Waker>,
}

impl TaskLane {
    pub(super) fn open(shared: Arc<Shared>, tube: Arc<Tube>, to: &Subscribe) -> Self {
        let lane = tube.lock().open_lane(shared.next_epoch());
        let config = &shared.config;
        let own = config.keeps.get(to.place.name());
        Self {
            keep: own.copied().unwrap_or(config.keep),
            alarm: Alarm::new(shared.config.look),
            ordering: Ordering::new(to.order, shared.hash.clone(), false),
            shared,
            tube,
            place: to.place.clone(),
            label: Arc::clone(&to.label),
            lane,
            wakers: Vec::new(),
        }
    }

    fn keep_dead(&self, died: Vec<Died>, now: crate::time::WallTime) {
        for Died {
            ticket,
            message,
            reason,
            attempts,
        } in died
        {
            let letter = DeadLetter {
                cursor: 0,
                place: self.place.clone(),
                group: None,
                handler: Arc::clone(&self.label),
                id: message.id,
                flags: message.flags,
                content: message.content,
                attempts,
                reason,
                at: message.at,
                died: now,
                body: message.body,
            };
            self.shared
                .dead
                .keep(letter, Home::Tube(Arc::clone(&self.tube), ticket));
        }
    }

    /// One look at the tube. `Some` if there is something to say to the pump.
    fn exchange(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<()> {
        let config = &self.shared.config;
        let room = if turn.open { turn.free } else { 0 };
        let mut instant = turn.now;
        loop {
            let now = config.clock.now();
            let mut tasks = self.tube.lock();
            let armed = tasks.next_due();
            if !turn.settle.is_empty() {
                let settled = tasks.settle(self.lane, &mut turn.settle, now, self.keep);
                turn.health.stale += settled.stale;
                if !settled.died.is_empty() {
                    self.keep_dead(settled.died, now);
                }
            }
            tasks.forget(now);
            tasks.advance(now);
            let mut said = tasks.deliver(
                self.lane,
                room,
                |message| self.ordering.of(message),
                &mut turn.deliver,
            ) > 0;
            let due = tasks.next_due();
            // Others that wait have armed their timers for what was known when they went to sleep.
            if !tasks.is_idle() || due.is_some_and(|due| armed.is_none_or(|armed| due < armed)) {
                tasks.wake_idle(Some(self.lane), &mut self.wakers);
            }
            turn.health.state = HealthState::Up;
            turn.health.empty = tasks.is_idle();
            turn.health.next_due = due;
            if let Some(lane) = tasks.lane_mut(self.lane) {
                said |= !lane.notices.is_empty();
                turn.notice.append(&mut lane.notices);
                lane.room = room > 0;
                if said {
                    lane.waker = None;
                } else if lane
                    .waker
                    .as_ref()
                    .is_none_or(|waker| !waker.will_wake(cx.waker()))
                {
                    lane.waker = Some(cx.waker().clone());
                }
            }
            drop(tasks);
            self.wakers.drain(..).for_each(Waker::wake);
            if said {
                return Poll::Ready(());
            }
            match due {
                // Looks again: it may be due now, or the timer must be armed anew.
                Some(due) if room > 0 && self.alarm.poll(cx, due, now, instant) => {
                    instant = Instant::now();
                }
                _ => return Poll::Pending,
            }
        }
    }
}

impl Receive for TaskLane {
    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.exchange(cx, turn).map(Ok)
    }

    fn close(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        // Everything is confirmed as soon as it is taken.
        let open = std::mem::replace(&mut turn.open, false);
        let _ = self.exchange(cx, turn);
        turn.open = open;
        Poll::Ready(Ok(()))
    }
}

impl Drop for TaskLane {
    fn drop(&mut self) {
        let mut tasks = self.tube.lock();
        tasks.close_lane(self.lane);
        tasks.wake_idle(None, &mut self.wakers);
        drop(tasks);
        self.wakers.drain(..).for_each(Waker::wake);
    }
}
