//! Workers on three nodes and Redis: killed, ended under load, slower than their lease.

use std::time::{Duration, Instant};

use go_queue_tests::Killer;

use crate::cluster::{Cluster, ENDURING, Setup};
use crate::site::from_environment;

/// What one worker runs at a time, as its attribute says.
const CONCURRENCY: usize = 16;

#[test]
fn workers_on_three_nodes_killed_at_random_points_lose_nothing() {
    let setup = Setup {
        extra: ENDURING,
        ..Setup::default()
    };
    let Some(mut cluster) = Cluster::start("cluster-kills", &setup) else {
        return;
    };
    let kills = from_environment("GO_QUEUE_TEST_KILLS", 100);
    let tasks = 60 * kills;
    let mut killer = Killer::new();
    let mut workers = [cluster.site.ready_worker(), cluster.site.ready_worker()];
    cluster
        .site
        .tasks("backlog", tasks as u64 / 2, 2000, 15_000)
        .wait_success(Duration::from_secs(600));
    let mut producer = cluster.site.stream("stream", 4, 500, 15_000);
    for _ in 0..kills {
        let dead = killer.kill_one(&mut workers, Duration::ZERO..Duration::from_millis(160));
        workers[dead] = cluster.site.worker();
    }
    cluster
        .site
        .until("enough tasks", |ledger| ledger.accepted_so_far() >= tasks);
    producer.terminate();
    producer.wait_success(Duration::from_secs(30));

    let report = cluster.site.settle(&mut workers);
    report.assert_kept();
    assert!(
        report.kills >= kills && report.accepted >= tasks,
        "{report}"
    );
    assert!(
        report.interrupted > kills / 10,
        "the kills hit nobody at work\n{report}"
    );
    assert!(report.repeated <= kills * 2 * CONCURRENCY, "{report}");
    assert!(report.doubled <= kills * CONCURRENCY, "{report}");
}

#[test]
fn a_worker_killed_on_a_single_node_without_redis_loses_nothing() {
    let setup = Setup {
        nodes: 1,
        dq: "dedup: off,",
        extra: ENDURING,
        ..Setup::default()
    };
    let Some(mut cluster) = Cluster::start("node-kills", &setup) else {
        return;
    };
    let kills = from_environment("GO_QUEUE_TEST_KILLS", 100).div_ceil(4);
    let mut killer = Killer::new();
    let mut workers = [cluster.site.ready_worker(), cluster.site.ready_worker()];
    let mut producer = cluster.site.stream("stream", 4, 500, 15_000);
    for _ in 0..kills {
        let dead = killer.kill_one(&mut workers, Duration::ZERO..Duration::from_millis(160));
        workers[dead] = cluster.site.worker();
    }
    producer.terminate();
    producer.wait_success(Duration::from_secs(30));
    let report = cluster.site.settle(&mut workers);
    report.assert_kept();
    assert!(
        report.interrupted > kills / 10,
        "the kills hit nobody at work\n{report}"
    );
    assert!(report.repeated <= kills * 2 * CONCURRENCY, "{report}");
}

#[test]
fn sigterm_under_load_hands_back_what_has_not_started_at_once_and_uncounted() {
    let Some(mut cluster) = Cluster::start("cluster-sigterm", &Setup::default()) else {
        return;
    };
    cluster
        .site
        .tasks("t", 1500, 0, 40_000)
        .wait_success(Duration::from_secs(60));
    for _ in 0..4 {
        let mut worker = cluster.site.ready_worker();
        cluster.more_finished(20);
        worker.terminate();
        worker.wait_success(Duration::from_secs(30));
    }
    let began = Instant::now();
    let mut last = [cluster.site.ready_worker()];
    let report = cluster.site.settle(&mut last);
    report.assert_kept();
    // Whatever ran when the signal came was allowed to finish; the rest went back, and nobody waited for the lease of a minute.
    assert_eq!(
        (report.repeated, report.returned, report.highest_attempt),
        (0, 0, 1),
        "{report}"
    );
    assert!(began.elapsed() < Duration::from_secs(40), "{report}");
}

#[test]
fn a_handler_that_takes_longer_than_the_leases_runs_once() {
    let setup = Setup {
        dq: "lease: 3s,",
        ..Setup::default()
    };
    let Some(mut cluster) = Cluster::start("long-handler", &setup) else {
        return;
    };
    // Two thirds of them last longer than the leases of the nodes and of Redis.
    cluster
        .site
        .tasks("t", 24, 0, 9_000_000)
        .wait_success(Duration::from_secs(60));
    let mut workers = [cluster.site.ready_worker(), cluster.site.ready_worker()];
    let report = cluster.site.settle(&mut workers);
    report.assert_kept();
    assert_eq!(
        (report.finished, report.repeated, report.highest_attempt),
        (24, 0, 1),
        "{report}"
    );
}
