//! What is finished beyond the offset that is committed, as a text beside it.
//!
//! A broker keeps one offset for each partition and group, and a short text. A record that takes long holds the offset up, and
//! without the text whoever reads on would run everything behind it once more. The text is `gq1` and base64 of one of two forms,
//! whichever says more: runs (how many are open, how many are finished, and so on, seven bits to a byte), or one bit for each offset.

/// Finished offsets: from the first, to before the second. In order, with open ones between them.
pub(super) type Range = (i64, i64);

/// Brokers keep at most 4,096 bytes of text.
const ROOM: usize = 3_000;

const PREFIX: &str = "gq1";
const RUNS: u8 = b'r';
const BITS: u8 = b'b';

/// Writes ranges that lie beyond `base`. Empty if there is nothing to say. What there is no room for is left out, and runs again.
pub(super) fn encode(base: i64, ranges: &[Range]) -> String {
    if ranges.is_empty() {
        return String::new();
    }
    let (runs, reach) = runs(base, ranges);
    let all = ranges.last().map_or(base, |range| range.1);
    let bits_reach = base.saturating_add(i64::try_from(ROOM * 8).unwrap_or(i64::MAX));
    let (form, bytes) = if reach >= all || reach >= bits_reach {
        (RUNS, runs)
    } else {
        (BITS, bits(base, ranges, bits_reach.min(all)))
    };
    let mut text = String::with_capacity(PREFIX.len() + 1 + bytes.len().div_ceil(3) * 4);
    text.push_str(PREFIX);
    text.push(char::from(form));
    to_base64(&bytes, &mut text);
    text
}

/// Reads what [`encode`] wrote. Of a text that is not ours, or is broken, nothing is believed.
pub(super) fn decode(base: i64, text: &str) -> Vec<Range> {
    read(base, text).unwrap_or_default()
}

fn read(base: i64, text: &str) -> Option<Vec<Range>> {
    let rest = text.strip_prefix(PREFIX)?.as_bytes();
    let (form, rest) = rest.split_first()?;
    let bytes = from_base64(rest)?;
    match *form {
        RUNS => read_runs(base, &bytes),
        BITS => Some(read_bits(base, &bytes)),
        _ => None,
    }
}

/// Runs as bytes, and behind which offset they end.
fn runs(base: i64, ranges: &[Range]) -> (Vec<u8>, i64) {
    let (mut bytes, mut at) = (Vec::new(), base);
    for (from, to) in ranges {
        let before = bytes.len();
        push_number(&mut bytes, from.abs_diff(at));
        push_number(&mut bytes, to.abs_diff(*from));
        if bytes.len() > ROOM {
            bytes.truncate(before);
            return (bytes, at);
        }
        at = *to;
    }
    (bytes, at)
}

fn read_runs(base: i64, mut bytes: &[u8]) -> Option<Vec<Range>> {
    let (mut ranges, mut at) = (Vec::new(), base);
    while !bytes.is_empty() {
        let from = at.checked_add_unsigned(take_number(&mut bytes)?)?;
        let to = from.checked_add_unsigned(take_number(&mut bytes)?)?;
        if from < to {
            ranges.push((from, to));
        }
        at = to;
    }
    Some(ranges)
}

fn bits(base: i64, ranges: &[Range], end: i64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from((end - base + 7) / 8).unwrap_or(0).min(ROOM)];
    for (from, to) in ranges {
        for offset in *from..(*to).min(end) {
            let at = usize::try_from(offset - base).unwrap_or(usize::MAX);
            if let Some(byte) = bytes.get_mut(at / 8) {
                *byte |= 1 << (at % 8);
            }
        }
    }
    bytes
}

fn read_bits(base: i64, bytes: &[u8]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let all = bytes
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    for (offset, finished) in (base..).zip(all) {
        match ranges.last_mut() {
            _ if !finished => {}
            Some(last) if last.1 == offset => last.1 += 1,
            _ => ranges.push((offset, offset + 1)),
        }
    }
    ranges
}

fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Without padding.
fn to_base64(bytes: &[u8], text: &mut String) {
    for three in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..three.len()].copy_from_slice(three);
        let number = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for letter in 0..=three.len() {
            let six = number >> (18 - 6 * letter) & 63;
            text.push(char::from(LETTERS[six as usize]));
        }
    }
}

fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for four in text.chunks(4) {
        let mut number = 0_u32;
        for letter in four {
            let six = LETTERS.iter().position(|known| known == letter)?;
            number = number << 6 | u32::try_from(six).ok()?;
        }
        number <<= 6 * (4 - four.len());
        bytes.extend_from_slice(&number.to_be_bytes()[1..four.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ranges from gaps and lengths, none of which is zero.
    fn ranges(base: i64, pairs: &[(i64, i64)]) -> Vec<Range> {
        let mut at = base;
        let ranges = pairs.iter().map(|(gap, len)| {
            let from = at + gap;
            at = from + len;
            (from, at)
        });
        ranges.collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            base in 0_i64..1_000_000_000_000,
            pairs in prop::collection::vec((1_i64..300, 1_i64..100_000), 0..400),
        ) {
            let ranges = ranges(base, &pairs);
            let text = encode(base, &ranges);
            prop_assert!(text.len() <= 4_096);
            prop_assert_eq!(decode(base, &text), ranges);
        }

        #[test]
        fn what_has_no_room_is_left_out_at_the_end(
            base in 0_i64..1_000_000,
            pairs in prop::collection::vec((1_i64..4, 1_i64..4), 1_000..20_000),
        ) {
            let ranges = ranges(base, &pairs);
            let text = encode(base, &ranges);
            prop_assert!(text.len() <= 4_096);
            let read = decode(base, &text);
            prop_assert!(read.len() >= 1_000);
            let whole = read.len() - 1;
            prop_assert_eq!(&read[..whole], &ranges[..whole]);
            let (cut, full) = (read[whole], ranges[whole]);
            prop_assert!(cut.0 == full.0 && cut.1 <= full.1);
        }

        #[test]
        fn nothing_is_believed_of_other_texts(text in ".{0,200}") {
            prop_assume!(!text.starts_with(PREFIX));
            prop_assert!(decode(0, &text).is_empty());
        }

        #[test]
        fn a_broken_text_does_no_harm(form in "[rbx]", text in "[A-Za-z0-9+/=]{0,100}", base in any::<i64>()) {
            for (from, to) in decode(base.max(0) / 2, &format!("{PREFIX}{form}{text}")) {
                prop_assert!(from < to && from >= base.max(0) / 2);
            }
        }
    }

    #[test]
    fn the_text_of_a_known_state_is_as_it_always_was() {
        assert_eq!(encode(100, &[]), "");
        assert_eq!(encode(100, &[(101, 103), (300, 301)]), "gq1rAQLFAQE");
        assert_eq!(decode(100, "gq1rAQLFAQE"), [(101, 103), (300, 301)]);
        assert_eq!(decode(0, "gq1bBQ"), [(0, 1), (2, 3)]);
    }
}
