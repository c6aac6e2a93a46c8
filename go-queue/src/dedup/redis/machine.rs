//! What one end of the store knows of its claims, and what follows from asks, answers and time. Pure: it makes commands and is
//! told what became of them.
//!
//! Replicas of one task that meet in one end cost one round trip: the first asks Redis, its twins wait here for a moment and
//! learn `Done` when it is done. Who finds a claim of another process looks again a few times before it gives up its turn,
//! because most runs are short and a job that goes back to its node costs more than three looks.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::command::{Asker, Command, End, Step};
use super::link::Reply;
use super::value::{Claimed, claimed, owner};
use crate::dedup::{Answer, Ask, AskWhat, Verdict};
use crate::message::Id;

/// How long a twin waits here for the run of its replica before it is sent away.
const TWIN_WAITS: Duration = Duration::from_millis(100);

/// How long a twin that was sent away stays away: as long as the run has lasted, within these bounds.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// When to look again for a claim that runs elsewhere.
const LOOKS: [Duration; 3] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
];

/// How long a dead letter may take to be written before the task runs again: as long as its nodes may be away at a stretch.
const DYING: Duration = Duration::from_secs(300);

/// A claim whose answer was lost and that nobody asks for again is freed after this time.
const UNSURE: Duration = Duration::from_secs(5);

/// Within this time the replicas of a task come, unless their node is away.
const REPLICAS_COME: Duration = Duration::from_secs(10);

/// How many finished tasks an end remembers, so that late replicas cost no round trip.
const REMEMBERED: usize = 8192;

/// How many freed claims wait for Redis to come back. Beyond that their leases end by themselves.
const MOST_FREED: usize = 4096;

/// Time by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) at: Instant,
    /// By the clock of Redis in milliseconds.
    pub(super) wall: u64,
}

/// What an end is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    pub(super) lease: Duration,
    pub(super) keep: Duration,
    /// Names have generations; they share a key.
    pub(super) names: bool,
    /// Several copies of a message may be about: they are kept from starting while a dead letter is written.
    pub(super) replicas: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Redis is being asked.
    Asking(Asker),
    /// It runs elsewhere; Redis is asked again in a moment.
    Looking(Asker),
    /// Ours; who has been told so.
    Held(Asker),
    /// Redis is told how it ended.
    Ending,
    /// Asked, and the answer was lost, or what it ended with was.
    Unsure(Instant),
}

#[derive(Debug)]
struct Claim {
    /// Makes the owner token.
    seq: u64,
    attempt: u32,
    phase: Phase,
    looks: u8,
    /// Told to have ended in this way, and not known to be stored.
    last: Option<AskWhat>,
    since: Instant,
    /// A mark stood under its key, which said that the task is stored: giving the claim back leaves the key.
    noted: bool,
    /// Replicas that wait for it.
    twins: Vec<Asker>,
}

#[derive(Debug)]
pub(super) struct Machine {
    purpose: Purpose,
    /// Begins every owner token of this end.
    nonce: Arc<str>,
    seq: u64,
    claims: HashMap<Id, Claim, foldhash::fast::RandomState>,
    commands: Vec<Command>,
    /// Twins that wait, in the order of their time.
    waits: VecDeque<(Instant, Id, u64)>,
    looks: BinaryHeap<Reverse<(Instant, Id, u64)>>,
    freed: VecDeque<Command>,
    free_at: Option<Instant>,
    renew_at: Option<Instant>,
    done: HashMap<Id, Instant, foldhash::fast::RandomState>,
    done_order: VecDeque<Id>,
}

impl Machine {
    pub(super) fn new(purpose: Purpose, nonce: Arc<str>) -> Self {
        Self {
            purpose,
            nonce,
            seq: 0,
            claims: HashMap::default(),
            commands: Vec::new(),
            waits: VecDeque::new(),
            looks: BinaryHeap::new(),
            freed: VecDeque::new(),
            free_at: None,
            renew_at: None,
            done: HashMap::default(),
            done_order: VecDeque::new(),
        }
    }

