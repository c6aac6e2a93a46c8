//! Good files, in all their forms.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::{good, load, load_with};
use crate::config::{
    Config, ConfigErrors, DedupStore, Durability, EngineKind, LoadFrom, LogLevel, OnOutage, Wire,
};
use crate::engine::{Order, Start, TopicConfig};
use crate::handler::options::{Backoff, OnRetry, Timeout, Undecodable, Unmatched};
use crate::name::{Name, Place};

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn tube(text: &str) -> Place {
    Place::Tube(name(text))
}

fn topic(text: &str) -> Place {
    Place::Topic(name(text))
}

#[test]
fn nothing_is_a_configuration() {
    for text in [
        "",
        "\n\n",
        "# only a comment\n",
        "---\n",
        "~\n",
        "\u{feff}",
        "\u{feff}# x\n",
    ] {
        let config = good(text);
        let choice = config.engine_for(&tube("a")).expect("an engine");
        assert_eq!((choice.kind, choice.at), (EngineKind::Sqlite, None));
        assert_eq!(config.topic_config(&name("a")), TopicConfig::default());
        let file = format!("data/{}.db", config.name.value);
        assert_eq!(config.sqlite_path(), Path::new(&file));
    }
}

#[test]
fn an_empty_section_is_as_good_as_none() {
    let config = good("dq:\nkq:\ntubes:\ntopics:\nhandlers:\n  charge:\nadmin:\nlog: {}\n");
    assert_eq!(config.handlers.len(), 1);
    assert_eq!(config.effective(), good("").effective());
}

#[test]
fn keys_may_be_written_in_any_case() {
    for key in [
        "write_quorum",
        "WriteQuorum",
        "write-quorum",
        "WRITE_QUORUM",
        "writeQuorum",
    ] {
        for section in ["dq", "Dq", "DQ"] {
            let config = good(&format!("{section}: {{ {key}: 1 }}\n"));
            assert_eq!(
                config.dq.write_quorum.expect("given").value,
                1,
                "{section} {key}"
            );
        }
    }
}

#[test]
fn names_of_the_user_keep_their_case() {
    let config = good("tubes: { Mail: { wire: native }, mail: { portable: false } }\n");
    assert!(config.tube(&name("Mail")).expect("there").portable());
    assert!(!config.tube(&name("mail")).expect("there").portable());
}

