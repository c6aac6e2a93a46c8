//! One connection of an end: what it has in hand there, and what it asks; [`answers`] says what the answers mean.
//!
//! The server blocks a connection whose reserve waits, so that a delete behind it is not executed for up to a second. Therefore
//! only a connection without anything in hand waits; see [`super::node_end`].

mod answers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::codec::Command;
use super::hold::{Parcel, Pause};
use super::link::{Link, LinkError};
use super::receive::Desk;
use crate::delivery::{How, Receipt};
use crate::engine::Turn;
use crate::time::WallTime;

/// A connection that is silent for longer may lose the timers of its jobs on the server.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a reserve waits on the server, in seconds: a heartbeat as well.
const WAIT: u32 = 1;

/// So many deletes are written even if nothing else is.
const MOST_UNWRITTEN: usize = 32;

/// So many settled jobs wait here for the fraction of a second that the server cannot; the others wait a whole one there.
const MOST_PAUSES: usize = 128;

/// What an answer is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    /// A reserve that does not wait.
    Reserve,
    /// A reserve that waits on the server.
    Wait,
    /// The end of a job in hand.
    Settled,
    /// The return of a job in hand.
    Returned { id: u64 },
    /// Makes a returned job ready.
    Kicked,
    /// A lease made longer.
    Touched(Receipt),
    /// How often a job was started.
    History(Receipt),
    /// The body of a job that is given up.
    Body(Receipt),
    /// What is due next.
    Delayed,
    /// Whether something is ready.
    Ready,
}

/// Whether a job is in hand, and how.
#[derive(Clone, Debug)]
enum State {
    /// Handed out, or waiting for that.
    Out,
    /// Settled, on its way back at a time.
    Paused,
    /// Given up, until its letter is kept.
    Dying { reason: Arc<str>, attempts: u32 },
}

/// One job that is reserved here.
#[derive(Debug)]
struct Job {
    id: u64,
    priority: u32,
    /// When its time to run began anew.
    touched: Instant,
    state: State,
}

/// What the connections of one node know of the tube together.
#[derive(Debug)]
pub(super) struct Tide {
    /// The last answer was that nothing is ready.
    pub(super) dry: bool,
    /// When a backlog ended last: so many jobs had come that reserves went out by the dozen.
    pub(super) ended: Option<Instant>,
    /// How many reserves are under way at a time; grows with every job, and begins anew when there is none.
    batch: usize,
    /// The highest number of a job that has come, and how many first starts came in a row.
    highest: u64,
    fresh: u32,
    /// When the next delayed task of the tube is due.
    pub(super) next_due: Option<WallTime>,
}

