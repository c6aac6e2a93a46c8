//! The process that the fault tests start and kill: a worker or a producer that writes down what it does.
//!
//! ```text
//! ledger_worker worker CONFIG                                  serves the tube `work` and the topic `steps`
//! ledger_worker tasks CONFIG PREFIX COUNT ABREAST MAX_DELAY_MS WORK_US   sends COUNT tasks, so many at a time; 0: until SIGTERM
//! ledger_worker records CONFIG PREFIX COUNT KEYS WORK_US       pushes COUNT records for each key, in order
//! ```
//!
//! The order of the lines is what makes the ledger true: a message is offered before it is sent and accepted after the
//! confirmation; a run starts before and finishes after its work, and the settlement comes after that.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use go_queue::app::{App, Exit};
use go_queue::prelude::*;
use go_queue::time::Clock;
use go_queue_tests::Journal;

/// What a task or a record carries: the name of the message in the ledger, and how long its work takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Work {
    id: String,
    micros: u64,
}

/// A record with its place in the order of its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Step {
    id: String,
    key: String,
    seq: u64,
    micros: u64,
}

#[dq_handler(tube = "work", concurrency = 16)]
async fn work(work: Work, meta: Meta, State(journal): State<Journal>) {
    if Clock::system().now() < meta.due {
        journal.broken(&work.id, "started before it was due");
    }
    let run = journal.start(&work.id, meta.attempt);
    take_time(work.micros).await;
    run.finish();
}

#[kq_handler(topic = "steps", group = "faults", order = key, concurrency = 16)]
async fn step(step: Step, meta: Meta, State(journal): State<Journal>) {
    let run = journal.start_in_order(&step.id, meta.attempt, &step.key, step.seq);
    take_time(step.micros).await;
    run.finish();
}

async fn take_time(micros: u64) {
    if micros > 0 {
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["worker", config] => return Box::pin(worker(config)).await,
        ["tasks", config, prefix, count, abreast, max_delay, micros] => {
            tasks(
                config,
                prefix,
                [count, abreast, max_delay, micros].map(number),
            )
            .await
        }
        ["records", config, prefix, count, keys, micros] => {
            records(config, prefix, [count, keys, micros].map(number)).await
        }
        _ => Err(format!("not understood: {arguments:?}").into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&*error);
            ExitCode::FAILURE
        }
    }
}

/// A producer hears yes or no within its deadlines, also while servers are stopped: 250 ms for each node that is tried, and this for
/// a machine that is busy with everything else.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[expect(clippy::print_stderr, reason = "goes into the log of the process")]
fn complain(error: &dyn std::error::Error) {
    eprintln!("ledger_worker: {error}");
}

fn number(text: &str) -> u64 {
    text.parse().expect("the driver gives numbers")
}

async fn worker(config: &str) -> ExitCode {
    let journal = match Journal::of_this_process() {
        Ok(journal) => journal,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let ready = journal.clone();
    let exit: Exit = App::new()
        .config(config)
        .state(journal)
        .on_start(|_| async move {
            ready.mark("serving");
            // A start that takes its time, while messages already come.
            if let Some(millis) = std::env::var_os("LEDGER_WORKER_SLOW_START") {
                take_time(number(&millis.to_string_lossy()) * 1000).await;
            }
            ready.mark("ready");
            Ok::<_, std::io::Error>(())
        })
        .run_command(vec!["ledger_worker".into()])
        .await
        .into();
    std::process::Termination::report(exit)
}

/// Sends tasks `abreast` at a time, each with a random delay, until `count` are accepted or, with 0, until SIGTERM.
async fn tasks(config: &str, prefix: &str, numbers: [u64; 4]) -> Result<(), Failure> {
    let [count, abreast, max_delay, micros] = numbers;
    let journal = Journal::of_this_process()?;
    let producer = Producer::open(config).await?;
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    journal.mark("ready");
    let next = Arc::new(AtomicU64::new(0));
    let keep_going = std::env::var_os("LEDGER_WORKER_KEEP_GOING").is_some();
    let callers: Vec<_> = (0..abreast)
        .map(|_| {
            let (journal, producer, next, prefix) = (
                journal.clone(),
                producer.clone(),
                Arc::clone(&next),
                prefix.to_owned(),
            );
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if count > 0 && n >= count {
                        return Ok::<_, Failure>(());
                    }
                    let id = format!("{prefix}-{n}");
                    let task = Work {
                        id: id.clone(),
                        micros: fastrand::u64(0..=micros),
                    };
                    let delay = if max_delay == 0 {
                        0
                    } else {
                        fastrand::u64(0..max_delay)
                    };
                    journal.offer(&id);
                    let began = Instant::now();
                    let sent = work::delay(task, Duration::from_millis(delay))
                        .send(&producer)
                        .await;
                    if began.elapsed() > ANSWER_WITHIN {
                        journal.broken(
                            &id,
                            format!("its producer waited for {:?}", began.elapsed()),
                        );
                    }
                    match sent {
                        Ok(_) => journal.accept(&id),
                        Err(error) if keep_going => {
                            // Whether it is stored is unknown; the next one has another name.
                            journal.mark("refused");
                            complain(&error);
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            })
        })
        .collect();
    if count == 0 {
        term.recv().await;
        // Whoever waits for a confirmation now is like a producer that was killed: offered, perhaps stored.
        return Ok(());
    }
    for caller in callers {
        caller.await??;
    }
    Ok(())
}

/// Pushes records so that those of one key are stored in their order: the next one after the confirmation.
async fn records(config: &str, prefix: &str, numbers: [u64; 3]) -> Result<(), Failure> {
    let [count, keys, micros] = numbers;
    let journal = Journal::of_this_process()?;
    let producer = Producer::open(config).await?;
    journal.mark("ready");
    let mut pushing = VecDeque::new();
    for key in 0..keys {
        let (journal, producer, key) =
            (journal.clone(), producer.clone(), format!("{prefix}{key}"));
        pushing.push_back(tokio::spawn(async move {
            for seq in 0..count {
                let id = format!("{key}-{seq}");
                let record = Step {
                    id: id.clone(),
                    key: key.clone(),
                    seq,
                    micros: fastrand::u64(0..=micros),
                };
                journal.offer(&id);
                step::push(record).key(&key).send(&producer).await?;
                journal.accept(&id);
            }
            Ok::<_, Failure>(())
        }));
    }
    for one in pushing {
        one.await??;
    }
    Ok(())
}