#[test]
fn every_section_is_read() {
    let config = good(
        "name: billing\n\
         sqlite: { path: /x/y.db, durability: process, quota: 1.5GiB }\n\
         dq:\n  engine: sqlite\n  dedup: { store: memory, keep: 2h, on_outage: run }\n\
         kq: { engine: memory, group: g, offset: last }\n\
         tubes:\n  mail: { engine: memory, portable: no, dedup: off }\n\
         topics:\n  orders: { engine: sqlite, partitions: 32, retention: { age: none, size: 10GB, drop_unread: true }, dedup: { store: sqlite } }\n\
         handlers:\n  charge:\n    { concurrency: 512, waiting: 7, lanes: 2, order: partition, timeout: none, retry: { max: 3, backoff: 2s }, on_retry: dead_letter,\n      undecodable: retry, unmatched: skip, batch: 9, linger: 1ms, enabled: false, max_late: 1h, lease: 5s, priority: 7, rate: 6000/m, offset: last, group: other }\n\
         admin: { listen: \"[::1]:9090\" }\n\
         shutdown: { deadline: 1m, drain: 10s }\n\
         log: { level: Warn, format: json }\n",
    );
    assert_eq!(config.sqlite_path(), Path::new("/x/y.db"));
    assert_eq!(config.sqlite.durability(), Durability::Process);
    assert_eq!(config.sqlite.quota(), Some(3 << 29));
    let mail = config.tube_dedup(&name("mail")).expect("given");
    assert!(mail.is_off());
    let other = config.tube_dedup(&name("other")).expect("given");
    assert_eq!(
        other.store.as_ref().map(|g| g.value),
        Some(DedupStore::Memory)
    );
    assert_eq!(other.keep(), Duration::from_secs(7200));
    assert_eq!(other.on_outage(), OnOutage::Run);
    let kind = |place: &Place| config.engine_for(place).map(|choice| choice.kind);
    assert_eq!(kind(&tube("mail")), Ok(EngineKind::Memory));
    assert_eq!(kind(&tube("other")), Ok(EngineKind::Sqlite));
    assert_eq!(kind(&topic("orders")), Ok(EngineKind::Sqlite));
    assert_eq!(kind(&topic("other")), Ok(EngineKind::Memory));
    let want = TopicConfig {
        partitions: 32,
        age: None,
        size: Some(10_000_000_000),
        drop_unread: true,
    };
    assert_eq!(config.topic_config(&name("orders")), want);
    assert_eq!(
        config.tube(&name("mail")).expect("there").wire(),
        Wire::Native
    );
    let charge = &config.handlers[0];
    let options = &charge.options;
    let two = Duration::from_secs(2);
    assert_eq!(
        (options.concurrency, options.waiting, options.lanes),
        (Some(512), Some(7), Some(2))
    );
    assert_eq!(
        (options.order, options.offset),
        (Some(Order::Partition), Some(Start::Last))
    );
    assert_eq!(
        (options.timeout, options.retry_max),
        (Some(Timeout::None), Some(3))
    );
    assert_eq!(
        options.backoff,
        Some(Backoff {
            first: two,
            max: two
        })
    );
    assert_eq!(options.on_retry, Some(OnRetry::DeadLetter));
    assert_eq!(options.undecodable, Some(Undecodable::Retry));
    assert_eq!(options.unmatched, Some(Unmatched::Skip));
    assert_eq!(
        (options.batch, options.linger),
        (Some(9), Some(Duration::from_millis(1)))
    );
    assert_eq!((options.enabled, options.priority), (Some(false), Some(7)));
    assert_eq!(options.max_late, Some(Duration::from_secs(3600)));
    assert_eq!(options.lease, Some(Duration::from_secs(5)));
    assert_eq!(
        options.rate.map(|rate| (rate.count, rate.per.as_secs())),
        Some((6000, 60))
    );
    assert_eq!(
        charge.group.as_ref().map(|g| g.value.as_str()),
        Some("other")
    );
    assert_eq!(charge.place_of("retry.max").to_string(), "app.yaml:13:94");
    assert_eq!(
        &*charge.place_of("retry.max").key,
        "handlers.charge.retry.max"
    );
    assert_eq!(config.shutdown.deadline(), Duration::from_secs(60));
    assert_eq!(config.log.level(), LogLevel::Warn);
}

#[test]
fn servers_may_be_written_in_three_ways() {
    for nodes in [
        "[{ endpoint: a:1 }, { Endpoint: b:2 }]",
        "[a:1, b:2]",
        "\"a:1, b:2\"",
        "a:1,b:2",
    ] {
        let text = format!("dq: {{ beanstalks: {nodes}, dedup: off }}\nkq: {{ engine: sqlite }}\n");
        // Plain text with a comma ends in braces; quotes are needed there as in any YAML.
        if nodes == "a:1,b:2" {
            assert!(load(&text).is_err());
            continue;
        }
        let config = good(&text);
        let found: Vec<_> = config
            .dq
            .beanstalks
            .iter()
            .map(|node| &*node.value)
            .collect();
        assert_eq!(found, ["a:1", "b:2"], "{nodes}");
        assert_eq!((config.dq.replicas(), config.dq.write_quorum()), (2, 2));
    }
    let one = good("dq: { beanstalks: [a:1] }\n");
    assert_eq!((one.dq.replicas(), one.dq.write_quorum()), (1, 1));
}

#[test]
fn merged_keys_are_below_written_ones() {
    let config = good(
        "handlers:\n  one: &base\n    timeout: 5s\n    lanes: 3\n  two: { <<: *base, lanes: 2 }\n  three: *base\n",
    );
    let lanes: Vec<_> = config.handlers.iter().map(|h| h.options.lanes).collect();
    assert_eq!(lanes, [Some(3), Some(2), Some(3)]);
    assert!(config.handlers.iter().all(|h| h.options.timeout.is_some()));
}

#[test]
fn aliases_of_aliases_do_not_fill_the_memory() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let below = level - 1;
        let items = vec![format!("*a{below}"); 10].join(", ");
        let _ = writeln!(text, "a{level}: &a{level} [{items}]");
    }
    let report = load(&text).expect_err("too many");
    assert!(report.contains("too many values"), "{report}");
}

