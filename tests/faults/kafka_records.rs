//! Records that are hard to take: one that never succeeds, large and empty ones, those without key or payload, with many headers; and
//! two programs of one group that do different things with a topic.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use go_queue::app::App;
use go_queue::engine::kafka::{Config, Kafka};
use go_queue::handlers;
use go_queue::name::Side;
use go_queue::prelude::*;
use go_queue::time::Clock;
use go_queue_tests::servers::{RawRecord, SharedKafka, kafka_is_installed};
use go_queue_tests::{Folder, until};

use crate::kafka::{GROUP, KafkaSetup, OnKafka, TOPIC};
use crate::site::PATIENCE;

/// What a process has in memory now, in megabytes.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes =
        line.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) / 1000
}

#[test]
fn a_kafka_record_that_never_succeeds_holds_its_key_and_no_other_and_memory_is_bounded() {
    let setup = KafkaSetup {
        partitions: 2,
        extra: "handlers: { step: { retry: { max: 1000000, backoff: 20ms..200ms } } }\n",
        ..KafkaSetup::default()
    };
    let Some(mut on) = OnKafka::start("kafka-poison", &setup) else {
        return;
    };
    on.records("poison", 1, 1, 0).wait_success(PATIENCE);
    let mut worker = on.poisoned_worker("poison0");
    // Far more than the span that a partition may be ahead of its position, which is 65,536.
    let mut producer = on.records("k", 1000, 160, 0);
    producer.wait_success(3 * PATIENCE);
    let half = 80_000;
    on.site.until(
        "the other partition is read, and this one up to the bound",
        |ledger| ledger.finished_so_far() > half,
    );
    let megabytes = memory(worker.pid());
    assert!(megabytes < 400, "the worker has {megabytes} MB");
    let stuck = on
        .raw
        .committed(GROUP, TOPIC)
        .into_iter()
        .any(|at| at.unwrap_or(0) == 0);
    assert!(stuck, "the position passed a record that was not finished");
    worker.terminate();
    worker.wait_success(PATIENCE);
    // Without the poison everything runs; what was finished ahead of the position runs again.
    let mut workers = [on.ready_worker()];
    let report = on.settle(&mut workers);
    assert!(
        report.lost.is_empty() && report.disordered.is_empty(),
        "{report}"
    );
    assert!(
        report.at_once.is_empty() && report.unknown.is_empty(),
        "{report}"
    );
    assert_eq!(report.accepted, 160_001, "{report}");
}

/// What is not given to the app as an engine is kept in its process.
const MEMORY: &str = "dq: { engine: memory }\nkq: { engine: memory }\n";

/// What a handler saw of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sight {
    key: Option<Vec<u8>>,
    payload: Vec<u8>,
    headers: usize,
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Sight>>>);

