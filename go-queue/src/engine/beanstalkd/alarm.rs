//! The timer of an end, exact to microseconds where the system can: tokio's own rounds up to whole milliseconds.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;

use tokio::time::{Instant, Sleep};

#[cfg(target_os = "linux")]
use exact::Exact;

/// Wakes its task once at a time. Armed anew only when the time changes.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    armed: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    #[cfg(target_os = "linux")]
    exact: Option<Exact>,
    #[cfg(target_os = "linux")]
    refused: bool,
}

impl Alarm {
    /// Arranges to be woken at a time, exactly. True if it has come: look at the clock.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Instant, now: Instant) -> bool {
        if at <= now {
            self.armed = None;
            return true;
        }
        #[cfg(target_os = "linux")]
        if !self.refused {
            match self.poll_exact(cx, at) {
                Ok(rings) => return rings,
                // No descriptor is left, or the runtime has no I/O: a millisecond late is better than never.
                Err(_) => self.refused = true,
            }
        }
        self.poll_coarse(cx, at, now)
    }

    /// As [`poll`](Self::poll), up to some milliseconds late, and armed anew only for an earlier time.
    pub(super) fn poll_coarse(&mut self, cx: &mut Context<'_>, at: Instant, now: Instant) -> bool {
        if at <= now {
            self.armed = None;
            return true;
        }
        if self.armed.is_none_or(|armed| at < armed) || self.sleep.is_none() {
            self.armed = Some(at);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(at),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
        let rings = self
            .sleep
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
        if rings {
            self.armed = None;
            // A sleep that has ended must not be polled again.
            self.sleep = None;
        }
        rings
    }

    #[cfg(target_os = "linux")]
    fn poll_exact(&mut self, cx: &mut Context<'_>, at: Instant) -> std::io::Result<bool> {
        let exact = match &mut self.exact {
            Some(exact) => exact,
            none => none.insert(Exact::new()?),
        };
        if self.armed != Some(at) {
            exact.arm(at.saturating_duration_since(Instant::now()))?;
            self.armed = Some(at);
        }
        let rings = exact.poll(cx)?;
        if rings {
            self.armed = None;
        }
        Ok(rings)
    }
}

#[cfg(target_os = "linux")]
mod exact {
    //! A timer of the system as a file descriptor.

    use std::io;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::net::unix::pipe::Receiver;

    /// The timer is no pipe, but it is read like one: eight bytes when it has rung. A plain `AsyncFd` cannot be made without `unsafe`.
    #[derive(Debug)]
    pub(super) struct Exact(Receiver);

    impl Exact {
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            Ok(Self(Receiver::from_owned_fd_unchecked(fd)?))
        }

        pub(super) fn arm(&self, after: Duration) -> io::Result<()> {
            let zero = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let it_value = Timespec {
                tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                // Zero would disarm it.
                tv_nsec: i64::from(after.subsec_nanos()).max(1),
            };
            let value = Itimerspec {
                it_interval: zero,
                it_value,
            };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &value)?;
            Ok(())
        }

        pub(super) fn poll(&self, cx: &mut Context<'_>) -> io::Result<bool> {
            loop {
                let Poll::Ready(ready) = self.0.poll_read_ready(cx) else {
                    return Ok(false);
                };
                ready?;
                match self.0.try_read(&mut [0; 8]) {
                    Ok(_) => return Ok(true),
                    // Rung before it was armed anew; now it waits for the next ring.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    async fn rings(alarm: &mut Alarm, at: Instant) {
        poll_fn(|cx| {
            if alarm.poll(cx, at, Instant::now()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    #[tokio::test]
    async fn an_alarm_is_never_early_and_can_be_used_again() {
        let mut alarm = Alarm::default();
        for micros in [300, 1, 1500, 700] {
            let at = Instant::now() + Duration::from_micros(micros);
            rings(&mut alarm, at).await;
            assert!(Instant::now() >= at, "early");
        }
    }

    #[tokio::test]
    async fn an_alarm_that_is_moved_forward_rings_at_the_new_time() {
        let mut alarm = Alarm::default();
        let far = Instant::now() + Duration::from_secs(600);
        let at = Instant::now() + Duration::from_millis(2);
        poll_fn(|cx| {
            assert!(!alarm.poll(cx, far, Instant::now()));
            Poll::Ready(())
        })
        .await;
        tokio::time::timeout(Duration::from_secs(20), rings(&mut alarm, at))
            .await
            .expect("it rings");
        assert!(Instant::now() >= at);
    }
}
