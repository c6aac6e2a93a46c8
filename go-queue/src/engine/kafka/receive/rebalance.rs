//! Partitions come and go. The event is kept meanwhile, and the group waits for our answer. Nothing blocks: the pump goes round, and
//! events are polled.
//!
//! ```text
//! come   ask what is committed ──────────────────────────> read on from there     answer
//! go     announce, take nothing more ──> in hand ended ──> commit ──> confirmed ──> answer
//!                                        or `drain` over              or bound over
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::raw::{Change, Commit, Rebalance};
use super::track::Track;
use super::{TopicEnd, Warm};
use crate::delivery::Notice;
use crate::engine::Turn;

/// How long the brokers may take to say what is committed, and to confirm a commit before a partition goes.
const ANSWER: Duration = Duration::from_secs(5);

/// A rebalance that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) rebalance: Rebalance,
    waits: Waits,
}

/// What is committed, or why that is not known. `None` as long as the brokers are asked.
type Answer = Mutex<Option<Result<Vec<Commit>, String>>>;

#[derive(Debug)]
enum Waits {
    /// For what is committed.
    Asking(Arc<Answer>),
    /// For handlers, until then.
    Draining { until: Instant },
    /// For the confirmation of the last commit, until then.
    Confirming { until: Instant },
}

impl TopicEnd {
    /// Takes what the group has decided.
    pub(super) fn rebalance(&mut self, rebalance: Rebalance, turn: &mut Turn) {
        if let Some(held) = self.held.take() {
            // The group did not wait for the answer to the one before.
            self.let_happen(held.rebalance, &[], turn);
        }
        tracing::info!(
            topic = %self.topic, group = %self.group, change = ?rebalance.change(), partitions = ?rebalance.partitions(),
            "the group shares its partitions anew"
        );
        match rebalance.change() {
            Change::Assign if rebalance.partitions().is_empty() => {
                self.let_happen(rebalance, &[], turn);
            }
            Change::Assign => self.ask(rebalance, turn),
            Change::Revoke => self.begin_leaving(rebalance, turn),
            Change::Lost => self.let_happen(rebalance, &[], turn),
        }
    }

    /// Asks what is committed, on a thread that waits for the brokers.
    fn ask(&mut self, rebalance: Rebalance, turn: &mut Turn) {
        let Some(asker) = self.client.as_ref().map(super::super::raw::Client::asker) else {
            return;
        };
        let answer = Arc::new(Mutex::new(None));
        let (told, bell) = (Arc::clone(&answer), Arc::clone(&self.bell));
        let partitions = rebalance.partitions().to_vec();
        let thread = std::thread::Builder::new().name("go-queue-kafka-ask".to_owned());
        let spawned = thread.spawn(move || {
            let committed = asker.committed(&partitions, ANSWER);
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(committed);
            bell.ring();
        });
        match spawned {
            Ok(_) => {
                let waits = Waits::Asking(answer);
                self.held = Some(Held { rebalance, waits });
            }
            Err(error) => {
                tracing::warn!(%error, "no thread to ask what is committed; some records may run twice");
                self.let_happen(rebalance, &[], turn);
            }
        }
    }

    fn begin_leaving(&mut self, rebalance: Rebalance, turn: &mut Turn) {
        let until = turn.now + self.drain;
        for track in self.tracks.iter_mut().flatten() {
            if rebalance.partitions().contains(&track.partition) {
                track.leaving = Some(until);
                turn.notice.push(Notice::Leaving(track.epoch));
            }
        }
        let waits = Waits::Draining { until };
        self.held = Some(Held { rebalance, waits });
    }

