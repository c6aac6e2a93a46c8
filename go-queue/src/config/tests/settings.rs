//! Precedence, origins, matching of handlers.

use std::time::Duration;

use super::good;
use crate::config::{Config, Settings, Shape};
use crate::engine::{Order, Start};
use crate::handler::options::{Backoff, OnRetry, Rate, Timeout, Undecodable, Unmatched};
use crate::handler::{Options, Source};

const TUBE: Source = Source::Tube("reminders");
const TOPIC: Source = Source::Topics {
    topics: &["orders"],
    group: None,
};

fn shape(source: Source, batch: bool, attribute: &Options) -> Shape<'_> {
    Shape {
        path: "app::charge",
        source,
        batch,
        claims: false,
        attribute,
    }
}

fn merge(config: &Config, shape: &Shape<'_>) -> Result<Settings, String> {
    let handlers = [(shape.path.to_owned(), "src/main.rs:3")];
    let matches = config.match_handlers(&handlers);
    assert!(matches.problems.is_empty(), "{:?}", matches.problems);
    config
        .settings(shape, matches.of[0])
        .map_err(|errors| errors.to_string())
}

#[test]
fn the_defaults_are_those_of_the_guide() {
    let config = good("name: svc\n");
    let none = Options::NONE;
    let dq = merge(&config, &shape(TUBE, false, &none)).expect("good");
    let kq = merge(&config, &shape(TOPIC, false, &none)).expect("good");
    assert_eq!(
        (dq.concurrency.value, dq.waiting.value, dq.order.value),
        (64, 0, Order::None)
    );
    assert_eq!(
        (kq.concurrency.value, kq.waiting.value, kq.order.value),
        (1000, 2000, Order::Key)
    );
    assert_eq!((dq.lanes.value, dq.batch.value), (1, 1));
    assert_eq!(dq.timeout.value, Timeout::After(Duration::from_secs(60)));
    assert_eq!(dq.retry_max.value, 8);
    let backoff = Backoff {
        first: Duration::from_secs(1),
        max: Duration::from_secs(600),
    };
    assert_eq!(dq.backoff.value, backoff);
    assert_eq!(dq.undecodable.value, Undecodable::DeadLetter);
    assert_eq!(
        (dq.priority.value, dq.lease.value),
        (1024, Duration::from_secs(60))
    );
    assert_eq!(
        (dq.max_late.value, dq.rate.value, dq.enabled.value),
        (None, None, true)
    );
    assert_eq!(
        (kq.offset.value, kq.on_retry.value),
        (Start::First, OnRetry::Block)
    );
    assert_eq!(
        (kq.unmatched.value, kq.linger.value),
        (Unmatched::DeadLetter, Duration::from_millis(10))
    );
    assert_eq!(
        (dq.group.value, kq.group.value.as_deref()),
        (None, Some("svc"))
    );
    assert_eq!(config.shutdown.deadline(), Duration::from_secs(25));
    assert_eq!(config.shutdown.drain(), Duration::from_secs(5));
}

#[test]
fn room_to_wait_grows_with_what_needs_it() {
    let config = good("");
    for (source, batch, claims, attribute, want) in [
        (TUBE, false, false, Options::NONE, 0),
        (TUBE, false, true, Options::NONE, 64),
        (TUBE, false, true, Options::NONE.with_concurrency(5), 5),
        (TUBE, true, false, Options::NONE.with_concurrency(4), 4 * 99),
        (TOPIC, false, false, Options::NONE.with_concurrency(4), 1024),
        (
            TOPIC,
            false,
            false,
            Options::NONE.with_concurrency(4000),
            8000,
        ),
        (
            TOPIC,
            true,
            false,
            Options::NONE.with_concurrency(20),
            20 * 99,
        ),
        (TOPIC, true, false, Options::NONE.with_batch(500), 16_384),
        (TOPIC, true, false, Options::NONE.with_waiting(3), 3),
    ] {
        let shape = Shape {
            claims,
            ..shape(source, batch, &attribute)
        };
        let settings = merge(&config, &shape).expect("good");
        assert_eq!(
            settings.waiting.value, want,
            "{source:?} {batch} {claims} {attribute:?}"
        );
    }
}

