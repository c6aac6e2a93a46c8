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
mod tests {
    use super::*;
    use crate::Folder;

    const SECOND: u64 = 1_000_000_000;

    /// A report of journals that are given as `(process, lines)`; times are seconds.
    fn report(journals: &[(&str, &[&str])]) -> Report {
        let folder = Folder::new("report");
        for (process, lines) in journals {
            let lines: Vec<String> = lines
                .iter()
                .map(|line| {
                    let (time, event) = line.split_once(' ').expect("a time and an event");
                    let seconds: f64 = time.parse().expect("seconds");
                    let nanos = Duration::from_secs_f64(seconds).as_nanos();
                    format!("{nanos} {event}")
                })
                .collect();
            folder.write(
                &format!("{process}.journal"),
                &format!("{}\n", lines.join("\n")),
            );
        }
        Ledger::of(folder.path())
            .report()
            .expect("the journals are well formed")
    }

    const SENT: (&str, &[&str]) = ("producer", &["0 offer x", "0 accept x"]);

    #[test]
    fn a_message_that_ran_once_keeps_every_promise() {
        let report = report(&[SENT, ("w", &["1 start x 1 1", "2 finish x 1 1"])]);
        report.assert_kept();
        assert_eq!(
            (
                report.accepted,
                report.finished,
                report.runs,
                report.repeated
            ),
            (1, 1, 1, 0)
        );
    }

    #[test]
    fn accepted_and_not_finished_is_lost() {
        let report = report(&[SENT, ("w", &["1 start x 1 1"])]);
        assert_eq!(report.lost, ["x"]);
        assert!(std::panic::catch_unwind(|| report.assert_kept()).is_err());
    }

    #[test]
    fn offered_and_not_accepted_may_be_missing() {
        report(&[("producer", &["0 offer x"])]).assert_kept();
    }

    #[test]
    fn a_dead_letter_and_a_revoked_task_are_not_lost() {
        report(&[
            SENT,
            ("w", &["1 start x 1 1", "2 return x 1 1"]),
            ("driver", &["3 dead x"]),
        ])
        .assert_kept();
        report(&[SENT, ("driver", &["3 revoke x"])]).assert_kept();
    }

    #[test]
    fn a_run_after_a_revoke_breaks_a_promise() {
        let report = report(&[
            SENT,
            ("driver", &["3 revoke x"]),
            ("w", &["4 start x 1 1", "5 finish x 1 1"]),
        ]);
        assert_eq!(report.broken_promises(), ["broken"]);
    }

    #[test]
    fn a_second_run_without_cause_is_found() {
        let lines = &[
            "1 start x 1 1",
            "2 finish x 1 1",
            "3 start x 2 1",
            "4 finish x 2 1",
        ];
        let report = report(&[SENT, ("w", lines)]);
        assert_eq!((report.doubled, report.unexplained.len()), (1, 1));
        assert_eq!(report.broken_promises(), ["run twice without cause"]);
    }

    #[test]
    fn two_runs_at_once_are_found_although_nothing_was_finished_before() {
        let report = report(&[
            SENT,
            ("a", &["1 start x 1 1", "4 finish x 1 1"]),
            ("b", &["2 start x 1 2", "3 finish x 1 2"]),
        ]);
        assert_eq!((report.doubled, report.unexplained.len()), (0, 1));
    }

    #[test]
    fn a_run_that_was_cut_off_explains_the_next_and_is_no_double() {
        let report = report(&[
            SENT,
            ("a", &["1 start x 1 1"]),
            ("driver", &["2 kill a"]),
            ("b", &["3 start x 2 2", "4 finish x 2 2"]),
        ]);
        report.assert_kept();
        assert_eq!(
            (report.repeated, report.doubled, report.interrupted),
            (1, 0, 1)
        );
        assert_eq!(report.repeated_by_kill, [1]);
    }

