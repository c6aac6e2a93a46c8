//! `docs/reference.yaml` and the code say the same.

use std::collections::BTreeSet;

use super::load;
use crate::config::fields::Reader;
use crate::config::{Config, Shape};
use crate::handler::{Options, Source};

const REFERENCE: &str = include_str!("../../../docs/reference.yaml");

const TOPIC: Source = Source::Topics {
    topics: &["orders"],
    group: None,
};

/// Everything that is in force, for the configuration and for the three handlers of the file.
fn in_force(text: &str) -> Result<Vec<(String, String)>, String> {
    let config = load(text)?;
    let mut rows = config.effective();
    let handlers = [
        ("remind", Source::Tube("reminders"), false),
        ("charge", TOPIC, false),
        ("clicks", TOPIC, true),
    ];
    let paths = handlers.map(|(name, ..)| (format!("app::{name}"), "src/main.rs:1"));
    let matches = config.match_handlers(&paths);
    assert!(matches.problems.is_empty(), "{:?}", matches.problems);
    for ((name, source, batch), file) in handlers.into_iter().zip(matches.of) {
        let shape = Shape {
            path: name,
            source,
            batch,
            claims: false,
            attribute: &Options::NONE,
        };
        let settings = config
            .settings(&shape, file)
            .map_err(|errors| errors.to_string())?;
        let described = settings.describe(&shape).into_iter();
        rows.extend(described.map(|(key, value, _)| (format!("handlers.{name}.{key}"), value)));
    }
    Ok(rows)
}

/// The file without one line.
fn without(line: usize) -> String {
    let lines: Vec<&str> = REFERENCE.lines().collect();
    [&lines[..line], &lines[line + 1..]].concat().join("\n")
}

#[test]
fn every_line_that_is_not_an_example_holds_the_default() {
    let whole = in_force(REFERENCE).expect("the reference file is good");
    let mut values = 0;
    for (index, line) in REFERENCE.lines().enumerate() {
        let (code, comment) = line.split_once('#').unwrap_or((line, ""));
        let code = code.trim().trim_start_matches("- ");
        if code.is_empty() || code.ends_with(':') {
            continue;
        }
        values += 1;
        let rest = in_force(&without(index));
        if comment.trim_start().starts_with("example") {
            assert_ne!(
                rest.as_ref(),
                Ok(&whole),
                "line {} is called an example, but it is the default",
                index + 1
            );
        } else {
            assert_eq!(
                rest.as_ref(),
                Ok(&whole),
                "line {} is not the default",
                index + 1
            );
        }
    }
    assert!(values > 90, "{values}");
}

#[test]
fn every_key_is_in_the_file() {
    let mut reader = Reader::new("reference.yaml");
    Config::read(&mut reader, None, REFERENCE, &[], &|_| None);
    assert_eq!(reader.problems, []);
    let last = |key: &String| {
        // What is true for one handler is true for the others.
        match key.strip_prefix("handlers.") {
            Some(rest) => rest
                .split_once('.')
                .map_or(rest, |(_, rest)| rest)
                .to_owned(),
            None => key.clone(),
        }
    };
    let named: BTreeSet<String> = reader.read.iter().map(last).collect();
    let known: BTreeSet<String> = reader.readable.iter().map(last).collect();
    let missing: Vec<_> = known.difference(&named).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn every_key_is_explained() {
    for (index, line) in REFERENCE.lines().enumerate() {
        let code = line.split('#').next().unwrap_or_default();
        if !code.trim().is_empty() && !code.trim_end().ends_with(':') {
            assert!(line.contains(" # "), "line {} has no comment", index + 1);
        }
    }
}

#[test]
fn every_example_of_the_guide_is_good() {
    const GUIDE: &str = include_str!("../../../docs/configuration.md");
    let mut examples = 0;
    for part in GUIDE.split("```yaml\n").skip(1) {
        let text = part.split("```").next().unwrap_or_default();
        let config = super::load_with(text, &[("REDIS_PASS", "x")]);
        assert!(
            config.is_ok(),
            "{text}\n{}",
            config.err().unwrap_or_default()
        );
        examples += 1;
    }
    assert_eq!(examples, 4);
    let faulty = "handlers:\n  charge:\n    concurency: 4\n    timeout: 90\ndq:\n  redis:\n    pass: \"${REDIS_PASS}\"\n    host: r:1\n";
    let report = load(faulty).expect_err("faulty");
    assert!(GUIDE.contains(&report), "{report}");
}
