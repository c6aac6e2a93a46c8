//! One tube: its tasks, who waits for them, and every change of where a task stands. Pure but for the wakers; the lock
//! around it is taken once for each slice.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::delivery::{Delivery, How, Notice, Receipt, Settlement};
use crate::engine::{Outgoing, PublishError, Published, Rescheduled, Revoked};
use crate::message::{Body, Id, Message};
use crate::time::WallTime;

use super::arena::{self, Arena};
use super::job::{Job, Jobs, Stage};
use super::ready::Ready;
use super::timer::{Ticket, Timers};

/// So many finished tasks keep their slot, so that a revocation that comes too late hears the truth.
const REMEMBERED: usize = 4096;

/// An empty tube with more slots than this gives its memory back.
const KEPT_SLOTS: usize = 65_536;

/// So many due tasks become ready in one turn at most, so that a burst does not stop the lane.
const DUE_PER_TURN: usize = 1024;

/// A tube, shared by its lanes and producers.
#[derive(Debug, Default)]
pub(super) struct Tube(Mutex<Tasks>);

impl Tube {
    pub(super) fn lock(&self) -> MutexGuard<'_, Tasks> {
        // Nothing in here panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One end of the subscription, as the tube sees it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) epoch: u32,
    /// Woken once; the lane gives a new one with each turn that finds nothing.
    pub(super) waker: Option<Waker>,
    /// Whether it could have taken a task when it gave the waker.
    pub(super) room: bool,
    pub(super) in_hand: usize,
    pub(super) notices: Vec<Notice>,
}

#[derive(Debug)]
pub(super) struct Tasks {
    jobs: Jobs,
    index: HashMap<Id, u32, foldhash::fast::RandomState>,
    /// Slots of finished and revoked tasks, oldest first.
    free: VecDeque<u32>,
    /// Named tasks that are done, with the time until which they are known.
    known: HashMap<Id, WallTime, foldhash::fast::RandomState>,
    forget: VecDeque<(WallTime, Id)>,
    ready: Ready,
    timers: Timers,
    arena: Arena,
    lanes: Vec<Option<Lane>>,
    released: Vec<(u64, Ticket, u32)>,
    stamp: u32,
    arrivals: u64,
    /// Tasks that are stored, running or dead.
    live: usize,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            jobs: Jobs::default(),
            index: HashMap::default(),
            free: VecDeque::new(),
            known: HashMap::default(),
            forget: VecDeque::new(),
            ready: Ready::default(),
            timers: Timers::new(),
            arena: Arena::default(),
            lanes: Vec::new(),
            released: Vec::new(),
            stamp: 0,
            arrivals: 0,
            live: 0,
        }
    }
}

/// What a settlement of a dead task leaves to be kept elsewhere.
pub(super) struct Died {
    pub(super) ticket: Ticket,
    pub(super) message: Message,
    pub(super) reason: std::sync::Arc<str>,
    pub(super) attempts: u32,
}

/// How a slice of settlements ended.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) stale: u64,
    pub(super) died: Vec<Died>,
}

impl Tasks {
    /// Puts a task in, unless one of its id is there or known.
    ///
    /// # Errors
    /// If there are 2^32 tasks already.
    pub(super) fn put(&mut self, out: Outgoing, now: WallTime) -> Result<Published, PublishError> {
        let id = out.id;
        let existed = self.is_taken(id, now);
        if !existed {
            let waits = out.due > now;
            let mut job = Job::new(out, now);
            if !waits {
                job.body = self.arena.place(job.body);
            }
            let slot = self.place(job)?;
            self.index.insert(id, slot);
            self.live += 1;
            if waits {
                self.wait(slot, now);
            } else {
                self.make_ready(slot);
            }
        }
        Ok(Published {
            id,
            existed,
            token: None,
            partition: 0,
            offset: 0,
        })
    }

    fn is_taken(&mut self, id: Id, now: WallTime) -> bool {
        if let Some(&slot) = self.index.get(&id)
            && let Some(job) = self.jobs.get(slot)
        {
            match job.stage {
                Stage::Gone => return false,
                // A named one is done as long as it is known, which is asked below.
                Stage::Done if job.named => {}
                _ => return true,
            }
        }
        !self.known.is_empty() && self.known.get(&id).is_some_and(|until| *until > now)
    }

    fn place(&mut self, job: Job) -> Result<u32, PublishError> {
        if self.free.len() > REMEMBERED
            && let Some(slot) = self.free.pop_front()
            && let Some(old) = self.jobs.get_mut(slot)
        {
            let old_id = std::mem::replace(old, job).id;
            // A later task of the same id may have taken the entry over.
            if self.index.get(&old_id) == Some(&slot) {
                self.index.remove(&old_id);
            }
            return Ok(slot);
        }
        self.jobs.push(job).ok_or_else(|| PublishError::Full {
            engine: super::NAME,
            why: "a tube holds at most 2^32 tasks in memory".into(),
        })
    }

