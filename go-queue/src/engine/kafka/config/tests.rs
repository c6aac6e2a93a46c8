use super::*;
use crate::engine::Start;

use rdkafka::config::ClientConfig;

fn why(change: impl FnOnce(&mut Config)) -> String {
    let mut config = Config::new(["a:1", "b:2"]);
    change(&mut config);
    config.check().expect_err("it cannot be opened").to_string()
}

fn member() -> Member<'static> {
    Member {
        group: "billing",
        topic: "orders",
        start: Start::First,
        index: 1,
        partitions: 8,
    }
}

/// What librdkafka has, defaults included; fails if it does not know a setting or its value.
fn taken(settings: &ClientConfig, name: &str) -> String {
    let native = settings.create_native_config().expect("settings are good");
    native.get(name).expect("a setting")
}

fn one(name: &str) -> Vec<(Arc<str>, Secret)> {
    vec![(Arc::from(name), Secret::new("1"))]
}

#[test]
fn what_cannot_be_is_said() {
    Config::new(["a:1", "[::1]:2"]).check().expect("good");
    for (text, part) in [
        (why(|c| c.brokers.clear()), "no broker is named"),
        (why(|c| c.brokers.push("a:1".into())), "named twice"),
        (why(|c| c.brokers.push("a".into())), "host:port"),
        (why(|c| c.brokers.push("a:1,b:1".into())), "host:port"),
        (why(|c| c.brokers.push("SSL://a:1".into())), "host:port"),
        (why(|c| c.brokers.push(":1".into())), "host:port"),
        (why(|c| c.brokers.push("a:0".into())), "host:port"),
        (why(|c| c.session = Duration::ZERO), "`session`"),
        (
            why(|c| c.max_poll_interval = Duration::from_secs(10)),
            "shorter than `session`",
        ),
        (
            why(|c| c.commit_interval = Duration::ZERO),
            "`commit_interval`",
        ),
        (
            why(|c| c.connect_timeout = Duration::ZERO),
            "`connect_timeout`",
        ),
        (why(|c| c.memory = 1), "`memory`"),
        (why(|c| c.fetch.max = 0), "`fetch.max`"),
        (
            why(|c| {
                let fetch = Fetch {
                    min: 0,
                    ..Fetch::default()
                };
                c.fetches.insert(Name::literal("t"), fetch);
            }),
            "`fetch.min`",
        ),
        (
            why(|c| c.producer.linger = Duration::from_secs(60)),
            "every record would be late",
        ),
        (why(|c| c.producer.queue_bytes = 1), "queue_bytes"),
        (why(|c| c.dead_suffix = "".into()), "dead_suffix"),
        (why(|c| c.dead_suffix = " dead".into()), "dead_suffix"),
        (
            why(|c| {
                c.create_topics = Some(CreateTopics {
                    partitions: 0,
                    replication: None,
                });
            }),
            "between 1 and",
        ),
        (
            why(|c| {
                c.create_topics = Some(CreateTopics {
                    partitions: 1,
                    replication: Some(0),
                });
            }),
            "at least 1 broker",
        ),
        (
            why(|c| c.properties = one("enable.auto.commit")),
            "records are lost",
        ),
        (
            why(|c| c.producer.properties = one("acks")),
            "all replicas in sync",
        ),
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn every_reserved_setting_is_one_that_the_client_knows() {
    for (name, _) in CONSUMER_RESERVED.iter().chain(PRODUCER_RESERVED) {
        let error = ClientConfig::new()
            .set(*name, "\u{1}")
            .create_native_config()
            .err();
        // What loads plugins is known only where the client can.
        let unknown = *name != "plugin.library.paths"
            && error.is_some_and(|error| error.to_string().contains("No such"));
        assert!(!unknown, "{name}");
    }
}

#[test]
fn a_consumer_commits_only_what_it_was_told_to() {
    let settings = Config::new(["a:1"]).consumer_settings(&member());
    for (name, value) in [
        ("bootstrap.servers", "a:1"),
        ("client.id", "go-queue-1"),
        ("group.id", "billing"),
        ("enable.auto.commit", "true"),
        ("enable.auto.offset.store", "false"),
        ("auto.commit.interval.ms", "1000"),
        ("auto.offset.reset", "smallest"),
        ("isolation.level", "read_committed"),
        ("fetch.queue.backoff.ms", "2"),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("session.timeout.ms", "45000"),
        ("heartbeat.interval.ms", "3000"),
        ("max.poll.interval.ms", "300000"),
        ("queued.max.messages.kbytes", "8192"),
    ] {
        assert_eq!(taken(&settings, name), value, "{name}");
    }
    assert_eq!(settings.get("group.instance.id"), None);
}

#[test]
fn the_memory_of_an_end_is_divided_by_the_partitions() {
    let config = Config::new(["a:1"]);
    let queue = |partitions| {
        let settings = config.consumer_settings(&Member {
            partitions,
            ..member()
        });
        let number = |name| taken(&settings, name).parse::<usize>().expect("a number");
        (
            number("queued.max.messages.kbytes"),
            number("max.partition.fetch.bytes"),
        )
    };
    assert_eq!(queue(1), (65_536, 1 << 20));
    assert_eq!(queue(64), (1024, 512 << 10));
    // A floor, so that a topic of very many partitions moves at all.
    assert_eq!(queue(100_000), (256, 64 << 10));

    let records = |partitions| {
        let settings = config.consumer_settings(&Member {
            partitions,
            ..member()
        });
        taken(&settings, "queued.min.messages")
            .parse::<usize>()
            .expect("a number")
    };
    assert_eq!(
        [1, 8, 80, 8000].map(records),
        [100_000, 100_000, 10_000, 1000]
    );
}

#[test]
fn settings_are_those_of_the_group_protocol() {
    let mut config = Config::new(["a:1"]);
    config.session = Duration::from_secs(6);
    config.protocol = GroupProtocol::Classic {
        strategy: Strategy::Range,
    };
    let classic = config.consumer_settings(&member());
    assert_eq!(taken(&classic, "partition.assignment.strategy"), "range");
    assert_eq!(taken(&classic, "heartbeat.interval.ms"), "2000");

    config.protocol = GroupProtocol::Consumer;
    let consumer = config.consumer_settings(&member());
    assert_eq!(taken(&consumer, "group.protocol"), "consumer");
    // The client refuses these together with that protocol.
    for name in [
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "partition.assignment.strategy",
    ] {
        assert_eq!(consumer.get(name), None, "{name}");
    }
}

#[test]
fn every_end_is_a_static_member_of_its_own() {
    let mut config = Config::new(["a:1"]);
    config.instance_id = Some("pod-3".into());
    let settings = config.consumer_settings(&member());
    assert_eq!(settings.get("group.instance.id"), Some("pod-3.orders.1"));
}

#[test]
fn a_producer_waits_for_all_replicas() {
    let mut config = Config::new(["a:1"]);
    config.producer.linger = Duration::from_micros(500);
    let settings = config.producer_settings();
    for (name, value) in [
        ("acks", "-1"),
        ("enable.idempotence", "true"),
        ("partitioner", "murmur2_random"),
        ("linger.ms", "0.5"),
        ("compression.type", "none"),
        ("message.timeout.ms", "30000"),
        ("queue.buffering.max.messages", "200000"),
        ("sticky.partitioning.linger.ms", "1"),
    ] {
        assert!(
            taken(&settings, name).starts_with(value),
            "{name}: {}",
            taken(&settings, name)
        );
    }
    let limit: usize = taken(&settings, "message.max.bytes")
        .parse()
        .expect("a number");
    assert!(limit > MAX_RECORD_LEN, "the largest record fits");
}

#[test]
fn a_producer_without_numbers_on_batches_sends_one_at_a_time() {
    let mut config = Config::new(["a:1"]);
    config.producer.idempotent = false;
    let settings = config.producer_settings();
    assert_eq!(
        taken(&settings, "max.in.flight.requests.per.connection"),
        "1"
    );
    assert_eq!(taken(&settings, "acks"), "-1");
}

#[test]
fn properties_come_last_and_are_never_shown() {
    let mut config = Config::new(["a:1"]);
    config.properties = vec![("fetch.max.bytes".into(), Secret::new("2000000"))];
    config.producer.properties = vec![("sasl.password".into(), Secret::new("hunter2"))];
    config.check().expect("good");
    let settings = config.consumer_settings(&member());
    assert_eq!(taken(&settings, "fetch.max.bytes"), "2000000");
    assert_eq!(
        config.producer_settings().get("sasl.password"),
        Some("hunter2")
    );
    let shown = format!("{config:?} {:?}", config.producer_settings());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn security_becomes_the_protocol_of_the_client() {
    let sasl = Sasl {
        mechanism: SaslMechanism::Plain,
        username: "user".into(),
        password: Secret::new("hunter2"),
    };
    let mut config = Config::new(["a:1"]);
    config.security = Some(Security {
        tls: None,
        sasl: Some(sasl.clone()),
    });
    config.check().expect("plain needs no TLS");
    let settings = config.producer_settings();
    assert_eq!(settings.get("security.protocol"), Some("sasl_plaintext"));
    assert_eq!(settings.get("sasl.mechanism"), Some("PLAIN"));
    assert_eq!(settings.get("sasl.username"), Some("user"));
    assert_eq!(settings.get("sasl.password"), Some("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));

    config.security = Some(Security {
        tls: Some(Tls::default()),
        sasl: Some(sasl),
    });
    let settings = config.producer_settings();
    assert_eq!(settings.get("security.protocol"), Some("sasl_ssl"));
}

#[test]
fn what_needs_openssl_is_refused_without_it() {
    let tls = Security {
        tls: Some(Tls::default()),
        sasl: None,
    };
    let scram = Security {
        tls: None,
        sasl: Some(Sasl {
            mechanism: SaslMechanism::ScramSha512,
            username: "user".into(),
            password: Secret::new("x"),
        }),
    };
    for (security, what) in [(tls, "TLS"), (scram, "SCRAM-SHA-512")] {
        let text = security.needs_tls(false).expect("it needs it");
        assert!(
            text.starts_with(what) && text.contains("kafka-tls"),
            "{text}"
        );
        assert_eq!(security.needs_tls(true), None);
    }
}

#[cfg(feature = "kafka-tls")]
#[test]
fn a_file_that_cannot_be_read_is_named() {
    let text = why(|c| {
        c.security = Some(Security {
            tls: Some(Tls {
                ca_file: Some("/nowhere/ca.pem".into()),
                ..Tls::default()
            }),
            sasl: None,
        });
    });
    assert!(
        text.contains("`ca_file`: /nowhere/ca.pem cannot be read"),
        "{text}"
    );
}

#[test]
fn a_dead_letter_topic_is_named_after_its_source() {
    let config = Config::new(["a:1"]);
    let dead = config.dead_topic(&Name::literal("orders")).expect("a name");
    assert_eq!(dead.as_str(), "orders-dlt");
    assert_eq!(config.source_of("orders-dlt"), Some("orders"));
    assert_eq!(config.source_of("orders"), None);
    assert_eq!(config.source_of("-dlt"), None);
    let long = Name::new(&"x".repeat(198)).expect("a name");
    let error = config.dead_topic(&long).expect_err("too long").to_string();
    assert!(error.contains("shorter name"), "{error}");
}
