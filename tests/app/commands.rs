//! The commands of a worker that only answer, and `send` with a file.

use std::io::Write as _;
use std::process::Stdio;

use crate::worker::{Ended, Site, Worker};

#[test]
fn the_schema_is_printed_without_a_configuration_and_without_handlers() {
    // Whoever mends a faulty file wants the schema most.
    let site = Site::with("oops: 1\n");
    let ended = site.run(&["check", "--schema"]).with(0);
    let schema: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
    let engine = &schema["properties"]["dq"]["properties"]["engine"]["anyOf"][0]["enum"];
    assert_eq!(
        *engine,
        serde_json::json!(["sqlite", "beanstalkd", "memory"])
    );
    site.run(&["check"])
        .with(2)
        .says(&["config.yaml:1:1: oops: unknown key"]);
}

#[test]
fn completions_know_commands_options_and_handlers() {
    let site = Site::new();
    for (shell, parts) in [
        (
            "bash",
            &["app-worker", "greet", "--until-idle", "--schema"][..],
        ),
        ("zsh", &["#compdef app-worker", "audit", "--delay"]),
        ("fish", &["complete -c app-worker", "handlers", "json"]),
    ] {
        let ended = site.run(&["completions", shell]).with(0);
        assert!(ended.err.is_empty(), "{}", ended.err);
        ended.says(parts);
    }
    site.run(&["completions", "bsh"]).with(2).says(&["'bash'"]);
    site.run(&["completions"]).with(2).says(&["SHELL"]);
}

#[test]
fn no_answer_has_colours_where_nobody_sees_them() {
    let site = Site::new();
    for args in [
        &["--help"][..],
        &["send", "--help"],
        &["handlers"],
        &["check"],
        &["hanlders"],
        &["send", "gret", "x"],
        &["run", "--until-idle=100ms"],
    ] {
        let ended = site.run(args);
        assert!(
            !ended.out.contains('\x1b') && !ended.err.contains('\x1b'),
            "{args:?}: {ended:?}"
        );
    }
}

#[test]
fn help_says_what_the_exit_codes_mean_and_shows_examples() {
    let site = Site::new();
    site.run(&["--help"])
        .with(0)
        .says(&["Exit codes", "handed back", "completions"]);
    site.run(&["send", "--help"])
        .with(0)
        .says(&["Examples:", "--file orders.jsonl"]);
    site.run(&["check", "--help"])
        .with(0)
        .says(&["yaml-language-server"]);
    site.run(&["completions", "--help"])
        .with(0)
        .says(&["bash-completion"]);
}

#[test]
fn every_line_of_a_file_is_sent_in_its_order() {
    let site = Site::new();
    let lines: Vec<_> = (0..6_000).map(|n: u32| n.to_string()).collect();
    site.write("jobs.jsonl", &lines.join("\n"));
    site.run(&["send", "job", "--file", "jobs.jsonl"])
        .with(0)
        .says(&["6000 messages sent to `job`"]);
    // The ends of lines of other systems, and empty lines, are none of the payload.
    site.write("events.jsonl", "{\"n\":1}\r\n\n{\"n\":2}\r\n{\"n\":3}");
    site.run(&["send", "audit", "--file", "events.jsonl", "--key", "k"])
        .with(0)
        .says(&["3 messages sent to `audit`"]);
    site.run(&["run", "--until-idle=100ms"]).with(0);
    let events: Vec<_> = site
        .book()
        .into_iter()
        .filter(|line| line.starts_with("event"))
        .collect();
    assert_eq!(
        events,
        [
            "event {\"n\":1} k",
            "event {\"n\":2} k",
            "event {\"n\":3} k"
        ]
    );
    assert_eq!(
        site.book()
            .iter()
            .filter(|line| line.starts_with("end "))
            .count(),
        6_000
    );
}

#[test]
fn a_file_with_a_faulty_line_is_refused_as_a_whole() {
    let site = Site::new();
    site.write("jobs.jsonl", "1\n\"two\"\n3\n-4\n");
    let refused = site.run(&["send", "job", "--file", "jobs.jsonl"]).with(2);
    refused.says(&[
        "2 of 4 payloads do not decode as `u32`: nothing was sent",
        "jobs.jsonl:2:",
        "jobs.jsonl:4:",
    ]);
    site.run(&["run", "--until-idle=100ms"]).with(0);
    assert_eq!(
        site.book()
            .iter()
            .filter(|line| line.starts_with("end "))
            .count(),
        0
    );
    site.write("empty.jsonl", "\n\n");
    site.run(&["send", "job", "--file", "empty.jsonl"])
        .with(2)
        .says(&["has no payload"]);
    site.run(&["send", "job", "--file", "gone.jsonl"])
        .with(2)
        .says(&["gone.jsonl cannot be read"]);
    site.run(&["send", "job", "1", "--file", "jobs.jsonl"])
        .with(2)
        .says(&["cannot be used with"]);
    site.run(&["send", "audit", "--file", "jobs.jsonl", "--delay", "1s"])
        .with(2)
        .says(&["a topic has no delay"]);
}

