//! Redis: killed, stopped, emptied, replaced by its replica, and in parts.

use std::time::Duration;

use go_queue_tests::{Process, Report};

use crate::claims::RedisSetup;
use crate::cluster::{Cluster, IN_HAND, Setup, assert_nothing_lost, rounds, stall};

/// A load of short tasks on two workers.
struct Load {
    workers: [Process; 2],
    producer: Process,
}

impl Load {
    fn on(cluster: &mut Cluster) -> Self {
        let workers = [cluster.site.ready_worker(), cluster.site.ready_worker()];
        let producer = cluster.site.steady_stream("t", 4, 400, 10_000);
        cluster.more_finished(50);
        Self { workers, producer }
    }

    #[track_caller]
    fn end(mut self, cluster: &mut Cluster) -> Report {
        self.producer.terminate();
        self.producer.wait_success(Duration::from_secs(30));
        cluster.site.settle(&mut self.workers)
    }
}

#[test]
fn redis_killed_and_started_again_with_what_it_knew_repeats_nothing() {
    let setup = Setup {
        durable_redis: true,
        ..Setup::default()
    };
    let Some(mut cluster) = Cluster::start("redis-kills", &setup) else {
        return;
    };
    let load = Load::on(&mut cluster);
    for _ in 0..rounds(4) {
        cluster.more_finished(50);
        cluster.redis.kill();
        // Unnamed tasks are stored without it.
        cluster.more_accepted(50);
        cluster.redis.restart();
        cluster.more_finished(50);
    }
    let report = load.end(&mut cluster);
    report.assert_kept();
    assert_eq!(report.repeated, 0, "{report}");
}

/// Lets Redis stand still under load, and counts.
#[track_caller]
fn stand_still(name: &str, lease: &'static str) -> Option<Report> {
    let setup = Setup {
        lease,
        ..Setup::default()
    };
    let mut cluster = Cluster::start(name, &setup)?;
    let load = Load::on(&mut cluster);
    cluster.redis.stop();
    cluster.more_accepted(100);
    std::thread::sleep(stall());
    cluster.redis.cont();
    cluster.more_finished(100);
    Some(load.end(&mut cluster))
}

#[test]
fn redis_that_stands_still_delays_tasks_and_repeats_nothing() {
    let Some(report) = stand_still("redis-stopped", "120s") else {
        return;
    };
    report.assert_kept();
    assert_eq!(report.repeated, 0, "{report}");
}

#[test]
fn redis_that_stands_still_for_longer_than_its_leases_repeats_only_what_was_in_hand() {
    let Some(report) = stand_still("redis-stopped-long", "1s") else {
        return;
    };
    assert_nothing_lost(&report);
    assert!(report.repeated <= IN_HAND, "{report}");
}

#[test]
fn redis_away_for_good_runs_tasks_where_that_is_asked() {
    let setup = Setup {
        dq: "dedup: { on_outage: run },",
        ..Setup::default()
    };
    let Some(mut cluster) = Cluster::start("redis-away", &setup) else {
        return;
    };
    let load = Load::on(&mut cluster);
    cluster.redis.kill();
    // Each up to three times: once for each replica.
    cluster.more_finished(200);
    let report = load.end(&mut cluster);
    assert_nothing_lost(&report);
}

#[test]
fn redis_emptied_under_load_loses_nothing_and_repeats_only_what_was_not_deleted_everywhere() {
    let Some(mut cluster) = Cluster::start("redis-flushed", &Setup::default()) else {
        return;
    };
    let load = Load::on(&mut cluster);
    let flushes = rounds(4);
    for _ in 0..flushes {
        cluster.more_finished(100);
        cluster.redis.command(&["FLUSHALL"]);
    }
    let report = load.end(&mut cluster);
    assert_nothing_lost(&report);
    assert!(report.repeated <= flushes * IN_HAND * 3, "{report}");
}

#[test]
fn redis_started_again_without_memory_loses_nothing() {
    let Some(mut cluster) = Cluster::start("redis-forgets", &Setup::default()) else {
        return;
    };
    let load = Load::on(&mut cluster);
    let restarts = rounds(3);
    for _ in 0..restarts {
        cluster.more_finished(100);
        cluster.redis.restart();
    }
    let report = load.end(&mut cluster);
    assert_nothing_lost(&report);
    assert!(report.repeated <= restarts * IN_HAND * 3, "{report}");
}

/// What the dead server had not told its replica is what may run again.
#[test]
fn a_sentinel_puts_the_replica_of_redis_in_its_place_and_nothing_is_lost() {
    let setup = Setup {
        redis: RedisSetup::Sentinel,
        ..Setup::default()
    };
    let Some(mut cluster) = Cluster::start("redis-sentinel", &setup) else {
        return;
    };
    let load = Load::on(&mut cluster);
    cluster.redis.kill();
    cluster.more_accepted(50);
    cluster.until_the_replica_leads();
    cluster.more_finished(200);
    let report = load.end(&mut cluster);
    assert_nothing_lost(&report);
    assert!(report.repeated <= IN_HAND * 3, "{report}");
}

/// While a part of a cluster is away the cluster says that it is down as a whole: everything waits, for longer than a short lease.
#[test]
fn a_part_of_a_redis_cluster_that_is_killed_delays_tasks_and_repeats_nothing() {
    let setup = Setup {
        redis: RedisSetup::Cluster,
        durable_redis: true,
        lease: "120s",
        ..Setup::default()
    };
    let Some(mut cluster) = Cluster::start("redis-cluster", &setup) else {
        return;
    };
    let load = Load::on(&mut cluster);
    for _ in 0..rounds(2) {
        cluster.redis.kill();
        cluster.more_accepted(50);
        cluster.redis.restart();
        cluster.more_finished(100);
    }
    let report = load.end(&mut cluster);
    report.assert_kept();
    assert_eq!(report.repeated, 0, "{report}");
}
