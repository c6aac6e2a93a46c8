//! The one timer of a lane, on tokio's clock, for a due time on the wall clock.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::time::WallTime;

/// Armed anew only when the time changes.
#[derive(Debug)]
pub(super) struct Alarm {
    /// A step of the wall clock is noticed within this time.
    look: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<WallTime>,
}

impl Alarm {
    /// An alarm that looks at the wall clock so often.
    pub(super) fn new(look: Duration) -> Self {
        Self {
            look,
            sleep: None,
            armed: None,
        }
    }

    /// Arranges to be woken about when `due` comes. True if the time may have come: look at the clock again.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        due: WallTime,
        now: WallTime,
        instant: Instant,
    ) -> bool {
        if self.armed != Some(due) {
            let wait = due.since(now).min(self.look);
            self.set(instant + wait);
            self.armed = Some(due);
        }
        self.ring(cx)
    }

    /// As [`poll`](Self::poll), for a time on tokio's clock.
    pub(super) fn poll_instant(&mut self, cx: &mut Context<'_>, at: Instant) -> bool {
        if self
            .sleep
            .as_ref()
            .is_none_or(|sleep| sleep.deadline() != at)
        {
            self.set(at);
        }
        self.ring(cx)
    }

    fn set(&mut self, at: Instant) {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    fn ring(&mut self, cx: &mut Context<'_>) -> bool {
        let rings = self
            .sleep
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
        if rings {
            // A sleep that has ended must not be polled again.
            self.sleep = None;
            self.armed = None;
        }
        rings
    }
}
