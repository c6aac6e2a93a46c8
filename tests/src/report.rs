//! What a test did, counted: from events to runs, from runs to promises kept or broken.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use crate::ledger::{Event, Ledger, What};
use crate::order;

/// So long after a run has finished a kill still explains that it runs again: its settlement had not reached the store. A run
/// that finished longer before the kill was settled, or should have been.
pub const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// How many offenders of one kind the text names.
const NAMED: usize = 10;

/// What became of all messages of a test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Messages that a producer began to send.
    pub offered: usize,
    /// Messages that the engine confirmed.
    pub accepted: usize,
    /// Messages that were started at least once.
    pub started: usize,
    /// Messages that were finished at least once.
    pub finished: usize,
    /// Messages among the dead letters.
    pub dead: usize,
    /// Messages that their producer took back.
    pub revoked: usize,
    /// Starts of handlers.
    pub runs: usize,
    /// The highest number of an attempt.
    pub highest_attempt: u32,
    /// Runs that were given back: errors, panics, aborts.
    pub returned: usize,
    /// SIGKILLs.
    pub kills: usize,
    /// Runs that a SIGKILL cut off.
    pub interrupted: usize,
    /// Second and later runs, whatever the cause.
    pub repeated: usize,
    /// Runs that began after the message had been finished. What a user calls a duplicate.
    pub doubled: usize,
    /// Second runs by a process that stood still, lost its lease, and began before it knew.
    pub late_starts: usize,
    /// For each killed process that caused any: how many messages ran again because of it.
    pub repeated_by_kill: Vec<usize>,
    /// For each killed process that caused any: how many finished messages ran again because of it.
    pub doubled_by_kill: Vec<usize>,
    /// Accepted, not finished, not dead, not revoked.
    pub lost: Vec<String>,
    /// Second runs whose earlier run was neither killed, nor stopped, nor expired, nor given back.
    pub unexplained: Vec<String>,
    /// Runs of messages that nobody offered.
    pub unknown: Vec<String>,
    /// Promises broken as the processes saw it, and runs after a revoke.
    pub broken: Vec<String>,
    /// Messages of one key that started before the one ahead of them had ended.
    pub disordered: Vec<String>,
    /// Runs of one key at the same time.
    pub at_once: Vec<String>,
    /// Journals whose last line is torn.
    pub torn: usize,
}

/// One start of a handler.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) id: u32,
    pub(crate) process: u32,
    pub(crate) attempt: u32,
    pub(crate) start: u64,
    pub(crate) end: End,
    pub(crate) order: Option<(u32, u64)>,
}

/// How a run ended, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Finished(u64),
    Returned(u64),
    Expired(u64),
    /// Its process said nothing more of it.
    Open,
}

/// What the driver did to a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate {
    pub(crate) killed: Option<u64>,
    /// From and to.
    pub(crate) stopped: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Killed,
    Stopped,
    Expired,
    Returned,
    None,
}

impl Run {
    /// Why the message may run again from `next` on.
    fn cause(&self, next: u64, fates: &HashMap<u32, Fate>) -> Cause {
        let settle = nanos(SETTLE_WITHIN);
        let finished = match self.end {
            End::Returned(at) if at <= next => return Cause::Returned,
            End::Expired(_) => return Cause::Expired,
            End::Finished(at) | End::Returned(at) => at,
            End::Open => u64::MAX,
        };
        let Some(fate) = fates.get(&self.process) else {
            return Cause::None;
        };
        let unsettled_at = |moment: u64| finished.saturating_add(settle) >= moment;
        if fate
            .killed
            .is_some_and(|kill| kill <= next && unsettled_at(kill))
        {
            return Cause::Killed;
        }
        let stopped =
            |(from, to): &(u64, u64)| *from <= next && self.start <= *to && unsettled_at(*from);
        if fate.stopped.iter().any(stopped) {
            return Cause::Stopped;
        }
        Cause::None
    }

    /// Whether it began just after its process had stood still, on a delivery from before: its lease was lost meanwhile, which the
    /// process could not know yet. `other` ran in between.
    fn is_late_start(&self, other: &Self, fates: &HashMap<u32, Fate>) -> bool {
        let settle = nanos(SETTLE_WITHIN);
        fates.get(&self.process).is_some_and(|fate| {
            fate.stopped.iter().any(|(from, to)| {
                (*from..=*to).contains(&other.start)
                    && *to <= self.start
                    && self.start <= to.saturating_add(settle)
            })
        })
    }