#[test]
fn the_file_is_above_the_attribute_and_the_attribute_above_the_default() {
    let config = good(
        "kq: { offset: last, group: all }\nhandlers:\n  charge:\n    concurrency: 512\n    rate: none\n",
    );
    let limit = Rate {
        count: 5,
        per: Duration::from_secs(1),
    };
    let attribute = Options::NONE
        .with_concurrency(64)
        .with_lanes(2)
        .with_rate(limit);
    let shape = shape(TOPIC, false, &attribute);
    let settings = merge(&config, &shape).expect("good");
    let rows: Vec<String> = settings
        .describe(&shape)
        .into_iter()
        .map(|(name, value, origin)| format!("{name} {value} ({origin})"))
        .collect();
    assert_eq!(
        rows,
        [
            "enabled true (default)",
            "concurrency 512 (app.yaml:4)",
            "waiting 1024 (default)",
            "lanes 2 (attribute)",
            "group all (app.yaml:1)",
            "order key (default)",
            "offset last (app.yaml:1)",
            "on_retry block (default)",
            "unmatched dead_letter (default)",
            "timeout 1m (default)",
            "retry.max 8 (default)",
            "retry.backoff 1s..10m (default)",
            "undecodable dead_letter (default)",
            "lease 1m (default)",
            "rate none (app.yaml:5)",
        ]
    );
}

#[test]
fn the_attribute_is_above_the_section_and_the_handler_above_the_attribute() {
    let named = Source::Topics {
        topics: &["orders"],
        group: Some("mine"),
    };
    let attribute = Options::NONE.with_offset(Start::First);
    let section = good("kq: { offset: last, group: all }\n");
    let settings = merge(&section, &shape(named, false, &attribute)).expect("good");
    assert_eq!(settings.group.value.as_deref(), Some("mine"));
    assert_eq!(
        (settings.offset.value, settings.offset.origin.to_string()),
        (Start::First, "attribute".into())
    );
    let handler = good("kq: { group: all }\nhandlers: { charge: { group: his, offset: last } }\n");
    let settings = merge(&handler, &shape(named, false, &attribute)).expect("good");
    assert_eq!(settings.group.value.as_deref(), Some("his"));
    assert_eq!(settings.offset.origin.to_string(), "app.yaml:2");
}

#[test]
fn options_that_mean_nothing_for_the_handler_are_all_reported_where_they_stand() {
    let config = good(
        "handlers: { charge: { order: key, offset: last, group: g, batch: 5, max_late: 1h } }\n",
    );
    let report = merge(&config, &shape(TUBE, false, &Options::NONE)).expect_err("misplaced");
    assert_eq!(
        report,
        "the configuration has 4 problems\n  \
         app.yaml:1:30: handlers.charge.order: tasks have no order, use a topic (`app::charge`); remove it\n  \
         app.yaml:1:43: handlers.charge.offset: is an option of topics (`app::charge`); remove it\n  \
         app.yaml:1:56: handlers.charge.group: tubes have no groups (`app::charge`); remove it\n  \
         app.yaml:1:66: handlers.charge.batch: is an option of handlers that take a `Vec`, and this one takes single messages \
         (`app::charge`); remove it"
    );
    let report = merge(&config, &shape(TOPIC, true, &Options::NONE)).expect_err("misplaced");
    assert_eq!(
        report,
        "app.yaml:1:79: handlers.charge.max_late: is an option of tubes (`app::charge`); remove it"
    );
}

#[test]
fn combinations_that_cannot_work_are_refused() {
    let config = good("handlers: { charge: { lanes: 9 } }\n");
    let attribute = Options::NONE.with_concurrency(4);
    let report = merge(&config, &shape(TOPIC, false, &attribute)).expect_err("too many lanes");
    assert_eq!(
        report,
        "app.yaml:1:30: handlers.charge.lanes: 9 lanes share a concurrency of 4, so some could never run anything; at most as many lanes as \
         handlers that run"
    );
    let attribute = Options::NONE
        .with_concurrency(0)
        .with_lanes(0)
        .with_batch(0)
        .with_lease(Duration::from_millis(5))
        .with_timeout(Timeout::After(Duration::ZERO))
        .with_backoff(Backoff {
            first: Duration::from_secs(9),
            max: Duration::from_secs(1),
        });
    let report = merge(&good(""), &shape(TOPIC, true, &attribute)).expect_err("zeros");
    for part in [
        "concurrency",
        "lanes",
        "batch",
        "lease",
        "timeout",
        "retry.backoff",
    ] {
        let line = format!("{part} of app::charge (attribute): ");
        assert!(report.contains(&line), "{part} in {report}");
    }
}

