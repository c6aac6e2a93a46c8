//! Wrong set-ups: every problem at once, each with its place and what to do, before the first message.

use std::sync::Arc;

use go_queue::app::{App, AppError, Exit};
use go_queue::config::Config;
use go_queue::handler::options::Options;
use go_queue::handler::{HandlerDef, Location, Registry, Source};
use go_queue::message::ContentType;
use go_queue::prelude::*;

use crate::stage::{Trail, config};

/// What a user reads.
fn report(app: App) -> String {
    let error = app.check().expect_err("this set-up is wrong");
    assert!(matches!(error, AppError::Setup(_)), "{error:?}");
    let report = format!("{error:?}");
    assert_eq!(Exit::from(Err(error)).code(), 2);
    report
}

fn app(handlers: Registry, yaml: &str) -> App {
    App::new().handlers(handlers).config(config(yaml))
}

/// The problems of a file, as a user reads them.
fn file_report(yaml: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.yaml");
    std::fs::write(&path, yaml).unwrap();
    let report = report(App::new().handlers(handlers![alone]).config(path.clone()));
    report.replace(&path.display().to_string(), "app.yaml")
}

fn has(report: &str, parts: &[&str]) {
    for part in parts {
        assert!(report.contains(part), "`{part}` is not in:\n{report}");
    }
}

#[dq_handler(tube = "alone")]
async fn alone(n: u32) {
    let _ = n;
}

#[dq_handler(tube = "shared")]
async fn left(n: u32) {
    let _ = n;
}

#[dq_handler(tube = "shared")]
async fn right(n: u32) {
    let _ = n;
}

#[kq_handler(topic = "shared", group = "g")]
async fn left_record(n: u32) {
    let _ = n;
}

#[kq_handler(topic = "shared", group = "g")]
async fn right_record(n: u32) {
    let _ = n;
}

#[kq_handler(topic = "shared", group = "other")]
async fn other_record(n: u32) {
    let _ = n;
}

#[test]
fn a_right_set_up_has_no_problem() {
    app(handlers![alone, left, left_record, other_record], "")
        .check()
        .unwrap();
}

#[test]
fn two_handlers_of_one_tube_are_named_with_both_places() {
    let report = report(app(handlers![left, right], ""));
    has(
        &report,
        &[
            "1 problem",
            "two handlers for tube `shared`",
            "tests/app/setup.rs:",
            "app::setup::left",
            "app::setup::right",
            "give one of them another tube",
        ],
    );
    assert_eq!(report.matches("setup.rs:").count(), 2, "{report}");
}

#[test]
fn two_handlers_of_one_topic_and_group_are_named_with_both_places() {
    let report = report(app(handlers![left_record, right_record, other_record], ""));
    has(
        &report,
        &[
            "two handlers for topic `shared` in group `g`",
            "app::setup::left_record",
            "app::setup::right_record",
            "another group",
            "when(header",
        ],
    );
    assert!(!report.contains("other_record"), "{report}");
}

#[test]
fn the_same_handler_twice_is_one_problem() {
    let report = report(app(handlers![alone, alone], ""));
    has(&report, &["1 problem", "two handlers for tube `alone`"]);
}

#[test]
fn groups_that_the_configuration_makes_equal_are_found() {
    let yaml = "handlers: { other_record: { group: g } }";
    let report = report(app(handlers![left_record, other_record], yaml));
    has(&report, &["two handlers for topic `shared` in group `g`"]);
}

#[kq_handler(topic = "typed", group = "g", when(header = "type", is = "a"))]
async fn of_type_a(n: u32) {
    let _ = n;
}

#[kq_handler(topic = "typed", group = "g", when(header = "type", is = "b"))]
async fn of_type_b(n: u32) {
    let _ = n;
}

#[kq_handler(topic = "typed", group = "g", when(header = "type", is = "a"))]
async fn of_type_a_too(n: u32) {
    let _ = n;
}

