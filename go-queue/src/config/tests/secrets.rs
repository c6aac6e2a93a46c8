//! No secret is ever shown.

use super::{load, load_with};

const CANARY: &str = "c4n4ry-Zq7";

/// Every place for a secret.
const ALL: &str = "\
dq: { beanstalks: [a:1], redis: { host: \"h:1\", pass: SECRET, type: sentinel, master: m, sentinel_pass: SECRET } }
kq:
  brokers: [a:1]
  security: { username: u, password: SECRET, cert_file: c, key_file: k, key_password: SECRET }
  properties: { sasl.password: SECRET }
  producer: { properties: { ssl.key.password: SECRET } }
admin: { listen: \"0.0.0.0:9090\", token: SECRET }
";

#[test]
fn a_secret_is_in_no_debug_output() {
    for written in [CANARY, "\"${PW}\"", "${PW}", "${GONE:-c4n4ry-Zq7}"] {
        let text = ALL.replace("SECRET", written);
        let config = load_with(&text, &[("PW", CANARY)]).expect("good");
        let redis = config.dq.redis.clone().expect("given");
        assert_eq!(redis.pass.expect("given").value.expose(), CANARY);
        let shown = format!("{config:?} {config:#?} {:?}", config.effective());
        assert!(!shown.contains(CANARY), "{shown}");
        assert!(shown.contains("***"));
    }
}

#[test]
fn a_secret_is_in_no_report_however_wrong_the_file_is() {
    // Each secret in turn has the wrong form, and the file is wrong elsewhere too.
    for wrong in [
        "[SECRET]",
        "{ SECRET: SECRET }",
        "{ value: SECRET }",
        "\"SECRET\", zzz: 1",
    ] {
        let text = ALL.replace("SECRET", wrong).replace("SECRET", "${PW}") + "oops: 1\n";
        let report = load_with(&text, &[("PW", CANARY)]).expect_err("wrong");
        assert!(!report.contains(CANARY), "{report}");
    }
    // Broken YAML behind a secret, and inside of it.
    for broken in ["]", "\"x", "\tx", ": :", "{", "*", "!x"] {
        let text = ALL.replace("SECRET", CANARY) + "log: " + broken + "\n";
        let report = load(&text).expect_err("broken");
        assert!(!report.contains(CANARY), "{report}");
        let text = ALL
            .replacen("SECRET", &format!("{broken}{CANARY}"), 1)
            .replace("SECRET", "x");
        if let Err(report) = load(&text) {
            assert!(!report.contains(CANARY), "{report}");
        }
    }
}

#[test]
fn a_variable_in_the_wrong_place_is_named_and_not_shown() {
    for key in [
        "name: ${PW}",
        "handlers: { h: { concurrency: ${PW} } }",
        "handlers: { h: { timeout: ${PW} } }",
        "handlers: { h: { rate: ${PW} } }",
        "handlers: { h: { order: ${PW} } }",
        "handlers: { h: { retry: { backoff: ${PW} } } }",
        "handlers: { h: { enabled: ${PW} } }",
        "sqlite: { quota: ${PW} }",
        "dq: { engine: ${PW} }",
        "dq: { dedup: ${PW} }",
        "kq: { brokers: ${PW} }",
        "kq: { brokers: [${PW}] }",
        "dq: { redis: { host: ${PW} } }",
        "topics: { t: { retention: { age: ${PW}, size: ${PW} } } }",
        "kq: ${PW}",
        "handlers: ${PW}",
    ] {
        let report = load_with(key, &[("PW", "c4n4ry Zq7 5zz")]).expect_err(key);
        for part in ["c4n4ry", "Zq7", "5zz"] {
            assert!(!report.contains(part), "{key}: {report}");
        }
        let is_section = key == "kq: ${PW}" || key == "handlers: ${PW}";
        assert!(is_section || report.contains("${PW}"), "{key}: {report}");
    }
}

#[test]
fn a_url_with_a_password_is_not_shown() {
    for text in [
        "dq: { redis: { host: \"redis://u:c4n4ry@h:1\" } }",
        "dq: { redis: { host: \"u:c4n4ry@h:1\" } }",
        "kq: { brokers: [\"sasl://u:c4n4ry@h:1\"] }",
        "dq: { beanstalks: [{ endpoint: \"u:c4n4ry@h:1\" }] }",
    ] {
        let report = load(text).expect_err(text);
        assert!(!report.contains("c4n4ry"), "{report}");
    }
}

#[test]
fn an_empty_secret_from_a_variable_is_none() {
    let config =
        load_with("dq: { redis: { host: \"h:1\", pass: \"${PW:-}\" } }", &[]).expect("good");
    assert!(config.dq.redis.expect("given").pass.is_none());
}

#[test]
fn a_password_that_would_go_over_the_network_as_it_is_is_warned_of() {
    for (more, warned) in [
        ("", 1),
        (", tls: true", 0),
        (", ca_file: x", 0),
        (", mechanism: scram-sha-512", 0),
    ] {
        let text = format!("kq: {{ security: {{ username: u, password: p{more} }} }}\n");
        assert_eq!(load(&text).expect("good").remarks.len(), warned, "{more}");
    }
}
