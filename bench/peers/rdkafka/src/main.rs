//! librdkafka without a framework, as a peer of the benches: `StreamConsumer::recv` as it comes and tuned, and the bare lane: what
//! the fastest loop by hand can do that keeps the order of keys and commits only what is finished.

mod lane;

use std::io::BufRead as _;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::{ClientConfig, Message as _};
use serde::Deserialize;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a run was told.
pub struct Told(std::collections::HashMap<String, String>);

impl Told {
    fn text(&self, name: &str) -> Result<&str, String> {
        self.0.get(name).map(String::as_str).ok_or(format!("{name}=? was not said"))
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        self.0.get(name).map_or(Ok(default), |text| {
            text.parse().map_err(|_| format!("{name}={text}: not a number"))
        })
    }
}

/// About 95 bytes as JSON, the same as in the benches.
#[derive(Debug, Deserialize)]
pub struct Order {
    pub id: String,
    pub customer: String,
    pub text: String,
}

pub fn decode(payload: &[u8]) -> Result<(), String> {
    let order: Order = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    std::hint::black_box(&order);
    Ok(())
}

/// Wall and CPU time from the first message on.
pub struct Watch {
    began: Option<(Instant, Duration)>,
}

impl Watch {
    pub fn new() -> Self {
        Self { began: None }
    }

    pub fn start(&mut self) {
        if self.began.is_none() {
            self.began = Some((Instant::now(), cpu_time()));
        }
    }

    pub fn figures(&self, messages: u64) -> String {
        let (began, cpu) = self.began.unwrap_or((Instant::now(), Duration::ZERO));
        let (wall, cpu) = (began.elapsed().as_nanos(), cpu_time().saturating_sub(cpu).as_nanos());
        format!("messages={messages} wall_ns={wall} cpu_ns={cpu}")
    }
}

/// Under valgrind there is no clock for it.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // User and system time in hundredths of a second.
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// The settings that keep the client from waiting a second whenever its queue is full.
pub const TUNED: &[(&str, &str)] = &[
    ("fetch.queue.backoff.ms", "2"),
    ("fetch.max.bytes", "16777216"),
    ("queued.max.messages.kbytes", "65536"),
];

pub fn config(told: &Told, tuned: bool) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", told.text("kafka")?)
        .set("group.id", told.text("group")?)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.offset.store", "false")
        .set("auto.commit.interval.ms", "1000");
    for (name, value) in TUNED.iter().filter(|_| tuned) {
        config.set(*name, *value);
    }
    Ok(config)
}

async fn recv(told: &Told, tuned: bool) -> Result<String, String> {
    let messages = told.number("messages", 4_000_000)?;
    let consumer: StreamConsumer = config(told, tuned)?.create().map_err(text)?;
    consumer.subscribe(&[told.text("topic")?]).map_err(text)?;
    let mut watch = Watch::new();
    for _ in 0..messages {
        let message = consumer.recv().await.map_err(text)?;
        watch.start();
        decode(message.payload().unwrap_or_default())?;
        consumer.store_offset_from_message(&message).map_err(text)?;
    }
    Ok(watch.figures(messages))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn answer(line: &str) -> Result<String, String> {
    let mut words = line.strip_prefix("run ").ok_or("not understood")?.split_whitespace();
    let (_, variant) = words.next().and_then(|path| path.split_once('/')).ok_or("no variant")?;
    let told = words.filter_map(|word| word.split_once('='));
    let told = Told(told.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
    let runtime = tokio::runtime::Runtime::new().map_err(text)?;
    match variant {
        "recv" => runtime.block_on(recv(&told, false)),
        "recv-tuned" => runtime.block_on(recv(&told, true)),
        "lane" => lane::run(&told, true),
        "drain" => lane::run(&told, false),
        other => Err(format!("no variant {other}")),
    }
}

fn main() {
    let allocator = if cfg!(feature = "mimalloc") { " with mimalloc" } else { "" };
    let (_, version) = rdkafka::util::get_rdkafka_version();
    println!("hello librdkafka {version}{allocator}");
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match answer(&line) {
            Ok(figures) => println!("done {figures}"),
            Err(error) => println!("failed {}", error.replace('\n', " | ")),
        }
    }
    // Consumers that are closed in order take seconds that nobody measures.
    std::process::exit(0);
}
