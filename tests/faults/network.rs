//! The network between workers and nodes: black holes, resets in the middle of an answer, lost answers, garbage.

use std::time::Duration;

use go_queue_tests::{Process, until};

use crate::cluster::{Cluster, Setup, rounds, stall};
use crate::site::PATIENCE;

fn proxied() -> Setup {
    Setup {
        proxied: true,
        ..Setup::default()
    }
}

/// Spoils the network of single nodes under load, and looks whether anything was lost or repeated.
#[track_caller]
fn under_load(name: &str, fault: impl Fn(&mut Cluster, usize)) {
    let Some(mut cluster) = Cluster::start(name, &proxied()) else {
        return;
    };
    let mut workers: [Process; 2] = [cluster.site.ready_worker(), cluster.site.ready_worker()];
    let mut producer = cluster.site.steady_stream("t", 4, 400, 10_000);
    for round in 0..rounds(4) {
        cluster.more_finished(50);
        fault(&mut cluster, round % 3);
        cluster.more_accepted(50);
        cluster.more_finished(50);
        cluster.proxies[round % 3].heal();
    }
    producer.terminate();
    producer.wait_success(Duration::from_secs(30));
    let report = cluster.site.settle(&mut workers);
    report.assert_kept();
    assert_eq!(report.repeated, 0, "{report}");
}

#[test]
fn a_node_in_a_black_hole_holds_nobody_up() {
    under_load("black-hole", |cluster, node| {
        cluster.proxies[node].black_hole();
        cluster.more_accepted(100);
        std::thread::sleep(stall().min(Duration::from_secs(3)));
    });
}

#[test]
fn a_connection_reset_in_the_middle_of_a_job_loses_nothing() {
    under_load("reset", |cluster, node| {
        let proxy = &cluster.proxies[node];
        proxy.reset_within(b"RESERVED ");
        until("the reset", PATIENCE, || !proxy.is_reset_ahead());
    });
}

#[test]
fn answers_that_never_come_lose_nothing() {
    under_load("swallowed", |cluster, node| {
        let proxy = &cluster.proxies[node];
        proxy.swallow_answers();
        until("lost answers", PATIENCE, || proxy.swallowed() > 100);
        proxy.reset_all();
    });
}

#[test]
fn a_node_that_answers_garbage_loses_nothing() {
    under_load("garbage", |cluster, node| {
        let proxy = &cluster.proxies[node];
        proxy.inject(b"\x00\xff?? RESERVED 1 99999999999\r\nOK\r\n");
        until("the garbage", PATIENCE, || !proxy.is_garbage_ahead());
    });
}

#[test]
fn a_node_that_is_cut_off_again_and_again_is_not_stormed() {
    let Some(mut cluster) = Cluster::start("storm", &proxied()) else {
        return;
    };
    let mut workers = [cluster.site.ready_worker()];
    let mut producer = cluster.site.steady_stream("t", 4, 0, 1000);
    cluster.more_finished(20);
    let before = cluster.proxies[0].tried();
    cluster.nodes[0].kill();
    cluster.proxies[0].reset_all();
    std::thread::sleep(Duration::from_secs(5));
    // A worker and a producer, with back-off from 50 ms to 2 s each: far less than a storm.
    let tries = cluster.proxies[0].tried() - before;
    cluster.nodes[0].restart();
    producer.terminate();
    producer.wait_success(Duration::from_secs(30));
    let report = cluster.site.settle(&mut workers);
    report.assert_kept();
    assert!(tries < 150, "{tries} connections in five seconds");
}
