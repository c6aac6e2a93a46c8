//! What a node may say: any bytes are an answer, an error, or not whole yet; and how they are cut into reads changes nothing.
//!
//! The first bytes choose the commands that are answered and where the rest is cut.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

#[path = "../../go-queue/src/engine/beanstalkd/codec.rs"]
#[expect(dead_code, reason = "the target reads answers and writes a few commands")]
mod codec;

use codec::{Answer, Command, DecodeError, Expect};

const LIMIT: usize = 4096;

const EXPECTED: [Expect; 14] = [
    Expect::Put,
    Expect::Using,
    Expect::Reserve,
    Expect::ReserveJob,
    Expect::Delete,
    Expect::Release,
    Expect::Bury,
    Expect::Touch,
    Expect::Watching,
    Expect::Peek,
    Expect::Kick,
    Expect::KickJob,
    Expect::Stats,
    Expect::Pause,
];

/// Reads answers to one command after the other until the bytes or the patience end.
fn read(expect: Expect, pieces: &[&[u8]]) -> (Vec<Answer>, Option<DecodeError>) {
    let mut input = BytesMut::new();
    let mut seen = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let before = input.clone();
            match Answer::decode(expect, &mut input, LIMIT) {
                Ok(Some(answer)) => {
                    assert!(input.len() < before.len(), "an answer takes bytes");
                    seen.push(answer);
                }
                Ok(None) => {
                    assert_eq!(input, before, "what is not whole is left alone");
                    break;
                }
                Err(error) => return (seen, Some(error)),
            }
        }
    }
    (seen, None)
}

fuzz_target!(|data: &[u8]| {
    let [choice, cut, wire @ ..] = data else {
        return;
    };
    let expect = EXPECTED[usize::from(*choice) % EXPECTED.len()];
    let cut = usize::from(*cut) % (wire.len() + 1);
    let whole = read(expect, &[wire]);
    let halves = read(expect, &[&wire[..cut], &wire[cut..]]);
    // An error may show before the rest is there; what was read before it is the same.
    assert_eq!(whole, halves);

    if let Ok(tube) = std::str::from_utf8(wire) {
        let mut out = Vec::new();
        if Command::Watch(tube).encode(&mut out).is_ok() {
            assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        } else {
            assert!(out.is_empty());
        }
    }
});
