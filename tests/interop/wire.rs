//! The framing alone, byte for byte, against the real library: no engine of ours takes part.

use std::time::Duration;

use ::go_queue::message::go_queue;
use ::go_queue::time::{Clock, WallTime};
use bytes::Bytes;
use go_queue_tests::servers::Beanstalkd;
use go_queue_tests::until;

use crate::fleet::{Fleet, PATIENCE};

const TUBE: &str = "reminders";

/// The body of a job, as the node has it.
fn peek(node: &Beanstalkd, job: u64) -> Bytes {
    let lines = node.say(format!("peek {job}\r\n").as_bytes(), 2);
    assert!(lines[0].starts_with("FOUND"), "{lines:?}");
    Bytes::from(lines[1].clone())
}

/// Puts a body on all nodes as our producers do; the replicas with their jobs.
fn put(fleet: &Fleet, body: &str, delay: u32) -> Vec<(String, u64)> {
    let command = format!(
        "use {TUBE}\r\nput {} {delay} 60 {}\r\n{body}\r\n",
        go_queue::PRIORITY,
        body.len()
    );
    let nodes = fleet.nodes.iter();
    nodes
        .map(|node| {
            let lines = node.say(command.as_bytes(), 2);
            let job = lines[1].strip_prefix("INSERTED ").expect("it is stored");
            (node.endpoint(), job.parse().expect("a number"))
        })
        .collect()
}

fn joined(replicas: &[(String, u64)]) -> String {
    go_queue::join(replicas.iter().map(|(endpoint, job)| go_queue::Replica {
        endpoint,
        tube: TUBE,
        job: *job,
    }))
}

