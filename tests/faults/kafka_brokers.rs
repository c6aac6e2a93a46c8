//! Brokers that are restarted, killed and replaced by another leader.

use std::time::{Duration, Instant};

use go_queue_tests::until;

use crate::cluster::{assert_nothing_lost, rounds};
use crate::kafka::{KafkaSetup, OnKafka, TOPIC};
use crate::site::PATIENCE;

#[test]
fn a_kafka_broker_that_is_restarted_and_killed_loses_nothing() {
    let Some(mut on) = OnKafka::start("kafka-broker", &KafkaSetup::default()) else {
        return;
    };
    let mut workers = [on.ready_worker(), on.ready_worker()];
    let mut producer = on.flow("k", 100, 400, 5000);
    on.more_finished(200);
    for round in 0..rounds(2) {
        if round % 2 == 0 {
            on.cluster.broker(1).terminate();
        } else {
            on.cluster.broker(1).kill();
        }
        on.cluster.broker(1).restart();
        on.more_finished(400);
    }
    producer.terminate();
    producer.wait_success(PATIENCE);
    let report = on.settle(&mut workers);
    // What was finished and could not be committed, because there was nobody to take it, may run again.
    assert_nothing_lost(&report);
    assert!(report.accepted > 800, "{report}");
}

#[test]
fn a_leader_of_kafka_partitions_that_dies_loses_nothing() {
    let setup = KafkaSetup {
        brokers: 3,
        ..KafkaSetup::default()
    };
    let Some(mut on) = OnKafka::start("kafka-leaders", &setup) else {
        return;
    };
    let mut workers = [on.ready_worker(), on.ready_worker()];
    let mut producer = on.flow("k", 100, 400, 5000);
    on.more_finished(200);
    for round in 0..rounds(2) {
        let leader = on.raw.leaders(TOPIC)[round % 8];
        on.cluster.broker(leader).kill();
        until("other leaders", Duration::from_secs(60), || {
            let leaders = on.raw.leaders(TOPIC);
            leaders.len() == 8 && leaders.iter().all(|one| *one > 0 && *one != leader)
        });
        on.more_finished(400);
        on.cluster.broker(leader).restart();
        on.raw.until_ready(TOPIC, 8, 3);
    }
    producer.terminate();
    producer.wait_success(PATIENCE);
    let report = on.settle(&mut workers);
    assert_nothing_lost(&report);
    assert!(report.accepted > 800, "{report}");
}

#[test]
fn a_worker_whose_kafka_brokers_are_wrong_says_so_and_ends() {
    let Some(mut on) = OnKafka::start("kafka-nobody", &KafkaSetup::default()) else {
        return;
    };
    on.cluster.broker(1).kill();
    let began = Instant::now();
    let mut worker = on.worker();
    let status = worker.wait(Duration::from_secs(60));
    let (log, endpoint) = (worker.log(), on.cluster.endpoints());
    assert!(!status.success(), "{log}");
    assert!(log.contains("kafka") && log.contains(&endpoint), "{log}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(30), "it took {took:?}:\n{log}");
}