    /// When nobody worked on it any more; never, if it is still going on.
    pub(crate) fn over(&self, fates: &HashMap<u32, Fate>) -> u64 {
        let fate = fates.get(&self.process);
        let killed = fate.and_then(|fate| fate.killed).unwrap_or(u64::MAX);
        let stopped = fate
            .and_then(|fate| {
                fate.stopped
                    .iter()
                    .map(|(from, _)| *from)
                    .find(|from| *from >= self.start)
            })
            .unwrap_or(u64::MAX);
        let ended = match self.end {
            End::Finished(at) | End::Returned(at) | End::Expired(at) => at,
            End::Open => u64::MAX,
        };
        ended.min(killed).min(stopped)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Sets of messages, by what was said of them.
#[derive(Default)]
struct Said {
    offered: HashSet<u32>,
    accepted: HashSet<u32>,
    dead: HashSet<u32>,
    revoked: HashMap<u32, u64>,
}

impl Report {
    pub(crate) fn of(ledger: &Ledger) -> Self {
        let events = ledger.events();
        let mut report = Self {
            torn: ledger.torn_lines(),
            ..Self::default()
        };
        let (said, fates) = report.read_what_was_said(&events, ledger);
        let runs = read_runs(&events);
        report.count(&runs, &said, &fates, ledger);
        let word = |number| ledger.word(number);
        let order = order::check(&runs, &fates, &said.dead, &word);
        report.disordered = order.disordered;
        report.at_once = order.at_once;
        report
    }

    fn read_what_was_said(
        &mut self,
        events: &[Event],
        ledger: &Ledger,
    ) -> (Said, HashMap<u32, Fate>) {
        let mut said = Said::default();
        let mut fates: HashMap<u32, Fate> = HashMap::new();
        for Event {
            time,
            what,
            process,
        } in events
        {
            match what {
                What::Offer(id) => _ = said.offered.insert(*id),
                What::Accept(id) => _ = said.accepted.insert(*id),
                What::Dead(id) => _ = said.dead.insert(*id),
                What::Revoke(id) => _ = said.revoked.insert(*id, *time),
                What::Kill(whom) => {
                    self.kills += 1;
                    fates.entry(*whom).or_default().killed = Some(*time);
                }
                What::Stop(whom) => fates
                    .entry(*whom)
                    .or_default()
                    .stopped
                    .push((*time, u64::MAX)),
                What::Cont(whom) => {
                    if let Some((_, to)) = fates.entry(*whom).or_default().stopped.last_mut() {
                        *to = *time;
                    }
                }
                What::Broken(id, text) => {
                    self.broken.push(format!(
                        "{}: {text} ({})",
                        ledger.word(*id),
                        ledger.word(*process)
                    ));
                }
                _ => {}
            }
        }
        (said, fates)
    }

    fn count(&mut self, runs: &[Run], said: &Said, fates: &HashMap<u32, Fate>, ledger: &Ledger) {
        let mut by_id: HashMap<u32, Vec<&Run>> = HashMap::new();
        for run in runs {
            by_id.entry(run.id).or_default().push(run);
        }
        let mut finished = HashSet::new();
        let mut repeated_by: HashMap<u32, usize> = HashMap::new();
        let mut doubled_by: HashMap<u32, usize> = HashMap::new();
        for (id, runs) in &by_id {
            let name = ledger.word(*id);
            if !said.offered.contains(id) {
                self.unknown.push(name.to_owned());
            }
            if let (Some(at), Some(last)) = (said.revoked.get(id), runs.last())
                && last.start > *at
            {
                self.broken
                    .push(format!("{name}: started after it was revoked"));
            }
            let mut done: Option<u64> = None;
            for (run, next) in runs.iter().zip(runs.iter().skip(1).map(Some).chain([None])) {
                if let End::Finished(at) = run.end {
                    finished.insert(*id);
                    done = Some(done.map_or(at, |first| first.min(at)));
                }
                let Some(next) = next else { continue };
                self.repeated += 1;
                let doubled = done.is_some_and(|at| at <= next.start);
                self.doubled += usize::from(doubled);
                match run.cause(next.start, fates) {
                    Cause::Killed => {
                        *repeated_by.entry(run.process).or_default() += 1;
                        *doubled_by.entry(run.process).or_default() += usize::from(doubled);
                    }
                    Cause::None if next.is_late_start(run, fates) => self.late_starts += 1,
                    Cause::None => self.unexplained.push(format!(
                        "{name}: attempt {} in {} ({:?}, began at {}), then attempt {} in {} (began at {})",
                        run.attempt,
                        ledger.word(run.process),
                        run.end,
                        run.start,
                        next.attempt,
                        ledger.word(next.process),
                        next.start
                    )),
                    Cause::Stopped | Cause::Expired | Cause::Returned => {}
                }
            }
        }
        self.offered = said.offered.len();
        self.accepted = said.accepted.len();
        self.dead = said.dead.len();
        self.revoked = said.revoked.len();
        self.started = by_id.len();
        self.finished = finished.len();
        self.runs = runs.len();
        self.highest_attempt = runs.iter().map(|run| run.attempt).max().unwrap_or(0);
        self.returned = runs
            .iter()
            .filter(|run| matches!(run.end, End::Returned(_)))
            .count();
        let killed = |run: &&Run| {
            fates
                .get(&run.process)
                .is_some_and(|fate| fate.killed.is_some())
        };
        self.interrupted = runs
            .iter()
            .filter(|run| run.end == End::Open)
            .filter(killed)
            .count();
        self.repeated_by_kill = descending(repeated_by);
        self.doubled_by_kill = descending(doubled_by);
        let lost = said.accepted.iter().filter(|id| {
            !finished.contains(*id) && !said.dead.contains(*id) && !said.revoked.contains_key(*id)
        });
        self.lost = lost.map(|id| ledger.word(*id).to_owned()).collect();
        for list in [&mut self.lost, &mut self.unknown, &mut self.unexplained] {
            list.sort_unstable();
        }
    }

    /// How many messages ran again because of the worst kill.
    pub fn worst_kill(&self) -> usize {
        self.repeated_by_kill.first().copied().unwrap_or(0)
    }

    /// The promises that were broken, by name; empty is good.
    pub fn broken_promises(&self) -> Vec<&'static str> {
        let kinds: [(&'static str, &[String]); 6] = [
            ("lost", &self.lost),
            ("run twice without cause", &self.unexplained),
            ("run without being sent", &self.unknown),
            ("broken", &self.broken),
            ("out of order", &self.disordered),
            ("two of one key at once", &self.at_once),
        ];
        kinds
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, _)| *name)
            .collect()
    }

