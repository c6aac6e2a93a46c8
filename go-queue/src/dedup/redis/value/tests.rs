//! Values, and what marks and claims make of them.

use proptest::prelude::*;

use super::*;
use crate::time::WallTime;

const NOW: u64 = 1_800_000_000_000;

#[test]
fn values_are_read_as_they_are_written() {
    let values = [
        Value::Running {
            attempt: 3,
            owner: "a-1",
            until: NOW,
        },
        Value::Waiting {
            attempt: 0,
            owner: "-",
            not_before: 7,
        },
        Value::Dying {
            attempt: u32::MAX,
            owner: "b",
            until: u64::MAX,
        },
        Value::Dead { attempt: 9 },
        Value::Done { until: None },
        Value::Done { until: Some(9) },
        Value::Revoked,
        Value::Announced { token: 12 },
        Value::Stored {
            place: "10.0.0.1:11300/17,b:2/3",
        },
    ];
    for value in values {
        for generation in [0, 1, u16::MAX] {
            let standing = Standing { generation, value };
            assert_eq!(Standing::read(&standing.to_vec()), standing);
        }
    }
}

#[test]
fn the_lock_of_a_go_worker_is_told_from_what_is_unknown() {
    assert_eq!(Value::read(b"wGfNigJUK7NKQINV"), Value::GoLock);
    assert_eq!(Value::read(b"12345NigJUK7NKQI"), Value::GoLock);
    assert_eq!(Value::read(&GoLock::new_claim()), Value::Taken);
    let said = marked(&MarkWhat::Revoke, 0, Some(&GoLock::new_claim()), NOW);
    assert_eq!(said, (Marked::Stored(None), Change::None, 0));
    for strange in [
        &b""[..],
        b"wGfNigJUK7NKQIN",
        b"wGfNigJUK7NKQIN:",
        b"R:1:x",
        b"R:1:x:1:2",
        b"R:-1:x:3",
        b"Q:1:x:3",
        b"~V",
        b"65536~V",
        b"-1~V",
    ] {
        assert_eq!(Standing::read(strange).value, Value::Unknown, "{strange:?}");
    }
}

#[test]
fn who_asks_learns_what_the_value_means() {
    for (value, want) in [
        ("R:2:me:5", Claimed::Mine { attempt: 2 }),
        ("R:2:you:1800000000000", Claimed::Take { attempt: 3 }),
        (
            "R:2:you:1800000001000",
            Claimed::Running {
                rest: Duration::from_secs(1),
            },
        ),
        (
            "R:2:you:1800000060000",
            Claimed::Running { rest: ASK_AGAIN },
        ),
        ("W:2:you:1799999999999", Claimed::Take { attempt: 3 }),
        (
            "W:0:-:1800000060000",
            Claimed::Wait {
                rest: Duration::from_secs(60),
            },
        ),
        ("Z:8:you:1800000060000", Claimed::Wait { rest: DYING_AGAIN }),
        ("Z:8:you:1799999999999", Claimed::Take { attempt: 9 }),
        ("P:7", Claimed::Take { attempt: 1 }),
        ("S:a/1", Claimed::Take { attempt: 1 }),
        ("D", Claimed::Done),
        ("X:9", Claimed::Done),
        ("V", Claimed::Done),
        ("wGfNigJUK7NKQINV", Claimed::Done),
        ("something of next year", Claimed::Wait { rest: ASK_AGAIN }),
    ] {
        assert_eq!(claimed(value.as_bytes(), 0, "me", NOW), want, "{value}");
    }
}

#[track_caller]
fn mark(what: &MarkWhat, value: &str, marked_as: &Marked, becomes: &str) {
    mark_in(0, what, value, (marked_as, 0), becomes);
}

#[track_caller]
fn mark_in(asked: u16, what: &MarkWhat, value: &str, said: (&Marked, u16), becomes: &str) {
    let found = (!value.is_empty()).then_some(value.as_bytes());
    let (answer, change, generation) = marked(what, asked, found, NOW);
    assert_eq!((&answer, generation), said, "{what:?} on {value:?}");
    let after = match &change {
        Change::None => value,
        Change::Remove => "",
        Change::Write(new) => std::str::from_utf8(new).unwrap(),
    };
    assert_eq!(after, becomes, "{what:?} on {value:?}");
}

