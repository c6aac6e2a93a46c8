//! Leaving the group: the last offsets are committed, the partitions given back, the client destroyed. All of that waits for brokers,
//! so it happens on a thread of its own, with a bound.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::ENGINE;
use super::super::raw::{Bell, Change, Client, Commit, Event, Rebalance, describe};
use super::TopicEnd;
use super::state;
use super::track::Track;
use crate::engine::EngineError;

/// How long the brokers may take to answer the last commit.
const BOUND: Duration = Duration::from_secs(10);

/// A commit that was refused is tried again after this time.
const AGAIN: Duration = Duration::from_millis(200);

/// How long one wait for an event lasts.
const STEP: Duration = Duration::from_millis(50);

/// Clients that are being destroyed: who closes the engine waits for them.
#[derive(Clone, Debug)]
pub(in super::super) struct Leavers(Arc<watch::Sender<usize>>);

impl Default for Leavers {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Leavers {
    fn enter(&self) -> Leaving {
        self.0.send_modify(|count| *count += 1);
        Leaving(self.clone())
    }

    /// Waits until none is left, at most so long. False if the time is over.
    pub(in super::super) async fn wait(&self, bound: Duration) -> bool {
        let mut count = self.0.subscribe();
        let none = count.wait_for(|count| *count == 0);
        matches!(tokio::time::timeout(bound, none).await, Ok(Ok(_)))
    }
}

/// Counts one client until it is destroyed.
struct Leaving(Leavers);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// The thread that leaves, as the end sees it.
#[derive(Debug)]
pub(super) struct Leaver {
    said: Arc<Mutex<Option<Result<(), String>>>>,
    bound: Instant,
}

/// What the thread needs.
struct Farewell {
    client: Client,
    /// The group waits for the answer to it.
    held: Option<Rebalance>,
    /// What is finished and not confirmed.
    wanted: Vec<Commit>,
}

impl Farewell {
    /// Leaves. The client is still there afterwards.
    fn leave(&mut self) -> Result<(), String> {
        let held = self
            .held
            .take()
            .filter(|held| held.change() != Change::Lost);
        let began = Instant::now();
        // Also what goes with the held event is still ours now.
        let mut why = self.commit(BOUND);
        if let Some(held) = held {
            self.part_with(held);
        }
        // While the group changes hands a commit may be refused. It is heard as soon as the members have found together again.
        while !self.wanted.is_empty()
            && let Some(left) = BOUND.checked_sub(began.elapsed())
        {
            self.hear_while(AGAIN.min(left), |_| true);
            why = self.commit(left);
        }
        self.client.leave()?;
        self.hear_while(BOUND, |me| !me.client.has_left());
        if self.wanted.is_empty() {
            Ok(())
        } else {
            let why = why.unwrap_or_else(|| format!("no answer of the brokers within {BOUND:?}"));
            Err(format!(
                "{why}; what was finished since the last commit runs again"
            ))
        }
    }

    /// Commits what is wanted, and answers why that failed.
    fn commit(&mut self, bound: Duration) -> Option<String> {
        if self.wanted.is_empty() {
            return None;
        }
        match self.client.commit(&self.wanted) {
            Ok(()) => self.hear_while(bound, |me| !me.wanted.is_empty()),
            Err(error) => Some(error),
        }
    }

    /// Answers a rebalance. What it takes may be somebody else's from now on, who must not be set back by a late commit.
    fn part_with(&mut self, rebalance: Rebalance) {
        if rebalance.change() != Change::Assign {
            let gone = rebalance.partitions();
            let lost = self
                .wanted
                .extract_if(.., |one| gone.contains(&one.partition))
                .count();
            if lost > 0 {
                tracing::warn!(
                    partitions = lost,
                    "left without a last commit: what was finished since the one before runs again"
                );
            }
        }
        self.answer(rebalance);
    }

    /// Takes events as long as it is so, until a commit has failed, or the time is over. Answers why the commit failed.
    fn hear_while(&mut self, bound: Duration, so: impl Fn(&Self) -> bool) -> Option<String> {
        let began = Instant::now();
        while so(self) && began.elapsed() < bound {
            if let Some(event) = self.client.events().event(STEP)
                && let Some(why) = self.take(event)
            {
                return Some(why);
            }
        }
        None
    }

