//! The benches of go-queue: each scenario against its floor or its peers, in alternating runs.
//!
//! Every measurement is made by a process of its own: `go-queue-bench serve` for us and for our floors, a program under
//! `bench/peers/NAME` for a peer. They speak the line protocol of [`contender`], so that nobody inherits another's
//! allocator, caches or threads. The allocator is the system's (glibc), as it is for a user who chooses none; rows that say so run the
//! same program with mimalloc, as the README recommends for Kafka.

mod beanstalkd;
mod callgrind;
mod client;
mod contender;
mod figures;
mod kafka;
mod lane;
mod machine;
mod scenario;
mod scenarios;
mod serve;
mod servers;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use terminal::{fail, say};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What was asked for on the command line.
#[derive(Debug)]
struct Arguments {
    name: Option<String>,
    runs: usize,
    rows: Option<String>,
    callgrind: bool,
    dir: PathBuf,
}

impl Arguments {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            name: None,
            runs: 5,
            rows: None,
            callgrind: false,
            dir: PathBuf::from("target/bench"),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = |what: &str| arguments.next().ok_or(format!("{argument} needs {what}"));
            match argument.as_str() {
                "--runs" => {
                    let text = value("a number")?;
                    parsed.runs = text
                        .parse()
                        .map_err(|_| format!("--runs {text}: not a number"))?;
                }
                "--rows" => parsed.rows = Some(value("a part of their labels")?),
                "--dir" => parsed.dir = PathBuf::from(value("a folder")?),
                "--callgrind" => parsed.callgrind = true,
                "--list" => {}
                name if !name.starts_with('-') && parsed.name.is_none() => {
                    parsed.name = Some(name.to_owned());
                }
                other => return Err(format!("unexpected: {other}")),
            }
        }
        parsed.runs = parsed.runs.max(1);
        Ok(parsed)
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    match arguments.peek().map(String::as_str) {
        Some("serve") => return serve::serve(),
        Some("latency-worker") => return scenarios::embedded_latency::worker(),
        _ => {}
    }
    let run = || -> Result<bool, String> {
        let arguments = Arguments::parse(arguments)?;
        let Some(name) = &arguments.name else {
            for scenario in scenarios::ALL {
                say(format_args!("{:20} {}", scenario.name, scenario.about));
            }
            return Ok(true);
        };
        let scenario = scenarios::ALL
            .iter()
            .find(|scenario| scenario.name == *name)
            .ok_or_else(|| format!("there is no scenario `{name}`; `bench/run` lists them"))?;
        if arguments.callgrind || scenario.rows.is_empty() {
            callgrind::run(scenario, &arguments.dir)
        } else {
            let rows = arguments.rows.as_deref();
            scenario::run(scenario, arguments.runs, rows, &arguments.dir)
        }
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            fail(format_args!("bench: {error}"));
            ExitCode::from(2)
        }
    }
}