    #[test]
    fn a_kill_just_after_the_finish_explains_a_double() {
        let report = report(&[
            SENT,
            ("a", &["1 start x 1 1", "2 finish x 1 1"]),
            ("driver", &["2.1 kill a"]),
            ("b", &["3 start x 2 2", "4 finish x 2 2"]),
        ]);
        report.assert_kept();
        assert_eq!((report.doubled, report.worst_kill()), (1, 1));
        assert_eq!(report.doubled_by_kill, [1]);
    }

    #[test]
    fn a_kill_long_after_the_finish_or_after_the_second_start_explains_nothing() {
        for kill in ["60 kill a", "70.5 kill a"] {
            let report = report(&[
                SENT,
                ("a", &["1 start x 1 1", "2 finish x 1 1"]),
                ("driver", &[kill]),
                ("b", &["70 start x 2 2", "71 finish x 2 2"]),
            ]);
            assert_eq!(report.unexplained.len(), 1, "{kill}");
        }
    }

    #[test]
    fn the_kill_of_another_process_explains_nothing() {
        let report = report(&[
            SENT,
            ("a", &["1 start x 1 1"]),
            ("c", &["1 mark ready"]),
            ("driver", &["2 kill c"]),
            ("b", &["3 start x 2 2", "4 finish x 2 2"]),
        ]);
        assert_eq!(report.unexplained.len(), 1);
    }

    #[test]
    fn a_process_that_was_stopped_explains_a_second_run() {
        let report = report(&[
            SENT,
            ("a", &["1 start x 1 1", "90 finish x 1 1"]),
            ("driver", &["2 stop a", "89 cont a"]),
            ("b", &["65 start x 2 2", "66 finish x 2 2"]),
        ]);
        report.assert_kept();
        assert_eq!(report.repeated, 1);
    }

    #[test]
    fn a_late_start_after_standing_still_is_explained_and_counted() {
        let journals = |stop: &'static [&'static str]| {
            report(&[
                SENT,
                ("driver", stop),
                ("b", &["5 start x 2 2", "6 finish x 2 2"]),
                ("a", &["9.1 start x 1 1", "9.2 finish x 1 1"]),
            ])
        };
        let late = journals(&["2 stop a", "9 cont a"]);
        late.assert_kept();
        assert_eq!((late.late_starts, late.doubled), (1, 1));
        // It was awake while the other ran: that is no excuse.
        assert_eq!(journals(&["2 stop a", "4 cont a"]).unexplained.len(), 1);
    }

    #[test]
    fn a_run_that_was_given_back_explains_the_next_one_only_after_it() {
        let kept = report(&[
            SENT,
            (
                "w",
                &[
                    "1 start x 1 1",
                    "2 return x 1 1",
                    "3 start x 2 1",
                    "4 finish x 2 1",
                ],
            ),
        ]);
        kept.assert_kept();
        assert_eq!(kept.returned, 1);
        let broken = report(&[
            SENT,
            ("a", &["1 start x 1 1", "5 return x 1 1"]),
            ("b", &["3 start x 2 1", "4 finish x 2 1"]),
        ]);
        assert_eq!(broken.unexplained.len(), 1);
    }

    #[test]
    fn a_released_attempt_may_start_again_under_its_number() {
        let lines = &[
            "1 start x 1 1",
            "2 return x 1 1",
            "3 start x 1 1",
            "4 finish x 1 1",
        ];
        report(&[SENT, ("w", lines)]).assert_kept();
    }

    #[test]
    fn what_nobody_sent_is_found() {
        let report = report(&[("w", &["1 start ghost 1 1", "2 finish ghost 1 1"])]);
        assert_eq!(report.unknown, ["ghost"]);
    }

    #[test]
    fn the_text_names_what_was_broken_but_not_a_million_lines() {
        let lines: Vec<String> = (0..50)
            .flat_map(|n| [format!("0 offer m{n}"), format!("0 accept m{n}")])
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let text = report(&[("producer", &lines)]).to_string();
        assert!(
            text.contains("lost 50") && text.contains("and 40 more"),
            "{text}"
        );
        assert!(text.lines().count() < 20, "{text}");
    }

    #[test]
    fn seconds_are_nanoseconds() {
        assert_eq!(nanos(Duration::from_secs(1)), SECOND);
    }
}