    /// Goes on with a rebalance that waits, if what it waits for has come.
    pub(super) fn finish_held(&mut self, turn: &mut Turn) {
        let now = turn.now;
        let Some(held) = &self.held else { return };
        let mut known = Vec::new();
        match &held.waits {
            Waits::Asking(answer) => {
                let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
                match answer {
                    None => return,
                    Some(Ok(committed)) => known = committed,
                    Some(Err(error)) => {
                        tracing::warn!(
                            topic = %self.topic, group = %self.group, error,
                            "the brokers did not say what is committed; the client asks again, and some records may run twice"
                        );
                    }
                }
            }
            Waits::Draining { until } => {
                let busy = |track: &Track| track.leaving.is_some() && track.out > 0;
                if now < *until && self.tracks().any(busy) {
                    return;
                }
                // At once, whenever the last one was.
                self.told = None;
                if let Some(held) = &mut self.held {
                    held.waits = Waits::Confirming {
                        until: now + ANSWER,
                    };
                }
                return self.finish_held(turn);
            }
            Waits::Confirming { until } => {
                let until = *until;
                let behind = |track: &Track| track.leaving.is_some() && !track.is_confirmed();
                if self.tracks().any(behind) {
                    let waited = |told| now.saturating_duration_since(told) >= super::TICK;
                    if self.told.is_none_or(waited) {
                        self.commit(now);
                    }
                    if now < until {
                        return;
                    }
                    tracing::warn!(
                        topic = %self.topic, group = %self.group,
                        "partitions go before the brokers have confirmed what is finished; some records may run twice"
                    );
                }
            }
        }
        if let Some(held) = self.held.take() {
            self.let_happen(held.rebalance, &known, turn);
        }
    }

    /// Answers the group. What goes is given up, what comes is read from where it is committed.
    fn let_happen(&mut self, rebalance: Rebalance, known: &[Commit], turn: &mut Turn) {
        for partition in rebalance.partitions() {
            self.lose(*partition, turn);
        }
        if rebalance.change() == Change::Assign {
            for partition in rebalance.partitions() {
                let commit = known.iter().find(|commit| commit.partition == *partition);
                self.begin(*partition, commit, turn.now);
            }
            self.state.assigned();
            if !rebalance.partitions().is_empty() {
                self.warm = Warm::Waiting;
            }
        }
        self.answer(rebalance, known);
    }

    fn begin(&mut self, partition: i32, commit: Option<&Commit>, now: Instant) {
        let client = self.client.as_ref();
        let Some(queue) = client.and_then(|client| client.partition(partition)) else {
            tracing::error!(topic = %self.topic, partition, "librdkafka gave no queue for this partition; it is not read");
            return;
        };
        self.epochs += 1;
        let mut track = Track::new(self.epochs, partition, queue, now);
        if let Some(commit) = commit {
            track.start = Some(commit.offset);
            track.know_finished(commit);
        }
        match self.tracks.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(track),
            None => self.tracks.push(Some(track)),
        }
    }

    /// Ends the epoch of a partition, if it is in hand.
    fn lose(&mut self, partition: i32, turn: &mut Turn) {
        let mut slots = self.tracks.iter_mut();
        let held = slots
            .find(|slot| {
                slot.as_ref()
                    .is_some_and(|track| track.partition == partition)
            })
            .and_then(Option::take);
        if let Some(track) = held {
            turn.notice.push(Notice::Lost(track.epoch));
            track.give_up(&mut self.spares);
        }
    }

    fn answer(&mut self, rebalance: Rebalance, known: &[Commit]) {
        let Some(client) = &self.client else { return };
        let (change, partitions) = (rebalance.change(), rebalance.partitions().to_vec());
        if let Err(error) = client.answer(rebalance, known) {
            // The group goes on without us, and assigns anew.
            tracing::warn!(topic = %self.topic, group = %self.group, error, "a change of the assignment was not taken");
        }
        // librdkafka stops every partition around a rebalance, and goes on behind what it believes was consumed. An error that came
        // through a queue counts there as a record, and so does what was in a log that is gone: without this, records would never
        // come. What came with this rebalance begins where the answer says.
        let stay = |track: &&Track| {
            let comes = change == Change::Assign && partitions.contains(&track.partition);
            track.leaving.is_none() && !comes
        };
        let places: Vec<i32> = self
            .tracks()
            .filter(stay)
            .map(|one| one.partition)
            .collect();
        let positions = client.positions(&places);
        let wrong = |partition: i32, believed: i64| {
            let mut tracks = self.tracks();
            let track = tracks.find(|track| track.partition == partition)?;
            let next = track.next().or(track.start)?;
            (believed > next).then_some((partition, next))
        };
        let doubtful: Vec<(i32, i64)> = positions
            .into_iter()
            .filter_map(|(partition, believed)| wrong(partition, believed?))
            .collect();
        if !doubtful.is_empty()
            && let Err(error) = client.seek(&doubtful)
        {
            tracing::error!(topic = %self.topic, group = %self.group, error, "partitions cannot be read from where they were left");
        }
    }
}