    fn next_ticket(&mut self, slot: u32) -> Ticket {
        self.stamp = self.stamp.wrapping_add(1);
        Ticket {
            slot,
            stamp: self.stamp,
        }
    }

    /// Behind all that are ready with its priority.
    fn make_ready(&mut self, slot: u32) {
        let ticket = self.next_ticket(slot);
        self.arrivals += 1;
        if let Some(job) = self.jobs.get_mut(slot) {
            job.arrival = self.arrivals;
            job.stage = Stage::Ready;
            job.stamp = ticket.stamp;
            self.ready.push_back(job.priority, ticket);
        }
    }

    /// Until its due time.
    fn wait(&mut self, slot: u32, now: WallTime) {
        let ticket = self.next_ticket(slot);
        if let Some(job) = self.jobs.get_mut(slot) {
            job.stage = Stage::Waiting;
            job.stamp = ticket.stamp;
            self.timers.set(job.due.as_nanos(), ticket, now.as_nanos());
        }
    }

    /// Takes a task out of the queue it stands in. False if it stands in none.
    fn unqueue(&mut self, slot: u32) -> bool {
        let Some(job) = self.jobs.get_mut(slot) else {
            return false;
        };
        let (stage, due) = (job.stage, job.due.as_nanos());
        if !matches!(stage, Stage::Ready | Stage::Waiting) {
            return false;
        }
        job.stage = Stage::Gone;
        let jobs = &self.jobs;
        if stage == Stage::Ready {
            self.ready.cancel(|ticket| jobs.is_at(ticket, Stage::Ready));
        } else {
            self.timers
                .cancel(due, &|ticket| jobs.is_at(ticket, Stage::Waiting));
        }
        true
    }

    /// Ends the life of a task that stands in no queue.
    fn finish(&mut self, slot: u32, stage: Stage, now: WallTime, keep: Duration) {
        let Some(job) = self.jobs.get_mut(slot) else {
            return;
        };
        job.stage = stage;
        job.body = Body::default();
        if stage == Stage::Done && job.named {
            let until = now.saturating_add(keep);
            self.known.insert(job.id, until);
            self.forget.push_back((until, job.id));
        }
        self.free.push_back(slot);
        self.live -= 1;
        if self.live == 0 && self.jobs.len() > KEPT_SLOTS {
            self.jobs.clear();
            self.index = HashMap::default();
            self.free = VecDeque::new();
            self.ready.reset();
            self.timers.reset();
        }
    }

    /// Forgets the named tasks whose time is over.
    pub(super) fn forget(&mut self, now: WallTime) {
        while let Some(&(until, id)) = self.forget.front()
            && until <= now
        {
            self.forget.pop_front();
            // It may have been done once more since.
            if self.known.get(&id) == Some(&until) {
                self.known.remove(&id);
            }
        }
    }

    /// Takes all settlements of one lane.
    pub(super) fn settle(
        &mut self,
        lane: usize,
        settlements: &mut Vec<Settlement>,
        now: WallTime,
        keep: Duration,
    ) -> Settled {
        let mut settled = Settled::default();
        let epoch = self
            .lanes
            .get(lane)
            .and_then(Option::as_ref)
            .map(|lane| lane.epoch);
        let mut given_back = 0;
        for Settlement { receipt, how } in settlements.drain(..) {
            let ticket = ticket_of(receipt);
            let Some(job) = self.jobs.get_mut(ticket.slot).filter(|job| {
                job.stamp == ticket.stamp
                    && job.stage == Stage::Leased
                    && job.epoch == receipt.epoch
                    && epoch == Some(receipt.epoch)
            }) else {
                settled.stale += 1;
                continue;
            };
            given_back += 1;
            match how {
                How::Ack => self.finish(ticket.slot, Stage::Done, now, keep),
                How::Release { after } if after.is_zero() => {
                    self.released.push((job.arrival, ticket, job.priority));
                }
                How::Release { after } => {
                    job.due = now.saturating_add(after);
                    job.body = arena::alone(&job.body);
                    self.wait(ticket.slot, now);
                }
                How::Retry { after } => {
                    job.starts = job.starts.saturating_add(1);
                    job.due = now.saturating_add(after);
                    job.body = arena::alone(&job.body);
                    if after.is_zero() {
                        self.make_ready(ticket.slot);
                    } else {
                        self.wait(ticket.slot, now);
                    }
                }
                How::Dead { reason, attempts } => {
                    let message = Message {
                        body: arena::alone(&job.body),
                        ..job.message()
                    };
                    job.stage = Stage::Dead;
                    job.body = Body::default();
                    settled.died.push(Died {
                        ticket,
                        message,
                        reason,
                        attempts,
                    });
                }
            }
        }
        if let Some(Some(lane)) = self.lanes.get_mut(lane) {
            lane.in_hand -= given_back;
        }
        self.put_back();
        settled
    }

