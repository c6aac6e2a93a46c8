//! On librdkafka's own cluster for tests, which lives in this process.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Command;
use std::sync::mpsc;
use std::task::{Wake, Waker};

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use tokio::time::Instant;

use super::*;

const TOPIC: &str = "orders";
/// Far beyond what a loaded machine needs, also under valgrind.
const PATIENCE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(20);

type Ending = fn(Client, BTreeMap<i32, Queue>, Asker);
type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).expect("it lives in this process");
    cluster
        .create_topic(TOPIC, partitions, 1)
        .expect("a new topic");
    cluster
}

fn settings(cluster: &Cluster) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "readers")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "200")
        .set("partition.assignment.strategy", "cooperative-sticky");
    settings
}

fn member(cluster: &Cluster, bell: &Arc<Bell>) -> Client {
    let client = Client::open(&settings(cluster), TOPIC, bell).expect("good settings");
    client.join().expect("a good topic");
    client
}

/// Records number 0 to before `count`: key, payload, and headers; every third has no key, every fifth no payload, every seventh no
/// headers.
fn produce(cluster: &Cluster, partitions: i32, count: i32) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("linger.ms", "0")
        .create()
        .expect("good settings");
    for n in 0..count {
        let (key, payload, number) = (format!("key-{n}"), format!("payload-{n}"), n.to_string());
        let headers = OwnedHeaders::new()
            .insert(Header {
                key: "number",
                value: Some(&number),
            })
            .insert(Header::<&[u8]> {
                key: "null",
                value: None,
            });
        let mut record: BaseRecord<'_, str, str> = BaseRecord::to(TOPIC).partition(n % partitions);
        if n % 7 != 0 {
            record = record.headers(headers);
        }
        if n % 3 != 0 {
            record = record.key(&key);
        }
        if n % 5 != 0 {
            record = record.payload(&payload);
        }
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("room");
    }
    producer.flush(PATIENCE).expect("confirmed");
}

fn within<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "it never came about: {what}");
    }
}

fn rebalance(client: &Client) -> Rebalance {
    within("a rebalance", || match client.events().event(STEP) {
        Some(Event::Rebalance(rebalance)) => Some(rebalance),
        _ => None,
    })
}

/// Takes assignments until so many partitions are there.
fn take(client: &Client, count: usize) -> BTreeMap<i32, Queue> {
    let mut held = BTreeMap::new();
    while held.len() < count {
        let come = rebalance(client);
        assert_eq!(come.change(), Change::Assign);
        for partition in come.partitions() {
            let queue = client.partition(*partition).expect("a queue");
            held.insert(*partition, queue);
        }
        client.answer(come, &[]).expect("taken");
    }
    held
}

fn leave(client: &Client) {
    client.leave().expect("a member");
    within("it has left", || {
        if let Some(Event::Rebalance(last)) = client.events().event(STEP) {
            client.answer(last, &[]).expect("given back");
        }
        client.has_left().then_some(())
    });
}

/// Everything that an end does with a client, in its order. Also run under valgrind.
#[test]
fn a_client_reads_commits_and_leaves() {
    let cluster = cluster(3);
    produce(&cluster, 3, 300);
    let bell = Bell::new();
    let client = member(&cluster, &bell);
    let queues = take(&client, 3);
    let mut room = Room::new();
    let mut seen = [0; 3];
    within("all records", || {
        for (partition, queue) in &queues {
            let len = queue.len();
            if len == 0 {
                continue;
            }
            for record in queue.drain(&mut room, len.min(50)).iter() {
                assert_eq!(record.error(), None);
                let slot = usize::try_from(*partition).expect("0 to 2");
                let n = i64::from(*partition) + seen[slot] * 3;
                assert_eq!(record.offset(), seen[slot]);
                let (key, payload) = (format!("key-{n}"), format!("payload-{n}"));
                assert_eq!(record.key(), (n % 3 != 0).then_some(key.as_bytes()));
                assert_eq!(record.payload(), (n % 5 != 0).then_some(payload.as_bytes()));
                let headers: Vec<_> = record.headers().into_iter().flatten().collect();
                let number = n.to_string();
                let two = [
                    (&b"number"[..], Some(number.as_bytes())),
                    (&b"null"[..], None),
                ];
                assert_eq!(headers, two[..if n % 7 == 0 { 0 } else { 2 }]);
                assert!(record.timestamp() > 0);
                seen[slot] += 1;
            }
        }
        (seen == [100; 3]).then_some(())
    });
    assert!(
        queues
            .values()
            .all(|queue| queue.len() == 0 && !queue.is_ready())
    );
    let behind: Vec<_> = client.positions(&[0, 1, 2]);
    assert_eq!(behind, [(0, Some(100)), (1, Some(100)), (2, Some(100))]);
    let commit = Commit {
        partition: 1,
        offset: 40,
        text: "beside it".to_owned(),
    };
    client.commit(std::slice::from_ref(&commit)).expect("asked");
    within("the commit", || match client.events().event(STEP) {
        Some(Event::Committed { error, partitions }) => {
            assert_eq!((error, partitions), (None, vec![(1, 40, None)]));
            Some(())
        }
        _ => None,
    });
    let known = client.asker().committed(&[0, 1, 2], PATIENCE);
    assert_eq!(known.expect("told"), [commit]);
    drop(queues);
    leave(&client);
}

