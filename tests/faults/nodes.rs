//! beanstalkd nodes: killed, stopped, draining, all away, too small for a task.

use std::time::Duration;

use go_queue::engine::PublishError;
use go_queue::prelude::*;
use go_queue_tests::Killer;

use crate::cluster::{Cluster, Setup, rounds, stall};
use crate::site::PATIENCE;

/// Kills one of these nodes at a time while tasks are stored and run, and starts it again.
#[track_caller]
fn kill_nodes(name: &str, setup: &Setup, among: usize) {
    let Some(mut cluster) = Cluster::start(name, setup) else {
        return;
    };
    let mut killer = Killer::new();
    let mut workers = [cluster.site.ready_worker(), cluster.site.ready_worker()];
    let mut producer = cluster.site.steady_stream("t", 4, 400, 10_000);
    for _ in 0..rounds(5) {
        cluster.more_finished(50);
        std::thread::sleep(killer.time(Duration::ZERO..Duration::from_millis(300)));
        let victim = killer.choose(0..among);
        cluster.nodes[victim].kill();
        // The other two go on: that is what replicas are for.
        cluster.more_accepted(50);
        cluster.more_finished(50);
        cluster.nodes[victim].restart();
    }
    producer.terminate();
    producer.wait_success(Duration::from_secs(30));
    let report = cluster.site.settle(&mut workers);
    report.assert_kept();
    assert_eq!(report.repeated, 0, "{report}");
}

#[test]
fn nodes_with_a_binlog_killed_in_turn_lose_nothing() {
    let setup = Setup {
        binlog: true,
        ..Setup::default()
    };
    kill_nodes("binlog-kills", &setup, 3);
}

#[test]
fn a_node_without_a_binlog_killed_again_and_again_loses_nothing() {
    // Always the same: two that forget would be the loss that three replicas do not survive.
    kill_nodes("memory-kills", &Setup::default(), 1);
}

#[test]
fn a_node_that_stands_still_holds_nobody_up() {
    let Some(mut cluster) = Cluster::start("stopped-node", &Setup::default()) else {
        return;
    };
    let mut workers = [cluster.site.ready_worker(), cluster.site.ready_worker()];
    let mut producer = cluster.site.steady_stream("t", 4, 400, 10_000);
    cluster.more_finished(50);
    cluster.nodes[1].stop();
    cluster.more_accepted(100);
    cluster.more_finished(100);
    std::thread::sleep(stall());
    cluster.more_accepted(100);
    cluster.nodes[1].cont();
    cluster.more_finished(100);
    producer.terminate();
    producer.wait_success(Duration::from_secs(30));
    let report = cluster.site.settle(&mut workers);
    report.assert_kept();
    assert_eq!(report.repeated, 0, "{report}");
}

#[test]
fn a_draining_node_is_read_and_no_longer_written() {
    let Some(mut cluster) = Cluster::start("draining-node", &Setup::default()) else {
        return;
    };
    let mut producer = cluster.site.steady_stream("t", 4, 0, 0);
    cluster.more_accepted(50);
    cluster.nodes[2].drain();
    cluster.more_accepted(50);
    producer.terminate();
    producer.wait_success(Duration::from_secs(30));
    let jobs = cluster.nodes[2].alive("work");
    assert!(jobs > 0, "it had some from before");
    let mut workers = [cluster.site.ready_worker()];
    let report = cluster.site.settle(&mut workers);
    report.assert_kept();
    assert_eq!(report.repeated, 0, "{report}");
    assert_eq!(cluster.site.refused(), 0, "the other two took them");
    assert_eq!(cluster.nodes[2].alive("work"), 0);
}

#[test]
fn all_nodes_away_in_the_middle_refuse_and_lose_nothing() {
    let setup = Setup {
        binlog: true,
        ..Setup::default()
    };
    let Some(mut cluster) = Cluster::start("all-away", &setup) else {
        return;
    };
    let mut workers = [cluster.site.ready_worker(), cluster.site.ready_worker()];
    let mut producer = cluster.site.steady_stream("t", 4, 400, 10_000);
    for _ in 0..rounds(2) {
        cluster.more_finished(50);
        for node in &mut cluster.nodes {
            node.kill();
        }
        let refused = cluster.site.refused();
        cluster.site.until("producers hear no", |ledger| {
            ledger.marks("refused") > refused + 8
        });
        for node in &mut cluster.nodes {
            node.restart();
        }
        cluster.more_accepted(50);
    }
    producer.terminate();
    producer.wait_success(Duration::from_secs(30));
    let report = cluster.site.settle(&mut workers);
    report.assert_kept();
    assert_eq!(report.repeated, 0, "{report}");
}

#[test]
fn no_node_at_start_is_an_error_that_names_them() {
    let Some(mut cluster) = Cluster::start("none-at-start", &Setup::default()) else {
        return;
    };
    for node in &mut cluster.nodes {
        node.kill();
    }
    let mut worker = cluster.site.worker();
    let status = worker.wait(PATIENCE);
    let log = worker.log();
    assert_eq!(status.code(), Some(1), "{log}");
    for node in &cluster.nodes {
        assert!(log.contains(&node.endpoint()), "{log}");
    }
}

#[test]
fn no_node_at_start_is_waited_for_where_that_is_asked() {
    let setup = Setup {
        dq: "at_start: wait,",
        ..Setup::default()
    };
    let Some(mut cluster) = Cluster::start("waits-at-start", &setup) else {
        return;
    };
    for node in &mut cluster.nodes {
        node.kill();
    }
    let mut worker = cluster.site.worker();
    std::thread::sleep(Duration::from_secs(2));
    assert!(worker.running(), "{}", worker.log());
    for node in &mut cluster.nodes {
        node.restart();
    }
    cluster
        .site
        .until("the worker is ready", |ledger| ledger.marks("ready") == 1);
    cluster
        .site
        .tasks("t", 50, 0, 0)
        .wait_success(Duration::from_secs(60));
    cluster.site.settle(&mut [worker]).assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_the_nodes_find_too_large_is_a_typed_error() {
    const PLACE: Tube<String> = Tube::new("large");
    let setup = Setup {
        max_job_size: Some(1000),
        ..Setup::default()
    };
    let Some(cluster) = Cluster::start("too-large", &setup) else {
        return;
    };
    let producer = Producer::open(&*cluster.site.config)
        .await
        .expect("it opens");
    let error = PLACE
        .now("x".repeat(2000))
        .send(&producer)
        .await
        .expect_err("larger than the nodes take");
    assert!(
        matches!(error, PublishError::TooLarge { .. }),
        "{error:?}: {error}"
    );
    PLACE
        .now("x".repeat(100))
        .send(&producer)
        .await
        .expect("small enough");
    for node in &cluster.nodes {
        assert!(node.alive("large") <= 1, "nothing is left of the large one");
    }
    let error = PLACE.now("x".repeat(70_000)).send(&producer).await;
    let error = error.expect_err("larger than any node takes");
    assert!(matches!(error, PublishError::TooLarge { .. }), "{error:?}");
}
