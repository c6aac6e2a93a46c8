//! SIGKILL at random points.

use std::time::Duration;

use go_queue_tests::Killer;

use crate::site::{Site, from_environment};

/// What one worker runs at a time, as its attribute says.
const CONCURRENCY: usize = 16;

/// Many more attempts than kills: a task that is cut off again and again must not end among the dead letters here.
const ENDURING: &str = "handlers: { work: { retry: { max: 100000, backoff: 1ms..10ms } } }\n";

#[test]
fn a_worker_killed_at_random_points_loses_nothing() {
    let kills = from_environment("GO_QUEUE_TEST_KILLS", 100);
    let tasks = 200 * kills;
    let mut killer = Killer::new();
    let mut site = Site::new("worker-kills", ENDURING);
    let mut workers = [site.ready_worker(), site.ready_worker()];
    // Half of the tasks first, so that there is a backlog; the others come while the workers die.
    site.tasks("backlog", tasks as u64 / 2, 2000, 15_000)
        .wait_success(Duration::from_secs(600));
    let mut producer = site.stream("stream", 4, 500, 15_000);

    for _ in 0..kills {
        let dead = killer.kill_one(&mut workers, Duration::ZERO..Duration::from_millis(160));
        workers[dead] = site.worker();
    }
    site.until("enough tasks", |ledger| ledger.accepted_so_far() >= tasks);
    producer.terminate();
    producer.wait_success(Duration::from_secs(30));

    let report = site.settle(&mut workers);
    report.assert_kept();
    assert!(
        report.kills >= kills && report.accepted >= tasks,
        "{report}"
    );
    // Handlers that were cut off run again; of the finished ones only those whose settlement was on its way.
    assert!(
        report.interrupted > kills / 10,
        "the kills hit nobody at work\n{report}"
    );
    assert!(report.repeated <= kills * 2 * CONCURRENCY, "{report}");
    assert!(report.doubled <= kills * CONCURRENCY, "{report}");
}

#[test]
fn a_producer_killed_at_random_points_has_stored_what_was_accepted_and_the_rest_at_most_once() {
    let kills = from_environment("GO_QUEUE_TEST_KILLS", 100).div_ceil(4);
    let mut killer = Killer::new();
    let mut site = Site::new("producer-kills", "");
    let mut workers = [site.ready_worker()];
    for round in 0..kills {
        let mut producer = [site.stream(&format!("p{round}"), 64, 50, 0)];
        let before = site.ledger.accepted_so_far();
        // Killing it before it has sent anything would test the start of a program.
        site.until("the producer sends", |ledger| {
            ledger.accepted_so_far() > before
        });
        killer.kill_one(&mut producer, Duration::ZERO..Duration::from_millis(60));
    }
    let report = site.settle(&mut workers);
    report.assert_kept();
    assert_eq!(report.kills, kills, "{report}");
    assert!(
        report.offered > report.accepted,
        "no producer died between the two\n{report}"
    );
    // No worker was killed, so nothing may run twice: not what was accepted, not what was stored unknown to its producer.
    assert_eq!(report.repeated, 0, "{report}");
}

#[test]
fn a_topic_keeps_the_order_of_its_keys_while_members_are_killed() {
    let kills = from_environment("GO_QUEUE_TEST_KILLS", 100).div_ceil(3);
    let mut killer = Killer::new();
    let mut site = Site::new("topic-kills", "");
    let mut workers = [site.ready_worker(), site.ready_worker()];
    let records = 40 * kills as u64 / 10;
    let mut producer = site.records("k", records, 30, 8000);
    for _ in 0..kills {
        let dead = killer.kill_one(&mut workers, Duration::ZERO..Duration::from_millis(200));
        workers[dead] = site.worker();
    }
    producer.wait_success(Duration::from_secs(60));
    let report = site.settle(&mut workers);
    report.assert_kept();
    assert_eq!(
        report.accepted,
        usize::try_from(records).expect("small") * 30,
        "{report}"
    );
    assert!(
        report.interrupted > kills / 10,
        "the kills hit nobody at work\n{report}"
    );
}
