//! The consuming side: one client for each end.
//!
//! The client fetches on threads of its own. Its records lie in one queue for each partition, from which a turn takes a slice, one
//! partition after the other. Events, and among them the changes of the assignment, are polled in the same turn, so that everything
//! about a partition happens in one place and in one order.

mod beyond;
mod commit;
mod deliver;
mod figures;
mod leave;
mod rebalance;
mod seat;
mod slice;
mod start;
mod state;
mod track;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::ENGINE;
use super::dead::{Letter, Outbox};
use super::raw::{Bell, Client, Event, Room};
use crate::delivery::{How, Settlement};
use crate::engine::{EngineError, Order, Receive, Subscribe, Turn};
use crate::name::{Name, Place};

pub(super) use leave::Leavers;
pub(super) use seat::{Seat, Seats};
pub(super) use start::pin_start;

use deliver::Warm;
use figures::Figures;
use leave::Leaver;
use rebalance::Held;
use slice::Copier;
use state::State;
use track::{End, Spares, Track};

/// Events are polled at least so often, and what is finished is told to the client.
const TICK: Duration = Duration::from_millis(100);

/// So many events are taken in one turn.
const EVENTS: usize = 64;

/// One end of a subscription to a topic. Each assignment of a partition is an epoch.
pub(super) struct TopicEnd {
    /// Before the client: their queues are its.
    tracks: Vec<Option<Track>>,
    /// A rebalance that waits for handlers.
    held: Option<Held>,
    /// Until the group is left.
    client: Option<Client>,
    bell: Arc<Bell>,
    topic: Name,
    group: Name,
    label: Arc<str>,
    order: Order,
    drain: Duration,
    /// The partition that is served next.
    next: usize,
    /// The last epoch that was given out.
    epochs: u32,
    room: Room,
    copier: Copier,
    spares: Spares,
    /// At most so many bytes are in hand.
    memory: usize,
    outbox: Outbox,
    /// Dead letters under way, by ticket: slot, epoch, offset.
    letters: HashMap<u64, (usize, u32, i64)>,
    tickets: u64,
    stored: Vec<u64>,
    state: State,
    polled: Option<Instant>,
    /// When positions were asked for.
    looked: Option<Instant>,
    /// When was committed.
    told: Option<Instant>,
    /// Since when an answer to a commit is waited for.
    committing: Option<Instant>,
    interval: Duration,
    /// Whether the broker takes texts beside offsets. One with a lower limit than usual does not.
    texts: bool,
    warm: Warm,
    tick: Pin<Box<Sleep>>,
    /// Settlements that came too late.
    stale: u64,
    leavers: Leavers,
    /// Until the client is gone.
    seat: Option<Seat>,
    leaver: Option<Leaver>,
    /// When closing began.
    closing: Option<Instant>,
}

impl std::fmt::Debug for TopicEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicEnd")
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("partitions", &self.tracks().count())
            .finish_non_exhaustive()
    }
}

impl TopicEnd {
    /// Joins the group. Nothing is assigned yet.
    ///
    /// # Errors
    /// If the settings cannot be used.
    pub(super) fn join(
        settings: &rdkafka::ClientConfig,
        to: &Subscribe,
        memory: usize,
        interval: Duration,
        outbox: Outbox,
        leavers: Leavers,
        seat: Seat,
    ) -> Result<Self, EngineError> {
        let (Place::Topic(topic), Some(group)) = (&to.place, &to.group) else {
            return Err(EngineError::Unsupported {
                engine: ENGINE,
                what: format!("serve {}", to.place),
            });
        };
        let mut settings = settings.clone();
        settings
            .set("statistics.interval.ms", "1000")
            // We commit ourselves: what is finished beyond the offset must be told also while the offset stands still.
            .set("enable.auto.commit", "false");
        let bell = Bell::new();
        let client = Client::open(&settings, topic, &bell).and_then(|client| {
            client.join()?;
            Ok(client)
        });
        let client = client.map_err(|why| EngineError::Unusable {
            engine: ENGINE,
            what: format!("read topic `{topic}` as group `{group}`"),
            why: why.into(),
        })?;
        Ok(Self {
            tracks: Vec::new(),
            held: None,
            client: Some(client),
            bell,
            topic: topic.clone(),
            group: group.clone(),
            label: Arc::clone(&to.label),
            order: to.order,
            drain: to.drain,
            next: 0,
            epochs: 0,
            room: Room::new(),
            copier: Copier::new(topic, group.clone()),
            spares: Spares::default(),
            memory,
            outbox,
            letters: HashMap::new(),
            tickets: 0,
            stored: Vec::new(),
            state: State::default(),
            polled: None,
            looked: None,
            told: None,
            committing: None,
            interval,
            texts: true,
            warm: Warm::Done,
            tick: Box::pin(tokio::time::sleep(TICK)),
            stale: 0,
            leavers,
            seat: Some(seat),
            leaver: None,
            closing: None,
        })
    }

    fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.tracks.iter().flatten()
    }

    fn settle(&mut self, turn: &mut Turn) {
        let open = turn.open;
        for Settlement { receipt, how } in turn.settle.drain(..) {
            let slot = receipt.group as usize;
            let offset = receipt.token.cast_signed();
            let track = self.tracks.get_mut(slot).and_then(Option::as_mut);
            let Some(track) = track.filter(|track| track.epoch == receipt.epoch) else {
                self.stale += 1;
                continue;
            };
            let end = match how {
                How::Ack => End::Done,
                // A log has no later: what is given back while the partition is ours comes once more at once.
                How::Release { .. } | How::Retry { .. } if open && track.leaving.is_none() => {
                    End::Again
                }
                How::Release { .. } | How::Retry { .. } => End::Gone,
                How::Dead { .. } => End::Dying,
            };
            if !track.settle(offset, end, &mut self.spares) {
                self.stale += 1;
                continue;
            }
            if let How::Dead { reason, attempts } = how
                && let Some(message) = track.message(offset)
            {
                self.tickets += 1;
                self.letters
                    .insert(self.tickets, (slot, receipt.epoch, offset));
                self.outbox.take(Letter {
                    ticket: self.tickets,
                    topic: self.topic.clone(),
                    group: self.group.clone(),
                    handler: Arc::clone(&self.label),
                    message,
                    reason,
                    attempts,
                });
            }
        }
    }

    /// Hears which dead letters are stored.
    fn hear_outbox(&mut self, cx: &mut Context<'_>) {
        if self.letters.is_empty() {
            return;
        }
        let mut stored = std::mem::take(&mut self.stored);
        // Ready or not, the tickets tell.
        let _ = self.outbox.poll(cx, &mut stored);
        for ticket in stored.drain(..) {
            let Some((slot, epoch, offset)) = self.letters.remove(&ticket) else {
                continue;
            };
            let track = self.tracks.get_mut(slot).and_then(Option::as_mut);
            // Of an epoch that is over: somebody else has the record now, and the letter is one too many.
            if let Some(track) = track.filter(|track| track.epoch == epoch) {
                track.buried(offset, &mut self.spares);
            }
        }
        self.stored = stored;
    }

    /// Takes events, if there are any or if it is time to show that we live.
    fn poll_events(&mut self, turn: &mut Turn) -> Result<(), EngineError> {
        let due = self
            .polled
            .is_none_or(|polled| turn.now.saturating_duration_since(polled) >= TICK);
        let ready = |client: &Client| client.events().is_ready() && client.events().len() > 0;
        if due {
            self.polled = Some(turn.now);
        } else if !self.client.as_ref().is_some_and(ready) {
            return Ok(());
        }
        for _ in 0..EVENTS {
            let event = self
                .client
                .as_ref()
                .and_then(|client| client.events().event(Duration::ZERO));
            let Some(event) = event else { break };
            self.take_event(event, turn)?;
        }
        Ok(())
    }

    fn take_event(&mut self, event: Event, turn: &mut Turn) -> Result<(), EngineError> {
        match event {
            Event::Rebalance(rebalance) => self.rebalance(rebalance, turn),
            Event::Committed { error, partitions } => {
                self.committing = None;
                let all = error.is_none();
                for (partition, offset, of) in partitions {
                    let mut tracks = self.tracks.iter_mut().flatten();
                    let track = tracks.find(|track| track.partition == partition);
                    match (track, of) {
                        (Some(track), None) if all => track.confirm(offset),
                        (Some(track), _) => track.untold(),
                        (None, _) => {}
                    }
                    if let Some(of) = of {
                        self.not_committed(of);
                    }
                }
                if let Some(error) = error {
                    self.untell();
                    self.not_committed(error);
                }
            }
            Event::Error { code, fatal, text } => {
                if fatal {
                    return Err(self.over(&text));
                }
                self.state.error(code, &text, &self.topic, &self.group);
            }
            Event::Log {
                level,
                facility,
                text,
            } => state::log(level, &facility, &text),
            Event::Figures(json) => self.read_figures(&json, turn.now),
            Event::Strays(places) => self.fetch_again(&places),
            Event::Other => {}
        }
        Ok(())
    }

    fn over(&self, why: &str) -> EngineError {
        EngineError::Unusable {
            engine: ENGINE,
            what: format!("read topic `{}` as group `{}`", self.topic, self.group),
            why: Arc::from(why),
        }
    }

    /// Records that went past the queue of their partition are fetched once more: they were never taken.
    fn fetch_again(&mut self, places: &[(i32, i64)]) {
        let Some(client) = &self.client else { return };
        for track in self.tracks.iter().flatten() {
            let strays = places.iter().filter(|(of, _)| *of == track.partition);
            if let Some(first) = strays.map(|(_, offset)| *offset).min() {
                let from = track.next().unwrap_or(first);
                tracing::warn!(topic = %self.topic, partition = track.partition, offset = from, "records came a wrong way and are fetched again");
                if let Err(error) = client.seek(&[(track.partition, from)]) {
                    tracing::error!(topic = %self.topic, partition = track.partition, error, "records cannot be fetched again");
                }
            }
        }
    }

    /// Whether a turn with room would bring something.
    fn is_ready(&self, room: bool) -> bool {
        self.client
            .as_ref()
            .is_some_and(|client| client.events().is_ready())
            || room
                && self.tracks().any(|track| {
                    track.has_again() || track.queue.is_ready() && self.takes_from(track)
                })
    }

    /// Whether nothing waits: the broker has no more, everything is done, and the broker has confirmed that.
    fn is_empty(&self) -> bool {
        let read = |track: &Track| {
            track.at_end
                && track.out == 0
                && !track.has_again()
                && !track.is_behind()
                && !track.queue.is_ready()
        };
        self.state.is_assigned() && self.held.is_none() && self.tracks().all(read)
    }

    fn read_figures(&mut self, json: &str, now: Instant) {
        let figures = Figures::read(json);
        let mut led = figures.has_broker();
        for track in self.tracks.iter_mut().flatten() {
            let Some(partition) = figures.partition(&self.topic, track.partition) else {
                continue;
            };
            led &= figures.is_led(partition);
            // The first answer of the broker must have come: until then the end is that of an earlier assignment.
            let settled = now.saturating_duration_since(track.since) >= Duration::from_secs(1);
            let read = partition.is_fetched() && track.queue.len() == 0;
            track.at_end = settled && read && figures.is_led(partition);
        }
        self.state.brokers(led);
    }

    fn report(&mut self, turn: &mut Turn) {
        turn.health.stale = self.stale;
        turn.health.next_due = None;
        turn.health.empty = self.is_empty();
        let stuck = self
            .tracks()
            .find_map(|track| Some((track.partition, track.stuck()?)));
        let trouble = if self.letters.is_empty() {
            None
        } else {
            self.outbox.trouble().cloned()
        };
        let key = || {
            let (partition, offset) = stuck?;
            let mut tracks = self.tracks.iter_mut().flatten();
            let track = tracks.find(|track| track.partition == partition)?;
            track.message(offset)?.key().map(<[u8]>::to_vec)
        };
        let now = self.state.now(stuck, key, trouble);
        if turn.health.state != *now {
            turn.health.state.clone_from(now);
        }
    }
}

impl Receive for TopicEnd {
    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        let (delivered, noticed) = (turn.deliver.len(), turn.notice.len());
        self.settle(turn);
        loop {
            self.hear_outbox(cx);
            self.poll_events(turn)?;
            self.tell(turn.now);
            self.finish_held(turn);
            let took = self.deliver(turn);
            if turn.deliver.len() > delivered || turn.notice.len() > noticed {
                self.report(turn);
                return Poll::Ready(Ok(()));
            }
            if took {
                continue;
            }
            self.bell.arm(cx.waker());
            // What came before the bell was armed. A queue that turns out to be empty withdraws its signal, so this ends.
            if self.is_ready(self.has_room(turn)) {
                continue;
            }
            self.report(turn);
            if self.tick.as_mut().poll(cx).is_ready() {
                turn.now = Instant::now();
                self.tick.as_mut().reset(turn.now + TICK);
                self.tracks().for_each(|track| track.queue.look());
                continue;
            }
            return Poll::Pending;
        }
    }

    fn close(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.settle(turn);
        self.hear_outbox(cx);
        self.leave(cx, turn.now)
    }
}

impl Drop for TopicEnd {
    fn drop(&mut self) {
        self.depart();
    }
}

#[cfg(test)]
mod tests;