#[kq_handler(topic = "typed", group = "g")]
async fn of_any_type(n: u32) {
    let _ = n;
}

#[kq_handler(topic = "typed", group = "g", when(header = "type", is = "c"))]
async fn of_type_c(batch: Vec<u32>) {
    drop(batch);
}

#[test]
fn handlers_that_share_a_topic_must_differ_and_agree() {
    app(handlers![of_type_a, of_type_b], "").check().unwrap();
    let same = report(app(handlers![of_type_a, of_type_a_too], ""));
    has(
        &same,
        &[
            "two handlers for topic `typed` in group `g`",
            "of_type_a_too",
        ],
    );
    let any = report(app(handlers![of_type_a, of_type_b, of_any_type], ""));
    has(&any, &["3 handlers for topic `typed`", "of_any_type"]);
    let batch = report(app(handlers![of_type_a, of_type_c], ""));
    has(
        &batch,
        &["a batch handler cannot share", "group of its own"],
    );
    let yaml = "handlers: { of_type_a: { concurrency: 3 } }";
    let differs = report(app(handlers![of_type_a, of_type_b], yaml));
    has(
        &differs,
        &["must agree on `concurrency`", "of_type_a", "of_type_b"],
    );
}

struct Mailer;
#[derive(Clone)]
struct Bank;

#[dq_handler(tube = "mails")]
async fn mail(n: u32, State(_mailer): State<Arc<Mailer>>, State(_bank): State<Bank>) {
    let _ = n;
}

#[kq_handler(topic = "payments", group = "g")]
async fn pay(n: u32, State(_bank): State<Bank>, State(_trail): State<Trail>) {
    let _ = n;
}

#[test]
fn every_missing_state_of_every_handler_is_in_one_report() {
    let report = report(app(handlers![mail, pay, alone], "").state(Trail::new()));
    has(
        &report,
        &[
            "3 problems",
            "app::setup::mail takes State<Arc<Mailer>>, which the app was not given",
            "app::setup::mail takes State<Bank>",
            "app::setup::pay takes State<Bank>",
            "tests/app/setup.rs:",
            "add `.state(value)` with a value of type `Bank` to the app",
        ],
    );
    assert!(!report.contains("Trail"), "{report}");
}

#[test]
fn two_states_of_one_type_are_a_problem() {
    let report = report(app(handlers![alone], "").state(7_u8).state(8_u8));
    has(
        &report,
        &[
            "two states of type `u8`",
            "wrap one of them in a type of its own",
        ],
    );
}

#[test]
fn no_handler_at_all_is_told_with_the_remedy() {
    let report = report(app(handlers![], ""));
    has(
        &report,
        &["there are no handlers", "use my_handlers as _;", "main.rs"],
    );
}

#[test]
fn handlers_that_are_all_switched_off_are_told() {
    let yaml = "handlers: { alone: { enabled: false }, left: { enabled: false } }";
    let report = report(app(handlers![alone, left], yaml));
    has(
        &report,
        &["every handler is switched off", "enabled: false"],
    );
    app(
        handlers![alone, left, right],
        "handlers: { left: { enabled: false } }",
    )
    .check()
    .unwrap();
}

#[test]
fn an_unknown_handler_in_the_configuration_gets_a_suggestion() {
    let report = file_report("handlers:\n  aloen: { concurrency: 3 }\n");
    has(
        &report,
        &[
            "app.yaml:2:3",
            "aloen",
            "no handler has this name",
            "did you mean `alone`?",
        ],
    );
}

#[test]
fn a_key_that_means_two_handlers_names_both() {
    mod other {
        use go_queue::prelude::*;

        #[dq_handler(tube = "elsewhere")]
        pub(super) async fn alone(n: u32) {
            let _ = n;
        }
    }
    let yaml = "handlers: { alone: { concurrency: 3 } }";
    let report = report(app(handlers![alone, other::alone], yaml));
    has(
        &report,
        &[
            "means 2 handlers",
            "app::setup::alone",
            "other::alone",
            "write more of the path",
        ],
    );
}

