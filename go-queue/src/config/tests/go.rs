//! YAML written for the Go library.

use std::time::Duration;

use super::{good, load, remarks};
use crate::config::{Config, EngineKind, Shape, Wire};
use crate::engine::Start;
use crate::handler::{Options, Source};
use crate::name::{Name, Place};

const ORDERS: Source = Source::Topics {
    topics: &["orders"],
    group: None,
};

fn settings(config: &Config, source: Source, attribute: &Options) -> crate::config::Settings {
    let shape = Shape {
        path: "app::charge",
        source,
        batch: false,
        claims: false,
        attribute,
    };
    config.settings(&shape, None).expect("good")
}

#[test]
fn a_file_of_the_go_library_for_topics_is_read_as_it_is() {
    let config = good(
        "Name: Order Worker\nBrokers:\n  - 10.0.0.5:9092\nGroup: billing\nTopic: orders\nOffset: first\nConns: 2\nConsumers: 8\nProcessors: 16\n\
         MinBytes: 10240\nMaxBytes: 10485760\nForceCommit: true\nTelemetry: { Endpoint: x }\n",
    );
    assert_eq!(&*config.name.value, "Order-Worker");
    let place = Place::Topic(Name::literal("orders"));
    assert_eq!(
        config.engine_for(&place).map(|choice| choice.kind),
        Ok(EngineKind::Kafka)
    );
    let attribute = Options::NONE.with_concurrency(3).with_offset(Start::Last);
    let found = settings(&config, ORDERS, &attribute);
    assert_eq!(
        (found.concurrency.value, found.offset.value),
        (32, Start::First)
    );
    assert_eq!(found.concurrency.origin.to_string(), "app.yaml:9");
    assert_eq!(found.group.value.as_deref(), Some("billing"));
    assert_eq!(
        config.go_sections[0]
            .min_bytes
            .as_ref()
            .map(|given| given.value),
        Some(10240)
    );
    assert_eq!(
        remarks(&config),
        [
            "app.yaml:13:1: telemetry: not honoured, nothing here corresponds to it",
            "app.yaml:1:1: name: as the name of this service it is `Order-Worker`",
            "app.yaml:9:1: processors: concurrency is 32: `Processors` times `Conns`",
            "app.yaml:8:1: consumers: not needed: one subscription fetches for all handlers",
            "app.yaml:12:1: force_commit: not honoured: a message that failed is retried, then goes to the dead letters, and is never passed \
             over",
        ]
    );
    assert_eq!(config.unserved_sections(&[ORDERS]), []);
}

#[test]
fn what_the_go_library_assumes_is_kept_and_said() {
    let config =
        good("Worker: { Brokers: [a:1], Group: g, Topic: orders }\ndq: { engine: sqlite }\n");
    let found = settings(&config, ORDERS, &Options::NONE);
    assert_eq!(
        (found.concurrency.value, found.offset.value),
        (8, Start::Last)
    );
    let said = remarks(&config);
    assert!(
        said.iter()
            .any(|text| text.contains("begins at the end, as in the Go library")),
        "{said:?}"
    );
    assert!(
        said.iter()
            .any(|text| text.contains("concurrency is 8, as in the Go library")),
        "{said:?}"
    );
}

#[test]
fn a_file_of_the_go_library_for_tasks_is_read_as_it_is() {
    for text in [
        "Beanstalks:\n  - Endpoint: a:1\n    Tube: mail\n  - Endpoint: b:1\n    Tube: mail\nRedis: { Host: \"r:6379\", Type: node, Pass: pw, Tls: true, NonBlock: true }\n",
        "dq:\n  Beanstalks:\n    - { Endpoint: a:1, Tube: mail }\n    - { Endpoint: b:1, Tube: mail }\n  Redis: { Host: \"r:6379\", Tls: true, NonBlock: true }\n",
        "MailQueue:\n  beanstalks: [{ endpoint: a:1, tube: mail }, { endpoint: b:1, tube: mail }]\n  redis: { host: \"r:6379\", tls: true, non_block: true }\n",
    ] {
        let config = good(text);
        let mail = Name::literal("mail");
        let place = Place::Tube(mail.clone());
        assert_eq!(
            config.engine_for(&place).map(|choice| choice.kind),
            Ok(EngineKind::Beanstalkd)
        );
        assert_eq!(
            config.tube(&mail).map(crate::config::TubeConfig::wire),
            Some(Wire::GoQueue)
        );
        let redis = config.dq.redis.as_ref().expect("given");
        assert_eq!(&*redis.host.value[0].value, "r:6379");
        assert_eq!(redis.timeout(), Duration::from_millis(250));
        let said = remarks(&config).join("\n");
        for part in [
            "mixed_fleet: true",
            "the Go library does not verify it",
            "nothing waits for Redis",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert_eq!(config.unserved_sections(&[Source::Tube("mail")]), []);
    }
}

#[test]
fn several_sections_may_stand_side_by_side() {
    let config = good(
        "Name: svc\nLog: { Mode: console }\nMode: pro\n\
         Orders: { Brokers: [a:1], Group: g, Topic: orders, Processors: 3, Offset: last }\n\
         Clicks: { Brokers: [a:1], Group: g, Topic: clicks, Processors: 5, Offset: last }\n\
         Mail: { Beanstalks: [{ Endpoint: b:1, Tube: mail }] }\n\
         handlers: { charge: { timeout: 5s } }\n",
    );
    assert_eq!(&*config.name.value, "svc");
    assert_eq!(config.go_sections.len(), 3);
    let clicks = Source::Topics {
        topics: &["clicks"],
        group: Some("g"),
    };
    assert_eq!(
        settings(&config, clicks, &Options::NONE).concurrency.value,
        5
    );
    let other = Source::Topics {
        topics: &["clicks"],
        group: Some("other"),
    };
    assert_eq!(
        settings(&config, other, &Options::NONE).concurrency.value,
        1000
    );
    let said = remarks(&config).join("\n");
    assert!(
        said.contains("app.yaml:2:1: Log: not honoured in the form of the Go library"),
        "{said}"
    );
    assert!(said.contains("app.yaml:3:1: Mode: not honoured"), "{said}");
    let unserved: Vec<_> = config
        .unserved_sections(&[ORDERS, Source::Tube("post")])
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        unserved,
        [
            "app.yaml:5:9: Clicks: no handler consumes topic `clicks` in group `g`; handlers consume: orders",
            "app.yaml:6:7: Mail: no handler consumes tube `mail`; handlers consume: post",
        ]
    );
}

