//! Whole programs of both libraries on one tube.

use std::collections::HashSet;
use std::process::Command;
use std::time::Duration;

use ::go_queue::engine::{Revoked, TaskId};
use ::go_queue::message::go_queue;
use ::go_queue::prelude::*;
use ::go_queue::producer::Enqueue;
use go_queue_tests::{Killer, Process, Report, What, until};
use serde::Serialize;

use crate::fleet::{Fleet, PATIENCE};

/// The tube of `ledger_worker`.
const TUBE: &str = "work";

/// What `ledger_worker` reads.
#[derive(Serialize)]
struct Work {
    id: String,
    micros: u64,
}

impl Fleet {
    /// A configuration of ours for these servers.
    fn config(&self, mixed: bool) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| node.endpoint()).collect();
        let yaml = format!(
            "name: interop\nlog: {{ level: info, format: text }}\n\
             dq: {{ beanstalks: {nodes:?}, redis: {{ host: {:?}, lease: 2s }} }}\n\
             kq: {{ engine: memory }}\n\
             tubes: {{ {TUBE}: {{ wire: go-queue, mixed_fleet: {mixed} }} }}\n\
             handlers: {{ work: {{ retry: {{ max: 100000, backoff: 1ms..10ms }} }} }}\n",
            self.redis.endpoint()
        );
        let config = self.folder.write(&format!("mixed-{mixed}.yaml"), &yaml);
        config.to_string_lossy().into_owned()
    }

    /// One of our programs.
    fn rust(&mut self, mode: &str, mixed: bool, rest: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ledger_worker"));
        command.arg(mode).arg(self.config(mixed)).args(rest);
        self.start(&format!("rust-{mode}"), command)
    }

    /// A worker of ours that serves.
    fn rust_worker(&mut self, mixed: bool) -> Process {
        let before = self.marks();
        let mut worker = self.rust("worker", mixed, &[]);
        self.until("our worker is ready", |ledger| {
            assert!(worker.running(), "{}", worker.log());
            ledger.marks("ready") > before
        });
        worker
    }

    /// Waits until nothing is left that somebody could run, then counts.
    fn settle(&mut self, workers: &mut [Process]) -> Report {
        until("the tubes are empty", PATIENCE, || {
            let tubes = [TUBE, "work.taken"];
            let empty = |tube: &&str| self.nodes.iter().all(|node| node.alive(tube) == 0);
            tubes.iter().all(empty)
        });
        for worker in workers.iter_mut() {
            worker.terminate();
        }
        for worker in workers.iter_mut() {
            worker.wait(PATIENCE);
        }
        let report = self.ledger.report().expect("readable journals");
        println(&format!("{}\n{report}", self.folder.path().display()));
        report
    }
}

#[expect(
    clippy::print_stdout,
    reason = "shown with --nocapture, and when the test fails"
)]
fn println(text: &str) {
    println!("{text}");
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new()
        .expect("a run-time")
        .block_on(future)
}

async fn send(producer: &Producer, id: &str, after: Duration) -> TaskId {
    let work = Work {
        id: id.to_owned(),
        micros: 0,
    };
    let json = serde_json::to_vec(&work).expect("JSON");
    Enqueue::bytes(TUBE, json, ::go_queue::message::ContentType::Json)
        .after(after)
        .send(producer)
        .await
        .expect("it is accepted")
}

#[test]
fn what_go_programs_store_our_workers_run_once_and_never_early() {
    for mixed in [false, true] {
        let Some(mut fleet) = Fleet::new("interop-go-to-rust", 3) else {
            return;
        };
        let mut workers = [fleet.rust_worker(mixed), fleet.rust_worker(mixed)];
        fleet
            .go("produce", TUBE, &["go", "300", "8", "0", "1500", "1000"])
            .wait_success(PATIENCE);
        let report = fleet.settle(&mut workers);
        report.assert_kept();
        assert_eq!((report.accepted, report.runs), (300, 300), "mixed {mixed}");
    }
}

