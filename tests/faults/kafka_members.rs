//! Members of a group on Kafka that join, leave and die while records flow.

use std::time::{Duration, Instant};

use go_queue_tests::{Killer, Process};

use crate::kafka::{GROUP, IN_HAND, KafkaSetup, OnKafka, TOPIC};
use crate::site::{PATIENCE, from_environment};

/// Records a second, and how many keys they have.
const RATE: u64 = 1200;
const KEYS: u64 = 200;

/// So often somebody joins or leaves.
const EVERY: Duration = Duration::from_secs(2);

/// A member that died is missed after 6 s; the next one may die when that is over.
const KILL_EVERY: Duration = Duration::from_secs(8);

/// What the members have finished and not committed when one dies: a second between commits, and 0.3 s on top.
const UNCOMMITTED: f64 = 1.3;

/// The most that run again when one member dies, were all partitions its own.
fn bound_of_a_kill() -> usize {
    let rate = Duration::from_secs(RATE).mul_f64(UNCOMMITTED);
    usize::try_from(rate.as_secs()).expect("small") + IN_HAND
}

/// Between one and four members; what happens next is chosen by the seed.
fn come_and_go(name: &str, protocol: &'static str, changes: usize) {
    let setup = KafkaSetup {
        protocol,
        ..KafkaSetup::default()
    };
    let Some(mut on) = OnKafka::start(name, &setup) else {
        return;
    };
    let mut killer = Killer::new();
    let mut members: Vec<Process> = vec![on.ready_worker()];
    let mut leaving: Vec<Process> = Vec::new();
    let mut producer = on.flow("k", KEYS, RATE, 8000);
    on.more_finished(500);
    let (mut last_kill, mut kills) = (Instant::now(), 0);
    for change in 0..changes {
        // The pace of the fault, not a condition to wait for.
        std::thread::sleep(EVERY);
        let joins = members.len() < 2 || (members.len() < 4 && killer.choose(0..2) == 0);
        if joins {
            members.push(on.worker());
            continue;
        }
        let at = killer.choose(0..members.len());
        let mut member = members.swap_remove(at);
        // At least one dies, also in the shortest form.
        let may_die = last_kill.elapsed() > KILL_EVERY;
        if may_die && (kills == 0 || killer.choose(0..2) == 0 || change + 2 > changes) {
            member.kill();
            (last_kill, kills) = (Instant::now(), kills + 1);
        } else {
            member.terminate();
            leaving.push(member);
        }
    }
    for member in &mut leaving {
        member.wait_success(PATIENCE);
    }
    producer.terminate();
    producer.wait_success(PATIENCE);
    let report = on.settle(&mut members);
    report.assert_kept();
    assert!(kills > 0 && report.accepted > 1000, "{report}");
    // Nothing of those that left in order runs again: `assert_kept` knows no cause for it.
    assert!(report.worst_kill() <= bound_of_a_kill(), "{report}");
    assert_eq!(on.raw.lag(GROUP, TOPIC), 0, "everything is committed");
}

#[test]
fn kafka_members_that_come_go_and_die_lose_nothing_cooperative_sticky() {
    let changes = from_environment("GO_QUEUE_TEST_CHANGES", 14);
    come_and_go("kafka-cooperative", "cooperative-sticky", changes);
}

#[test]
fn kafka_members_that_come_go_and_die_lose_nothing_range() {
    let changes = from_environment("GO_QUEUE_TEST_CHANGES", 10);
    come_and_go("kafka-range", "range", changes);
}

#[test]
fn kafka_members_that_come_go_and_die_lose_nothing_kip_848() {
    let changes = from_environment("GO_QUEUE_TEST_CHANGES", 10);
    come_and_go("kafka-kip-848", "consumer", changes);
}

#[test]
fn sigterm_under_load_on_kafka_commits_what_is_finished_and_repeats_none_of_it() {
    let Some(mut on) = OnKafka::start("kafka-sigterm", &KafkaSetup::default()) else {
        return;
    };
    let mut producer = on.records("t", 100, 60, 30_000);
    producer.wait_success(PATIENCE);
    for _ in 0..4 {
        let mut worker = on.worker();
        on.more_finished(300);
        worker.terminate();
        worker.wait_success(Duration::from_secs(30));
    }
    let mut last = [on.worker()];
    let report = on.settle(&mut last);
    report.assert_kept();
    assert_eq!(
        (report.repeated, report.returned, report.highest_attempt),
        (0, 0, 1),
        "{report}"
    );
}

#[test]
fn a_handler_that_takes_longer_than_a_member_may_be_silent_on_kafka_runs_once() {
    let setup = KafkaSetup {
        max_poll: Duration::from_secs(6),
        ..KafkaSetup::default()
    };
    let Some(mut on) = OnKafka::start("kafka-slow", &setup) else {
        return;
    };
    // Most of them last longer than the session and the time between two polls, which are 6 s.
    let mut producer = on.records("slow", 1, 14, 20_000_000);
    producer.wait_success(PATIENCE);
    // Alone, so that nobody takes partitions from it while its handlers run.
    let mut workers = [on.ready_worker()];
    let report = on.settle(&mut workers);
    report.assert_kept();
    assert_eq!(
        (report.finished, report.repeated, report.highest_attempt),
        (14, 0, 1),
        "{report}"
    );
}
