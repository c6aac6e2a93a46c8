//! Every command and every answer, and what must not be one.

use bytes::BufMut;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 70_000;

fn bytes_of(command: &Command<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    command.encode(&mut out).expect("a valid command");
    out
}

fn text_of(command: &Command<'_>) -> String {
    String::from_utf8(bytes_of(command)).expect("ASCII")
}

#[test]
fn every_command_is_written_as_the_server_reads_it() {
    let cases: Vec<(Command<'_>, &str, Expect)> = vec![
        (
            Command::Put {
                priority: 1,
                delay: 2,
                ttr: 3,
                body: &[b"ab", b"", b"c"],
                limit: 3,
            },
            "put 1 2 3 3\r\nabc\r\n",
            Expect::Put,
        ),
        (Command::Use("a.b"), "use a.b\r\n", Expect::Using),
        (
            Command::ReserveWithTimeout(0),
            "reserve-with-timeout 0\r\n",
            Expect::Reserve,
        ),
        (
            Command::ReserveWithTimeout(12),
            "reserve-with-timeout 12\r\n",
            Expect::Reserve,
        ),
        (
            Command::ReserveJob(9),
            "reserve-job 9\r\n",
            Expect::ReserveJob,
        ),
        (
            Command::Delete(u64::MAX),
            "delete 18446744073709551615\r\n",
            Expect::Delete,
        ),
        (
            Command::Release {
                id: 7,
                priority: u32::MAX,
                delay: 0,
            },
            "release 7 4294967295 0\r\n",
            Expect::Release,
        ),
        (
            Command::Bury { id: 7, priority: 8 },
            "bury 7 8\r\n",
            Expect::Bury,
        ),
        (Command::Touch(10), "touch 10\r\n", Expect::Touch),
        (Command::Watch("t"), "watch t\r\n", Expect::Watching),
        (
            Command::Ignore("default"),
            "ignore default\r\n",
            Expect::Watching,
        ),
        (Command::Peek(1), "peek 1\r\n", Expect::Peek),
        (Command::PeekBuried, "peek-buried\r\n", Expect::Peek),
        (Command::PeekReady, "peek-ready\r\n", Expect::Peek),
        (Command::PeekDelayed, "peek-delayed\r\n", Expect::Peek),
        (Command::Kick(100), "kick 100\r\n", Expect::Kick),
        (Command::KickJob(3), "kick-job 3\r\n", Expect::KickJob),
        (Command::Stats, "stats\r\n", Expect::Stats),
        (Command::StatsJob(3), "stats-job 3\r\n", Expect::Stats),
        (
            Command::StatsTube("(a)/b;c+d$_-"),
            "stats-tube (a)/b;c+d$_-\r\n",
            Expect::Stats,
        ),
        (Command::ListTubeUsed, "list-tube-used\r\n", Expect::Using),
        (
            Command::PauseTube {
                tube: "t",
                seconds: 5,
            },
            "pause-tube t 5\r\n",
            Expect::Pause,
        ),
    ];
    for (command, text, expect) in cases {
        let mut out = b"before".to_vec();
        assert_eq!(command.encode(&mut out), Ok(expect));
        assert_eq!(out, [b"before", text.as_bytes()].concat());
    }
}

#[test]
fn the_longest_command_line_fits_into_the_servers_buffer() {
    let tube = "x".repeat(MAX_TUBE_LEN);
    let longest = Command::PauseTube {
        tube: &tube,
        seconds: u32::MAX,
    };
    assert!(bytes_of(&longest).len() <= 224);
}

#[test]
fn a_refused_command_leaves_nothing_behind() {
    let long = "x".repeat(MAX_TUBE_LEN + 1);
    for tube in ["", "-a", "a b", "a\r\ndelete 1", "a:b", "ä", "a\0", &long] {
        for command in [
            Command::Use(tube),
            Command::Watch(tube),
            Command::Ignore(tube),
            Command::StatsTube(tube),
            Command::PauseTube { tube, seconds: 1 },
        ] {
            let mut out = Vec::new();
            assert_eq!(
                command.encode(&mut out),
                Err(EncodeError::TubeName),
                "{tube:?}"
            );
            assert!(out.is_empty());
        }
    }
    let mut out = Vec::new();
    let put = Command::Put {
        priority: 0,
        delay: 0,
        ttr: 1,
        body: &[b"four", b"."],
        limit: 4,
    };
    let refused = EncodeError::BodyTooLong { size: 5, limit: 4 };
    assert_eq!(put.encode(&mut out), Err(refused));
    assert!(out.is_empty());
}