#[test]
fn the_order_in_which_things_are_dropped_does_not_matter() {
    let cluster = cluster(2);
    produce(&cluster, 2, 20);
    let endings: [Ending; 3] = [
        |client, queues, asker| {
            drop(client);
            drop(asker);
            drop(queues);
        },
        |client, queues, asker| {
            drop(queues);
            drop(client);
            drop(asker);
        },
        |client, queues, asker| {
            leave(&client);
            drop(asker);
            drop(client);
            drop(queues);
        },
    ];
    for end in endings {
        let client = member(&cluster, &Bell::new());
        let queues = take(&client, 2);
        let asker = client.asker();
        // `rd_kafka_destroy` would wait for ever for what is still out.
        let (done, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().spawn(move || {
            let mut room = Room::new();
            let _ = queues[&0].drain(&mut room, 1);
            end(client, queues, asker);
            done.send(()).expect("the test waits");
        });
        let thread = thread.expect("a thread");
        ended.recv_timeout(PATIENCE).expect("it ends");
        thread.join().expect("it ended");
    }
}

#[test]
fn a_rebalance_that_is_held_keeps_the_partitions() {
    let cluster = cluster(4);
    let eager = |bell: &Arc<Bell>| {
        let mut settings = settings(&cluster);
        settings.set("partition.assignment.strategy", "range");
        let client = Client::open(&settings, TOPIC, bell).expect("good settings");
        client.join().expect("a good topic");
        client
    };
    let first = eager(&Bell::new());
    let held = take(&first, 4);
    let second = eager(&Bell::new());
    let go = within("partitions go", || {
        assert!(
            second
                .events()
                .event(Duration::ZERO)
                .is_none_or(|event| !matches!(event, Event::Rebalance(_)))
        );
        match first.events().event(STEP) {
            Some(Event::Rebalance(go)) => Some(go),
            _ => None,
        }
    });
    assert_eq!(
        (go.change(), go.partitions()),
        (Change::Revoke, &[0, 1, 2, 3][..])
    );
    // The other one waits as long as this is not answered.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        assert!(
            first
                .events()
                .event(STEP)
                .is_none_or(|event| !matches!(event, Event::Rebalance(_)))
        );
        assert!(
            second
                .events()
                .event(STEP)
                .is_none_or(|event| !matches!(event, Event::Rebalance(_)))
        );
    }
    drop(held);
    first.answer(go, &[]).expect("given up");
    let mut taken = [Vec::new(), Vec::new()];
    within("each has two", || {
        for (client, taken) in [&first, &second].into_iter().zip(&mut taken) {
            if let Some(Event::Rebalance(change)) = client.events().event(STEP) {
                // Who was quicker to join may have all of them for a moment.
                taken.clear();
                if change.change() == Change::Assign {
                    taken.extend_from_slice(change.partitions());
                }
                client.answer(change, &[]).expect("taken");
            }
        }
        (taken[0].len() == 2 && taken[1].len() == 2).then_some(())
    });
    leave(&first);
    leave(&second);
}

#[test]
fn a_queue_that_fills_rings_once_for_each_time() {
    struct Woken(mpsc::Sender<()>);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(());
        }
    }
    let cluster = cluster(1);
    let bell = Bell::new();
    let client = member(&cluster, &bell);
    let queues = take(&client, 1);
    let (sender, ring) = mpsc::channel();
    let waker = Waker::from(Arc::new(Woken(sender)));
    let mut room = Room::new();
    for _ in 0..5 {
        while client.events().event(Duration::ZERO).is_some() {}
        bell.arm(&waker);
        if client.events().len() == 0 && queues[&0].len() == 0 {
            produce(&cluster, 1, 1);
        }
        within("a ring, and what it rang for", || {
            let woken = ring.recv_timeout(STEP).is_ok();
            bell.arm(&waker);
            while client.events().event(Duration::ZERO).is_some() {}
            let len = queues[&0].len();
            if len > 0 {
                drop(queues[&0].drain(&mut room, len));
            }
            (woken || len > 0).then_some(())
        });
    }
}

#[test]
fn settings_that_librdkafka_refuses_are_an_error() {
    let mut settings = ClientConfig::new();
    settings.set("group.id", "g").set("no.such.thing", "1");
    let error = Client::open(&settings, TOPIC, &Bell::new()).expect_err("refused");
    assert!(error.contains("no.such.thing"), "{error}");
    let error = Client::open(&ClientConfig::new(), TOPIC, &Bell::new()).expect_err("no group");
    assert!(!error.is_empty());
}

/// Memory that is read or written where it may not be, or never given back, fails this. Skipped where valgrind is not installed,
/// which CI does not let pass.
#[test]
fn valgrind_finds_nothing() {
    let found = Command::new("valgrind").arg("--version").output().is_ok();
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "valgrind is not installed"
        );
        return;
    }
    let this = std::env::current_exe().expect("a test has a file");
    let case = "engine::kafka::raw::tests::a_client_reads_commits_and_leaves";
    // The crate, not we: its clients never give back the queue to which they log.
    let mut known = tempfile::NamedTempFile::new().expect("a temporary file");
    known
        .write_all(b"{\n  crate\n  Memcheck:Leak\n  fun:calloc\n  ...\n  fun:*rdkafka*client*\n}\n")
        .expect("written");
    let mut suppressions = std::ffi::OsString::from("--suppressions=");
    suppressions.push(known.path());
    let output = Command::new("valgrind")
        .arg(suppressions)
        .args([
            "--error-exitcode=9",
            "--leak-check=full",
            "--errors-for-leak-kinds=definite",
            "--show-leak-kinds=definite",
        ])
        .args(["--quiet", "--fair-sched=yes"])
        .arg(this)
        .args(["--exact", case, "--test-threads", "1"])
        .output()
        .expect("it was found");
    let said = String::from_utf8_lossy(&output.stderr);
    let ran = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{ran}");
    assert!(ran.contains("1 passed"), "{ran}");
}