const RUNS: &str = "R:1:a:1800000000001";
const OVER: &str = "R:1:a:1800000000000";

#[test]
fn a_named_task_is_announced_unless_it_is_known() {
    let announce = || MarkWhat::Announce { token: 5 };
    for free in ["", "P:4"] {
        mark(&announce(), free, &Marked::Set, "P:5");
    }
    mark(
        &announce(),
        "S:a/1",
        &Marked::Stored(Some("a/1".into())),
        "S:a/1",
    );
    mark(&announce(), RUNS, &Marked::Running, RUNS);
    mark(&announce(), OVER, &Marked::Stored(None), OVER);
    mark(&announce(), "W:1:a:5", &Marked::Stored(None), "W:1:a:5");
    mark(&announce(), "D", &Marked::Done, "D");
    mark(&announce(), "X:3", &Marked::Dead, "X:3");
    let stored = || MarkWhat::Stored {
        place: "b/2".into(),
    };
    mark(&stored(), "P:5", &Marked::Set, "S:b/2");
    mark(&stored(), RUNS, &Marked::Running, RUNS);
    mark(&stored(), "D", &Marked::Done, "D");
    mark(&stored(), "V", &Marked::Revoked, "V");
    mark(&MarkWhat::Withdraw { token: 5 }, "P:5", &Marked::Set, "");
    mark(
        &MarkWhat::Withdraw { token: 5 },
        "P:6",
        &Marked::Stored(None),
        "P:6",
    );
}

#[test]
fn a_revoked_name_is_sent_anew_as_its_next_generation() {
    let announce = MarkWhat::Announce { token: 5 };
    let over = "1~D:1800000000000";
    let lasts = "1~D:1800000000001";
    for (value, said, becomes) in [
        ("V", (&Marked::Set, 1), "1~P:5"),
        ("1~P:4", (&Marked::Set, 1), "1~P:5"),
        ("1~V", (&Marked::Set, 2), "2~P:5"),
        ("65535~V", (&Marked::Set, 0), "P:5"),
        (
            "1~S:a/1",
            (&Marked::Stored(Some("a/1".into())), 1),
            "1~S:a/1",
        ),
        (lasts, (&Marked::Done, 1), lasts),
        (over, (&Marked::Set, 2), "2~P:5"),
    ] {
        mark_in(0, &announce, value, said, becomes);
    }
    let stored = MarkWhat::Stored {
        place: "b/2".into(),
    };
    mark_in(1, &stored, "1~P:5", (&Marked::Set, 1), "1~S:b/2");
    mark_in(1, &stored, "2~P:5", (&Marked::Revoked, 1), "2~P:5");
    let withdraw = MarkWhat::Withdraw { token: 5 };
    mark_in(2, &withdraw, "2~P:5", (&Marked::Set, 2), "1~V");
    mark_in(1, &withdraw, "1~P:5", (&Marked::Set, 1), "V");
    for nothing in [
        MarkWhat::Revoke,
        MarkWhat::Replay,
        MarkWhat::Forget,
        withdraw,
    ] {
        mark_in(0, &nothing, "1~S:a/1", (&Marked::Revoked, 0), "1~S:a/1");
    }
    mark_in(1, &MarkWhat::Revoke, "1~S:a/1", (&Marked::Set, 1), "1~V");
    mark_in(
        1,
        &MarkWhat::Forget,
        "1~W:0:-:9",
        (&Marked::Set, 1),
        "1~P:0",
    );
    mark_in(1, &MarkWhat::Replay, "1~X:8", (&Marked::Set, 1), "1~P:0");
    mark_in(1, &MarkWhat::Purge, "1~X:8", (&Marked::Set, 1), "1~V");
}