#[test]
fn a_text_that_is_nested_too_deep_is_refused() {
    for deep in [
        "[".repeat(10_000),
        "{a: ".repeat(10_000),
        "- ".repeat(10_000),
    ] {
        assert!(load(&deep).is_err());
    }
}

// Engines.

#[test]
fn servers_decide_the_engine_and_one_side_demands_the_other() {
    let both = good("dq: { beanstalks: [a:1] }\nkq: { brokers: [b:1] }\n");
    let choice = both.engine_for(&tube("x")).expect("an engine");
    assert_eq!(choice.kind, EngineKind::Beanstalkd);
    assert_eq!(choice.at.expect("a place").to_string(), "app.yaml:1:20");
    assert_eq!(
        both.engine_for(&topic("x")).map(|c| c.kind),
        Ok(EngineKind::Kafka)
    );

    let tasks = good("dq: { beanstalks: [a:1] }\n");
    let error = tasks
        .engine_for(&topic("orders"))
        .expect_err("no server for topics");
    assert_eq!(
        error.to_string(),
        "app.yaml:1:20: dq.beanstalks[0]: `dq` names servers, but `kq` names none, and topics are used here; add `kq: { brokers: \
         [..] }`, or `kq: { engine: sqlite }` if the local disk is meant"
    );
    let topics = good("kq: { brokers: [a:1] }\n");
    let error = topics
        .engine_for(&tube("mail"))
        .expect_err("no server for tasks")
        .to_string();
    assert!(
        error.starts_with("app.yaml:1:17: kq.brokers[0]: `kq` names servers"),
        "{error}"
    );

    let explicit = good("dq: { beanstalks: [a:1] }\nkq: { engine: sqlite }\n");
    assert_eq!(
        explicit.engine_for(&topic("x")).map(|c| c.kind),
        Ok(EngineKind::Sqlite)
    );
    let own = good("dq: { beanstalks: [a:1] }\ntopics: { x: { engine: memory } }\n");
    assert_eq!(
        own.engine_for(&topic("x")).map(|c| c.kind),
        Ok(EngineKind::Memory)
    );
    assert!(own.engine_for(&topic("y")).is_err());
    let unused = good("dq: { beanstalks: [a:1], engine: sqlite }\n");
    assert_eq!(
        unused.engine_for(&topic("x")).map(|c| c.kind),
        Ok(EngineKind::Sqlite)
    );
}

#[test]
fn an_engine_of_a_single_place_needs_servers_too() {
    let config = good("tubes: { x: { engine: beanstalkd } }\ntopics: { y: { engine: kafka } }\n");
    let tube = config
        .engine_for(&tube("x"))
        .expect_err("no server")
        .to_string();
    assert_eq!(
        tube,
        "app.yaml:1:23: tubes.x.engine: tube `x` is on beanstalkd, but no server is named; add `dq: { beanstalks: [{ endpoint: \
         \"10.0.0.1:11300\" }] }`"
    );
    assert!(config.engine_for(&topic("y")).is_err());
}

#[test]
fn an_engine_that_is_not_compiled_in_is_reported_where_it_was_chosen() {
    let config = good("kq: { brokers: [a:1] }\n");
    let error = config
        .engine_for(&topic("x"))
        .expect("an engine")
        .not_compiled_in();
    assert_eq!(
        error.to_string(),
        "app.yaml:1:17: kq.brokers[0]: the kafka engine is not part of this program; build go-queue with its feature `kafka`, \
         or choose another engine"
    );
}

#[test]
fn places_that_no_handler_consumes_are_noted_with_a_suggestion() {
    let config = good("tubes: { mial: {}, mail: {} }\ntopics: { mail: {} }\n");
    let notes: Vec<_> = config
        .unused_places(&[tube("mail")])
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        notes,
        [
            "app.yaml:1:10: tubes.mial: no handler here consumes tube `mial`; did you mean `mail`?",
            "app.yaml:2:11: topics.mail: no handler here consumes topic `mail`",
        ]
    );
}

#[test]
fn a_dedup_store_in_redis_needs_redis() {
    let report = load("topics: { x: { dedup: { store: redis } } }\n").expect_err("no Redis");
    assert_eq!(
        report,
        "app.yaml:1:32: topics.x.dedup.store: no Redis is named; add `dq: { redis: { host: \"10.0.0.4:6379\" } }`"
    );
}

