//! `${VAR}` in values.

use super::{load, load_with};
use crate::handler::options::Rate;
use std::time::Duration;

fn path(written: &str, variables: &[(&str, &str)]) -> String {
    let text = format!("sqlite:\n  path: {written}\n");
    match load_with(&text, variables) {
        Ok(config) => config
            .sqlite
            .path
            .map_or("none".to_owned(), |given| given.value.to_string()),
        Err(report) => report,
    }
}

#[test]
fn every_form_is_filled_in_and_everything_else_stays() {
    let set = [("DIR", "/data"), ("EMPTY", ""), ("N", "7")];
    for (written, want) in [
        ("${DIR}", "/data"),
        ("${DIR}/${N}.db", "/data/7.db"),
        ("\"${DIR}/x\"", "/data/x"),
        ("'${DIR}/x'", "/data/x"),
        ("${GONE:-/tmp}", "/tmp"),
        ("${EMPTY:-/tmp}", "/tmp"),
        ("${DIR:-/tmp}", "/data"),
        ("${GONE:-}x", "x"),
        ("${DIR:?must be set}", "/data"),
        ("${GONE:-a: b #c, [d]}", "a: b #c, [d]"),
        ("$DIR", "$DIR"),
        ("$$DIR", "$$DIR"),
        ("a$", "a$"),
        ("$${DIR}", "${DIR}"),
        ("\"$${DIR}-${N}\"", "${DIR}-7"),
        ("\u{e7a3}${N}", "\u{e7a3}7"),
        ("\"\\uE7A3${N}\"", "\u{e7a3}7"),
        (
            "${GONE}",
            "app.yaml:2:9: sqlite.path: the variable GONE is not set; set it, or give a default with `${GONE:-..}`",
        ),
        (
            "\"a ${GONE}\"",
            "app.yaml:2:12: sqlite.path: the variable GONE is not set; set it, or give a default with `${GONE:-..}`",
        ),
        (
            "${DIR}${GONE:?say where: a path}",
            "app.yaml:2:15: sqlite.path: the variable GONE is not set; say where: a path",
        ),
        (
            "${EMPTY:?say where}",
            "app.yaml:2:9: sqlite.path: the variable EMPTY is empty; say where",
        ),
        (
            "${EMPTY:?}",
            "app.yaml:2:9: sqlite.path: the variable EMPTY is empty; set it",
        ),
        (
            "${EMPTY}",
            "app.yaml:2:9: sqlite.path: is empty, it comes from `${EMPTY}`; write a value, or remove the key",
        ),
        (
            "a${DIR",
            "app.yaml:2:10: sqlite.path: `${` is not closed; close it with `}`, or write `$${` for a literal `${`",
        ),
        (
            "${}",
            "app.yaml:2:9: sqlite.path: `${..}` needs the name of a variable; write `${NAME}`, or `$${` for a literal `${`",
        ),
        (
            "${7}",
            "app.yaml:2:9: sqlite.path: `${..}` needs the name of a variable; write `${NAME}`, or `$${` for a literal `${`",
        ),
        (
            "${DIR-x}",
            "app.yaml:2:9: sqlite.path: `${DIR..}` is written in a form that is not known here; write `${DIR}`, `${DIR:-default}` or `${DIR:?message}`",
        ),
        (
            "${DIR:-${N}}",
            "app.yaml:2:9: sqlite.path: expressions do not nest; set one variable from the other outside",
        ),
    ] {
        assert_eq!(path(written, &set), want, "{written}");
    }
}

#[test]
fn the_place_is_right_in_texts_of_several_lines() {
    let report = load("sqlite:\n  path: >-\n    one\n    two ${GONE}\n").expect_err("not set");
    assert!(
        report.starts_with("app.yaml:4:9: sqlite.path: "),
        "{report}"
    );
}

#[test]
fn a_value_can_never_change_the_structure() {
    for value in [
        "x\nname: evil",
        "a: b",
        "\"",
        "' }",
        "[1, 2]",
        "{ a: b }",
        "# no comment",
        "null",
        "~",
        "*alias",
        "&anchor",
        "!tag",
        "${NAME}",
        "- a",
        "|",
        "true",
        "a\tb",
    ] {
        for written in ["{ path: ${V} }", "{ path: \"${V}\" }", "{ path: '${V}' }"] {
            let text = format!("sqlite: {written}\nname: good\n");
            let config = load_with(&text, &[("V", value), ("NAME", "evil")]).expect(value);
            let path = config.sqlite.path.expect("given").value;
            assert_eq!(&*path, value.trim(), "{written}");
            assert_eq!(&*config.name.value, "good", "{written} {value:?}");
        }
    }
}

#[test]
fn numbers_words_and_lists_may_come_from_variables() {
    let set = [
        ("N", "12"),
        ("YES", "true"),
        ("T", "30s"),
        ("R", "5/10s"),
        ("BROKERS", "a:1, b:2"),
        ("O", "last"),
    ];
    let text = "kq: { brokers: ${BROKERS}, offset: ${O}, create_topics: ${YES} }\n\
        handlers:\n  h: { concurrency: ${N}, lanes: \"${L:-3}\", timeout: ${T}, rate: ${R} }\n";
    let config = load_with(text, &set).expect("good");
    let brokers: Vec<_> = config.kq.brokers.iter().map(|b| &*b.value).collect();
    assert_eq!(brokers, ["a:1", "b:2"]);
    assert!(config.kq.create_topics());
    let options = &config.handlers[0].options;
    assert_eq!((options.concurrency, options.lanes), (Some(12), Some(3)));
    let rate = Rate {
        count: 5,
        per: Duration::from_secs(10),
    };
    assert_eq!(options.rate, Some(rate));
}

#[test]
fn an_expression_without_quotes_may_stand_in_braces_and_hold_anything_but_its_end() {
    let text = "dq: { redis: { host: ${H:?the host: see [docs] # here}, pass: ${P} } }\nname: x\n";
    let config = load_with(text, &[("H", "a:1"), ("P", "0123 # x")]).expect("good");
    let redis = config.dq.redis.expect("given");
    assert_eq!(redis.pass.expect("given").value.expose(), "0123 # x");
    let report = load_with(text, &[("P", "x")]).expect_err("not set");
    assert_eq!(
        report,
        "app.yaml:1:22: dq.redis.host: the variable H is not set; the host: see [docs] # here"
    );
}

#[test]
fn keys_and_comments_are_not_filled_in() {
    let report = load("# ${GONE}\n\"${GONE}\": 1\n").expect_err("unknown");
    assert!(
        report.starts_with("app.yaml:2:1: ${GONE}: unknown key"),
        "{report}"
    );
}

#[test]
fn every_variable_that_is_not_set_is_in_one_report() {
    let report = load("name: ${A}\nsqlite: { path: ${B} }\nkq: { brokers: [${C}, \"${D}\"] }\n")
        .expect_err("not set");
    assert!(
        report.starts_with("the configuration has 4 problems\n"),
        "{report}"
    );
    for place in [
        "1:7: name",
        "2:17: sqlite.path",
        "3:17: kq.brokers[0]",
        "3:24: kq.brokers[1]",
    ] {
        assert!(report.contains(place), "{place} in {report}");
    }
}
