//! Partitions come and go.
//!
//! What goes is announced to the pump, and the event is kept until what is in hand has ended or the bound is over; the group waits
//! for the answer so long. Nothing blocks meanwhile: the pump goes round, and events are polled.

use tokio::time::Instant;

use super::super::raw::{Change, Rebalance};
use super::TopicEnd;
use super::track::Track;
use crate::delivery::Notice;
use crate::engine::Turn;

/// A rebalance that waits for handlers.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) rebalance: Rebalance,
    /// Until when it waits.
    bound: Instant,
}

impl TopicEnd {
    /// Takes what the group has decided.
    pub(super) fn rebalance(&mut self, rebalance: Rebalance, turn: &mut Turn) {
        if let Some(held) = self.held.take() {
            // The group did not wait for the answer to the one before.
            self.let_go(held.rebalance, turn);
        }
        tracing::info!(
            topic = %self.topic, group = %self.group, change = ?rebalance.change(), partitions = ?rebalance.partitions(),
            "the group shares its partitions anew"
        );
        match rebalance.change() {
            Change::Assign => self.assign(rebalance, turn),
            Change::Revoke => self.begin_leaving(rebalance, turn),
            Change::Lost => self.let_go(rebalance, turn),
        }
    }

    fn assign(&mut self, rebalance: Rebalance, turn: &mut Turn) {
        for partition in rebalance.partitions() {
            // It would be one that was never taken away.
            self.lose(*partition, turn);
            let queue = self
                .client
                .as_ref()
                .and_then(|client| client.partition(*partition));
            let Some(queue) = queue else {
                tracing::error!(topic = %self.topic, partition, "librdkafka gave no queue for this partition; it is not read");
                continue;
            };
            self.epochs += 1;
            let track = Track::new(self.epochs, *partition, queue, turn.now);
            match self.tracks.iter_mut().find(|slot| slot.is_none()) {
                Some(slot) => *slot = Some(track),
                None => self.tracks.push(Some(track)),
            }
        }
        self.state.assigned();
        self.answer(rebalance);
    }

    fn begin_leaving(&mut self, rebalance: Rebalance, turn: &mut Turn) {
        let bound = turn.now + self.drain;
        for track in self.tracks.iter_mut().flatten() {
            if rebalance.partitions().contains(&track.partition) {
                track.leaving = Some(bound);
                turn.notice.push(Notice::Leaving(track.epoch));
            }
        }
        self.held = Some(Held { rebalance, bound });
    }

    /// Ends a wait when nothing of the partitions is in hand any more, or when it has lasted long enough.
    pub(super) fn finish_leaving(&mut self, turn: &mut Turn) {
        let Some(held) = &self.held else { return };
        let busy = |track: &Track| track.leaving.is_some() && track.out > 0;
        if turn.now < held.bound && self.tracks().any(busy) {
            return;
        }
        self.tell_all();
        if let Some(held) = self.held.take() {
            self.let_go(held.rebalance, turn);
        }
    }

    /// Gives partitions up and answers the group.
    fn let_go(&mut self, rebalance: Rebalance, turn: &mut Turn) {
        for partition in rebalance.partitions() {
            self.lose(*partition, turn);
        }
        self.answer(rebalance);
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

    fn answer(&mut self, rebalance: Rebalance) {
        let Some(client) = &self.client else { return };
        if let Err(error) = client.answer(rebalance) {
            // The group goes on without us, and assigns anew.
            tracing::warn!(topic = %self.topic, group = %self.group, error, "a change of the assignment was not taken");
        }
        // librdkafka stops every partition around a rebalance, and goes on behind what it believes was consumed. An error that came
        // through a queue counts there as a record: without this the record at its place would never come.
        let doubtful: Vec<(i32, i64)> = self
            .tracks()
            .filter(|track| track.doubt)
            .filter_map(|track| Some((track.partition, track.next()?)))
            .collect();
        if !doubtful.is_empty()
            && let Err(error) = client.seek(&doubtful)
        {
            tracing::error!(topic = %self.topic, group = %self.group, error, "partitions cannot be read from where they were left");
        }
    }
}
