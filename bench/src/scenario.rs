//! A scenario: what is measured against what, how often, and what is good enough.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::contender::{Contender, Who};
use crate::figures::{Figures, median};
use crate::machine;
use crate::serve::Parameters;
use crate::servers::{Servers, Wanted};
use crate::terminal::{fail, say};

/// One bench.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// One line for the list.
    pub(crate) about: &'static str,
    /// What the table has, in order.
    pub(crate) rows: &'static [Row],
    /// Names of further figures that the table shows.
    pub(crate) columns: &'static [&'static str],
    /// What has to be reached.
    pub(crate) goals: fn(&Medians) -> Vec<Goal>,
    /// Does the work of one variant, in the measured process.
    pub(crate) work: fn(&str, &Parameters) -> Result<Figures, String>,
    /// What callgrind runs, and what it must not exceed.
    pub(crate) instructions: &'static [Instructions],
    /// What runs beside every contender, started anew for each.
    pub(crate) servers: Wanted,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) label: &'static str,
    pub(crate) who: Who,
    /// What the contender is told, without the name of the scenario: `VARIANT key=value ..`.
    pub(crate) run: &'static str,
}

impl Row {
    pub(crate) const fn own(label: &'static str, run: &'static str) -> Self {
        Self {
            label,
            who: Who::Own,
            run,
        }
    }

    pub(crate) const fn mimalloc(label: &'static str, run: &'static str) -> Self {
        Self {
            label,
            who: Who::OwnMimalloc,
            run,
        }
    }

    pub(crate) const fn peer(label: &'static str, name: &'static str, run: &'static str) -> Self {
        Self {
            label,
            who: Who::Peer(name),
            run,
        }
    }
}

/// A limit on instructions for each message: those of `variant` less those of `floor`, if there is one.
#[derive(Debug)]
pub(crate) struct Instructions {
    pub(crate) variant: &'static str,
    pub(crate) floor: Option<&'static str>,
    pub(crate) limit: f64,
}

/// Something that has to be reached; reached from a ratio of 1 on.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    text: String,
    ratio: f64,
}

impl Goal {
    /// The value must not exceed the limit.
    pub(crate) fn at_most(what: &str, value: f64, limit: f64, unit: &str) -> Self {
        // A difference can be nothing or less within the noise: then the limit is kept by far.
        let ratio = if value.is_nan() {
            0.0
        } else {
            limit / value.max(limit / 99.0)
        };
        Self {
            text: format!("{what}: {value:.3} {unit}, at most {limit} {unit}"),
            ratio,
        }
    }

    /// The value must reach the limit.
    pub(crate) fn at_least(what: &str, value: f64, limit: f64, unit: &str) -> Self {
        let ratio = if value.is_nan() { 0.0 } else { value / limit };
        Self {
            text: format!("{what}: {value:.3} {unit}, at least {limit} {unit}"),
            ratio,
        }
    }

    pub(crate) fn reached(&self) -> bool {
        self.ratio >= 1.0
    }
}