/// Every answer that there is, to a command that can have it.
fn answers() -> Vec<(Expect, &'static [u8], Answer)> {
    let body = |bytes: &'static [u8]| Bytes::from_static(bytes);
    let reserved = Answer::Reserved {
        id: 31,
        body: body(b"a\r\nb\0"),
    };
    vec![
        (Expect::Put, b"INSERTED 7\r\n", Answer::Inserted(7)),
        (Expect::Put, b"BURIED 7\r\n", Answer::PutBuried(7)),
        (Expect::Put, b"JOB_TOO_BIG\r\n", Answer::JobTooBig),
        (Expect::Put, b"DRAINING\r\n", Answer::Draining),
        (Expect::Put, b"OUT_OF_MEMORY\r\n", Answer::OutOfMemory),
        (Expect::Using, b"USING a\r\n", Answer::Using(body(b"a"))),
        (
            Expect::Reserve,
            b"RESERVED 31 5\r\na\r\nb\0\r\n",
            reserved.clone(),
        ),
        (
            Expect::Reserve,
            b"RESERVED 1 0\r\n\r\n",
            Answer::Reserved {
                id: 1,
                body: Bytes::new(),
            },
        ),
        (Expect::Reserve, b"TIMED_OUT\r\n", Answer::TimedOut),
        (Expect::Reserve, b"DEADLINE_SOON\r\n", Answer::DeadlineSoon),
        (
            Expect::ReserveJob,
            b"RESERVED 31 5\r\na\r\nb\0\r\n",
            reserved,
        ),
        (Expect::ReserveJob, b"NOT_FOUND\r\n", Answer::NotFound),
        (Expect::Delete, b"DELETED\r\n", Answer::Deleted),
        (Expect::Delete, b"NOT_FOUND\r\n", Answer::NotFound),
        (Expect::Release, b"RELEASED\r\n", Answer::Released),
        (Expect::Release, b"BURIED\r\n", Answer::Buried),
        (Expect::Release, b"OUT_OF_MEMORY\r\n", Answer::OutOfMemory),
        (Expect::Bury, b"BURIED\r\n", Answer::Buried),
        (Expect::Touch, b"TOUCHED\r\n", Answer::Touched),
        (Expect::Watching, b"WATCHING 2\r\n", Answer::Watching(2)),
        (Expect::Watching, b"NOT_IGNORED\r\n", Answer::NotIgnored),
        (
            Expect::Peek,
            b"FOUND 8 2\r\nhi\r\n",
            Answer::Found {
                id: 8,
                body: body(b"hi"),
            },
        ),
        (Expect::Peek, b"NOT_FOUND\r\n", Answer::NotFound),
        (Expect::Kick, b"KICKED 3\r\n", Answer::Kicked(3)),
        (Expect::KickJob, b"KICKED\r\n", Answer::Kicked(1)),
        (
            Expect::Stats,
            b"OK 10\r\n---\nid: 3\n\r\n",
            Answer::Stats(body(b"---\nid: 3\n")),
        ),
        (Expect::Pause, b"PAUSED\r\n", Answer::Paused),
    ]
}

#[test]
fn every_answer_is_read_whole_wherever_the_bytes_are_split() {
    for (expect, wire, answer) in answers() {
        for split in 0..wire.len() {
            let mut input = BytesMut::from(&wire[..split]);
            assert_eq!(
                Answer::decode(expect, &mut input, LIMIT),
                Ok(None),
                "{expect:?} at {split}"
            );
            assert_eq!(&input[..], &wire[..split], "nothing is taken early");
            input.put_slice(&wire[split..]);
            input.put_slice(b"NEXT");
            assert_eq!(
                Answer::decode(expect, &mut input, LIMIT),
                Ok(Some(answer.clone())),
                "{expect:?} at {split}"
            );
            assert_eq!(&input[..], b"NEXT");
        }
    }
}