// Files.

fn load_from(from: &LoadFrom) -> Result<Config, ConfigErrors> {
    Config::load(from)
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let report = load_from(&LoadFrom::file("/no/such/app.yaml"))
        .expect_err("not there")
        .to_string();
    assert!(
        report.starts_with("cannot read /no/such/app.yaml: ")
            && report.ends_with(
                "; it was asked for by this name, in the program or on the command line"
            ),
        "{report}"
    );
}

#[test]
fn the_command_line_names_the_file_then_the_variable_then_the_folder() {
    use crate::config::find;
    let folder = tempfile::tempdir().expect("a folder");
    let default = folder.path().join("config.yaml");
    let found = |from: &LoadFrom, variable: Option<&str>| {
        find(from, variable.map(Into::into), &default).map(|(path, _)| path)
    };
    let none = LoadFrom::default();
    assert_eq!(found(&none, None), None);
    assert_eq!(found(&none, Some("")), None);
    std::os::unix::fs::symlink("nowhere", &default).expect("a link");
    assert_eq!(
        found(&none, None),
        Some(default.clone()),
        "a link to nowhere is not nothing"
    );
    assert_eq!(found(&none, Some("v.yaml")), Some("v.yaml".into()));
    assert_eq!(
        found(&LoadFrom::file("f.yaml"), Some("v.yaml")),
        Some("f.yaml".into())
    );
}

#[test]
fn a_file_is_read_and_named_in_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.yaml");
    std::fs::write(&path, "name: one\nkq: { group: g }\n").expect("written");
    let config = load_from(&LoadFrom::file(&path)).expect("good");
    assert_eq!(&*config.name.value, "one");
    assert_eq!(config.file.as_deref(), path.to_str());
    std::fs::write(&path, "zzz: 1\n").expect("written");
    let report = load_from(&LoadFrom::file(&path))
        .expect_err("unknown key")
        .to_string();
    assert!(
        report.starts_with(&format!("{}:1:1: zzz: unknown key", path.display())),
        "{report}"
    );
    std::fs::write(&path, b"name: a\nlog: { level: \xff }\n").expect("written");
    let report = load_from(&LoadFrom::file(&path))
        .expect_err("not text")
        .to_string();
    assert!(report.contains("line 2 is not UTF-8"), "{report}");
    std::fs::write(&path, vec![b'#'; 5 << 20]).expect("written");
    let report = load_from(&LoadFrom::file(&path))
        .expect_err("large")
        .to_string();
    assert!(report.contains("larger than 4 MiB"), "{report}");
    let report = load_from(&LoadFrom::file(folder.path()))
        .expect_err("a folder")
        .to_string();
    assert!(report.starts_with("cannot read "), "{report}");
}

#[test]
fn the_command_line_is_above_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.yaml");
    std::fs::write(
        &path,
        "name: one\nhandlers: { charge: { lanes: 2, timeout: 5s }, parcels::label: { timeout: 20s } }\n",
    )
    .expect("written");
    let set = [
        "name=two",
        "handlers.charge.Lanes=3",
        "handlers.mail::remind.retry.max=1",
        "handlers.label.timeout=9s",
        "handlers.parcels::label.retry=none",
        "tubes.a.b.c.portable=false",
        "topics.orders.v1.retention.age=1h",
        "kq.brokers=[a:1, b:1]",
    ];
    let from = LoadFrom {
        file: Some(path.clone()),
        set: set.map(str::to_owned).to_vec(),
    };
    let config = load_from(&from).expect("good");
    assert_eq!(&*config.name.value, "two");
    assert_eq!(config.name.origin.to_string(), "command line");
    let charge = &config.handlers[0];
    assert_eq!(charge.options.lanes, Some(3));
    assert_eq!(charge.place_of("lanes").to_string(), "command line");
    assert_eq!(
        charge.options.timeout,
        Some(Timeout::After(Duration::from_secs(5)))
    );
    // However much of its path is said, it is the entry of the file.
    let label = &config.handlers[1];
    assert_eq!(&*label.key, "parcels::label");
    assert_eq!(
        label.options.timeout,
        Some(Timeout::After(Duration::from_secs(9)))
    );
    assert_eq!(label.options.retry_max, Some(0));
    assert_eq!(&*config.handlers[2].key, "mail::remind");
    assert_eq!(config.handlers[2].options.retry_max, Some(1));
    assert_eq!(config.handlers.len(), 3);
    assert!(!config.tube(&name("a.b.c")).expect("there").portable());
    assert_eq!(
        config.topic_config(&name("orders.v1")).age,
        Some(Duration::from_secs(3600))
    );
    assert_eq!(config.kq.brokers.len(), 2);
    for (set, want) in [
        (
            "name",
            "command line: --set: there is no `=`; write `--set key.path=value`",
        ),
        (
            "=x",
            "command line: this is not a path of keys; write `--set key.path=value`",
        ),
        (
            "a..b=x",
            "command line: a..b: this is not a path of keys; write `--set key.path=value`",
        ),
        (
            "nam=x",
            "command line: nam: unknown key; did you mean `name`?",
        ),
        (
            "name=[",
            "command line: name: this `[` is not closed; close it",
        ),
        (
            "name=",
            "command line: name: has no value; write one, or remove the key",
        ),
        (
            "handlers.charge.lanes=x",
            "command line: handlers.charge.lanes: `x` is not a whole number; write one from 1 to 256",
        ),
    ] {
        let from = LoadFrom {
            file: Some(path.clone()),
            set: vec![set.to_owned()],
        };
        let report = load_from(&from).expect_err(set).to_string();
        assert_eq!(report, want);
    }
}

