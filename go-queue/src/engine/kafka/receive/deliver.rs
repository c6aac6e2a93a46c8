//! Slices of partitions, one after the other, into the hands of the pump.

use std::hash::BuildHasher;
use std::time::Duration;

use tokio::time::Instant;

use super::super::raw::Client;
use super::TopicEnd;
use super::track::{End, Seen, Track};
use crate::delivery::{Delivery, Notice, Receipt};
use crate::engine::{Order, Turn};
use crate::message::Message;

/// A slice takes at most so many bytes, unless a single record is larger.
const SLICE_BYTES: usize = 8 << 20;

/// So long a partition that has given its first records waits for the others that came with it.
const WARM_UP: Duration = Duration::from_millis(100);

/// Whether partitions have come of which nothing was handed out yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Warm {
    Done,
    /// None has given records yet.
    Waiting,
    /// The others may take so long.
    Until(Instant),
}

impl TopicEnd {
    /// Partitions that came just now are fetched one after the other. Whichever was first has given one slice, and waits a moment for
    /// the others, or it would fill all room before they have their turn.
    fn warm_up(&mut self, now: Instant) {
        let fresh = |track: &Track| track.next().is_none() && track.leaving.is_none();
        if let Warm::Until(until) = self.warm
            && (now >= until || !self.tracks().any(fresh))
        {
            self.warm = Warm::Done;
        }
    }

    /// Whether it must wait for the others.
    fn gives_way(&self, track: &Track) -> bool {
        matches!(self.warm, Warm::Until(_)) && track.next().is_some()
    }

    /// Whether records may be handed out: there is room at the pump, and in memory, unless nothing would ever end there.
    pub(super) fn has_room(&self, turn: &Turn) -> bool {
        let in_memory = self.spares.held < self.memory || self.tracks().all(|track| track.out == 0);
        turn.open && turn.free > 0 && in_memory
    }

    /// Whether a partition may be taken from. It stops while what it should give up cannot be written.
    pub(super) fn takes_from(&self, track: &Track) -> bool {
        track.takes_more()
            && !self.gives_way(track)
            && (track.dying.is_empty() || self.outbox.trouble().is_none())
    }

    /// Takes a slice of one partition. Answers whether anything was taken out of any queue.
    pub(super) fn deliver(&mut self, turn: &mut Turn) -> bool {
        if !self.has_room(turn) {
            return false;
        }
        self.warm_up(turn.now);
        let slots = self.tracks.len();
        for step in 0..slots {
            let slot = (self.next + step) % slots;
            if self.deliver_from(slot, turn) {
                self.next = slot + 1;
                return true;
            }
        }
        false
    }