/// The medians of all rows, by label.
#[derive(Debug, Default)]
pub(crate) struct Medians(BTreeMap<&'static str, Figures>, Figures);

impl Medians {
    /// The medians of one row; NaN everywhere if it has none.
    pub(crate) fn row(&self, label: &str) -> &Figures {
        self.0.get(label).unwrap_or(&self.1)
    }
}

/// Runs it and says whether every goal was reached. With `only`, just the rows whose label holds this text, and without a verdict.
pub(crate) fn run(
    scenario: &Scenario,
    runs: usize,
    only: Option<&str>,
    dir: &Path,
) -> Result<bool, String> {
    let wanted = |row: &Row| only.is_none_or(|only| row.label.contains(only));
    let mut all: Vec<Vec<Figures>> = scenario.rows.iter().map(|_| Vec::new()).collect();
    let mut servers = Servers::start(scenario.servers)?;
    let mut versions = servers.versions();
    for round in 0..runs {
        // There and back, so that no row always has the warm or the tired machine.
        let order: Vec<usize> = if round % 2 == 0 {
            (0..all.len()).collect()
        } else {
            (0..all.len()).rev().collect()
        };
        for at in order {
            let row = &scenario.rows[at];
            if !wanted(row) {
                continue;
            }
            let mut contender = Contender::start(row.who, dir)?;
            fail(format_args!("round {} of {runs}: {}", round + 1, row.label));
            let servers = servers.fresh();
            let what = format!("{}/{}{servers}", scenario.name, row.run);
            all[at].push(
                contender
                    .run(&what)
                    .map_err(|error| format!("{}: {error}", row.label))?,
            );
            if !versions.contains(&contender.version) {
                versions.push(contender.version.clone());
            }
        }
    }
    let medians = Medians(
        scenario
            .rows
            .iter()
            .zip(&all)
            .map(|(row, figures)| (row.label, medians_of(figures)))
            .collect(),
        Figures::default(),
    );
    print(scenario, runs, &medians, &versions, dir);
    if let Some(only) = only {
        say(format_args!("only rows with `{only}`: no verdict"));
        return Ok(true);
    }
    Ok(verdict(scenario.name, &(scenario.goals)(&medians)))
}

fn medians_of(runs: &[Figures]) -> Figures {
    let of = |value: &dyn Fn(&Figures) -> f64| median(runs.iter().map(value));
    let duration =
        |value: &dyn Fn(&Figures) -> f64| std::time::Duration::from_secs_f64(of(value).max(0.0));
    let Some(first) = runs.first() else {
        return Figures::default();
    };
    Figures {
        messages: first.messages,
        wall: duration(&|one| one.wall.as_secs_f64()),
        cpu: duration(&|one| one.cpu.as_secs_f64()),
        more: first
            .more
            .keys()
            .map(|name| (name.clone(), of(&|one| one.more(name))))
            .collect(),
    }
}

fn print(scenario: &Scenario, runs: usize, medians: &Medians, versions: &[String], dir: &Path) {
    say(format_args!("{}: {}", scenario.name, scenario.about));
    say(format_args!(
        "medians of {runs} alternating runs; {}",
        versions.join(", ")
    ));
    for line in machine::describe(dir) {
        say(line);
    }
    let width = scenario
        .rows
        .iter()
        .map(|row| row.label.len())
        .max()
        .unwrap_or(0);
    let mut head = format!(
        "{:width$}  {:>10}  {:>12}  {:>10}  {:>10}",
        "", "messages", "per second", "ns each", "cpu-s/M"
    );
    for column in scenario.columns {
        let _ = write!(head, "  {column:>10}");
    }
    say(head);
    for row in scenario.rows {
        let figures = medians.row(row.label);
        if figures.messages == 0 {
            continue;
        }
        let mut line = format!(
            "{:width$}  {:>10}  {:>12.0}  {:>10.1}  {:>10.3}",
            row.label,
            figures.messages,
            figures.per_second(),
            figures.wall_nanos_each(),
            figures.cpu_seconds_per_million()
        );
        for column in scenario.columns {
            let value = figures.more(column);
            // Writing into a text cannot fail.
            let _ = if value.is_nan() {
                write!(line, "  {:>10}", "")
            } else {
                write!(line, "  {value:>10.3}")
            };
        }
        say(line);
    }
}

/// Prints the goals, and last `NAME: ratio R (target 1.00)` with the worst of them.
pub(crate) fn verdict(name: &str, goals: &[Goal]) -> bool {
    for goal in goals {
        let word = if goal.reached() { "reached" } else { "MISSED" };
        say(format_args!(
            "{word:8} {} (ratio {:.2})",
            goal.text, goal.ratio
        ));
    }
    let worst = goals
        .iter()
        .map(|goal| goal.ratio)
        .fold(f64::INFINITY, f64::min);
    say(format_args!("{name}: ratio {worst:.2} (target 1.00)"));
    goals.iter().all(Goal::reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_from_one_on() {
        assert!(Goal::at_most("time", 400.0, 400.0, "ns").reached());
        assert!(!Goal::at_most("time", 401.0, 400.0, "ns").reached());
        assert!(Goal::at_most("difference", -3.0, 100.0, "ns").reached());
        assert!(Goal::at_least("rate", 60_000.0, 60_000.0, "/s").reached());
        assert!(!Goal::at_least("rate", 59_999.0, 60_000.0, "/s").reached());
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        assert!(!Goal::at_most("time", f64::NAN, 400.0, "ns").reached());
        assert!(!Goal::at_least("rate", f64::NAN, 1.0, "/s").reached());
    }
}
