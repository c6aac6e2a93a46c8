//! Instructions for each message, by callgrind: the one figure that does not depend on how busy the machine is.
//!
//! Each variant runs twice, with few and with many messages; the difference leaves out what is done once.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::figures::{NO_CPU_CLOCK, count, median};
use crate::scenario::{Goal, Scenario, verdict};
use crate::servers::{Records, Servers, kafka};
use crate::terminal::say;

const FEW: u64 = 10_000;
const MANY: u64 = 40_000;

/// Measures all variants of a scenario and says whether every limit was kept. What each function took lies in `dir` afterwards, for
/// `callgrind_annotate`.
pub(crate) fn run(scenario: &Scenario, dir: &Path) -> Result<bool, String> {
    if scenario.instructions.is_empty() {
        return Err(format!("{} has no limits on instructions", scenario.name));
    }
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    // Hash tables have a seed of their own in each process, which moves the memory engine by 50 instructions now and then. The client of
    // Kafka has none, and each of its runs starts a broker: one is enough.
    let rounds = if scenario.servers.kafka.is_some() {
        1
    } else {
        3
    };
    let mut each: BTreeMap<&str, f64> = BTreeMap::new();
    for limit in scenario.instructions {
        for variant in limit.floor.into_iter().chain([limit.variant]) {
            if !each.contains_key(variant) {
                let mut runs = Vec::new();
                for _ in 0..rounds {
                    let few = instructions(scenario, variant, FEW, dir)?;
                    let many = instructions(scenario, variant, MANY, dir)?;
                    runs.push(count(many.saturating_sub(few)) / count(MANY - FEW));
                }
                each.insert(variant, median(runs));
            }
        }
    }
    say(format_args!(
        "{}: instructions for each message, by callgrind",
        scenario.name
    ));
    for (variant, instructions) in &each {
        say(format_args!("{variant:20}  {instructions:>10.0}"));
    }
    let goals: Vec<Goal> = scenario
        .instructions
        .iter()
        .map(|limit| {
            let (all, unit) = (each[limit.variant], "instructions");
            match limit.floor {
                Some(floor) => {
                    let what = format!("{} over {floor}", limit.variant);
                    Goal::at_most(&what, all - each[floor], limit.limit, unit)
                }
                None => Goal::at_most(limit.variant, all, limit.limit, unit),
            }
        })
        .collect();
    Ok(verdict(&format!("{} callgrind", scenario.name), &goals))
}

/// All instructions of one contender that runs so many messages. Where a topic holds them it holds no more: what is fetched ahead
/// would count too.
fn instructions(
    scenario: &Scenario,
    variant: &str,
    messages: u64,
    dir: &Path,
) -> Result<u64, String> {
    let servers = match scenario.servers.kafka {
        Some(Records::Backlog(_)) => kafka(Records::Backlog(messages)),
        Some(Records::Plain(_)) => kafka(Records::Plain(messages)),
        _ => scenario.servers,
    };
    let mut servers = Servers::start(servers)?;
    let (servers, scenario) = (servers.fresh(), scenario.name);
    let profile = format!("callgrind.{scenario}.{variant}.{messages}");
    let own = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let mut child = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={profile}"))
        .arg(own)
        .arg("serve")
        .current_dir(dir)
        .env(NO_CPU_CLOCK, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            format!("valgrind does not start ({error}); install it to count instructions")
        })?;
    let mut to = child.stdin.take().ok_or("a contender without input")?;
    writeln!(to, "run {scenario}/{variant} messages={messages}{servers}")
        .map_err(|error| format!("valgrind: {error}"))?;
    drop(to);
    let output = child
        .wait_with_output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    if !answer.contains("\ndone ") {
        return Err(format!("{variant} under valgrind: {answer}{log}"));
    }
    let all: u64 = log
        .lines()
        .find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
        .ok_or_else(|| format!("valgrind did not say how much it collected: {log}"))?;
    Ok(all.saturating_sub(by_the_clock(&dir.join(profile))?))
}

/// What librdkafka does once a second, however much it reads: under valgrind a second has few records.
const ONCE_A_SECOND: &str = ":rd_kafka_stats_emit_tmr_cb ";

/// Instructions that belong to the time a run took, and not to its messages.
fn by_the_clock(profile: &Path) -> Result<u64, String> {
    let output = Command::new("callgrind_annotate")
        .args([
            "--inclusive=yes",
            "--threshold=100",
            "--show-percs=no",
            "--auto=no",
        ])
        .arg(profile)
        .output()
        .map_err(|error| format!("callgrind_annotate, which comes with valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.contains(ONCE_A_SECOND));
    let Some(line) = line else { return Ok(0) };
    let number = line.split_whitespace().next().unwrap_or_default();
    let number = number.replace(',', "");
    number
        .parse()
        .map_err(|_| format!("callgrind_annotate: {line}"))
}