#[test]
fn an_answer_to_another_command_is_an_error() {
    let all = answers();
    for (expect, _, _) in &all {
        for (_, wire, _) in &all {
            // Told apart by their first word: what it announces is another matter.
            let word = |wire: &[u8]| {
                wire.split(|b| b" \r".contains(b))
                    .next()
                    .map(<[u8]>::to_vec)
            };
            let known = all
                .iter()
                .any(|(e, w, _)| e == expect && word(w) == word(wire));
            let elsewhere = [&b"OUT_OF_MEMORY\r\n"[..], b"NOT_FOUND\r\n"];
            if known || elsewhere.contains(wire) {
                continue;
            }
            let mut input = BytesMut::from(*wire);
            assert!(
                matches!(
                    Answer::decode(*expect, &mut input, LIMIT),
                    Err(DecodeError::Unexpected { .. })
                ),
                "{expect:?} answered with {:?}",
                wire.escape_ascii().to_string()
            );
        }
    }
}

#[test]
fn nonsense_is_an_error_and_never_taken_for_an_answer() {
    let cases: [(Expect, &[u8]); 22] = [
        (Expect::Put, b"INSERTED\r\n"),
        (Expect::Put, b"INSERTED \r\n"),
        (Expect::Put, b"INSERTED x\r\n"),
        (Expect::Put, b"INSERTED 1 2\r\n"),
        (Expect::Put, b"INSERTED 18446744073709551616\r\n"),
        (Expect::Put, b"INSERTED -1\r\n"),
        (Expect::Put, b"INSERTED 1\n"),
        (Expect::Put, b"EXPECTED_CRLF\r\n"),
        (Expect::Put, b"BAD_FORMAT\r\n"),
        (Expect::Delete, b"UNKNOWN_COMMAND\r\n"),
        (Expect::Delete, b"INTERNAL_ERROR\r\n"),
        (Expect::Delete, b"DELETED 1\r\n"),
        (Expect::Delete, b"\r\n"),
        (Expect::Delete, b"\n"),
        (Expect::Reserve, b"RESERVED 1\r\n"),
        (Expect::Reserve, b"RESERVED\r\n"),
        (Expect::Reserve, b"RESERVED 1 2 3\r\n"),
        (Expect::Reserve, b"RESERVED 1  2\r\n"),
        (Expect::Using, b"USING \r\n"),
        (Expect::Stats, b"OK\r\n"),
        (Expect::Kick, b"KICKED\r\n"),
        (Expect::Reserve, b"HTTP/1.1 400 Bad Request\r\n"),
    ];
    for (expect, wire) in cases {
        let mut input = BytesMut::from(wire);
        assert!(
            matches!(
                Answer::decode(expect, &mut input, LIMIT),
                Err(DecodeError::Unexpected { .. })
            ),
            "{:?}",
            wire.escape_ascii().to_string()
        );
    }
    let mut endless = BytesMut::from(&[b'x'; 300][..]);
    assert_eq!(
        Answer::decode(Expect::Put, &mut endless, LIMIT),
        Err(DecodeError::LineTooLong)
    );
    let mut cut = BytesMut::from(&b"RESERVED 1 2\r\nabc\r\n"[..]);
    assert_eq!(
        Answer::decode(Expect::Reserve, &mut cut, LIMIT),
        Err(DecodeError::BodyEnd)
    );
}

#[test]
fn a_body_longer_than_the_limit_is_refused_before_it_arrives() {
    let mut input = BytesMut::from(&b"RESERVED 1 11\r\n"[..]);
    assert_eq!(
        Answer::decode(Expect::Reserve, &mut input, 10),
        Err(DecodeError::BodyTooLong {
            size: 11,
            limit: 10
        })
    );
    let mut huge = BytesMut::from(&b"RESERVED 1 18446744073709551615\r\n"[..]);
    assert!(matches!(
        Answer::decode(Expect::Reserve, &mut huge, LIMIT),
        Err(DecodeError::BodyTooLong { .. })
    ));
}

