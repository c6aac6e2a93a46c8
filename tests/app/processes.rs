//! Worker processes: the command line, exit codes, signals, and several processes on one file.

use std::time::{Duration, Instant};

use go_queue::prelude::*;
use go_queue::producer::{Enqueue, Push};
use rustix::process::Signal;

use crate::worker::{Site, Worker};

const JOBS: Tube<u32> = Tube::new("jobs");

/// What `job` wrote: how often each began, and whether each began as its first attempt and ended.
fn each_once(book: &[String], count: u32) {
    for n in 0..count {
        let begun: Vec<_> = book
            .iter()
            .filter(|line| line.starts_with(&format!("begin {n} ")))
            .collect();
        assert_eq!(begun, [&format!("begin {n} attempt 1")]);
        let ended = book.iter().filter(|line| **line == format!("end {n}"));
        assert_eq!(ended.count(), 1, "job {n}");
    }
}

/// Sends jobs from this process.
fn send_jobs(site: &Site, count: u32) {
    let path = site.path("data/app-worker.db");
    site.write(
        "producer.yaml",
        &format!("sqlite: {{ path: {} }}\n", path.display()),
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let producer = Producer::open(site.path("producer.yaml")).await.unwrap();
        for sent in producer.send_all((0..count).map(|n| JOBS.now(n))).await {
            sent.unwrap();
        }
    });
}

#[test]
fn check_says_that_all_is_well_or_what_is_not() {
    let site = Site::with("handlers: { job: { concurrency: 3 } }\n");
    site.run(&["check"]).with(0).says(&[
        "fit together",
        "tube `jobs`",
        "config.yaml:1",
        "attribute",
        "default",
    ]);
    assert!(!site.path("data").exists(), "it opens nothing");
    site.write(
        "config.yaml",
        "handlers:\n  jbo: { concurrency: 3 }\nshutdwon: {}\n",
    );
    let ended = site.run(&["check"]).with(2);
    ended.says(&["config.yaml:3:1", "did you mean `shutdown`?"]);
    assert_eq!(ended.out, "", "a report goes to standard error");
    site.write("config.yaml", "handlers:\n  jbo: { concurrency: 3 }\n");
    site.run(&["check"])
        .with(2)
        .says(&["config.yaml:2:3", "did you mean `job`?"]);
    assert!(!site.path("data").exists());
}