#[test]
fn a_handler_of_our_own_section_is_above_a_section_of_the_go_library() {
    let config = good(
        "Orders: { Brokers: [a:1], Group: g, Topic: orders, Processors: 3, Offset: last }\nhandlers: { charge: { concurrency: 9 } }\n",
    );
    let shape = Shape {
        path: "app::charge",
        source: ORDERS,
        batch: false,
        claims: false,
        attribute: &Options::NONE,
    };
    let found = config
        .settings(&shape, config.handlers.first())
        .expect("good");
    assert_eq!(
        (found.concurrency.value, found.offset.value),
        (9, Start::Last)
    );
}

#[test]
fn unknown_keys_warn_inside_of_such_a_section_and_are_errors_elsewhere() {
    let config =
        good("Orders: { Brokers: [a:1], Group: g, Topic: orders, Procesors: 3, Offset: last }\n");
    let said = remarks(&config).join("\n");
    assert!(
        said.contains(
            "app.yaml:1:52: Orders.Procesors: unknown key, ignored; did you mean `processors`?"
        ),
        "{said}"
    );
    let report = load("Orders: { Brokers: [a:1], Group: g, Topic: orders }\nMysql: { Host: x }\n")
        .expect_err("unknown");
    assert!(
        report.starts_with("app.yaml:2:1: Mysql: unknown key"),
        "{report}"
    );
}

#[test]
fn what_cannot_be_one_process_is_refused() {
    for (text, want) in [
        (
            "Beanstalks: [{ Endpoint: a:1, Tube: x }, { Endpoint: b:1, Tube: y }]\nRedis: { Host: \"r:1\" }\n",
            "app.yaml:1:65: beanstalks[1].tube: `y` is another tube than `x` above; all nodes of a section hold the same tube; write a section \
             for each tube",
        ),
        (
            "A: { Brokers: [a:1], Group: g, Topic: x }\nB: { Brokers: [b:1], Group: g, Topic: y }\n",
            "app.yaml:2:15: B.brokers: names other servers than line 1 does; one process talks to one cluster: name the same servers, or run two",
        ),
        (
            "A: { Brokers: [a:1], Group: g, Topic: x, Username: u }\n",
            "app.yaml:1:4: A: user and password belong together; give both `Username` and `Password`, or none",
        ),
        (
            "A: { Brokers: [], Group: g, Topic: x }\n",
            "app.yaml:1:15: A.brokers: is empty; name at least one broker, or remove the key",
        ),
        (
            "A: { Brokers: [a:1], Topic: x }\n",
            "app.yaml:1:4: A: the group is missing; add `Group: ..`",
        ),
        (
            "A: { Beanstalks: [{ Endpoint: a:1 }] }\n",
            "app.yaml:1:19: A.beanstalks[0]: the tube is missing; add `Tube: ..`",
        ),
        (
            "A: { Beanstalks: [{ Endpoint: a:1, Tube: x }], Redis: { Host: \"r:1\" } }\nB: { Beanstalks: [{ Endpoint: a:1, Tube: y }], Redis: { Host: \"s:1\" } }\n",
            "app.yaml:2:63: B.redis.host: names another Redis than line 1 does; one process has one dedup store: name the same one, or run two",
        ),
    ] {
        assert_eq!(load(text).expect_err(text), want);
    }
}

#[test]
fn our_own_sections_are_never_taken_for_theirs() {
    let config = good(
        "topics: { brokers: {}, topic: {} }\ntubes: { beanstalks: {} }\ndq: { beanstalks: [{ endpoint: a:1 }] }\n",
    );
    assert!(config.go_sections.is_empty());
    assert_eq!(
        (
            config.topics.len(),
            config.tubes.len(),
            config.dq.beanstalks.len()
        ),
        (2, 1, 1)
    );
}

#[test]
fn a_password_of_such_a_section_is_never_shown() {
    let config = good(
        "A: { Brokers: [a:1], Group: g, Topic: x, Username: u, Password: c4n4ry, CaFile: /ca.pem }\n\
         B: { Beanstalks: [{ Endpoint: a:1, Tube: x }], Redis: { Host: \"r:1\", Pass: c4n4ry } }\n",
    );
    let shown = format!("{config:?} {:?} {:?}", config.effective(), remarks(&config));
    assert!(!shown.contains("c4n4ry"), "{shown}");
    assert!(config.kq.security.expect("given").tls());
}
