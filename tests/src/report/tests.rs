//! What journals say about promises.

use super::*;
use crate::Folder;

const SECOND: u64 = 1_000_000_000;

/// A report of journals that are given as `(process, lines)`; times are seconds.
fn report(journals: &[(&str, &[&str])]) -> Report {
    let folder = Folder::new("report");
    for (process, lines) in journals {
        let lines: Vec<String> = lines
            .iter()
            .map(|line| {
                let (time, event) = line.split_once(' ').expect("a time and an event");
                let seconds: f64 = time.parse().expect("seconds");
                let nanos = Duration::from_secs_f64(seconds).as_nanos();
                format!("{nanos} {event}")
            })
            .collect();
        folder.write(
            &format!("{process}.journal"),
            &format!("{}\n", lines.join("\n")),
        );
    }
    Ledger::of(folder.path())
        .report()
        .expect("the journals are well formed")
}

const SENT: (&str, &[&str]) = ("producer", &["0 offer x", "0 accept x"]);

#[test]
fn a_message_that_ran_once_keeps_every_promise() {
    let report = report(&[SENT, ("w", &["1 start x 1 1", "2 finish x 1 1"])]);
    report.assert_kept();
    assert_eq!(
        (
            report.accepted,
            report.finished,
            report.runs,
            report.repeated
        ),
        (1, 1, 1, 0)
    );
}

#[test]
fn accepted_and_not_finished_is_lost() {
    let report = report(&[SENT, ("w", &["1 start x 1 1"])]);
    assert_eq!(report.lost, ["x"]);
    assert!(std::panic::catch_unwind(|| report.assert_kept()).is_err());
}

#[test]
fn offered_and_not_accepted_may_be_missing() {
    report(&[("producer", &["0 offer x"])]).assert_kept();
}

#[test]
fn a_dead_letter_and_a_revoked_task_are_not_lost() {
    report(&[
        SENT,
        ("w", &["1 start x 1 1", "2 return x 1 1"]),
        ("driver", &["3 dead x"]),
    ])
    .assert_kept();
    report(&[SENT, ("driver", &["3 revoke x"])]).assert_kept();
}

#[test]
fn a_run_after_a_revoke_breaks_a_promise() {
    let report = report(&[
        SENT,
        ("driver", &["3 revoke x"]),
        ("w", &["4 start x 1 1", "5 finish x 1 1"]),
    ]);
    assert_eq!(report.broken_promises(), ["broken"]);
}

#[test]
fn a_second_run_without_cause_is_found() {
    let lines = &[
        "1 start x 1 1",
        "2 finish x 1 1",
        "3 start x 2 1",
        "4 finish x 2 1",
    ];
    let report = report(&[SENT, ("w", lines)]);
    assert_eq!((report.doubled, report.unexplained.len()), (1, 1));
    assert_eq!(report.broken_promises(), ["run twice without cause"]);
}

#[test]
fn two_runs_at_once_are_found_although_nothing_was_finished_before() {
    let report = report(&[
        SENT,
        ("a", &["1 start x 1 1", "4 finish x 1 1"]),
        ("b", &["2 start x 1 2", "3 finish x 1 2"]),
    ]);
    assert_eq!((report.doubled, report.unexplained.len()), (0, 1));
}

#[test]
fn a_run_that_was_cut_off_explains_the_next_and_is_no_double() {
    let report = report(&[
        SENT,
        ("a", &["1 start x 1 1"]),
        ("driver", &["2 kill a"]),
        ("b", &["3 start x 2 2", "4 finish x 2 2"]),
    ]);
    report.assert_kept();
    assert_eq!(
        (report.repeated, report.doubled, report.interrupted),
        (1, 0, 1)
    );
    assert_eq!(report.repeated_by_kill, [1]);
}