#[test]
fn an_entry_for_a_handler_that_is_linked_and_not_chosen_is_fine() {
    let yaml = "handlers: { left: { concurrency: 3 }, alone: { concurrency: 4 } }";
    app(handlers![left], yaml).check().unwrap();
    // Two that were not chosen have this name. Whoever chooses them must say which.
    app(handlers![mail], yaml)
        .state(Arc::new(Mailer))
        .state(Bank)
        .check()
        .unwrap();
}

#[test]
fn broken_yaml_is_told_with_its_line() {
    let report = file_report("name: billing\nkq:\n  group: g\n bad: [1\n");
    has(&report, &["1 problem", "app.yaml:"]);
    let line = ["app.yaml:4", "app.yaml:5"];
    assert!(line.iter().any(|line| report.contains(line)), "{report}");
}

#[test]
fn an_unknown_key_is_told_with_line_column_and_suggestion() {
    let report = file_report(
        "handlers:\n  alone:\n    concurency: 4\n    retry: { maxx: 3 }\nshutdwon: { deadline: 3s }\n",
    );
    has(
        &report,
        &[
            "3 problems",
            "app.yaml:3:5",
            "`concurrency`",
            "app.yaml:4:14",
            "`max`",
            "app.yaml:5:1",
            "`shutdown`",
        ],
    );
}

#[test]
fn problems_of_file_handlers_and_state_are_in_one_report() {
    let yaml = "handlers: { nobody: { concurrency: 1 }, nothing: { batch: 2 } }";
    let report = report(app(handlers![left, right, mail], yaml));
    has(
        &report,
        &[
            "handlers.nobody",
            "handlers.nothing",
            "two handlers for tube `shared`",
            "State<Bank>",
            "State<Arc<Mailer>>",
        ],
    );
    has(&report, &["5 problems"]);
}

#[test]
fn a_file_with_a_faulty_value_is_told_of_its_unknown_handlers_too() {
    let text = "log: { level: verbose }\nhandlers: { lefd: { concurrency: 1 } }\nsqlite: { quota: 64KiB }\n";
    let report = file_report(text);
    has(
        &report,
        &["3 problems", "log.level", "handlers.lefd", "sqlite.quota"],
    );
}

#[test]
fn names_that_break_the_rule_are_refused_in_the_file() {
    let long = "n".repeat(201);
    let text = format!(
        "tubes: {{ \"with space\": {{}}, \"with/slash\": {{}}, {long}: {{}} }}\nkq: {{ group: \"a b\" }}\n"
    );
    let report = file_report(&text);
    has(
        &report,
        &[
            "4 problems",
            "app.yaml:1:",
            "app.yaml:2:",
            "with space",
            "with/slash",
            "1 to 200 letters",
        ],
    );
}

const fn by_hand(name: &'static str, source: Source) -> HandlerDef {
    HandlerDef {
        name,
        module: "app::by_hand",
        package: "go-queue-tests",
        location: Location {
            file: "hand.rs",
            line: 7,
        },
        source,
        when: None,
        batch: false,
        blocking: false,
        options: Options::NONE,
        payload: "()",
        content: ContentType::Raw,
        errors: || &[],
        middleware: &[],
        bind: |_, about| Ok(go_queue::private::erase(Nothing, about, false)),
        check: |_| Ok(()),
    }
}

struct Nothing;

impl go_queue::handler::Run for Nothing {
    async fn run<'a>(&'a self, _: &'a go_queue::handler::Context) -> Outcome {
        Outcome::Done
    }
}

