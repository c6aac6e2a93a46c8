//! Tasks and where they stand, in a slab of chunks: no task is ever moved, and a burst leaves no copy of itself behind.

use crate::engine::Outgoing;
use crate::message::{Body, ContentType, Flags, Id, Message};
use crate::time::WallTime;

use super::timer::Ticket;

const CHUNK_BITS: u32 = 10;
const CHUNK: usize = 1 << CHUNK_BITS;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// May start.
    Ready,
    /// Waits for its time.
    Waiting,
    /// In the hands of the lane with the epoch of the job.
    Leased,
    /// Among the dead letters, which hold its body.
    Dead,
    /// Finished; its slot still says so for a while.
    Done,
    /// Taken back, or purged.
    Gone,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: Id,
    pub(super) body: Body,
    pub(super) at: WallTime,
    pub(super) due: WallTime,
    /// The order of arrival in the ready queue, to which a released task returns.
    pub(super) arrival: u64,
    /// How often it was started, not counting the lease it is in.
    pub(super) starts: u32,
    pub(super) priority: u32,
    pub(super) stamp: u32,
    pub(super) epoch: u32,
    pub(super) stage: Stage,
    pub(super) named: bool,
    pub(super) flags: Flags,
    pub(super) content: ContentType,
}

impl Job {
    pub(super) fn new(out: Outgoing, now: WallTime) -> Self {
        Self {
            id: out.id,
            body: out.body,
            at: now,
            due: if out.due == WallTime::EPOCH {
                now
            } else {
                out.due
            },
            arrival: 0,
            starts: 0,
            priority: out.priority,
            stamp: 0,
            epoch: 0,
            stage: Stage::Gone,
            named: out.named,
            flags: out.flags,
            content: out.content,
        }
    }

    /// As it is handed out for its next start.
    pub(super) fn message(&self) -> Message {
        Message {
            id: self.id,
            body: self.body.clone(),
            attempt: self.starts.saturating_add(1),
            place: 0,
            offset: 0,
            at: self.at,
            due: self.due,
            flags: self.flags,
            content: self.content,
        }
    }
}

/// All tasks of a tube, by slot.
#[derive(Debug, Default)]
pub(super) struct Jobs(Vec<Vec<Job>>);

impl Jobs {
    pub(super) fn get(&self, slot: u32) -> Option<&Job> {
        self.0
            .get((slot >> CHUNK_BITS) as usize)?
            .get(slot as usize % CHUNK)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Job> {
        self.0
            .get_mut((slot >> CHUNK_BITS) as usize)?
            .get_mut(slot as usize % CHUNK)
    }

    /// Puts a task into a new slot; `None` if there are 2^32 already.
    pub(super) fn push(&mut self, job: Job) -> Option<u32> {
        let slot = u32::try_from(self.len()).ok()?;
        match self.0.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(job),
            _ => {
                // A tube of few tasks stays small: only later chunks are made whole at once.
                let capacity = if self.0.is_empty() { 4 } else { CHUNK };
                let mut chunk = Vec::with_capacity(capacity);
                chunk.push(job);
                self.0.push(chunk);
            }
        }
        Some(slot)
    }

    /// How many slots there are.
    pub(super) fn len(&self) -> usize {
        self.0
            .last()
            .map_or(0, |last| (self.0.len() - 1) * CHUNK + last.len())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Job)> {
        (0..).zip(self.0.iter_mut().flatten())
    }

    /// Whether the ticket is that of the task's present stay.
    pub(super) fn is_at(&self, ticket: Ticket, stage: Stage) -> bool {
        self.get(ticket.slot)
            .is_some_and(|job| job.stamp == ticket.stamp && job.stage == stage)
    }

    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}
