//! How long it takes from `send` in one process until the handler starts in another, when both are idle, and how late delayed
//! tasks start.
//!
//! The sender is the contender; it starts the worker as a process of its own on the same file. Both read the monotonic clock
//! of the machine; lateness is by the wall clock, as a due time is.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use go_queue::app::App;
use go_queue::handlers;
use go_queue::prelude::*;
use go_queue::time::Clock;
use rustix::time::{ClockId, clock_gettime};

use crate::figures::{Figures, Stopwatch, count, percentile};
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::Parameters;
use crate::servers::NO_SERVERS;
use crate::terminal::{fail, say};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "embedded-latency",
    about: "SQLite, power: from send to the start of the handler in another process, idle; lateness of delayed tasks",
    rows: &[
        Row::own(NOW, "now messages=500"),
        Row::own(LATER, "later messages=2000"),
    ],
    columns: &["p50_ms", "p99_ms", "max_ms", "send_p50", "early"],
    goals,
    work,
    instructions: &[],
    servers: NO_SERVERS,
};

const NOW: &str = "send to start, one at a time";
const LATER: &str = "due within 5 s to start";

fn goals(medians: &Medians) -> Vec<Goal> {
    let (now, later) = (medians.row(NOW), medians.row(LATER));
    vec![
        Goal::at_most("send to start, p50", now.more("p50_ms"), 0.5, "ms"),
        Goal::at_most("delayed, late, p50", later.more("p50_ms"), 2.0, "ms"),
        Goal::at_most("delayed, late, p99", later.more("p99_ms"), 25.0, "ms"),
        Goal::at_most(
            "started before their time",
            later.more("early"),
            0.5,
            "tasks",
        ),
    ]
}

/// The moment of sending, by the monotonic clock in nanoseconds.
#[derive(Debug, Serialize, Deserialize)]
struct Ping {
    sent: u64,
}

#[derive(Clone)]
struct Seen {
    clock: Clock,
    /// Milliseconds from the sending, and from the due time; the latter may be negative.
    times: Arc<Mutex<Vec<(f64, f64)>>>,
}

#[dq_handler(tube = "pings", concurrency = 64)]
async fn ping(ping: Ping, meta: Meta, State(seen): State<Seen>) {
    let from_send = count(monotonic_nanos().saturating_sub(ping.sent)) / 1e6;
    let (now, due) = (seen.clock.now(), meta.due);
    let late = if now >= due {
        now.since(due).as_secs_f64()
    } else {
        -due.since(now).as_secs_f64()
    };
    seen.times
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((from_send, late * 1e3));
}

fn monotonic_nanos() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The worker process: serves until its input ends, then prints what it saw, one pair a line.
pub(crate) fn worker() -> ExitCode {
    let seen = Seen {
        clock: Clock::system(),
        times: Arc::default(),
    };
    let times = Arc::clone(&seen.times);
    let work = async move {
        let app = App::new()
            .config("bench.yaml")
            .state(seen)
            .handlers(handlers![ping]);
        let running = app.start().await.map_err(|error| format!("{error:?}"))?;
        say("ready");
        let input = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().for_each(drop));
        input.await.map_err(|error| error.to_string())?;
        running
            .stop(Duration::from_secs(10))
            .await
            .map_err(|error| format!("{error:?}"))
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            fail(error);
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = runtime.block_on(work) {
        fail(error);
        return ExitCode::FAILURE;
    }
    for (from_send, late) in times.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        say(format_args!("{from_send} {late}"));
    }
    ExitCode::SUCCESS
}

/// A started worker process.
struct Worker {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Worker {
    fn start() -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(own)
            .arg("latency-worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut lines =
            BufReader::new(child.stdout.take().ok_or("a worker without output")?).lines();
        match lines.next() {
            Some(Ok(line)) if line == "ready" => Ok(Self { child, lines }),
            other => Err(format!("the worker said {other:?}")),
        }
    }

    fn end(mut self) -> Result<Vec<(f64, f64)>, String> {
        drop(self.child.stdin.take());
        let mut times = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.map_err(|error| error.to_string())?;
            let pair = line
                .split_once(' ')
                .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            times.push(pair.ok_or_else(|| format!("the worker said {line}"))?);
        }
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() {
            Ok(times)
        } else {
            Err(format!("the worker ended with {status}"))
        }
    }
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    let messages = parameters.number("messages", 500)?;
    let later = match variant {
        "now" => false,
        "later" => true,
        other => return Err(format!("no variant {other}")),
    };
    std::fs::write(
        "bench.yaml",
        "name: bench\nsqlite: { path: bench.db }\nlog: { level: warn }\n",
    )
    .map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("no runtime: {error}"))?;
    let worker = Worker::start()?;
    let watch = Stopwatch::start();
    let sends = runtime.block_on(send(messages, later))?;
    let figures = watch.figures(messages);
    let times = worker.end()?;
    if times.len() as u64 != messages {
        return Err(format!("{messages} tasks, but {} ran", times.len()));
    }
    let early = times
        .iter()
        .filter(|(_, late)| later && *late < 0.0)
        .count();
    let times: Vec<f64> = times
        .iter()
        .map(|(from_send, late)| if later { *late } else { *from_send })
        .collect();
    Ok(figures
        .with("p50_ms", percentile(times.iter().copied(), 0.5))
        .with("p99_ms", percentile(times.iter().copied(), 0.99))
        .with("max_ms", percentile(times, 1.0))
        .with("send_p50", percentile(sends, 0.5))
        .with("early", count(early as u64)))
}

/// Sends them all and says how long each `send` took, in milliseconds. Returns when all have had time to run.
async fn send(messages: u64, later: bool) -> Result<Vec<f64>, String> {
    let producer = Producer::open("bench.yaml")
        .await
        .map_err(|error| format!("{error:?}"))?;
    let mut took = Vec::new();
    for _ in 0..messages {
        if !later {
            // Idle: everything has gone to sleep before the next one.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..15))).await;
        }
        let sent = monotonic_nanos();
        let delay = Duration::from_micros(if later {
            fastrand::u64(1000..5_000_000)
        } else {
            0
        });
        ping::delay(Ping { sent }, delay)
            .send(&producer)
            .await
            .map_err(|error| error.to_string())?;
        took.push(count(monotonic_nanos() - sent) / 1e6);
    }
    tokio::time::sleep(Duration::from_millis(if later { 5500 } else { 500 })).await;
    Ok(took)
}
