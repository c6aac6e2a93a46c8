//! RustStream on Kafka as a peer of the benches: its production settings, with and without the fetch back-off that stops the client
//! for a second whenever its queue is full, and with its order by key.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ruststream_rdkafka::prelude::*;
use serde::Deserialize;
use tokio::sync::Notify;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// About 95 bytes as JSON, the same as in the benches.
#[derive(Debug, Deserialize)]
struct Order {
    id: String,
    customer: String,
    text: String,
}

static RAN: AtomicU64 = AtomicU64::new(0);
static WANTED: AtomicU64 = AtomicU64::new(0);
static ALL_RAN: Notify = Notify::const_new();
static BEGAN: OnceLock<(Instant, Duration)> = OnceLock::new();

fn began(order: &Order) {
    std::hint::black_box((&order.id, &order.customer, &order.text));
    BEGAN.get_or_init(|| (Instant::now(), cpu_time()));
}

fn one_ran() {
    if RAN.fetch_add(1, Ordering::Relaxed) + 1 == WANTED.load(Ordering::Relaxed) {
        ALL_RAN.notify_one();
    }
}

fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // User and system time in hundredths of a second.
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

// The attribute takes nothing but chains of literals, so the topic has one name.
#[subscriber(KafkaTopic::new("bench").commit(Commit::Tracked))]
async fn as_documented(order: &Order) -> HandlerOutcome {
    began(order);
    one_ran();
    HandlerOutcome::ack()
}

#[subscriber(KafkaTopic::new("bench").commit(Commit::Tracked).config("fetch.queue.backoff.ms", "2"))]
async fn tuned(order: &Order) -> HandlerOutcome {
    began(order);
    one_ran();
    HandlerOutcome::ack()
}

#[subscriber(
    KafkaTopic::new("bench")
        .commit(Commit::Tracked)
        .lane_key(LaneKey::RecordKey)
        .config("fetch.queue.backoff.ms", "2"),
    workers(1000, by_key)
)]
async fn by_key(order: &Order) -> HandlerOutcome {
    began(order);
    one_ran();
    HandlerOutcome::ack()
}

#[subscriber(
    KafkaTopic::new("bench")
        .commit(Commit::Tracked)
        .lane_key(LaneKey::RecordKey)
        .config("fetch.queue.backoff.ms", "2"),
    workers(1000, by_key)
)]
async fn by_key_1ms(order: &Order) -> HandlerOutcome {
    began(order);
    tokio::time::sleep(Duration::from_millis(1)).await;
    one_ran();
    HandlerOutcome::ack()
}

async fn drain(variant: &str, told: &HashMap<&str, &str>) -> Result<String, String> {
    let said = |name: &str| told.get(name).copied().ok_or(format!("{name}=? was not said"));
    let messages: u64 = said("messages")?.parse().map_err(|_| "messages=?")?;
    WANTED.store(messages, Ordering::Relaxed);
    let broker = KafkaBroker::new([said("kafka")?.to_owned()])
        .default_group(said("group")?)
        .config("auto.offset.reset", "earliest");
    let variant = variant.to_owned();
    let app = RustStream::new(AppInfo::new("bench", "0.1.0")).with_broker(broker, |b| {
        match &*variant {
            "by-key" => drop(b.include(by_key)),
            "by-key-1ms" => drop(b.include(by_key_1ms)),
            "tuned" => drop(b.include(tuned)),
            _ => drop(b.include(as_documented)),
        }
    });
    let running = app.start().await.map_err(|error| error.to_string())?;
    let within = Duration::from_secs(300);
    let all = tokio::time::timeout(within, ALL_RAN.notified()).await;
    let (from, cpu) = BEGAN.get().copied().ok_or("nothing came")?;
    let (wall, cpu) = (from.elapsed().as_nanos(), cpu_time().saturating_sub(cpu).as_nanos());
    all.map_err(|_| format!("{messages} records, but {} came", RAN.load(Ordering::Relaxed)))?;
    let _ = tokio::time::timeout(Duration::from_secs(20), running.shutdown()).await;
    Ok(format!("messages={messages} wall_ns={wall} cpu_ns={cpu}"))
}

fn answer(line: &str) -> Result<String, String> {
    let mut words = line.strip_prefix("run ").ok_or("not understood")?.split_whitespace();
    let (_, variant) = words.next().and_then(|path| path.split_once('/')).ok_or("no variant")?;
    let told: HashMap<&str, &str> = words.filter_map(|word| word.split_once('=')).collect();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(drain(variant, &told))
}

fn main() {
    let allocator = if cfg!(feature = "mimalloc") { " with mimalloc" } else { "" };
    println!("hello ruststream 0.7.7, ruststream-rdkafka 0.7.1{allocator}");
    // Figures are counted in statics, so there is one run for each process.
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match answer(&line) {
            Ok(figures) => println!("done {figures}"),
            Err(error) => println!("failed {}", error.replace('\n', " | ")),
        }
    }
    std::process::exit(0);
}