#[test]
fn a_kill_just_after_the_finish_explains_a_double() {
    let report = report(&[
        SENT,
        ("a", &["1 start x 1 1", "2 finish x 1 1"]),
        ("driver", &["2.1 kill a"]),
        ("b", &["3 start x 2 2", "4 finish x 2 2"]),
    ]);
    report.assert_kept();
    assert_eq!((report.doubled, report.worst_kill()), (1, 1));
    assert_eq!(report.doubled_by_kill, [1]);
}

#[test]
fn a_kill_long_after_the_finish_or_after_the_second_start_explains_nothing() {
    for kill in ["60 kill a", "70.5 kill a"] {
        let report = report(&[
            SENT,
            ("a", &["1 start x 1 1", "2 finish x 1 1"]),
            ("driver", &[kill]),
            ("b", &["70 start x 2 2", "71 finish x 2 2"]),
        ]);
        assert_eq!(report.unexplained.len(), 1, "{kill}");
    }
}

#[test]
fn the_kill_of_another_process_explains_nothing() {
    let report = report(&[
        SENT,
        ("a", &["1 start x 1 1"]),
        ("c", &["1 mark ready"]),
        ("driver", &["2 kill c"]),
        ("b", &["3 start x 2 2", "4 finish x 2 2"]),
    ]);
    assert_eq!(report.unexplained.len(), 1);
}

#[test]
fn a_process_that_was_stopped_explains_a_second_run() {
    let report = report(&[
        SENT,
        ("a", &["1 start x 1 1", "90 finish x 1 1"]),
        ("driver", &["2 stop a", "89 cont a"]),
        ("b", &["65 start x 2 2", "66 finish x 2 2"]),
    ]);
    report.assert_kept();
    assert_eq!(report.repeated, 1);
}

#[test]
fn a_late_start_after_standing_still_is_explained_and_counted() {
    let journals = |stop: &'static [&'static str]| {
        report(&[
            SENT,
            ("driver", stop),
            ("b", &["5 start x 2 2", "6 finish x 2 2"]),
            ("a", &["9.1 start x 1 1", "9.2 finish x 1 1"]),
        ])
    };
    let late = journals(&["2 stop a", "9 cont a"]);
    late.assert_kept();
    assert_eq!((late.late_starts, late.doubled), (1, 1));
    // It was awake while the other ran: that is no excuse.
    assert_eq!(journals(&["2 stop a", "4 cont a"]).unexplained.len(), 1);
}

#[test]
fn a_run_that_was_given_back_explains_the_next_one_only_after_it() {
    let kept = report(&[
        SENT,
        (
            "w",
            &[
                "1 start x 1 1",
                "2 return x 1 1",
                "3 start x 2 1",
                "4 finish x 2 1",
            ],
        ),
    ]);
    kept.assert_kept();
    assert_eq!(kept.returned, 1);
    let broken = report(&[
        SENT,
        ("a", &["1 start x 1 1", "5 return x 1 1"]),
        ("b", &["3 start x 2 1", "4 finish x 2 1"]),
    ]);
    assert_eq!(broken.unexplained.len(), 1);
}

#[test]
fn a_released_attempt_may_start_again_under_its_number() {
    let lines = &[
        "1 start x 1 1",
        "2 return x 1 1",
        "3 start x 1 1",
        "4 finish x 1 1",
    ];
    report(&[SENT, ("w", lines)]).assert_kept();
}

#[test]
fn what_nobody_sent_is_found() {
    let report = report(&[("w", &["1 start ghost 1 1", "2 finish ghost 1 1"])]);
    assert_eq!(report.unknown, ["ghost"]);
}

#[test]
fn the_text_names_what_was_broken_but_not_a_million_lines() {
    let lines: Vec<String> = (0..50)
        .flat_map(|n| [format!("0 offer m{n}"), format!("0 accept m{n}")])
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let text = report(&[("producer", &lines)]).to_string();
    assert!(
        text.contains("lost 50") && text.contains("and 40 more"),
        "{text}"
    );
    assert!(text.lines().count() < 20, "{text}");
}

#[test]
fn seconds_are_nanoseconds() {
    assert_eq!(nanos(Duration::from_secs(1)), SECOND);
}