impl Seen {
    fn all(&self) -> Vec<Sight> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[kq_handler(topic = "odd-records", group = "odd-readers")]
async fn see(raw: Raw, key: Key, headers: Headers, State(seen): State<Seen>) {
    let sight = Sight {
        key: key.0.as_deref().map(<[u8]>::to_vec),
        payload: raw.0.to_vec(),
        headers: headers.iter().count(),
    };
    seen.0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(sight);
}

async fn engine(brokers: &str) -> Kafka {
    let engine = Kafka::open(Config::new([brokers]), Clock::system()).await;
    engine.expect("the broker is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn large_empty_null_and_much_annotated_kafka_records_arrive_as_they_are() {
    if !kafka_is_installed() {
        return;
    }
    let kafka = tokio::task::spawn_blocking(SharedKafka::get)
        .await
        .expect("a broker");
    let raw = kafka.raw();
    let limit = [("max.message.bytes", "2000000")];
    raw.create_with("odd-records", 1, 1, &limit);
    raw.create("odd-records-dlt", 1);
    let records = [
        RawRecord::new("large", vec![b'x'; 1_000_000]),
        RawRecord::new("empty", ""),
        RawRecord {
            key: None,
            ..RawRecord::new("", "no key")
        },
        RawRecord::new("", "an empty key"),
        RawRecord {
            payload: None,
            ..RawRecord::new("tombstone", "")
        },
        RawRecord {
            headers: (0..1000)
                .map(|n| (format!("name-{n}"), Some(vec![7; 10])))
                .collect(),
            ..RawRecord::new("annotated", "x")
        },
        RawRecord {
            headers: vec![
                ("null".to_owned(), None),
                ("not utf-8".to_owned(), Some(vec![0xff])),
            ],
            ..RawRecord::new("strange", "x")
        },
    ];
    raw.produce("odd-records", records.clone());
    let seen = Seen::default();
    let folder = Folder::new("odd-records");
    let app = App::new()
        .config(folder.write("config.yaml", MEMORY))
        .state(seen.clone())
        .engine(Side::Topics, engine(&kafka.endpoints()).await)
        .handlers(handlers![see]);
    let running = app.start().await.expect("started");
    let waiting = {
        let seen = seen.clone();
        tokio::task::spawn_blocking(move || {
            until("all records", Duration::from_secs(60), || {
                seen.all().len() >= 7
            });
        })
    };
    waiting.await.expect("all came");
    running
        .stop(Duration::from_secs(20))
        .await
        .expect("stopped");
    let mut got = seen.all();
    got.sort_by_key(|sight| sight.key.clone());
    let mut want: Vec<Sight> = records
        .iter()
        .map(|record| Sight {
            key: record.key.clone(),
            payload: record.payload.clone().unwrap_or_default(),
            headers: record.headers.len(),
        })
        .collect();
    want.sort_by_key(|sight| sight.key.clone());
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(
            (&got.key, got.payload.len(), got.headers),
            (&want.key, want.payload.len(), want.headers)
        );
        assert!(got.payload == want.payload, "{:?}", want.key);
    }
    assert_eq!(got.len(), want.len());
    assert_eq!(raw.lag("odd-readers", "odd-records"), 0);
    assert_eq!(raw.len("odd-records-dlt"), 0);
}

#[derive(Clone, Default)]
struct Numbers(Arc<Mutex<Vec<u64>>>);

#[kq_handler(topic = "shared-numbers", group = "shared-readers")]
async fn left(number: u64, State(seen): State<Numbers>) {
    seen.0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(number);
}

#[kq_handler(topic = "shared-numbers", group = "shared-readers")]
async fn right(number: u64, State(seen): State<Numbers>) {
    seen.0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(1_000_000 + number);
}

/// They are members of one group, so each record goes to one of the two: a mistake of whoever set it up, but nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn two_programs_of_one_group_with_different_handlers_share_a_kafka_topic() {
    if !kafka_is_installed() {
        return;
    }
    let kafka = tokio::task::spawn_blocking(SharedKafka::get)
        .await
        .expect("a broker");
    let raw = kafka.raw();
    raw.create("shared-numbers", 8);
    raw.create("shared-numbers-dlt", 8);
    let folder = Folder::new("two-programs");
    let config = folder.write("config.yaml", MEMORY);
    let seen = Numbers::default();
    let mut running = Vec::new();
    for registry in [handlers![left], handlers![right]] {
        let app = App::new()
            .config(config.clone())
            .state(seen.clone())
            .engine(Side::Topics, engine(&kafka.endpoints()).await)
            .handlers(registry);
        running.push(app.start().await.expect("started"));
    }
    // Until both have their shares, so that both have something to do.
    let waiting = {
        let (seen, raw) = (seen.clone(), kafka.raw());
        let done = move || {
            seen.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        };
        tokio::task::spawn_blocking(move || {
            let mut sent = 0;
            until("both work", Duration::from_secs(60), || {
                let slice =
                    (sent..sent + 64).map(|n| RawRecord::new(format!("k{n}"), n.to_string()));
                raw.produce("shared-numbers", slice);
                sent += 64;
                let done = done();
                done.iter().any(|n| *n >= 1_000_000) && done.iter().any(|n| *n < 1_000_000)
            });
            until("all have run", Duration::from_secs(60), || {
                u64::try_from(done().len()) == Ok(sent)
            });
            (sent, done())
        })
    };
    let (sent, mut done) = waiting.await.expect("all came");
    for one in running {
        one.stop(Duration::from_secs(20)).await.expect("stopped");
    }
    for number in &mut done {
        *number %= 1_000_000;
    }
    done.sort_unstable();
    assert_eq!(done, (0..sent).collect::<Vec<_>>());
}