    /// Commands that are to be sent.
    pub(super) fn commands(&mut self) -> &mut Vec<Command> {
        &mut self.commands
    }

    /// When [`Self::pass`] is to be called next.
    pub(super) fn wake(&self) -> Option<Instant> {
        [
            self.renew_at,
            self.free_at,
            self.waits.front().map(|(at, ..)| *at),
            self.looks.peek().map(|Reverse((at, ..))| *at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn command(&mut self, id: Id, seq: u64, step: Step) {
        self.commands.push(Command {
            id,
            seq,
            step,
            whole: false,
        });
    }

    /// Takes one ask.
    pub(super) fn ask(&mut self, ask: &Ask, now: Instant, out: &mut Vec<Answer>) {
        let asker = Asker {
            ticket: ask.ticket,
            round: ask.round,
        };
        match ask.what {
            AskWhat::Claim => self.claim(ask.id, asker, now, out),
            AskWhat::Confirm => {
                let seq = self.claims.get_mut(&ask.id).map_or(0, |claim| {
                    claim.end(AskWhat::Confirm);
                    claim.seq
                });
                self.command(ask.id, seq, Step::Done { asker: Some(asker) });
            }
            AskWhat::Retry { .. } | AskWhat::Dead => match self.ours(ask.id) {
                Some(claim) => {
                    claim.end(ask.what.clone());
                    let (seq, attempt) = (claim.seq, claim.attempt);
                    let end = self.purpose.end(&ask.what);
                    let step = Step::End {
                        asker,
                        attempt,
                        end,
                    };
                    self.command(ask.id, seq, step);
                }
                None => out.push(asker.told(Verdict::Lost)),
            },
            AskWhat::Abandon => {
                if self.ours(ask.id).is_some()
                    && let Some(claim) = self.claims.remove(&ask.id)
                {
                    let step = self.purpose.unstarted(&claim, now);
                    self.command(ask.id, claim.seq, step);
                    claim.tell_twins(Verdict::Busy(Duration::ZERO), out);
                }
            }
        }
    }

    /// A claim that was granted, or may have been.
    fn ours(&mut self, id: Id) -> Option<&mut Claim> {
        self.claims.get_mut(&id).filter(|claim| {
            matches!(
                claim.phase,
                Phase::Held(_) | Phase::Ending | Phase::Unsure(_)
            )
        })
    }

    fn claim(&mut self, id: Id, asker: Asker, now: Instant, out: &mut Vec<Answer>) {
        if self.done.get(&id).is_some_and(|until| *until > now) {
            out.push(asker.told(Verdict::Done));
            return;
        }
        if let Some(claim) = self.claims.get_mut(&id) {
            if matches!(claim.phase, Phase::Unsure(_)) && claim.last.is_none() {
                // The same owner: if the lost answer was a yes, this one will be.
                claim.phase = Phase::Asking(asker);
                claim.looks = 0;
                let seq = claim.seq;
                self.command(id, seq, Step::Acquire);
            } else {
                claim.twins.push(asker);
                self.waits.push_back((now + TWIN_WAITS, id, claim.seq));
            }
            return;
        }
        self.seq += 1;
        let claim = Claim {
            seq: self.seq,
            attempt: 1,
            phase: Phase::Asking(asker),
            looks: 0,
            last: None,
            since: now,
            noted: false,
            twins: Vec::new(),
        };
        self.claims.insert(id, claim);
        self.command(id, self.seq, Step::Acquire);
    }

    /// Takes the answer of Redis to one command.
    pub(super) fn reply(
        &mut self,
        command: Command,
        reply: Reply,
        now: Now,
        out: &mut Vec<Answer>,
    ) {
        match reply {
            Reply::NoScript if !command.whole => {
                self.commands.push(Command {
                    whole: true,
                    ..command
                });
            }
            Reply::NoGet if command.step == Step::Acquire => self.commands.push(command),
            Reply::NoScript | Reply::NoGet | Reply::Refused(_) | Reply::List(_) => {
                self.failed(command, Duration::from_secs(1), now.at, out);
            }
            Reply::Nil | Reply::Ok | Reply::Int(_) | Reply::Text(_) => {
                self.answered(&command, reply, now, out);
            }
        }
    }

    fn answered(&mut self, command: &Command, reply: Reply, now: Now, out: &mut Vec<Answer>) {
        let (id, seq) = (command.id, command.seq);
        let known = self.claims.get(&id).is_some_and(|claim| claim.seq == seq);
        match &command.step {
            Step::Acquire if known => match reply {
                Reply::Text(value) => self.found(id, value, now, out),
                _ => self.granted(id, 1, now.at, out),
            },
            Step::Take { attempt, .. } if known => match reply {
                Reply::Text(value) if value.is_empty() => self.command(id, seq, Step::Acquire),
                Reply::Text(value) => self.found(id, value, now, out),
                _ => self.granted(id, *attempt, now.at, out),
            },
            Step::Acquire | Step::Take { .. } | Step::Free { .. } => {}
            Step::Renew { .. } => {
                if known
                    && matches!(reply, Reply::Text(_))
                    && let Phase::Held(asker) = self.claims[&id].phase
                    && let Some(claim) = self.claims.remove(&id)
                {
                    // Somebody took it over: we were silent for too long. What has not started must not. What was run is still told
                    // when it is done.
                    out.push(asker.told(Verdict::Lost));
                    claim.tell_twins(Verdict::Busy(AWAY.0), out);
                }
            }
            Step::Done { asker } => {
                out.extend(asker.map(|asker| asker.told(Verdict::Stored)));
                if known && let Some(claim) = self.claims.remove(&id) {
                    // One that lost its claim may end while another replica asks anew: there is nothing to ask any more.
                    if let Phase::Asking(asker) | Phase::Looking(asker) = claim.phase {
                        out.push(asker.told(Verdict::Done));
                    }
                    claim.tell_twins(Verdict::Done, out);
                }
                if self.purpose.replicas {
                    self.remember(id, now.at);
                }
            }
            Step::End { asker, end, .. } => {
                let stored = !matches!(reply, Reply::Text(_));
                let verdict = if stored {
                    Verdict::Stored
                } else {
                    Verdict::Lost
                };
                out.push(asker.told(verdict));
                if known && let Some(claim) = self.claims.remove(&id) {
                    let away = match end {
                        End::Wait { after } if stored => *after,
                        _ => AWAY.0,
                    };
                    claim.tell_twins(Verdict::Busy(away), out);
                }
            }
        }
    }

    fn granted(&mut self, id: Id, attempt: u32, now: Instant, out: &mut Vec<Answer>) {
        let Some(claim) = self.claims.get_mut(&id) else {
            return;
        };
        let Phase::Asking(asker) = claim.phase else {
            return;
        };
        claim.phase = Phase::Held(asker);
        claim.attempt = attempt;
        claim.since = now;
        out.push(asker.told(Verdict::Fresh { attempt }));
        if self.renew_at.is_none() {
            self.renew_at = Some(now + self.purpose.lease / 3);
        }
    }

    /// Something stands under the key.
    fn found(&mut self, id: Id, value: Vec<u8>, now: Now, out: &mut Vec<Answer>) {
        let Some(claim) = self.claims.get_mut(&id) else {
            return;
        };
        let Phase::Asking(asker) = claim.phase else {
            return;
        };
        let seq = claim.seq;
        let look = LOOKS.get(usize::from(claim.looks)).copied();
        let generation = if self.purpose.names {
            id.generation()
        } else {
            0
        };
        let verdict = match claimed(&value, generation, &owner(&self.nonce, seq), now.wall) {
            Claimed::Mine { attempt } => return self.granted(id, attempt, now.at, out),
            Claimed::Take { attempt } if look.is_some() => {
                claim.attempt = attempt;
                claim.noted = attempt == 1;
                claim.looks += 1;
                let step = Step::Take {
                    old: value,
                    attempt,
                };
                return self.command(id, seq, step);
            }
            // Others are always faster: there is no hurry.
            Claimed::Take { .. } => Verdict::Busy(AWAY.0),
            Claimed::Done => Verdict::Done,
            Claimed::Running { rest } => {
                if let Some(look) = look {
                    claim.looks += 1;
                    claim.phase = Phase::Looking(asker);
                    self.looks.push(Reverse((now.at + look, id, seq)));
                    return;
                }
                Verdict::Busy(rest)
            }
            Claimed::Wait { rest } => Verdict::Busy(rest),
        };
        if let Some(claim) = self.claims.remove(&id) {
            out.push(asker.told(verdict));
            claim.tell_twins(verdict, out);
        }
    }

    /// A command had no answer; it may have been done. Asks are to come again after this time.
    pub(super) fn failed(
        &mut self,
        command: Command,
        after: Duration,
        now: Instant,
        out: &mut Vec<Answer>,
    ) {
        let down = Verdict::Down(after);
        let claim = self
            .claims
            .get_mut(&command.id)
            .filter(|claim| claim.seq == command.seq);
        match command.step {
            Step::Acquire | Step::Take { .. } => {
                if let Some(claim) = claim
                    && let Phase::Asking(asker) = claim.phase
                {
                    claim.phase = Phase::Unsure(now);
                    out.push(asker.told(down));
                    for twin in claim.twins.drain(..) {
                        out.push(twin.told(down));
                    }
                    self.renew_at.get_or_insert(now + UNSURE);
                }
            }
            Step::Renew { .. } => {
                // Long before the lease ends.
                let soon = now + (self.purpose.lease / 12).max(after);
                self.renew_at = Some(self.renew_at.map_or(soon, |at| at.min(soon)));
            }
            Step::Done { asker: Some(asker) } | Step::End { asker, .. } => {
                out.push(asker.told(down));
                if let Some(claim) = claim {
                    claim.phase = Phase::Unsure(now);
                    for twin in claim.twins.drain(..) {
                        out.push(twin.told(down));
                    }
                    self.renew_at.get_or_insert(now + UNSURE);
                }
            }
            Step::Done { asker: None } => self.later(command, now + after),
            Step::Free { until, .. } if until > now => self.later(command, now + after),
            Step::Free { .. } => {}
        }
    }

    /// Nobody waits for the answer of this: it is sent again when Redis may be back.
    fn later(&mut self, command: Command, at: Instant) {
        if self.freed.len() < MOST_FREED {
            self.freed.push_back(command);
            self.free_at.get_or_insert(at);
        }
    }

    /// Time has passed.
    pub(super) fn pass(&mut self, now: Instant, out: &mut Vec<Answer>) {
        while let Some(&(at, id, seq)) = self.waits.front()
            && at <= now
        {
            self.waits.pop_front();
            if let Some(claim) = self.claims.get_mut(&id)
                && claim.seq == seq
            {
                let away = now
                    .saturating_duration_since(claim.since)
                    .clamp(AWAY.0, AWAY.1);
                for twin in claim.twins.drain(..) {
                    out.push(twin.told(Verdict::Busy(away)));
                }
            }
        }
        while let Some(&Reverse((at, id, seq))) = self.looks.peek()
            && at <= now
        {
            self.looks.pop();
            if let Some(claim) = self.claims.get_mut(&id)
                && claim.seq == seq
                && let Phase::Looking(asker) = claim.phase
            {
                claim.phase = Phase::Asking(asker);
                self.command(id, seq, Step::Acquire);
            }
        }
        if self.free_at.is_some_and(|at| at <= now) {
            self.free_at = None;
            self.commands.extend(self.freed.drain(..));
        }
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew(now);
        }
    }

    /// Redis is back. It may have forgotten what it was told last: what is held is said before anything is asked.
    pub(super) fn back(&mut self, now: Instant) {
        if self.claims.is_empty() {
            return;
        }
        let asked = std::mem::take(&mut self.commands);
        self.renew(now);
        self.commands.extend(asked);
    }

    fn renew(&mut self, now: Instant) {
        let Self {
            claims,
            commands,
            purpose,
            ..
        } = self;
        claims.retain(|id, claim| {
            let step = match claim.phase {
                Phase::Held(_) => Step::Renew {
                    attempt: claim.attempt,
                },
                Phase::Unsure(since) if now.saturating_duration_since(since) >= UNSURE => {
                    // Who asked has given up: with a policy that runs without a store, or because it ends.
                    purpose.last_word(claim, now)
                }
                Phase::Unsure(_) | Phase::Asking(_) | Phase::Looking(_) | Phase::Ending => {
                    return true;
                }
            };
            let keep = matches!(step, Step::Renew { .. });
            commands.push(Command {
                id: *id,
                seq: claim.seq,
                step,
                whole: false,
            });
            keep
        });
        self.renew_at = (!self.claims.is_empty()).then(|| now + self.purpose.lease / 3);
    }

    fn remember(&mut self, id: Id, now: Instant) {
        // Until a moment before Redis forgets it, and not for long: a Redis that lost everything lets a producer send the same
        // name anew, and that is another task.
        let Some(keep) = self.purpose.keep.checked_sub(Duration::from_secs(1)) else {
            return;
        };
        let until = now + keep.min(REPLICAS_COME);
        if self.done.insert(id, until).is_none() {
            self.done_order.push_back(id);
            if self.done_order.len() > REMEMBERED
                && let Some(oldest) = self.done_order.pop_front()
            {
                self.done.remove(&oldest);
            }
        }
    }

    /// The end is given up: what Redis must be told, without waiting for answers. Runs that had started stay counted.
    pub(super) fn farewell(&mut self, now: Instant) -> Vec<Command> {
        let mut commands = std::mem::take(&mut self.commands);
        commands.retain(|command| {
            !matches!(
                command.step,
                Step::Acquire | Step::Take { .. } | Step::Renew { .. }
            )
        });
        commands.extend(self.freed.drain(..));
        for (id, claim) in self.claims.drain() {
            commands.push(Command {
                id,
                seq: claim.seq,
                step: self.purpose.last_word(&claim, now),
                whole: true,
            });
        }
        for command in &mut commands {
            command.whole = true;
        }
        commands
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.claims.len()
    }
}

impl Purpose {
    fn end(self, what: &AskWhat) -> End {
        match what {
            AskWhat::Retry { after } => End::Wait { after: *after },
            AskWhat::Dead if self.replicas => End::Dying { within: DYING },
            _ => End::Gone,
        }
    }

    /// What Redis is told of a claim that nobody will tell of.
    fn last_word(self, claim: &Claim, now: Instant) -> Step {
        let end = match (claim.phase, &claim.last) {
            (_, Some(AskWhat::Confirm)) => return Step::Done { asker: None },
            (_, Some(what)) => self.end(what),
            (Phase::Held(_), None) => End::Wait {
                after: Duration::ZERO,
            },
            (_, None) => return self.unstarted(claim, now),
        };
        Step::Free {
            attempt: claim.attempt,
            end,
            until: now + self.lease,
        }
    }

    /// How a claim ends that did not start.
    fn unstarted(self, claim: &Claim, now: Instant) -> Step {
        let until = now + self.lease;
        let before = claim.attempt.saturating_sub(1);
        let end = if before == 0 && !claim.noted {
            End::Gone
        } else {
            End::Wait {
                after: Duration::ZERO,
            }
        };
        Step::Free {
            attempt: before,
            end,
            until,
        }
    }
}

impl Claim {
    fn end(&mut self, what: AskWhat) {
        // One that Redis is asked for now was never granted to who says that it has ended: another replica ran without a claim.
        if !matches!(self.phase, Phase::Asking(_) | Phase::Looking(_)) {
            self.phase = Phase::Ending;
            self.last = Some(what);
        }
    }

    fn tell_twins(self, verdict: Verdict, out: &mut Vec<Answer>) {
        out.extend(self.twins.into_iter().map(|twin| twin.told(verdict)));
    }
}