    /// Takes an event. Answers why a commit failed, if one has.
    fn take(&mut self, event: Event) -> Option<String> {
        match event {
            Event::Rebalance(rebalance) => self.part_with(rebalance),
            Event::Committed { error, partitions } => {
                let mut why = error;
                for (partition, offset, error) in partitions {
                    why = why.or(error);
                    if why.is_none() {
                        let is = |one: &Commit| one.partition == partition && one.offset == offset;
                        self.wanted.retain(|one| !is(one));
                    }
                }
                return why.map(describe);
            }
            Event::Log {
                level,
                facility,
                text,
            } => state::log(level, &facility, &text),
            _ => {}
        }
        None
    }

    fn answer(&self, rebalance: Rebalance) {
        if let Err(error) = self.client.answer(rebalance, &[]) {
            tracing::debug!(error, "the last partitions could not be given back");
        }
    }
}

impl TopicEnd {
    /// Begins to leave, if that has not begun. What is in hand is not committed, so it is delivered again, elsewhere or later.
    pub(super) fn depart(&mut self) {
        let Some(client) = self.client.take() else {
            return;
        };
        let behind = self.tracks().filter(|track| !track.is_confirmed());
        let mut farewell = Farewell {
            wanted: self.texts_or_not(behind.filter_map(Track::commit).collect()),
            held: self.held.take().map(|held| held.rebalance),
            client,
        };
        self.tracks.clear();
        let said = Arc::new(Mutex::new(None));
        let (bell, leaving) = (Arc::clone(&self.bell), self.leavers.enter());
        let seat = self.seat.take();
        let tell = |said: &Mutex<Option<_>>, bell: &Bell, answer| {
            *said.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            bell.ring();
        };
        let answer = Arc::clone(&said);
        let thread = std::thread::Builder::new().name("go-queue-kafka-leave".to_owned());
        let spawned = thread.spawn(move || {
            let left = farewell.leave();
            tell(&answer, &bell, left);
            // Ends the threads of the client. Only then the engine is closed.
            drop(farewell);
            drop((seat, leaving));
        });
        if let Err(error) = spawned {
            // What was moved into the thread is destroyed here, which waits a little: rare enough.
            tell(&said, &self.bell, Err(error.to_string()));
        }
        self.leaver = Some(Leaver {
            said,
            // The thread has a bound. This one is for a thread that does not come back from librdkafka.
            bound: Instant::now() + BOUND * 2,
        });
    }

    /// Leaves, and answers when that is done.
    pub(super) fn leave(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Result<(), EngineError>> {
        // Dead letters under way are still confirmed, as long as it is worth it.
        let waited = *self.closing.get_or_insert(now);
        let patience = now.saturating_duration_since(waited) < BOUND;
        if self.client.is_some() && !self.letters.is_empty() && patience {
            self.bell.arm(cx.waker());
            return self.wait_a_tick(cx);
        }
        self.depart();
        let Some(leaver) = &self.leaver else {
            return Poll::Ready(Ok(()));
        };
        self.bell.arm(cx.waker());
        let said = leaver
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let late = now >= leaver.bound;
        let failed = |why: String| EngineError::Unavailable {
            engine: ENGINE,
            what: format!(
                "commit the last offsets of topic `{}` for group `{}`",
                self.topic, self.group
            ),
            why: why.into(),
        };
        match said {
            Some(answer) => {
                self.leaver = None;
                Poll::Ready(answer.map_err(failed))
            }
            None if late => {
                self.leaver = None;
                Poll::Ready(Err(failed("librdkafka does not come back".to_owned())))
            }
            None => self.wait_a_tick(cx),
        }
    }

    /// Pending, and woken within a tick.
    fn wait_a_tick(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EngineError>> {
        self.tick.as_mut().reset(Instant::now() + super::TICK);
        if std::future::Future::poll(self.tick.as_mut(), cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