impl Default for Tide {
    fn default() -> Self {
        Self {
            dry: false,
            ended: None,
            batch: 1,
            highest: 0,
            fresh: 0,
            next_due: None,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    link: Link<Word>,
    pub(super) epoch: u32,
    node: u32,
    /// By slot; `None` is free.
    jobs: Vec<Option<Job>>,
    free: Vec<u32>,
    /// Came, and wait for their history or behind one that does.
    line: VecDeque<(Parcel, bool)>,
    pub(super) reserves: usize,
    /// One of them waits on the server.
    pub(super) waits: bool,
    /// Settlements without an answer.
    pub(super) unconfirmed: usize,
    pub(super) dying: usize,
    /// Deletes that may wait for company.
    idle_deletes: usize,
    must_write: bool,
    wrote: Instant,
    /// Since when an answer is owed.
    owed_since: Option<Instant>,
    renew_at: Instant,
    /// No reserve before this time.
    pub(super) hushed: Option<Instant>,
    pub(super) born: Instant,
}

impl Session {
    pub(super) fn new(link: Link<Word>, epoch: u32, node: u32, now: Instant) -> Self {
        Self {
            link,
            epoch,
            node,
            jobs: Vec::new(),
            free: Vec::new(),
            line: VecDeque::new(),
            reserves: 0,
            waits: false,
            unconfirmed: 0,
            dying: 0,
            idle_deletes: 0,
            must_write: false,
            // The tube is looked at with the first write.
            wrote: now,
            owed_since: None,
            renew_at: now,
            hushed: None,
            born: now,
        }
    }

    /// Jobs reserved here.
    pub(super) fn leased(&self) -> usize {
        self.jobs.len() - self.free.len()
    }

    /// Jobs that wait for their history.
    pub(super) fn in_line(&self) -> usize {
        self.line.len()
    }

    /// Nothing is in hand, and nothing that should not be delayed is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.leased() == 0 && self.unconfirmed == 0 && self.reserves == 0
    }

    fn push(&mut self, command: &Command<'_>, word: Word) {
        self.must_write = true;
        let pushed = self.link.push(command, word);
        debug_assert!(pushed.is_ok(), "commands of numbers only are always valid");
    }

    // ------------------------------------------------------------------ jobs in hand

    fn take(&mut self, id: u64, priority: u32, desk: &Desk) -> Receipt {
        let (now, renew) = (desk.now, desk.source.renew);
        if self.leased() == 0 {
            // What is in hand now cannot be old before that.
            self.renew_at = now + renew / 2;
        }
        let job = Some(Job {
            id,
            priority,
            touched: now,
            state: State::Out,
        });
        let slot = if let Some(slot) = self.free.pop() {
            self.jobs[slot as usize] = job;
            slot
        } else {
            self.jobs.push(job);
            // Bounded by the most in hand on one connection.
            u32::try_from(self.jobs.len() - 1).unwrap_or(u32::MAX)
        };
        Receipt {
            epoch: self.epoch,
            group: slot,
            token: id,
        }
    }

    fn job(&mut self, receipt: Receipt) -> Option<&mut Job> {
        self.jobs
            .get_mut(receipt.group as usize)?
            .as_mut()
            .filter(|job| job.id == receipt.token)
    }

    fn drop_job(&mut self, receipt: Receipt) -> Option<Job> {
        self.job(receipt)?;
        let job = self.jobs[receipt.group as usize].take();
        self.free.push(receipt.group);
        job
    }

    /// A delivery has ended.
    pub(super) fn settle(&mut self, receipt: Receipt, how: How, desk: &mut Desk) {
        let Some(job) = self
            .job(receipt)
            .filter(|job| matches!(job.state, State::Out))
        else {
            desk.stale += 1;
            return;
        };
        match how {
            How::Ack => self.remove(receipt),
            How::Release { after } if after.is_zero() => self.give_back(receipt, 0, desk),
            How::Release { after } => self.pause(receipt, after, false, desk),
            How::Retry { after } => self.pause(receipt, after, true, desk),
            How::Dead { reason, attempts } => {
                if desk.letters.are_kept() {
                    job.state = State::Dying { reason, attempts };
                    self.dying += 1;
                    self.push(&Command::Peek(receipt.token), Word::Body(receipt));
                } else if let Some(job) = self.drop_job(receipt) {
                    let (id, priority) = (job.id, job.priority);
                    self.unconfirmed += 1;
                    self.push(&Command::Bury { id, priority }, Word::Settled);
                }
            }
        }
    }

    /// Deletes a job; that may wait for company while reserves are under way.
    fn remove(&mut self, receipt: Receipt) {
        let must_write = self.must_write;
        self.drop_job(receipt);
        self.unconfirmed += 1;
        self.push(&Command::Delete(receipt.token), Word::Settled);
        self.must_write = must_write;
        self.idle_deletes += 1;
    }

    /// Gives a job back to everybody, without counting a start.
    pub(super) fn give_back(&mut self, receipt: Receipt, seconds: u32, desk: &Desk) {
        // Without a claim the server's own counters tell the attempts: reserves less kicks. So a job that is not to be counted
        // is kicked out of a delay; if the connection ends in between it is ready a second later, and counted.
        let kick = !desk.source.claimed && seconds == 0;
        self.release(receipt, if kick { 1 } else { seconds });
        if kick {
            self.unconfirmed += 1;
            self.push(&Command::KickJob(receipt.token), Word::Kicked);
        }
    }

    fn release(&mut self, receipt: Receipt, delay: u32) {
        if let Some(Job { id, priority, .. }) = self.drop_job(receipt) {
            self.unconfirmed += 1;
            let command = Command::Release {
                id,
                priority,
                delay,
            };
            self.push(&command, Word::Returned { id });
        }
    }

    /// Gives a job back at a time: the fraction of a second passes here, whole ones on the server.
    fn pause(&mut self, receipt: Receipt, after: Duration, counted: bool, desk: &mut Desk) {
        let whole = u32::try_from(after.as_secs()).unwrap_or(u32::MAX);
        let fraction = Duration::from_nanos(after.subsec_nanos().into());
        // The server counts every return from a delay. Where that count matters, all of it passes here.
        let here = !counted && !desk.source.claimed;
        if fraction.is_zero() && !here {
            self.release(receipt, whole);
            return;
        }
        if desk.quiet || desk.hold.pauses() >= MOST_PAUSES {
            self.release(receipt, whole.saturating_add(1));
            return;
        }
        if let Some(job) = self.job(receipt) {
            job.state = State::Paused;
        }
        desk.hold.pause(Pause {
            until: desk.now + if here { after } else { fraction },
            receipt,
            seconds: if here { 0 } else { whole },
            counted,
        });
    }

    /// The time of a settled job has come.
    pub(super) fn end_pause(&mut self, pause: &Pause, desk: &Desk) {
        if pause.counted {
            self.release(pause.receipt, pause.seconds);
        } else {
            self.give_back(pause.receipt, pause.seconds, desk);
        }
    }

    /// The time of a settled job is waited for on the server after all, rounded up.
    pub(super) fn cut_pause(&mut self, pause: &Pause, desk: &Desk) {
        let rest = pause.until.saturating_duration_since(desk.now);
        let seconds = u32::try_from(rest.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
        self.release(pause.receipt, pause.seconds.saturating_add(seconds));
    }

    /// The letter of a job is kept: now the job may go.
    pub(super) fn letter_written(&mut self, receipt: Receipt, kept: bool, desk: &mut Desk) {
        let dying = self
            .job(receipt)
            .is_some_and(|job| matches!(job.state, State::Dying { .. }));
        if !dying {
            desk.stale += 1;
        } else if kept {
            self.dying -= 1;
            self.remove(receipt);
        }
    }

    // ------------------------------------------------------------------ asking

    /// Room for so many more jobs.
    pub(super) fn capacity(&self, desk: &Desk) -> usize {
        let hushed = self.hushed.is_some_and(|until| desk.now < until);
        if hushed || self.waits {
            return 0;
        }
        let most = desk.site.unacked;
        most.saturating_sub(self.leased() + self.reserves)
    }

    /// Asks for jobs that are ready, at most so many. Answers for how many.
    pub(super) fn top_up(&mut self, share: usize, tide: &Tide, desk: &Desk) -> usize {
        if self.reserves * 2 > tide.batch {
            return 0;
        }
        let count = share
            .min(tide.batch - self.reserves)
            .min(self.capacity(desk));
        for _ in 0..count {
            self.push(&Command::ReserveWithTimeout(0), Word::Reserve);
        }
        self.reserves += count;
        count
    }

    /// Lets the server say when a job comes.
    pub(super) fn wait(&mut self) {
        self.look();
        self.push(&Command::ReserveWithTimeout(WAIT), Word::Wait);
        self.reserves += 1;
        self.waits = true;
    }

    /// Asks once, without waiting.
    pub(super) fn ask_once(&mut self) {
        self.push(&Command::ReserveWithTimeout(0), Word::Reserve);
        self.reserves += 1;
    }

    fn look(&mut self) {
        self.push(&Command::PeekDelayed, Word::Delayed);
    }

    /// Touches what is old, and says something if it has been silent.
    pub(super) fn tend(&mut self, tide: &Tide, desk: &Desk) {
        if self.leased() > 0 && desk.now >= self.renew_at {
            self.touch_older(desk.source.renew, desk.now);
            self.renew_at = desk.now + desk.source.renew / 2;
        }
        if !self.waits && desk.now - self.wrote >= HEARTBEAT {
            self.look();
            if !tide.dry && self.reserves == 0 {
                self.push(&Command::PeekReady, Word::Ready);
            }
        }
    }

    /// Answers whether there was any.
    fn touch_older(&mut self, age: Duration, now: Instant) -> bool {
        let mut any = false;
        for slot in 0..self.jobs.len() {
            let Some(job) = &mut self.jobs[slot] else {
                continue;
            };
            if now.saturating_duration_since(job.touched) < age {
                continue;
            }
            job.touched = now;
            let id = job.id;
            let receipt = Receipt {
                epoch: self.epoch,
                group: u32::try_from(slot).unwrap_or(u32::MAX),
                token: id,
            };
            any = true;
            self.push(&Command::Touch(id), Word::Touched(receipt));
        }
        any
    }

    // ------------------------------------------------------------------ the socket

    /// Hears everything that the node has said.
    ///
    /// # Errors
    /// The connection is over.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tide: &mut Tide,
        desk: &mut Desk,
        turn: &mut Turn,
    ) -> Result<(), LinkError> {
        while let Poll::Ready(answer) = self.link.poll_answer(cx) {
            let (word, answer) = answer?;
            self.owed_since = (self.link.outstanding() > 0).then_some(desk.now);
            self.hear(word, answer, tide, desk, turn)?;
        }
        let patience = desk.site.patience
            + if self.waits {
                Duration::from_secs(WAIT.into())
            } else {
                Duration::ZERO
            };
        match self.owed_since {
            Some(since) if desk.now.saturating_duration_since(since) > patience => {
                Err(LinkError::NotInTime { within: patience })
            }
            _ => Ok(()),
        }
    }

    /// Writes what should not wait any longer.
    ///
    /// # Errors
    /// The connection is over.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), LinkError> {
        if !self.link.has_unwritten() {
            return Ok(());
        }
        // Deletes ride with the next reserves, as long as answers are sure to bring those about.
        let ride = !self.must_write
            && self.idle_deletes < MOST_UNWRITTEN
            && self.reserves > 0
            && !self.waits;
        if ride {
            return Ok(());
        }
        self.owed_since.get_or_insert(now);
        self.wrote = now;
        if let Poll::Ready(written) = self.link.poll_flush(cx) {
            written?;
            self.must_write = false;
            self.idle_deletes = 0;
        }
        Ok(())
    }