#[test]
fn what_our_programs_store_go_workers_run_once() {
    let Some(mut fleet) = Fleet::new("interop-rust-to-go", 3) else {
        return;
    };
    let mut workers = [fleet.go_worker(TUBE), fleet.go_worker(TUBE)];
    fleet
        .rust("tasks", false, &["rust", "300", "8", "1500", "1000"])
        .wait_success(PATIENCE);
    fleet.until("all have run", |ledger| ledger.finished_so_far() == 300);
    let report = fleet.settle(&mut workers);
    report.assert_kept();
    assert_eq!((report.accepted, report.runs), (300, 300));
}

#[test]
fn we_revoke_what_go_programs_have_scheduled_also_while_a_node_is_away() {
    let Some(mut fleet) = Fleet::new("interop-rust-revokes", 3) else {
        return;
    };
    let sent = fleet.go_sends(TUBE, "task", 3, 4_000);
    let ids: Vec<TaskId> = sent
        .iter()
        .map(|(_, ids)| ids.parse().expect("ids of the Go library"))
        .collect();
    let config = fleet.config(false);
    run(async {
        let producer = Producer::open(config.as_str()).await.expect("it connects");
        let revoked = producer.revoke(&ids[0]).await.expect("an answer");
        assert_eq!(revoked, Revoked::Revoked);
        fleet.nodes[2].stop();
        let revoked = producer.revoke(&ids[1]).await.expect("an answer");
        assert_eq!(revoked, Revoked::Revoked);
        fleet.nodes[2].cont();
    });
    let mut workers = [fleet.go_worker(TUBE)];
    fleet.until("the third has run", |ledger| ledger.finished_so_far() == 1);
    let report = fleet.settle(&mut workers);
    assert_eq!(report.lost, ["task-0", "task-1"], "{report}");
    assert_eq!(report.runs, 1);
}

#[test]
fn we_revoke_what_we_have_taken_from_a_shared_tube() {
    let Some(mut fleet) = Fleet::new("interop-revoke-taken", 3) else {
        return;
    };
    let mut workers = [fleet.rust_worker(true)];
    let sent = fleet.go_sends(TUBE, "task", 1, 8_000);
    let ids = &sent[0].1;
    // The id of the task is read from its copies, so that it can be named when they are gone.
    let replicas = go_queue::split(ids).expect("ids of the Go library");
    let node_of = |endpoint: &str| {
        let mut nodes = fleet.nodes.iter();
        let node = nodes.find(|node| node.endpoint() == endpoint);
        node.expect("one of our nodes")
    };
    let peek = format!("peek {}\r\n", replicas[0].job);
    let body = node_of(replicas[0].endpoint).say(peek.as_bytes(), 2)[1].clone();
    let id = go_queue::id(body.as_bytes());
    let task: TaskId = format!("{TUBE}:{id}:{ids}").parse().expect("a task id");
    // Somebody kicks it long before it is due: a Go worker would run it now.
    for replica in &replicas {
        let kick = format!("kick-job {}\r\n", replica.job);
        let said = node_of(replica.endpoint).say(kick.as_bytes(), 1);
        assert!(said == ["KICKED"] || said == ["NOT_FOUND"], "{said:?}");
    }
    until("it is taken", PATIENCE, || {
        let alive = |tube| fleet.nodes.iter().map(|node| node.alive(tube)).sum::<u64>();
        alive(TUBE) == 0 && alive("work.taken") >= 2
    });
    let config = fleet.config(true);
    run(async {
        let producer = Producer::open(config.as_str()).await.expect("it connects");
        let revoked = producer.revoke(&task).await.expect("an answer");
        assert_eq!(revoked, Revoked::Revoked);
        let again = producer.revoke(&task).await.expect("an answer");
        assert_eq!(again, Revoked::Unknown);
    });
    let report = fleet.settle(&mut workers);
    assert_eq!((report.accepted, report.runs), (1, 0), "{report}");
}