#[test]
fn sizes_rates_and_back_offs_are_written_as_they_are_read() {
    use crate::config::units;
    for (text, bytes) in [
        ("1B", 1),
        ("64MiB", 64 << 20),
        ("1GB", 1_000_000_000),
        ("1.5KB", 1500),
        ("0.5 kib", 512),
        ("3TiB", 3 << 40),
    ] {
        let read = units::size(text).unwrap_or(0);
        assert_eq!(read, bytes, "{text}");
        assert_eq!(
            units::size(&units::format_size(read)).unwrap_or(0),
            bytes,
            "{text}"
        );
    }
    for bad in [
        "",
        "1",
        "MB",
        "1MBB",
        "-1MB",
        "1..5MB",
        "0B",
        "99999999TB",
        "1e3B",
        "0.0000000000000000000001TB",
    ] {
        assert!(units::size(bad).is_err(), "{bad}");
    }
    for text in ["200/s", "6000/m", "5/10s", "1/h", "7/1h 30m"] {
        let Ok(rate) = units::rate(text) else {
            unreachable!("{text} is a rate");
        };
        assert_eq!(
            units::rate(&units::format_rate(rate)).ok(),
            Some(rate),
            "{text}"
        );
    }
    for text in ["1s..10m", "5s", "0s..1m 30s"] {
        let Ok(backoff) = units::backoff(text) else {
            unreachable!("{text} is a back-off");
        };
        assert_eq!(
            units::backoff(&units::format_backoff(backoff)).ok(),
            Some(backoff),
            "{text}"
        );
    }
    assert_eq!(units::sanitised("-my app!").as_deref(), Some("my-app-"));
    assert_eq!(units::sanitised("..."), None);
}

// Whatever the text is, there is an answer.

mod any {
    use super::load_with;
    use proptest::prelude::*;

    const PIECES: &[&str] = &[
        "name",
        "dq",
        "kq",
        "tubes",
        "topics",
        "handlers",
        "brokers",
        "beanstalks",
        "Topic",
        "Group",
        "redis",
        "retry",
        "dedup",
        ":",
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\"",
        "'",
        "#",
        "&a",
        "*a",
        "!x",
        "|",
        ">",
        "<<",
        "${V}",
        "${",
        "${V:-x}",
        "$$",
        "\t",
        "~",
        "1",
        "30s",
        "a:1",
        "é",
        "\u{0}",
        "\u{e7a0}",
        "%",
        "---",
        "...",
        "\r\n",
        "?",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_text_makes_the_loader_panic(text in "\\PC*", value in "\\PC*") {
            let _ = load_with(&text, &[("V", &value)]);
        }

        #[test]
        fn no_mixture_of_pieces_makes_the_loader_panic(
            pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60),
            value in ".*",
        ) {
            let _ = load_with(&pieces.concat(), &[("V", &value)]);
        }
    }
}