    /// Puts what was released to the front, in the order of arrival.
    fn put_back(&mut self) {
        let mut released = std::mem::take(&mut self.released);
        released.sort_unstable_by_key(|(arrival, ..)| std::cmp::Reverse(*arrival));
        for (_, old, priority) in released.drain(..) {
            let ticket = self.next_ticket(old.slot);
            if let Some(job) = self.jobs.get_mut(old.slot) {
                job.stage = Stage::Ready;
                job.stamp = ticket.stamp;
                self.ready.push_front(priority, ticket);
            }
        }
        self.released = released;
    }

    /// Hands out at most `room` tasks that may start.
    pub(super) fn deliver(
        &mut self,
        lane: usize,
        room: usize,
        order: impl Fn(&Message) -> u64,
        into: &mut Vec<Delivery>,
    ) -> usize {
        let Some(Some(lane)) = self.lanes.get_mut(lane) else {
            return 0;
        };
        let before = into.len();
        let (jobs, stamp) = (&mut self.jobs, &mut self.stamp);
        self.ready.take(room, |ticket| {
            let Some(job) = jobs
                .get_mut(ticket.slot)
                .filter(|job| job.stamp == ticket.stamp && job.stage == Stage::Ready)
            else {
                return false;
            };
            *stamp = stamp.wrapping_add(1);
            job.stamp = *stamp;
            job.stage = Stage::Leased;
            job.epoch = lane.epoch;
            let token = u64::from(job.stamp) << 32 | u64::from(ticket.slot);
            let receipt = Receipt {
                epoch: lane.epoch,
                group: 0,
                token,
            };
            let message = job.message();
            let order = order(&message);
            into.push(Delivery {
                message,
                receipt,
                order,
            });
            true
        });
        let delivered = into.len() - before;
        lane.in_hand += delivered;
        delivered
    }

    /// Makes ready what is due.
    pub(super) fn advance(&mut self, now: WallTime) {
        if self.timers.len() == 0 {
            return;
        }
        let now = now.as_nanos();
        self.timers
            .advance(now, &|ticket| self.jobs.is_at(ticket, Stage::Waiting));
        for _ in 0..DUE_PER_TURN {
            let Some(ticket) = self
                .timers
                .pop(now, &|ticket| self.jobs.is_at(ticket, Stage::Waiting))
            else {
                break;
            };
            self.make_ready(ticket.slot);
        }
    }

    /// When the next waiting task is due.
    pub(super) fn next_due(&mut self) -> Option<WallTime> {
        let jobs = &self.jobs;
        self.timers
            .next(&|ticket| jobs.is_at(ticket, Stage::Waiting))
            .map(WallTime::from_nanos)
    }

    /// Whether nothing may start.
    pub(super) fn is_idle(&self) -> bool {
        self.ready.len() == 0
    }

