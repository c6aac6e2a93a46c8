//! The process that the fault tests start and kill: a worker or a producer that writes down what it does.
//!
//! ```text
//! ledger_worker worker CONFIG                                  serves the tube `work` and the topic `steps`
//! ledger_worker tasks CONFIG PREFIX COUNT ABREAST MAX_DELAY_MS WORK_US   sends COUNT tasks, so many at a time; 0: until SIGTERM
//! ledger_worker records CONFIG PREFIX COUNT KEYS WORK_US       pushes COUNT records for each key, in order
//! ledger_worker flow CONFIG PREFIX KEYS RATE WORK_US           pushes RATE records a second over KEYS keys, until SIGTERM
//! ```
//!
//! `LEDGER_WORKER_KAFKA` puts the topics on Kafka as its text says (see [`OnKafka`]), past the configuration: with what a test wants
//! and no user should. `LEDGER_WORKER_POISON` is the key whose records always fail.
//!
//! The order of the lines is what makes the ledger true: a message is offered before it is sent and accepted after the
//! confirmation; a run starts before and finishes after its work, and the settlement comes after that.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use go_queue::app::{App, Exit};
use go_queue::engine::Engine;
use go_queue::engine::kafka::{Config, GroupProtocol, Kafka, Strategy};
use go_queue::name::Side;
use go_queue::prelude::*;
use go_queue::producer::{Route, Routes};
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
async fn step(step: Step, meta: Meta, State(journal): State<Journal>) -> Result<(), Poisoned> {
    let run = journal.start_in_order(&step.id, meta.attempt, &step.key, step.seq);
    if std::env::var_os("LEDGER_WORKER_POISON").is_some_and(|key| *key == *step.key) {
        return Err(Poisoned);
    }
    take_time(step.micros).await;
    run.finish();
    Ok(())
}

/// What a record says that is to fail.
#[derive(Debug)]
struct Poisoned;

impl std::fmt::Display for Poisoned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("poisoned")
    }
}

/// How the topics lie on Kafka.
#[derive(Debug, Deserialize)]
struct OnKafka {
    brokers: Vec<String>,
    /// `cooperative-sticky`, `range` or `consumer`.
    protocol: String,
    session_ms: u64,
    max_poll_ms: u64,
    properties: Vec<(String, String)>,
}

impl OnKafka {
    async fn open() -> Result<Option<Kafka>, Failure> {
        let Ok(text) = std::env::var("LEDGER_WORKER_KAFKA") else {
            return Ok(None);
        };
        let on: Self = serde_json::from_str(&text)?;
        let protocol = match &*on.protocol {
            "cooperative-sticky" => GroupProtocol::Classic {
                strategy: Strategy::CooperativeSticky,
            },
            "range" => GroupProtocol::Classic {
                strategy: Strategy::Range,
            },
            _ => GroupProtocol::Consumer,
        };
        let property = |(name, value): &(String, String)| {
            let value = go_queue::engine::kafka::Secret::new(value.as_str());
            (Arc::from(name.as_str()), value)
        };
        let config = Config {
            protocol,
            session: Duration::from_millis(on.session_ms),
            max_poll_interval: Duration::from_millis(on.max_poll_ms),
            properties: on.properties.iter().map(property).collect(),
            ..Config::new(on.brokers)
        };
        Ok(Some(Kafka::open(config, Clock::system()).await?))
    }
}

/// The producer of this process, and the engine that has to be closed behind it.
async fn producer(config: &str) -> Result<(Producer, Option<Arc<dyn Engine>>), Failure> {
    let Some(kafka) = OnKafka::open().await? else {
        return Ok((Producer::open(config).await?, None));
    };
    let engine: Arc<dyn Engine> = Arc::new(kafka);
    let routes = Routes {
        topics: Some(Route::new(Arc::clone(&engine))),
        ..Routes::default()
    };
    Ok((Producer::new(Clock::system(), routes), Some(engine)))
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
        ["flow", config, prefix, keys, rate, micros] => {
            flow(config, prefix, [keys, rate, micros].map(number)).await
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
    let mut text = format!("ledger_worker: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    eprintln!("{text}");
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
    let mut app = App::new().config(config);
    match OnKafka::open().await {
        Ok(None) => {}
        Ok(Some(kafka)) => app = app.engine(Side::Topics, kafka),
        Err(error) => {
            complain(&*error);
            return ExitCode::FAILURE;
        }
    }
    let exit: Exit = app
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
    let (producer, engine) = producer(config).await?;
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
    close(engine).await
}

/// Confirms what was handed over.
async fn close(engine: Option<Arc<dyn Engine>>) -> Result<(), Failure> {
    match engine {
        Some(engine) => Ok(engine.close().await?),
        None => Ok(()),
    }
}

/// Pushes records at an even rate, those of a key in their order, until SIGTERM. With `LEDGER_WORKER_KEEP_GOING` a record that is
/// refused is noted, and the next one follows.
async fn flow(config: &str, prefix: &str, numbers: [u64; 3]) -> Result<(), Failure> {
    let [keys, rate, micros] = numbers;
    let journal = Journal::of_this_process()?;
    let (producer, engine) = producer(config).await?;
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    journal.mark("ready");
    let keep_going = std::env::var_os("LEDGER_WORKER_KEEP_GOING").is_some();
    let every = Duration::from_micros(keys * 1_000_000 / rate);
    let (stop, stopped) = tokio::sync::watch::channel(());
    let mut pushing = VecDeque::new();
    for n in 0..keys {
        let (journal, producer, key) = (journal.clone(), producer.clone(), format!("{prefix}{n}"));
        let mut stopped = stopped.clone();
        pushing.push_back(tokio::spawn(async move {
            let mut due = tokio::time::Instant::now() + every.mul_f64(fastrand::f64());
            for seq in 0.. {
                tokio::select! {
                    _ = stopped.changed() => break,
                    () = tokio::time::sleep_until(due) => due += every,
                }
                let id = format!("{key}-{seq}");
                let record = Step {
                    id: id.clone(),
                    key: key.clone(),
                    seq,
                    micros: fastrand::u64(0..=micros),
                };
                journal.offer(&id);
                match step::push(record).key(&key).send(&producer).await {
                    Ok(_) => journal.accept(&id),
                    Err(error) if keep_going => {
                        journal.mark("refused");
                        complain(&error);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok::<_, Failure>(())
        }));
    }
    term.recv().await;
    // Whoever is in the middle of a push hears how it ends.
    drop(stop);
    for one in pushing {
        one.await??;
    }
    close(engine).await
}