#[test]
fn lines_that_the_engine_does_not_take_are_told_and_the_others_are_stored() {
    let site = Site::new();
    site.write("names.txt", &format!("eve\n{}\nbob\n", "x".repeat(70_000)));
    site.run(&["send", "greet", "--file", "names.txt"])
        .with(1)
        .says(&[
            "this line was not accepted: 2; the other lines to 3 are stored",
            "of names.txt",
            "the limit is 65535",
        ]);
    site.run(&["run", "--until-idle=100ms"]).with(0);
    let mut hellos = site.book();
    hellos.retain(|line| line.starts_with("hello"));
    hellos.sort();
    assert_eq!(hellos, ["hello bob no key", "hello eve no key"]);
}

/// Runs it with this text behind a pipe.
fn piped(site: &Site, args: &[&str], text: &str) -> Ended {
    let (read, mut write) = std::io::pipe().unwrap();
    let worker = Worker::spawn(site.command(args).stdin(Stdio::from(read)));
    write.write_all(text.as_bytes()).unwrap();
    drop(write);
    worker.wait()
}

#[test]
fn what_can_be_read_only_once_is_sent_whole() {
    let site = Site::new();
    for file in ["-", "/dev/stdin"] {
        let args = ["send", "job", "--file", file];
        piped(&site, &args, "1\n2\n3\n")
            .with(0)
            .says(&["3 messages sent to `job`"]);
        piped(&site, &args, "1\nx\n")
            .with(2)
            .says(&["1 of 2 payloads do not decode"]);
        piped(&site, &args, "").with(2).says(&["has no payload"]);
    }
    site.run(&["run", "--until-idle=100ms"]).with(0);
    site.book_has(6, "end ");
}

#[test]
fn a_file_that_does_not_fit_ends_where_the_first_line_is_refused_and_says_which_are_stored() {
    let site = Site::with("sqlite: { quota: 2MiB }\n");
    let line = |n: u32| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", "x".repeat(1500));
    let lines: String = (1..=5000).map(line).collect();
    site.write("events.jsonl", &lines);
    let ended = site.run(&["send", "audit", "--file", "events.jsonl", "--key", "k"]);
    let ended = ended.with(1);
    ended.says(&[
        "were not accepted: ",
        "nothing behind it was sent",
        "retention",
    ]);
    let (_, rest) = ended.err.split_once("not accepted: ").unwrap();
    let (refused, rest) = rest.split_once(';').unwrap();
    let (first, last) = refused.split_once('-').expect("one range, without holes");
    let first: usize = first.parse().unwrap();
    assert!(
        rest.contains(&format!("the other lines to {last} are stored")),
        "{}",
        ended.err
    );
    site.run(&["run", "--until-idle=100ms"]).with(0);
    let events = site.book_has(first - 1, "event");
    assert_eq!(events.len(), first - 1, "as it was said");
}

#[test]
fn a_text_without_quotes_is_told_how_to_be_one() {
    let site = Site::new();
    site.run(&["send", "fail", "eve"])
        .with(2)
        .says(&["write its quotes"]);
    site.write("names.txt", "\"ada\"\neve\n");
    site.run(&["send", "fail", "--file", "names.txt"])
        .with(2)
        .says(&["names.txt:2: ", "at column 1; a text is JSON too"]);
    site.write("names.txt", "\u{feff}\"ada\"\n");
    site.run(&["send", "fail", "--file", "names.txt"])
        .with(2)
        .says(&["names.txt:1: ", "byte order mark"]);
}

#[test]
fn who_sends_is_told_where_it_goes_and_whether_somebody_serves_it_there() {
    let site = Site::new();
    let ended = site.run(&["send", "job", "1"]).with(0);
    assert_eq!(ended.out.lines().count(), 1, "the id alone: {}", ended.out);
    let file = site.path("data/app-worker.db");
    ended.says(&[
        "sent to tube `job",
        &format!("on sqlite {}: a new file", file.display()),
    ]);
    let again = site.run(&["send", "job", "2"]).with(0);
    again.says(&["on sqlite "]);
    assert!(!again.err.contains("new file"), "{}", again.err);
    site.write("config.yaml", "handlers: { job: { enabled: false } }\n");
    site.run(&["send", "job", "3"])
        .with(0)
        .says(&["`job` is switched off here"]);
}

#[test]
fn the_version_is_that_of_the_library_under_the_name_of_the_program() {
    let ended = Site::new().run(&["--version"]).with(0);
    assert_eq!(ended.out, "app-worker (go-queue 0.1.0)\n");
}