    fn deliver_from(&mut self, slot: usize, turn: &mut Turn) -> bool {
        let takes = self.tracks[slot]
            .as_ref()
            .is_some_and(|track| self.takes_from(track));
        let Some(track) = self.tracks[slot].as_mut() else {
            return false;
        };
        if track.has_again() {
            for _ in 0..turn.free {
                let Some(message) = track.pop_again() else {
                    break;
                };
                turn.deliver
                    .push(delivery(self.order, slot, track.epoch, message));
            }
            return true;
        }
        if !takes {
            return false;
        }
        let len = track.queue.len();
        if len == 0 {
            return false;
        }
        let by_size = (SLICE_BYTES / track.mean.max(1)).max(1);
        let drained = track
            .queue
            .drain(&mut self.room, len.min(turn.free).min(by_size));
        track.touched = true;
        track.at_end = false;
        // By number in what was drained: what is not taken, and where the log begins anew.
        let (mut skip, mut anew, mut failed) = (Vec::new(), None, None);
        let (mut next, mut any, mut doubt) = (track.next().unwrap_or(0), false, track.doubt);
        let mut size = 0;
        for (number, raw) in drained.iter().enumerate() {
            size += raw.size();
            if let Some(code) = raw.error() {
                doubt = true;
                // Such an error is at the record that was to come next.
                failed = failed.or((raw.offset() >= 0).then_some(raw.offset()));
                skip.push(number);
                self.state
                    .error(code, &raw.error_text(), &self.topic, &self.group);
            } else if raw.offset() >= next {
                next = raw.offset() + 1;
                any = true;
                doubt = false;
            } else if anew.is_none() && track.look(raw.offset(), raw.timestamp()) == Seen::Twice {
                skip.push(number);
            } else {
                tracing::warn!(
                    topic = %self.topic, group = %self.group, partition = track.partition, offset = raw.offset(), expected = next,
                    "the log of this partition begins anew, and is read from there"
                );
                (next, anew, any) = (raw.offset() + 1, Some(number), true);
            }
        }
        let from = anew.unwrap_or(0);
        let wanted = drained
            .iter()
            .enumerate()
            .filter(|(number, _)| *number >= from && (skip.is_empty() || !skip.contains(number)))
            .map(|(_, raw)| raw);
        let slice = any.then(|| {
            let spare = self.spares.list();
            self.copier.copy(wanted, size, track.place(), spare)
        });
        // Back to the client at once: what is not given back counts there as fetched ahead.
        drop(drained);
        track.doubt = doubt;
        track.start = track.start.or(failed);
        let Some(slice) = slice else { return true };
        if anew.is_some() {
            self.epochs += 1;
            turn.notice.push(Notice::Lost(track.epoch));
            track.begin_anew(self.epochs, &mut self.spares);
            if let Some(client) = &self.client {
                go_back(client, track, next);
            }
        }
        if matches!(self.warm, Warm::Waiting) {
            let until = turn.now + WARM_UP;
            self.warm = Warm::Until(until);
            self.tick.as_mut().reset(until);
        }
        self.state.served();
        self.spares.held += slice.size();
        let (epoch, place, order) = (track.epoch, track.place(), self.order);
        let mut foreign = Vec::new();
        for kept in slice.kept() {
            if kept.foreign || track.was_finished(kept.offset) {
                foreign.push(kept.offset);
            } else {
                let message = slice.message(kept, place);
                turn.deliver.push(delivery(order, slot, epoch, message));
            }
        }
        track.take(slice);
        for offset in foreign {
            track.settle(offset, End::Done, &mut self.spares);
        }
        true
    }
}

/// Tells the client that a log has begun anew.
///
/// librdkafka has gone back to read it, but the position that it keeps for who drains batches only grows: it would stay where the old
/// log was read. It is what a rebalance lets it go on from, and what we ask for to pass what is no record, so whatever the new log has
/// up to there would be skipped. A seek forgets it.
fn go_back(client: &Client, track: &mut Track, next: i64) {
    let believed = client.positions(&[track.partition]);
    track.outdated = believed.first().and_then(|(_, position)| *position);
    if track.outdated > Some(next)
        && let Err(error) = client.seek(&[(track.partition, next)])
    {
        tracing::error!(
            partition = track.partition,
            offset = next,
            error,
            "the client cannot go back to a log that begins anew"
        );
    }
}

/// A record in the hands of the pump.
#[inline]
pub(super) fn delivery(order: Order, slot: usize, epoch: u32, message: Message) -> Delivery {
    Delivery {
        order: order_of(order, &message),
        receipt: Receipt {
            epoch,
            group: u32::try_from(slot).unwrap_or(u32::MAX),
            token: message.offset.cast_unsigned(),
        },
        message,
    }
}

/// Equal for records that follow one another, 0 for those that are free.
#[inline]
pub(super) fn order_of(order: Order, message: &Message) -> u64 {
    match (order, message.key()) {
        (Order::None, _) => 0,
        (Order::Key, Some(key)) => foldhash::fast::FixedState::default().hash_one(key).max(1),
        // Odd, so never zero, and far from the hashes of short keys.
        _ => (u64::from(message.place) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
    }
}