    /// Closes this half, hears the last answers. Ready when the node has closed too.
    ///
    /// # Errors
    /// The connection ended in another way.
    pub(super) fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        tide: &mut Tide,
        desk: &mut Desk,
        turn: &mut Turn,
    ) -> Poll<Result<(), LinkError>> {
        if let Poll::Ready(Err(error)) = self.link.poll_half_close(cx) {
            return Poll::Ready(Err(error));
        }
        match self.poll(cx, tide, desk, turn) {
            Ok(()) => Poll::Pending,
            Err(LinkError::Closed) if self.unconfirmed == 0 => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// When something is to be done here without an answer.
    pub(super) fn wakes_at(&self, desk: &Desk) -> Option<Instant> {
        let renew = (self.leased() > 0).then_some(self.renew_at);
        let beat = (!self.waits).then(|| self.wrote + HEARTBEAT);
        let owed = self
            .owed_since
            .map(|since| since + desk.site.patience + Duration::from_millis(1) + HEARTBEAT);
        let hushed = self.hushed.filter(|until| *until > desk.now);
        renew
            .into_iter()
            .chain(beat)
            .chain(owed)
            .chain(hushed)
            .min()
    }

    /// After quiet: those that wait for their history have not started.
    pub(super) fn hand_back_line(&mut self, desk: &Desk) {
        for (parcel, _) in std::mem::take(&mut self.line) {
            self.give_back(parcel.receipt, 0, desk);
        }
    }

    /// Nothing is under way but a reserve that waits.
    pub(super) fn is_settled(&self) -> bool {
        self.unconfirmed == 0
            && self.dying == 0
            && self.line.is_empty()
            && (self.reserves == 0 || self.waits)
    }
}