#[test]
fn an_unexpected_line_is_shown_short_and_escaped() {
    let wire = [&b"\x1b[31m"[..], &[b'y'; 200], b"\r\n"].concat();
    let mut input = BytesMut::from(&wire[..]);
    let error = Answer::decode(Expect::Put, &mut input, LIMIT).expect_err("nonsense");
    let text = error.to_string();
    assert!(!text.contains('\x1b') && text.len() < 120, "{text}");
}

#[test]
fn a_field_of_the_statistics_is_found_by_its_whole_name() {
    let text = b"---\nid: 3\ntube: \"a b\"\nreleases: 12\ncmd-releases: 4\n";
    assert_eq!(stat(text, "releases"), Some("12"));
    assert_eq!(stat(text, "tube"), Some("a b"));
    assert_eq!(stat(text, "release"), None);
    assert_eq!(stat(text, "kicks"), None);
}

/// Reads commands as the server does: to tell whether bytes hold exactly one.
fn server_reads(mut wire: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    while let Some(end) = wire.windows(2).position(|pair| pair == b"\r\n") {
        let line = wire[..end].to_vec();
        wire = &wire[end + 2..];
        if line.starts_with(b"put ") {
            let text = String::from_utf8_lossy(&line).into_owned();
            let len: usize = text
                .rsplit(' ')
                .next()
                .and_then(|number| number.parse().ok())
                .expect("a length");
            assert_eq!(
                &wire[len..len + 2],
                b"\r\n",
                "the body ends where announced"
            );
            wire = &wire[len + 2..];
        }
        lines.push(line);
    }
    assert!(wire.is_empty(), "every command has its end");
    lines
}

proptest! {
    #[test]
    fn any_body_stays_one_command(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
        priority: u32, delay: u32, ttr: u32,
    ) {
        let body: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let wire = bytes_of(&Command::Put { priority, delay, ttr, body: &body, limit: LIMIT });
        prop_assert_eq!(server_reads(&wire).len(), 1);
    }

    #[test]
    fn any_tube_is_one_command_or_none(tube in ".{0,20}|[a-z\r\n -]{0,12}") {
        let mut out = Vec::new();
        if Command::Watch(&tube).encode(&mut out).is_ok() {
            prop_assert_eq!(server_reads(&out), vec![[b"watch ", tube.as_bytes()].concat()]);
        } else {
            prop_assert!(out.is_empty());
        }
    }

    #[test]
    fn any_number_is_written_as_it_is_read(value: u64) {
        prop_assert_eq!(text_of(&Command::Touch(value)), format!("touch {value}\r\n"));
    }

    #[test]
    fn any_bodies_come_back_whole_in_pieces_of_any_size(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8),
        piece in 1_usize..50,
    ) {
        let mut wire = Vec::new();
        for (id, body) in bodies.iter().enumerate() {
            wire.extend_from_slice(format!("RESERVED {id} {}\r\n", body.len()).as_bytes());
            wire.extend_from_slice(body);
            wire.extend_from_slice(b"\r\n");
        }
        let mut input = BytesMut::new();
        let mut seen = Vec::new();
        for chunk in wire.chunks(piece) {
            input.put_slice(chunk);
            while let Some(answer) = Answer::decode(Expect::Reserve, &mut input, LIMIT).expect("valid") {
                let Answer::Reserved { id, body } = answer else { unreachable!("{answer:?}") };
                prop_assert_eq!(id, seen.len() as u64);
                seen.push(body.to_vec());
            }
        }
        prop_assert_eq!(seen, bodies);
        prop_assert!(input.is_empty());
    }

    #[test]
    fn any_bytes_are_an_answer_an_error_or_not_whole_yet(wire in prop::collection::vec(any::<u8>(), 0..400)) {
        for expect in [Expect::Put, Expect::Reserve, Expect::Stats, Expect::Peek, Expect::Watching] {
            let mut input = BytesMut::from(&wire[..]);
            if let Ok(None) = Answer::decode(expect, &mut input, LIMIT) {
                prop_assert_eq!(&input[..], &wire[..]);
            }
        }
    }
}
