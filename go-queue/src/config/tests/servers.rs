//! What is said of beanstalkd and Redis.

use std::time::Duration;

use super::{good, load, remarks};
use crate::config::{AtStart, Given, OnOutage, RedisKind};
use crate::name::Name;

#[test]
fn redis_behind_sentinels_is_read() {
    let config = good(
        "dq: { beanstalks: [a:1, b:1], lease: 10s, at_start: wait, connect_timeout: 2s, redis: { host: [\"s:1\", \"s:2\"], type: sentinel, master: main, \
         sentinel_user: u, sentinel_pass: p, prefix: \"shop:\", lease: 5s, connect_timeout: 300ms } }\nkq: { engine: memory }\n",
    );
    let dq = &config.dq;
    assert_eq!(
        (dq.lease(), dq.connect_timeout(), dq.at_start()),
        (
            Duration::from_secs(10),
            Duration::from_secs(2),
            AtStart::Wait
        )
    );
    let redis = dq.redis.as_ref().expect("given");
    assert_eq!(redis.kind(), RedisKind::Sentinel);
    let text = |given: &Option<Given<std::sync::Arc<str>>>| {
        given.as_ref().map(|given| given.value.to_string())
    };
    assert_eq!(text(&redis.master).as_deref(), Some("main"));
    assert_eq!(text(&redis.sentinel_user).as_deref(), Some("u"));
    let pass = redis.sentinel_pass.as_ref().expect("given");
    assert_eq!(pass.value.expose(), "p");
    assert_eq!(
        (redis.prefix(), redis.lease(), redis.connect_timeout()),
        ("shop:", Duration::from_secs(5), Duration::from_millis(300))
    );
}

#[test]
fn a_tube_says_of_dedup_only_what_is_different() {
    let config = good(
        "dq: { dedup: { keep: 1h, on_outage: run } }\ntubes: { mail: { dedup: { keep: 2h } }, log: { dedup: { on_outage: hold } } }\n",
    );
    let of = |tube| config.tube_dedup(&Name::literal(tube)).expect("given");
    assert_eq!(of("mail").keep(), Duration::from_secs(7200));
    assert_eq!(of("mail").on_outage(), OnOutage::Run);
    assert_eq!(of("log").keep(), Duration::from_secs(3600));
    assert_eq!(of("log").on_outage(), OnOutage::Hold);
    assert_eq!(of("other").keep(), Duration::from_secs(3600));
}

#[test]
fn what_has_no_effect_on_this_engine_is_said() {
    let config = good(
        "dq: { replicas: 2, deadline: 1s, redis: { host: \"r:1\" } }\ntubes: { big: { portable: false } }\n",
    );
    assert_eq!(
        remarks(&config),
        [
            "app.yaml:1:17: dq.replicas: has no effect: no node is named in `dq.beanstalks`",
            "app.yaml:1:30: dq.deadline: has no effect: no node is named in `dq.beanstalks`",
            "app.yaml:1:49: dq.redis.host: has no effect: nothing keeps there what has run; write `dedup: { store: redis }` where it should",
        ]
    );
    let config = good(
        "dq: { beanstalks: [a:1] }\nkq: { engine: sqlite }\ntubes: { big: { portable: false } }\n",
    );
    assert_eq!(
        remarks(&config),
        [
            "app.yaml:3:27: tubes.big.portable: has no effect on beanstalkd: its jobs are held to 65,535 bytes whatever is written here",
        ]
    );
}

#[test]
fn what_does_not_go_together_in_redis_is_refused() {
    for (redis, want) in [
        (
            "type: sentinel",
            "app.yaml:1:22: dq.redis.type: the sentinels must be told which server is meant; add `master: NAME`, as in `sentinel monitor NAME`",
        ),
        (
            "master: m",
            "app.yaml:1:24: dq.redis.master: only sentinels use this; add `type: sentinel`, or remove it",
        ),
        (
            "type: cluster, db: 3",
            "app.yaml:1:35: dq.redis.db: a cluster has only database 0; remove `db`, and tell services apart with `prefix`",
        ),
        (
            "ca_file: /ca.pem",
            "app.yaml:1:25: dq.redis.ca_file: authorities are named, but TLS is off; add `tls: true`, or remove it",
        ),
        (
            "prefix: \"a b\"",
            "app.yaml:1:24: dq.redis.prefix: `a b` is not a prefix of keys; write 1 to 64 letters, digits, `.`, `_`, `-` and `:`",
        ),
        (
            "lease: 1ms",
            "app.yaml:1:23: dq.redis.lease: `1ms` is out of range; write a time from `300ms` to `1h`",
        ),
        (
            "timeout: 2h",
            "app.yaml:1:25: dq.redis.timeout: `2h` is out of range; write a time from `1ms` to `1m`",
        ),
    ] {
        let text = format!("dq: {{ redis: {{ {redis}, host: \"r:1\" }} }}\n");
        assert_eq!(load(&text).expect_err(redis), want);
    }
    let report = load("dq: { beanstalks: [a:1], lease: 2s }\n").expect_err("too short");
    assert_eq!(
        report,
        "app.yaml:1:33: dq.lease: `2s` is out of range; write a time from `3s` to `1day`"
    );
}

#[test]
fn what_has_no_effect_on_topics_is_said() {
    let config = good(
        "kq: { brokers: [\"a:1\"], replication: 3, protocol: consumer, session: 10s }\ndq: { engine: sqlite }\n",
    );
    assert_eq!(
        remarks(&config),
        [
            "app.yaml:1:38: kq.replication: has no effect without `create_topics: true`",
            "app.yaml:1:70: kq.session: has no effect with `protocol: consumer`: the brokers say it (`group.consumer.session.timeout.ms`)",
        ]
    );
}