    /// How many tasks there is memory for.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.jobs.len()
    }

    /// Opens a lane and answers its number.
    pub(super) fn open_lane(&mut self, epoch: u32) -> usize {
        let lane = Lane {
            epoch,
            waker: None,
            room: false,
            in_hand: 0,
            notices: Vec::new(),
        };
        if let Some(free) = self.lanes.iter().position(Option::is_none) {
            self.lanes[free] = Some(lane);
            free
        } else {
            self.lanes.push(Some(lane));
            self.lanes.len() - 1
        }
    }

    pub(super) fn lane_mut(&mut self, lane: usize) -> Option<&mut Lane> {
        self.lanes.get_mut(lane)?.as_mut()
    }

    /// Ends a lane: what it had in hand counts as started, and goes to the others.
    pub(super) fn close_lane(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane).and_then(Option::take)
            && lane.in_hand > 0
        {
            self.take_back(lane.epoch);
        }
    }

    fn take_back(&mut self, epoch: u32) {
        for (slot, job) in self.jobs.iter_mut() {
            if job.stage == Stage::Leased && job.epoch == epoch {
                job.starts = job.starts.saturating_add(1);
                let ticket = Ticket {
                    slot,
                    stamp: job.stamp,
                };
                self.released.push((job.arrival, ticket, job.priority));
            }
        }
        self.put_back();
    }

    /// Ends all leases, as if every lane had lost its connection; lanes go on with the epochs that `next` gives.
    pub(super) fn cut(&mut self, mut next: impl FnMut() -> u32) {
        let mut lost = Vec::new();
        for lane in self.lanes.iter_mut().flatten() {
            lane.notices.push(Notice::Lost(lane.epoch));
            if std::mem::take(&mut lane.in_hand) > 0 {
                lost.push(lane.epoch);
            }
            lane.epoch = next();
        }
        for epoch in lost {
            self.take_back(epoch);
        }
    }

    /// The wakers of lanes that wait with room for a task; `but` is the lane that asks.
    pub(super) fn wake_idle(&mut self, but: Option<usize>, into: &mut Vec<Waker>) {
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            if let Some(lane) = lane
                && lane.room
                && Some(number) != but
            {
                into.extend(lane.waker.take());
            }
        }
    }

    /// The wakers of all lanes that wait.
    pub(super) fn wake_all(&mut self, into: &mut Vec<Waker>) {
        into.extend(
            self.lanes
                .iter_mut()
                .flatten()
                .filter_map(|lane| lane.waker.take()),
        );
    }

    /// Takes a task back.
    pub(super) fn revoke(&mut self, id: Id, now: WallTime) -> Revoked {
        let Some((slot, stage)) = self.find(id) else {
            return self.unfound(id, now);
        };
        match stage {
            Stage::Ready | Stage::Waiting => {
                self.unqueue(slot);
                self.finish(slot, Stage::Gone, now, Duration::ZERO);
                Revoked::Revoked
            }
            Stage::Leased => Revoked::Running,
            Stage::Dead | Stage::Done => Revoked::AlreadyRun,
            Stage::Gone => self.unfound(id, now),
        }
    }

    fn find(&self, id: Id) -> Option<(u32, Stage)> {
        let slot = *self.index.get(&id)?;
        self.jobs.get(slot).map(|job| (slot, job.stage))
    }

    fn unfound(&self, id: Id, now: WallTime) -> Revoked {
        match self.known.get(&id) {
            Some(until) if *until > now => Revoked::AlreadyRun,
            _ => Revoked::Unknown,
        }
    }

    /// Moves a task to another time.
    pub(super) fn reschedule(&mut self, id: Id, due: WallTime, now: WallTime) -> Rescheduled {
        let stage = self.find(id);
        if let Some((slot, Stage::Ready | Stage::Waiting)) = stage {
            self.unqueue(slot);
            if let Some(job) = self.jobs.get_mut(slot) {
                job.due = if due == WallTime::EPOCH { now } else { due };
            }
            if due > now {
                self.wait(slot, now);
            } else {
                self.make_ready(slot);
            }
            return Rescheduled::Rescheduled;
        }
        match stage {
            Some((_, Stage::Leased)) => Rescheduled::Running,
            Some((_, Stage::Dead | Stage::Done)) => Rescheduled::AlreadyRun,
            _ if self.unfound(id, now) == Revoked::AlreadyRun => Rescheduled::AlreadyRun,
            _ => Rescheduled::Unknown,
        }
    }

    /// Makes a dead task deliverable again, as if it had never been started.
    pub(super) fn revive(&mut self, ticket: Ticket, body: Body) -> bool {
        let Some(job) = self.jobs.get_mut(ticket.slot) else {
            return false;
        };
        if job.stage != Stage::Dead || job.stamp != ticket.stamp {
            return false;
        }
        job.body = body;
        job.starts = 0;
        self.make_ready(ticket.slot);
        true
    }

    /// Forgets a dead task.
    pub(super) fn purge(&mut self, ticket: Ticket, now: WallTime) {
        if self.jobs.is_at(ticket, Stage::Dead) {
            self.finish(ticket.slot, Stage::Gone, now, Duration::ZERO);
        }
    }

    /// Takes out everything that has not started: what is ready by priority and arrival, then what waits, by due time.
    pub(super) fn drain(&mut self, now: WallTime) -> Vec<Message> {
        let mut tickets = Vec::with_capacity(self.ready.len() + self.timers.len());
        let jobs = &self.jobs;
        self.ready.take(usize::MAX, |ticket| {
            let there = jobs.is_at(ticket, Stage::Ready);
            if there {
                tickets.push(ticket);
            }
            there
        });
        self.timers
            .advance(i64::MAX, &|ticket| jobs.is_at(ticket, Stage::Waiting));
        while let Some(ticket) = self
            .timers
            .pop(i64::MAX, &|ticket| jobs.is_at(ticket, Stage::Waiting))
        {
            tickets.push(ticket);
        }
        let messages = tickets
            .iter()
            .filter_map(|ticket| jobs.get(ticket.slot))
            .map(Job::message)
            .collect();
        for ticket in tickets {
            self.finish(ticket.slot, Stage::Gone, now, Duration::ZERO);
        }
        messages
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "takes apart what `deliver` put together"
)]
fn ticket_of(receipt: Receipt) -> Ticket {
    Ticket {
        slot: receipt.token as u32,
        stamp: (receipt.token >> 32) as u32,
    }
}