    /// Checks every promise.
    ///
    /// # Panics
    /// If one was broken; the message is the whole report.
    #[track_caller]
    pub fn assert_kept(&self) {
        let broken = self.broken_promises();
        assert!(broken.is_empty(), "broken: {}\n{self}", broken.join(", "));
    }
}

fn descending(counts: HashMap<u32, usize>) -> Vec<usize> {
    let mut counts: Vec<_> = counts.into_values().filter(|count| *count > 0).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts
}

/// Joins starts and ends. A process may start one attempt of one message several times, one after the other.
fn read_runs(events: &[Event]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut open: HashMap<(u32, u32, u32), usize> = HashMap::new();
    for event in events {
        let (id, attempt, end) = match event.what {
            What::Start(id, attempt, order) => {
                open.insert((event.process, id, attempt), runs.len());
                runs.push(Run {
                    id,
                    process: event.process,
                    attempt,
                    start: event.time,
                    end: End::Open,
                    order,
                });
                continue;
            }
            What::Finish(id, attempt) => (id, attempt, End::Finished(event.time)),
            What::Return(id, attempt) => (id, attempt, End::Returned(event.time)),
            What::Expire(id, attempt) => (id, attempt, End::Expired(event.time)),
            _ => continue,
        };
        if let Some(run) = open.remove(&(event.process, id, attempt)) {
            runs[run].end = end;
        }
    }
    runs
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "messages   offered {}, accepted {}",
            self.offered, self.accepted
        )?;
        writeln!(
            f,
            "           started {}, finished {}, dead {}, revoked {}, lost {}",
            self.started,
            self.finished,
            self.dead,
            self.revoked,
            self.lost.len()
        )?;
        writeln!(
            f,
            "runs       {}, of these repeated {}, doubled {}, without cause {}, returned {}",
            self.runs,
            self.repeated,
            self.doubled,
            self.unexplained.len(),
            self.returned
        )?;
        writeln!(
            f,
            "kills      {}, cut off {} runs; the worst made {} run again, {} of them finished ones",
            self.kills,
            self.interrupted,
            self.worst_kill(),
            self.doubled_by_kill.first().copied().unwrap_or(0)
        )?;
        if self.torn > 0 {
            writeln!(f, "torn       {} last lines", self.torn)?;
        }
        list(f, "lost", &self.lost)?;
        list(f, "without cause", &self.unexplained)?;
        list(f, "not sent", &self.unknown)?;
        list(f, "broken", &self.broken)?;
        list(f, "disordered", &self.disordered)?;
        list(f, "at once", &self.at_once)
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, items: &[String]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title} ({})", items.len())?;
    for item in items.iter().take(NAMED) {
        writeln!(f, "  {item}")?;
    }
    if items.len() > NAMED {
        writeln!(f, "  and {} more", items.len() - NAMED)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