#[test]
fn go_programs_revoke_what_we_have_scheduled() {
    let Some(mut fleet) = Fleet::new("interop-go-revokes-ours", 3) else {
        return;
    };
    let config = fleet.config(false);
    let task = run(async {
        let producer = Producer::open(config.as_str()).await.expect("it connects");
        send(&producer, "one", Duration::from_secs(3600)).await
    });
    let ids = task.token().expect("ids of the Go library");
    assert_eq!(go_queue::split(ids).expect("Go's form").len(), 3);
    fleet.go("revoke", TUBE, &[ids]).wait_success(PATIENCE);
    assert!(fleet.nodes.iter().all(|node| node.alive(TUBE) == 0));
}

#[test]
fn a_mixed_fleet_of_workers_that_are_killed_loses_nothing_of_ours_and_runs_nothing_twice() {
    let Some(mut fleet) = Fleet::new("interop-mixed", 3) else {
        return;
    };
    let kills = std::env::var("GO_QUEUE_TEST_INTEROP_KILLS")
        .map_or(16, |text| text.parse().expect("a number"));
    let mut killer = Killer::new();
    let mut workers = [
        fleet.rust_worker(true),
        fleet.rust_worker(true),
        fleet.go_worker(TUBE),
        fleet.go_worker(TUBE),
    ];
    let mut producers = [
        fleet.rust("tasks", true, &["rust", "0", "2", "1500", "4000"]),
        fleet.go("produce", TUBE, &["go", "0", "2", "0", "1500", "4000"]),
    ];
    for _ in 0..kills {
        let after = Duration::from_millis(50)..Duration::from_millis(400);
        let dead = killer.kill_one(&mut workers, after);
        workers[dead] = if dead < 2 {
            fleet.rust_worker(true)
        } else {
            fleet.go_worker(TUBE)
        };
    }
    for producer in &mut producers {
        producer.terminate();
        producer.wait(PATIENCE);
    }
    let report = fleet.settle(&mut workers);

    // A Go worker that dies with a task in hand loses it: that is its library's promise, not ours. Such a task has the lock of a Go
    // worker in Redis. Nobody else may lose one.
    let by = Started::read(&fleet);
    assert!(by.both().is_empty(), "run by both kinds: {:?}", by.both());
    let lost_by_us: Vec<_> = report
        .lost
        .iter()
        .filter(|id| by.rust.contains(*id))
        .collect();
    assert!(lost_by_us.is_empty(), "{lost_by_us:?}\n{report}");
    let never_started = report.lost.iter().filter(|id| !by.go.contains(*id)).count();
    let locked = go_locks(&fleet);
    let locked_and_never_started = locked - by.go.len();
    assert!(
        never_started <= locked_and_never_started,
        "{never_started} were lost before they started, Go workers had locked {locked_and_never_started}\n{report}"
    );
    assert!(report.unexplained.is_empty(), "{report}");
    assert!(report.broken.is_empty(), "{report}");
    assert!(by.rust.len() > 20 && by.go.len() > 20, "both kinds worked");
}

/// Which tasks were started by workers of which kind.
struct Started {
    rust: HashSet<String>,
    go: HashSet<String>,
}

impl Started {
    fn read(fleet: &Fleet) -> Self {
        let mut started = Self {
            rust: HashSet::new(),
            go: HashSet::new(),
        };
        for event in fleet.ledger.events() {
            if let What::Start(id, ..) = event.what {
                let kind = if fleet.ledger.word(event.process).starts_with("go-") {
                    &mut started.go
                } else {
                    &mut started.rust
                };
                kind.insert(fleet.ledger.word(id).to_owned());
            }
        }
        started
    }

    fn both(&self) -> Vec<&String> {
        self.rust.intersection(&self.go).collect()
    }
}

/// How many tasks Go workers have locked.
fn go_locks(fleet: &Fleet) -> usize {
    let keys = fleet.redis.command(&["KEYS", "*"]);
    let keys: Vec<&str> = keys.lines().filter(|key| key.len() == 32).collect();
    if keys.is_empty() {
        return 0;
    }
    let mut command = vec!["MGET"];
    command.extend(keys);
    let values = fleet.redis.command(&command);
    let is_go =
        |value: &&str| value.len() == 16 && value.bytes().all(|b| b.is_ascii_alphanumeric());
    values.lines().filter(is_go).count()
}