#[test]
fn a_copy_of_a_revoked_task_never_starts_in_place_of_the_next_one() {
    let me = |generation, value: &str| claimed(value.as_bytes(), generation, "me", NOW);
    for newer in [
        "V",
        "1~P:5",
        "1~S:a",
        "1~R:1:you:1",
        "1~W:0:-:5",
        "1~D:5",
        "1~V",
        "2~S:b",
    ] {
        assert_eq!(me(0, newer), Claimed::Done, "{newer}");
    }
    for older in ["V", "D", "R:1:you:1800000060000", "X:3"] {
        assert_eq!(me(1, older), Claimed::Take { attempt: 1 }, "{older}");
    }
    assert_eq!(
        me(0, "65535~V"),
        Claimed::Take { attempt: 1 },
        "counted around"
    );
    assert_eq!(me(1, "1~W:2:you:5"), Claimed::Take { attempt: 3 });
}

#[test]
fn a_task_is_revoked_unless_it_runs_or_has_run() {
    for free in ["", "P:4", "S:a", "W:2:a:5", OVER] {
        mark(&MarkWhat::Revoke, free, &Marked::Set, "V");
    }
    mark(&MarkWhat::Revoke, RUNS, &Marked::Running, RUNS);
    mark(&MarkWhat::Revoke, "D", &Marked::Done, "D");
    mark(&MarkWhat::Revoke, "Z:1:a:5", &Marked::Dying, "Z:1:a:5");
    mark(&MarkWhat::Revoke, "V", &Marked::Revoked, "V");
    mark(
        &MarkWhat::Revoke,
        "wGfNigJUK7NKQINV",
        &Marked::Done,
        "wGfNigJUK7NKQINV",
    );
    mark(&MarkWhat::Forget, "V", &Marked::Set, "");
    mark(&MarkWhat::Forget, "W:0:-:9", &Marked::Set, "");
    mark(
        &MarkWhat::Forget,
        "W:1:a:9",
        &Marked::Stored(None),
        "W:1:a:9",
    );
}

#[test]
fn a_moved_task_waits_for_its_new_time_and_keeps_its_count() {
    let later = || MarkWhat::NotBefore {
        due: WallTime::from_nanos(1_900_000_000_000_000_001),
    };
    mark(&later(), "S:a", &Marked::Set, "W:0:-:1900000000001");
    mark(&later(), "W:4:a:5", &Marked::Set, "W:4:-:1900000000001");
    mark(&later(), OVER, &Marked::Set, "W:1:-:1900000000001");
    mark(&later(), RUNS, &Marked::Running, RUNS);
    mark(&later(), "V", &Marked::Revoked, "V");
}

#[test]
fn a_dead_letter_is_kept_first_and_replayed_once() {
    let dead = || MarkWhat::Dead { attempts: 9 };
    for given_up in ["Z:9:a:5", "", "X:9"] {
        mark(&dead(), given_up, &Marked::Set, "X:9");
    }
    for goes_on in ["P:0", "W:9:a:5", OVER] {
        mark(&dead(), goes_on, &Marked::Stored(None), goes_on);
    }
    mark(&dead(), "V", &Marked::Revoked, "V");
    mark(&dead(), RUNS, &Marked::Running, RUNS);
    mark(&dead(), "D", &Marked::Done, "D");
    mark(&MarkWhat::Replay, "X:9", &Marked::Set, "P:0");
    mark(&MarkWhat::Replay, "Z:9:a:5", &Marked::Set, "P:0");
    mark(&MarkWhat::Replay, "", &Marked::Set, "P:0");
    mark(&MarkWhat::Replay, RUNS, &Marked::Running, RUNS);
    mark(&MarkWhat::Replay, "D", &Marked::Done, "D");
    for thrown_away in ["X:9", "Z:9:a:5", ""] {
        mark(&MarkWhat::Purge, thrown_away, &Marked::Set, "V");
    }
    mark(&MarkWhat::Purge, RUNS, &Marked::Running, RUNS);
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..64), generation: u16, now: u64) {
        let _ = claimed(&bytes, generation, "me", now);
    }

    #[test]
    fn numbers_are_written_as_they_are_formatted(number: u64) {
        let mut out = Vec::new();
        digits(number, &mut out);
        prop_assert_eq!(out, number.to_string().into_bytes());
    }
}
