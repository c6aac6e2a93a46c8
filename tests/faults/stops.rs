//! SIGTERM under load, rolling restarts, and a worker that stands still for longer than its lease.

use std::time::{Duration, Instant};

use go_queue_tests::Process;

use crate::site::Site;

#[test]
fn sigterm_under_load_finishes_what_runs_and_repeats_nothing() {
    let mut site = Site::new("sigterm", "");
    let mut producer = site.tasks("t", 2000, 0, 40_000);
    producer.wait_success(Duration::from_secs(60));
    for _ in 0..8 {
        let finished = site.ledger.finished_so_far();
        let mut worker = site.ready_worker();
        site.until("the worker works", |ledger| {
            ledger.finished_so_far() > finished + 20
        });
        worker.terminate();
        worker.wait_success(Duration::from_secs(30));
    }
    let mut last = [site.ready_worker()];
    let report = site.settle(&mut last);
    report.assert_kept();
    // Whatever ran when the signal came was allowed to finish; whatever had not started went back uncounted.
    assert_eq!((report.repeated, report.returned), (0, 0), "{report}");
    assert_eq!(report.highest_attempt, 1, "{report}");
}

#[test]
fn sigterm_while_the_start_hooks_run_stops_in_order_too() {
    let mut site = Site::new("slow-start", "");
    let mut producer = site.tasks("t", 400, 0, 40_000);
    producer.wait_success(Duration::from_secs(60));
    for _ in 0..3 {
        let finished = site.ledger.finished_so_far();
        let mut worker = site.slow_worker("60000");
        site.until("it works although it has not started", |ledger| {
            ledger.finished_so_far() > finished + 20
        });
        worker.terminate();
        worker.wait_success(Duration::from_secs(30));
    }
    let mut last = [site.ready_worker()];
    let report = site.settle(&mut last);
    report.assert_kept();
    assert_eq!(
        (report.repeated, report.highest_attempt),
        (0, 1),
        "{report}"
    );
}

#[test]
fn what_does_not_finish_before_the_deadline_goes_back_at_once_and_uncounted() {
    let mut site = Site::new(
        "deadline",
        "shutdown: { deadline: 300ms }\nhandlers: { work: { timeout: none, lease: 60s } }\n",
    );
    // Longer than the deadline by far, shorter than the lease by far.
    let mut producer = site.tasks("t", 24, 0, 4_000_000);
    producer.wait_success(Duration::from_secs(60));
    let mut worker = site.ready_worker();
    site.until("the first are running", |ledger| started(ledger) >= 16);
    let began = Instant::now();
    worker.terminate();
    let status = worker.wait(Duration::from_secs(30));
    assert_eq!(
        status.code(),
        Some(3),
        "deadline passed and work handed back:\n{}",
        worker.log()
    );
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "the deadline is 300 ms, this took {:?}",
        began.elapsed()
    );

    let mut next = [site.ready_worker()];
    let report = site.settle_within(&mut next, Duration::from_secs(40));
    report.assert_kept();
    assert!(report.returned > 0 && report.doubled == 0, "{report}");
    assert_eq!(
        report.highest_attempt, 1,
        "an abort is not an attempt\n{report}"
    );
}

fn started(ledger: &go_queue_tests::Ledger) -> usize {
    let start =
        |event: &go_queue_tests::Event| matches!(event.what, go_queue_tests::What::Start(..));
    ledger.events().iter().filter(|event| start(event)).count()
}

#[test]
fn rolling_restarts_under_load_repeat_nothing() {
    let mut site = Site::new("rolling", "");
    let mut workers = [site.ready_worker(), site.ready_worker()];
    let mut producer = site.stream("t", 16, 300, 10_000);
    for round in 0..10 {
        let finished = site.ledger.finished_so_far();
        site.until("some work", |ledger| {
            ledger.finished_so_far() > finished + 100
        });
        let worker = &mut workers[round % 2];
        worker.terminate();
        worker.wait_success(Duration::from_secs(30));
        *worker = site.worker();
    }
    producer.terminate();
    producer.wait_success(Duration::from_secs(30));
    let report = site.settle(&mut workers);
    report.assert_kept();
    assert_eq!(
        (report.repeated, report.highest_attempt),
        (0, 1),
        "{report}"
    );
}

/// A process that stands still with the write lock in its hand holds up everybody, whatever we do: then it goes on for a
/// moment and is stopped again.
fn stop_outside_of_a_transaction(site: &mut Site, sleeper: &mut Process) {
    for round in 0..20 {
        sleeper.stop();
        let mut probe = site.tasks(&format!("probe{round}"), 1, 0, 0);
        let began = Instant::now();
        while probe.running() && began.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if !probe.running() && probe.wait(Duration::ZERO).success() {
            return;
        }
        sleeper.cont();
        probe.wait(Duration::from_secs(60));
    }
    unreachable!("it cannot have the lock twenty times in a row");
}

#[test]
fn a_worker_that_stood_still_beyond_its_lease_settles_nothing_of_the_past() {
    let mut site = Site::new(
        "stopped",
        "handlers: { work: { lease: 2s, retry: { backoff: 1ms..10ms } } }\n",
    );
    let mut sleeper = site.ready_worker();
    let mut producer = site.tasks("t", 200, 0, 200_000);
    producer.wait_success(Duration::from_secs(60));
    site.until("the first worker works", |ledger| {
        ledger.finished_so_far() > 10
    });
    stop_outside_of_a_transaction(&mut site, &mut sleeper);
    let other = site.ready_worker();
    // All of them, also those that the stopped one had in hand: its leases end.
    site.until("the other has done the rest", |ledger| {
        ledger.finished_so_far() >= ledger.accepted_so_far()
    });
    sleeper.cont();
    let report = site.settle(&mut [sleeper, other]);
    report.assert_kept();
    assert!(
        report.repeated > 0,
        "nothing was in hand when it was stopped\n{report}"
    );
}