#[test]
fn names_that_break_the_rule_are_refused_in_definitions_by_hand() {
    static SPACE: HandlerDef = by_hand("space", Source::Tube("with space"));
    static SLASH: HandlerDef = by_hand("slash", Source::Tube("with/slash"));
    static TOPIC: HandlerDef = by_hand(
        "topic",
        Source::Topics {
            topics: &["fine", "line\nbreak"],
            group: Some("g"),
        },
    );
    static GROUP: HandlerDef = by_hand(
        "group",
        Source::Topics {
            topics: &["fine"],
            group: Some("with space"),
        },
    );
    static EMPTY: HandlerDef = by_hand("empty", Source::Tube(""));
    let long: &'static str = Box::leak("n".repeat(201).into_boxed_str());
    let long: &'static HandlerDef = Box::leak(Box::new(by_hand("long", Source::Tube(long))));
    let registry = Registry::of([&SPACE, &SLASH, &TOPIC, &GROUP, &EMPTY, long]);
    let report = report(App::new().handlers(registry).config(config("")));
    has(
        &report,
        &[
            "6 problems",
            "hand.rs:7",
            "`with space` is not a name",
            "`with/slash` is not a name",
        ],
    );
    assert!(
        !report.contains("line\nbreak"),
        "a name cannot break a line of the report:\n{report}"
    );
}

#[test]
fn a_configuration_that_is_not_there_is_told() {
    let app = App::new()
        .handlers(handlers![alone])
        .config("/nowhere/app.yaml");
    has(
        &report(app),
        &["cannot read", "/nowhere/app.yaml", "No such file"],
    );
}

#[test]
fn dedup_stores_that_cannot_do_their_work_are_refused() {
    let topics = "kq: { engine: memory }";
    let nodes = "beanstalks: [a:1, b:1], redis: { host: \"r:1\" }";
    for (yaml, part) in [
        (
            format!(
                "dq: {{ {nodes} }}\n{topics}\ntubes: {{ alone: {{ dedup: {{ store: sqlite }} }} }}"
            ),
            "only Redis can tell them that one has run",
        ),
        (
            format!(
                "dq: {{ {nodes}, engine: memory }}\n{topics}\ntubes: {{ alone: {{ dedup: {{ store: redis }} }} }}"
            ),
            "would take new messages for old ones",
        ),
        (
            format!(
                "dq: {{ {nodes} }}\n{topics}\ntubes: {{ alone: {{ wire: go-queue, mixed_fleet: true, dedup: off }} }}"
            ),
            "by a lock in Redis who runs a task",
        ),
        (
            format!(
                "dq: {{ beanstalks: [a:1, b:1], engine: sqlite }}\n{topics}\ntubes: {{ alone: {{ engine: beanstalkd }} }}"
            ),
            "add `dq.redis`",
        ),
    ] {
        has(
            &report(app(handlers![alone], &yaml)),
            &[part, "tube `alone`"],
        );
    }
}

#[test]
fn one_side_on_servers_needs_a_word_about_the_other() {
    let yaml = "kq: { brokers: [\"a:1\"] }";
    let report = report(app(handlers![alone], yaml));
    has(&report, &["dq", "app::setup::alone"]);
}

#[test]
fn secrets_are_in_no_report() {
    let text = "\
dq: { engine: sqlite, redis: { host: \"h:1\", pass: hunter2, passs: hunter3 } }
admin: { listen: \"0.0.0.0:1\", token: }
kq: { security: { username: u, password: hunter4, mechanism: hunter5x } }
handlers: { nobody: { concurrency: 1 } }
";
    let report = file_report(text);
    for secret in ["hunter2", "hunter3", "hunter4"] {
        assert!(!report.contains(secret), "{report}");
    }
    has(&report, &["passs"]);
    let given = Config::from_yaml(
        "dq: { engine: sqlite, redis: { host: \"h:1\", pass: hunter2 } }\nadmin: { token: hunter6 }\nkq: { engine: sqlite, security: { username: u, password: hunter4 }, properties: { sasl.oauthbearer.config: hunter7 } }",
        "app.yaml",
        &|_| None,
    );
    let shown = format!("{:?}", given.unwrap());
    assert!(!shown.contains("hunter"), "{shown}");
}