#[test]
fn batches_that_cannot_fill_and_batches_by_key_are_remarked() {
    let config = good("handlers: { charge: { waiting: 10, concurrency: 4, batch: 100 } }\n");
    let settings = merge(&config, &shape(TOPIC, true, &Options::NONE)).expect("good");
    let remarks: Vec<_> = settings.remarks.iter().map(ToString::to_string).collect();
    assert_eq!(
        remarks,
        [
            "app.yaml:1:32: handlers.charge.waiting: app::charge: with 14 messages in hand only 0 of 4 batches of 100 can be full; for all of \
             them `waiting` is 396",
            "app::charge: a batch holds messages of one key; with many keys batches stay small, `order = partition` or `none` makes them larger",
        ]
    );
    let none = Options::NONE.with_order(Order::None);
    let settings = merge(&good(""), &shape(TOPIC, true, &none)).expect("good");
    assert_eq!(settings.remarks, []);
}

// Which handler a key means.

fn handlers() -> Vec<(String, &'static str)> {
    [
        ("shop::billing::charge", "src/billing.rs:10"),
        ("shop::orders::charge", "src/orders.rs:20"),
        ("shop::mail::remind", "src/mail.rs:30"),
    ]
    .map(|(path, place)| (path.to_owned(), place))
    .to_vec()
}

fn problems(text: &str) -> Vec<String> {
    let config = good(text);
    let matches = config.match_handlers(&handlers());
    matches.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_key_is_a_name_or_any_longer_end_of_a_path() {
    let config = good("handlers: { remind: {}, billing::charge: {}, shop::orders::charge: {} }\n");
    let paths = handlers();
    let matches = config.match_handlers(&paths);
    assert_eq!(matches.problems, []);
    let keys: Vec<_> = matches
        .of
        .iter()
        .map(|found| found.map(|config| &*config.key))
        .collect();
    assert_eq!(
        keys,
        [
            Some("billing::charge"),
            Some("shop::orders::charge"),
            Some("remind")
        ]
    );
}

#[test]
fn a_key_that_means_two_handlers_names_both() {
    assert_eq!(
        problems("handlers: { charge: {} }\n"),
        [
            "app.yaml:1:13: handlers.charge: means 2 handlers: `shop::billing::charge` (src/billing.rs:10) and `shop::orders::charge` \
             (src/orders.rs:20); write more of the path, for example `billing::charge`"
        ]
    );
}

#[test]
fn a_key_that_means_none_suggests_lists_and_names_the_linking_trap() {
    assert_eq!(
        problems("handlers: { remnid: {} }\n"),
        [
            "app.yaml:1:13: handlers.remnid: no handler has this name; did you mean `remind`? handlers are: shop::billing::charge, \
             shop::mail::remind, shop::orders::charge; a crate that no source line names is not linked: if the handler is in one, add \
             `use my_handlers as _;` to main.rs"
        ]
    );
    for part in ["emind", "ail::remind", "remind::", "", "Remind", "shop"] {
        let found = problems(&format!("handlers: {{ \"{part}\": {{}} }}\n"));
        assert_eq!(found.len(), 1, "{part}: {found:?}");
        assert!(found[0].contains("no handler has this name"), "{found:?}");
    }
    let config = good("handlers: { charge: {} }\n");
    let none: [(String, &str); 0] = [];
    let report = config.match_handlers(&none).problems[0].to_string();
    assert!(
        report.contains("there are no handlers at all") && report.contains("use my_handlers as _;"),
        "{report}"
    );
}

#[test]
fn two_keys_for_one_handler_are_refused() {
    assert_eq!(
        problems("handlers:\n  remind: {}\n  mail::remind: {}\n"),
        [
            "app.yaml:3:3: handlers.mail::remind: means `shop::mail::remind`, as `remind` in line 2 does; keep one of them"
        ]
    );
}