#[test]
fn handlers_are_listed_for_people_and_for_programs() {
    let site = Site::with("handlers: { audit: { enabled: false } }\n");
    let people = site
        .run(&["handlers", "--set", "handlers.job.concurrency=5"])
        .with(0);
    let file = site.path("data").canonicalize().unwrap_or_else(|_| {
        let folder = site.path("").canonicalize().unwrap();
        folder.join("data/app-worker.db")
    });
    people.says(&[
        "job  tube `jobs`  on sqlite ",
        &file.display().to_string(),
        "tests/src/bin/app-worker.rs:",
        "concurrency",
        "command line",
        "audit  switched off",
    ]);
    let programs = site
        .run(&["handlers", "--json", "--set", "handlers.job.concurrency=5"])
        .with(0);
    let all: serde_json::Value = serde_json::from_str(&programs.out).unwrap();
    let find = |name: &str| {
        let all = all.as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    let job = find("job");
    assert_eq!(job["place"], "jobs");
    assert_eq!(job["enabled"], true);
    assert_eq!(job["payload"], "u32");
    assert_eq!(job["options"]["concurrency"]["value"], "5");
    assert_eq!(job["options"]["concurrency"]["origin"], "command line");
    assert_eq!(job["options"]["lease"]["origin"], "attribute");
    assert_eq!(job["options"]["timeout"]["origin"], "default");
    assert_eq!(find("audit")["enabled"], false);
    assert_eq!(find("greet")["path"], "app_worker::greet");
    assert_eq!(all.as_array().unwrap().len(), 5);
}

#[test]
fn help_is_no_error_and_a_wrong_command_line_is() {
    let site = Site::new();
    site.run(&["--help"]).with(0).says(&[
        "run",
        "check",
        "handlers",
        "send",
        "--set",
        "--until-idle",
    ]);
    site.run(&["send", "--help"])
        .with(0)
        .says(&["--delay", "--at", "--key", "--id"]);
    site.run(&["hanlders"]).with(2).says(&["handlers"]);
    site.run(&["run", "--until-idle=soon"])
        .with(2)
        .says(&["soon", "is not a duration"]);
    site.run(&["check", "--nonsense"])
        .with(2)
        .says(&["--nonsense"]);
    site.run(&["check", "--set", "handlers.job.concurrency"])
        .with(2)
        .says(&["there is no `=`"]);
    site.run(&["check", "--set", "handlers.job.concurency=3"])
        .with(2)
        .says(&["handlers.job.concurency", "did you mean `concurrency`?"]);
}

#[test]
fn send_sends_with_every_option_and_refuses_what_is_wrong() {
    let site = Site::new();
    let send = |args: &[&str]| {
        let all: Vec<_> = std::iter::once("send")
            .chain(args.iter().copied())
            .collect();
        site.run(&all)
    };
    send(&["greet", "eve"]).with(0).says(&["greetings:"]);
    send(&[
        "app_worker::greet",
        "adam",
        "--key",
        "k",
        "--delay",
        "300ms",
    ])
    .with(0);
    send(&["greet", "past", "--at", "2020-01-31T08:00:00Z"]).with(0);
    send(&["greet", "named", "--id", "one"]).with(0);
    let again = send(&["greet", "named", "--id", "one"]).with(0);
    again.says(&["it was there already"]);
    send(&["audit", r#"{"a":1}"#, "--key", "k"])
        .with(0)
        .says(&["partition", "offset 0"]);
    send(&["audit", "[2]", "--key", "k"])
        .with(0)
        .says(&["offset 1"]);

    send(&["gret", "x"])
        .with(2)
        .says(&["there is no handler `gret`", "did you mean `greet`?"]);
    send(&["job", "\"seven\""])
        .with(2)
        .says(&["the payload does not decode as `u32`", "app-worker.rs:"]);
    send(&["job", "7 8"])
        .with(2)
        .says(&["the payload does not decode as `u32`"]);
    send(&["job", "7", "--delay", "-5s"])
        .with(2)
        .says(&["not negative"]);
    send(&["job", "7", "--delay", "soon"])
        .with(2)
        .says(&["is not a duration"]);
    send(&["job", "7", "--delay", "200000d"])
        .with(2)
        .says(&["2262"]);
    send(&["job", "7", "--at", "tomorrow"])
        .with(2)
        .says(&["2030-01-31T08:00:00Z"]);
    send(&["job", "7", "--delay", "1s", "--at", "2030-01-31T08:00:00Z"]).with(2);
    send(&["audit", "1", "--delay", "1s"])
        .with(2)
        .says(&["a topic has no delay"]);
    send(&["greet", &"x".repeat(70_000)])
        .with(2)
        .says(&["the limit is 65535"]);
    send(&["greet"]).with(2).says(&["PAYLOAD"]);

    site.run(&["run", "--until-idle=2s"]).with(0);
    let mut book = site.book();
    book.sort();
    assert_eq!(
        book,
        [
            "event [2] k",
            r#"event {"a":1} k"#,
            "hello adam k",
            "hello eve no key",
            "hello named no key",
            "hello past no key",
            "stopped"
        ]
    );
}

#[test]
fn a_message_for_memory_is_not_accepted_by_a_process_that_ends() {
    let site = Site::with("dq: { engine: memory }\nkq: { engine: memory }\n");
    let ended = site.run(&["send", "greet", "eve"]);
    assert_ne!(ended.code, Some(0), "nobody will ever see it: {ended:?}");
    ended.says(&["memory"]);
}

#[test]
fn the_priority_of_the_attribute_and_of_the_configuration_holds_for_send() {
    let site = Site::with("handlers: { job: { concurrency: 1 }, greet: { concurrency: 1 } }\n");
    let priority = |place: &str| -> u32 {
        let file = rusqlite::Connection::open(site.path("data/app-worker.db")).unwrap();
        let sql = "SELECT job.pri FROM job JOIN tube ON tube.id = job.tube WHERE tube.name = ?1";
        file.query_row(sql, [place], |row| row.get(0)).unwrap()
    };
    site.run(&["send", "job", "1"]).with(0);
    assert_eq!(priority("jobs"), 9);
    site.run(&["send", "greet", "eve", "--set", "handlers.greet.priority=3"])
        .with(0);
    assert_eq!(priority("greetings"), 3);
}

#[test]
fn the_configuration_is_found_by_f_by_the_environment_and_by_name() {
    let site = Site::with("name: by-name\n");
    site.write("flag.yaml", "name: by-flag\n");
    site.write("env.yaml", "name: by-env\n");
    site.run(&["handlers"]).with(0).says(&["data/by-name.db"]);
    site.run(&["handlers", "-f", "flag.yaml"])
        .with(0)
        .says(&["data/by-flag.db"]);
    let with_env = |args: &[&str], file: &str| {
        Worker::spawn(site.command(args).env("GO_QUEUE_CONFIG", file)).wait()
    };
    with_env(&["handlers"], "env.yaml")
        .with(0)
        .says(&["data/by-env.db"]);
    with_env(&["handlers", "-f", "flag.yaml"], "env.yaml")
        .with(0)
        .says(&["data/by-flag.db"]);
    with_env(&["handlers", "--set", "name=by-set"], "env.yaml")
        .with(0)
        .says(&["data/by-set.db"]);
    with_env(&["handlers"], "none.yaml")
        .with(2)
        .says(&["none.yaml", "GO_QUEUE_CONFIG"]);
    site.run(&["handlers", "-f", "none.yaml"])
        .with(2)
        .says(&["cannot read", "none.yaml"]);
}

#[test]
fn each_ending_has_its_exit_code() {
    let site = Site::new();
    site.run(&["run", "--until-idle=0s"]).with(0);
    let mode =
        |mode: &str, args: &[&str]| Worker::spawn(site.command(args).env("APP_MODE", mode)).wait();
    mode("fail to start", &["run"])
        .with(1)
        .says(&["a start hook failed: no licence"]);
    mode("no handlers", &["run"])
        .with(2)
        .says(&["there are no handlers", "use my_handlers as _;"]);
    mode("no handlers", &["check"]).with(2);
    let without_book = Worker::spawn(site.command(&["run"]).env_remove("APP_BOOK")).wait();
    without_book.with(2).says(&[
        "5 problems",
        "State<Book>",
        "app_worker::job",
        "app_worker::audit",
    ]);
    send_jobs(&site, 1);
    let slow = Worker::spawn(
        site.command(&[
            "run",
            "--set",
            "shutdown.deadline=100ms",
            "--set",
            "shutdown.drain=100ms",
        ])
        .env("APP_PACE", "600000"),
    );
    site.book_has(1, "begin 0");
    slow.signal(Signal::TERM);
    let began = Instant::now();
    slow.wait()
        .with(3)
        .says(&["1 message was still running after 100ms and was handed back"]);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_log_that_cannot_be_written_does_not_end_the_worker() {
    let site = Site::new();
    site.run(&["send", "greet", "\"x\""]).with(0);
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let status = site
        .command(&["run", "--until-idle=1s"])
        .stdout(std::process::Stdio::null())
        .stderr(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_log_shows_what_is_served_and_keeps_secrets_and_payloads() {
    let yaml = "dq: { engine: sqlite, redis: { host: \"h:1\", pass: hunter2 } }\nkq: { engine: sqlite, security: { username: u, password: hunter3 } }\nadmin: { token: hunter4 }\n";
    let site = Site::with(yaml);
    site.run(&["send", "fail", "\"hunter5\""]).with(0);
    let jobs = Enqueue::bytes(
        "jobs",
        b"\"hunter6\"".to_vec(),
        go_queue::message::ContentType::Json,
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let path = site.path("data/app-worker.db");
    site.write(
        "producer.yaml",
        &format!("sqlite: {{ path: {} }}\n", path.display()),
    );
    runtime.block_on(async {
        let producer = Producer::open(site.path("producer.yaml")).await.unwrap();
        jobs.send(&producer).await.unwrap();
    });
    let ended = site
        .run(&["run", "--until-idle=0s", "--set", "log.level=trace"])
        .with(0);
    ended.says(&[
        "serving",
        "tube `jobs`",
        "topic `events`, group `audit`",
        "app-worker.db",
        "concurrency",
        "of no use",
    ]);
    assert_eq!(ended.out, "", "the log goes to standard error");
    let others = ["check", "handlers"].map(|command| site.run(&[command]).with(0));
    let json = site.run(&["handlers", "--json"]).with(0);
    for said in others.iter().chain([&ended, &json]) {
        assert!(!said.out.contains("hunter"), "{}", said.out);
        assert!(!said.err.contains("hunter"), "{}", said.err);
    }
}

#[test]
fn a_log_that_is_no_terminal_is_json_and_text_where_asked() {
    let site = Site::new();
    let text = site
        .run(&["run", "--until-idle=0s", "--set", "log.format=text"])
        .with(0);
    text.says(&["INFO", "serving"]);
    assert!(!text.err.contains(['{', '\u{1b}']), "{}", text.err);
    let ended = site.run(&["run", "--until-idle=0s"]).with(0);
    let lines: Vec<serde_json::Value> = ended
        .err
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        lines
            .iter()
            .any(|line| line["fields"]["message"] == "serving"),
        "{}",
        ended.err
    );
}

#[test]
fn sigterm_under_load_finishes_what_runs_and_leaves_the_rest_uncounted() {
    const COUNT: u32 = 80;
    let site = Site::new();
    send_jobs(&site, COUNT);
    let worker = Worker::spawn(site.command(&["run"]).env("APP_PACE", "120"));
    site.book_has(9, "begin");
    worker.signal(Signal::TERM);
    let began = Instant::now();
    let ended = worker.wait().with(0);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    ended.says(&["SIGTERM", "stopping", "stopped"]);
    let book = site.book();
    let begun = book.iter().filter(|line| line.starts_with("begin")).count();
    let finished = book.iter().filter(|line| line.starts_with("end")).count();
    assert_eq!(begun, finished, "what ran was finished: {book:?}");
    assert!(begun < COUNT as usize, "there was a rest");
    assert_eq!(book.last().unwrap(), "stopped");
    site.run(&["run", "--until-idle=1s"]).with(0);
    each_once(&site.book(), COUNT);
}

#[test]
fn sigint_stops_as_sigterm_does() {
    let site = Site::new();
    send_jobs(&site, 3);
    let worker = Worker::spawn(site.command(&["run"]).env("APP_PACE", "50"));
    site.book_has(3, "begin");
    worker.signal(Signal::INT);
    worker.wait().with(0).says(&["SIGINT"]);
    each_once(&site.book(), 3);
}

#[test]
fn signals_that_come_together_are_one() {
    let site = Site::new();
    send_jobs(&site, 4);
    let worker = Worker::spawn(site.command(&["run"]).env("APP_PACE", "300"));
    site.book_has(4, "begin");
    // As supervisors do that signal a process and then its group.
    worker.signal(Signal::TERM);
    worker.signal(Signal::INT);
    worker.signal(Signal::TERM);
    let ended = worker.wait().with(0);
    assert!(!ended.err.contains("second signal: "), "{}", ended.err);
    each_once(&site.book(), 4);
}

#[test]
fn a_log_in_json_is_json_to_its_last_line() {
    let site = Site::new();
    send_jobs(&site, 1);
    let mut command = site.command(&[
        "run",
        "--set",
        "log.format=json",
        "--set",
        "shutdown.deadline=0s",
    ]);
    let worker = Worker::spawn(command.env("APP_PACE", "600000"));
    site.book_has(1, "begin");
    worker.signal(Signal::TERM);
    let ended = worker.wait().with(3);
    ended.says(&["1 message was still running"]);
    for line in ended.err.lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok(),
            "{line}"
        );
    }
}

#[test]
fn a_handler_that_never_lets_its_thread_go_cannot_keep_the_process_from_ending() {
    let site = Site::new();
    site.run(&["send", "stuck", "null"]).with(0);
    let worker = site.start(&["run", "--set", "shutdown.deadline=1s"]);
    site.book_has(1, "stuck");
    let ended = worker.signal_until_the_end(Signal::TERM);
    assert_eq!(ended.code, None, "the signal ends it: {}", ended.err);
    ended.says(&["a handler blocks its thread", "stopped"]);
}

#[test]
fn a_second_signal_hands_back_what_runs_at_once_and_uncounted() {
    let site = Site::new();
    send_jobs(&site, 6);
    let worker = Worker::spawn(site.command(&["run"]).env("APP_PACE", "600000"));
    site.book_has(4, "begin");
    worker.signal(Signal::TERM);
    // Signals within half a second are one.
    std::thread::sleep(Duration::from_millis(700));
    worker.signal(Signal::INT);
    let began = Instant::now();
    let ended = worker.wait().with(3);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    ended.says(&["second signal", "4 messages were still running"]);
    assert!(
        !ended.err.contains("after 25s"),
        "it was not the deadline: {}",
        ended.err
    );
    let book = site.book();
    assert!(!book.iter().any(|line| line.starts_with("end")), "{book:?}");
    assert_eq!(book.last().unwrap(), "stopped", "the stop hooks ran");
    std::fs::remove_file(site.path("book")).unwrap();
    let began = Instant::now();
    site.run(&["run", "--until-idle=1s"]).with(0);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "they were back at once"
    );
    each_once(&site.book(), 6);
}

#[test]
fn a_signal_while_it_starts_stops_in_order() {
    let site = Site::new();
    send_jobs(&site, 4);
    let worker = Worker::spawn(
        site.command(&["run"])
            .env("APP_MODE", "start for ever")
            .env("APP_PACE", "300"),
    );
    site.book_has(1, "starting");
    site.book_has(4, "begin");
    worker.signal(Signal::TERM);
    worker.wait().with(0);
    let book = site.book();
    assert_eq!(
        book.iter().filter(|line| line.starts_with("end")).count(),
        4,
        "handlers are served before the start hook ends, so they are finished too: {book:?}"
    );
    assert_eq!(book.last().unwrap(), "stopped");
    each_once(&book, 4);
}

#[test]
fn two_processes_that_start_at_once_on_a_new_file_share_it() {
    for _ in 0..3 {
        let site = Site::new();
        let start = || {
            let mut command = site.command(&["run", "--until-idle=1s"]);
            Worker::spawn(command.env("APP_MODE", "seed").env("APP_PACE", "10"))
        };
        let (one, two, three) = (start(), start(), start());
        for worker in [one, two, three] {
            worker.wait().with(0);
        }
        each_once(&site.book(), 20);
        assert_eq!(site.book().len(), 43, "20 begun, 20 ended, 3 stopped");
    }
}

#[test]
fn a_producer_process_wakes_a_worker_process() {
    let site = Site::new();
    let worker = site.start(&["run"]);
    let mut sent = 0;
    for n in 0..5 {
        site.run(&["send", "audit", &n.to_string(), "--key", "k"])
            .with(0);
        site.run(&["send", "greet", &format!("n{n}"), "--delay", "50ms"])
            .with(0);
        sent += 1;
        site.book_has(sent, "event");
        site.book_has(sent, "hello");
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let path = site.path("data/app-worker.db");
    site.write(
        "producer.yaml",
        &format!("sqlite: {{ path: {} }}\n", path.display()),
    );
    runtime.block_on(async {
        let producer = Producer::open(site.path("producer.yaml")).await.unwrap();
        let json = go_queue::message::ContentType::Json;
        let push = Push::bytes("events", b"5".to_vec(), json).key("k");
        push.send(&producer).await.unwrap();
    });
    site.book_has(6, "event");
    worker.signal(Signal::TERM);
    worker.wait().with(0);
    let events: Vec<_> = site
        .book()
        .into_iter()
        .filter(|line| line.starts_with("event"))
        .collect();
    let wanted: Vec<_> = (0..6).map(|n| format!("event {n} k")).collect();
    assert_eq!(events, wanted, "one key, in order");
    assert!(
        !site.book().iter().any(|line| line.ends_with("early")),
        "{:?}",
        site.book()
    );
}

#[test]
fn two_workers_share_the_tasks_and_a_stop_of_one_is_no_loss() {
    const COUNT: u32 = 60;
    let site = Site::new();
    send_jobs(&site, COUNT);
    let start = || {
        Worker::spawn(
            site.command(&["run", "--until-idle=1s"])
                .env("APP_PACE", "40"),
        )
    };
    let (one, two) = (start(), start());
    site.book_has(12, "end");
    one.signal(Signal::TERM);
    one.wait().with(0);
    two.wait().with(0);
    each_once(&site.book(), COUNT);
}