fn wrapped(due: WallTime, id: &str) -> String {
    let mut body = Vec::new();
    let payload = format!(r#"{{"id":"{id}","micros":0}}"#);
    go_queue::wrap(due, payload.as_bytes(), &mut body);
    String::from_utf8(body).expect("text")
}

fn now() -> WallTime {
    Clock::system().now()
}

#[test]
fn what_the_go_library_stores_opens_and_its_ids_are_read() {
    let Some(mut fleet) = Fleet::new("interop-open", 3) else {
        return;
    };
    let before = now();
    let sent = fleet.go_sends(TUBE, "a", 3, 3_600_000);
    let hour = Duration::from_secs(3600);
    for (name, ids) in sent {
        let replicas = go_queue::split(&ids).expect("ids of the Go library");
        assert_eq!(replicas.len(), 3);
        let bodies: Vec<Bytes> = replicas
            .iter()
            .map(|replica| {
                let node = fleet.nodes.iter();
                let node = node
                    .clone()
                    .find(|node| node.endpoint() == replica.endpoint);
                peek(node.expect("one of our nodes"), replica.job)
            })
            .collect();
        assert!(bodies.iter().all(|body| *body == bodies[0]));
        let opened = go_queue::open(bodies[0].clone()).expect("it opens").message;
        let due = opened.due;
        assert!(due >= before.saturating_add(hour) && due <= now().saturating_add(hour));
        let payload = String::from_utf8_lossy(opened.body.payload()).into_owned();
        assert_eq!(payload, format!(r#"{{"id":"{name}","micros":0}}"#));
        let mut again = Vec::new();
        go_queue::wrap(due, payload.as_bytes(), &mut again);
        assert_eq!(again, bodies[0], "we write the same bytes");
    }
}

#[test]
fn what_we_write_runs_in_go_once_under_the_key_that_we_know() {
    let Some(mut fleet) = Fleet::new("interop-run", 3) else {
        return;
    };
    let due = now().saturating_add(Duration::from_millis(1_500));
    let body = wrapped(go_queue::distinct_due(due, 7), "one");
    let key = go_queue::Key::of(go_queue::id(body.as_bytes()));
    put(&fleet, &body, go_queue::delay(due, now()));
    let _worker = fleet.go_worker(TUBE);
    fleet.until("the Go worker has run it", |ledger| {
        ledger.finished_so_far() == 1
    });
    assert!(now() >= due, "a delay that is rounded up is never early");
    fleet.until_empty(TUBE);
    let life: u64 = fleet
        .redis
        .command(&["PTTL", key.as_str()])
        .parse()
        .expect("a time to live");
    assert!(
        u128::from(life) > go_queue::CLAIM_LIFE.as_millis() - 60_000,
        "{life}"
    );
    let report = fleet.ledger.report().expect("readable journals");
    assert_eq!((report.runs, report.finished), (1, 1));
}

#[test]
fn the_go_library_revokes_what_we_have_stored_by_the_ids_that_we_join() {
    let Some(mut fleet) = Fleet::new("interop-go-revokes", 3) else {
        return;
    };
    let body = wrapped(now().saturating_add(Duration::from_secs(3600)), "one");
    let ids = joined(&put(&fleet, &body, 3600));
    fleet.go("revoke", TUBE, &[&ids]).wait_success(PATIENCE);
    assert!(fleet.nodes.iter().all(|node| node.alive(TUBE) == 0));
}

#[test]
fn a_key_that_is_set_keeps_go_workers_from_running_the_task() {
    let Some(mut fleet) = Fleet::new("interop-tombstone", 2) else {
        return;
    };
    let body = wrapped(now(), "revoked");
    let key = go_queue::Key::of(go_queue::id(body.as_bytes()));
    let set = fleet
        .redis
        .command(&["SET", key.as_str(), "V", "NX", "PX", "3600500"]);
    assert_eq!(set, "OK");
    put(&fleet, &body, 0);
    put(&fleet, &wrapped(now(), "other"), 0);
    let _worker = fleet.go_worker(TUBE);
    fleet.until_empty(TUBE);
    fleet.until("the other one has run", |ledger| {
        ledger.finished_so_far() == 1
    });
    assert_eq!(fleet.ledger.report().expect("journals").runs, 1);
}

#[test]
fn our_words_for_the_lock_are_those_of_the_go_library() {
    let Some(fleet) = Fleet::new("interop-script", 1) else {
        return;
    };
    let loaded = fleet
        .redis
        .command(&["SCRIPT", "LOAD", go_queue::CLAIM_SCRIPT]);
    assert_eq!(loaded, go_queue::CLAIM_SCRIPT_SHA1);
    let claim = |claim: &str| {
        let life = go_queue::CLAIM_LIFE.as_millis().to_string();
        let sha = go_queue::CLAIM_SCRIPT_SHA1;
        fleet
            .redis
            .command(&["EVALSHA", sha, "1", "key", claim, &life])
    };
    assert_eq!(claim("A234567890123456"), "OK");
    assert_eq!(
        claim("A234567890123456"),
        "OK",
        "the same claim enters again"
    );
    assert_ne!(claim("B234567890123456"), "OK");
}

#[test]
fn a_go_worker_runs_and_removes_by_the_rule_that_we_know() {
    let Some(mut fleet) = Fleet::new("interop-rule", 1) else {
        return;
    };
    let now = now();
    let digits = now.as_nanos();
    let ago = |minutes: u64| now.saturating_sub(Duration::from_secs(60 * minutes));
    let payload = |id: &str| format!(r#"{{"id":"{id}","micros":0}}"#);
    for body in [
        format!("+{digits}/{}", payload("plus")),
        format!("0{digits}/{}", payload("zero")),
        format!("00{digits}/{}", payload("two-zeros")),
        wrapped(ago(29), "29-minutes"),
        wrapped(ago(31), "31-minutes"),
        wrapped(now, "last"),
    ] {
        put(&fleet, &body, 0);
        let ours = go_queue::unwrap(body.as_bytes());
        let ours = ours.is_ok_and(|(due, _)| !go_queue::is_late(due, now, go_queue::TOLERANCE));
        assert_eq!(
            ours,
            !(body.contains("two-zeros") || body.contains("31-minutes")),
            "{body}"
        );
    }
    let _worker = fleet.go_worker(TUBE);
    fleet.until_empty(TUBE);
    fleet.until("the last one has run", |ledger| {
        ledger.finished_so_far() >= 4
    });
    let node = &fleet.nodes[0];
    until("nothing is reserved", PATIENCE, || node.alive(TUBE) == 0);
    let report = fleet.ledger.report().expect("readable journals");
    let mut unknown = report.unknown.clone();
    unknown.sort();
    assert_eq!(unknown, ["29-minutes", "last", "plus", "zero"]);
}
