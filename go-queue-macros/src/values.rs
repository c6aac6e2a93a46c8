//! Values as people write them: durations, rates, names. The same rules as `go_queue::time` and `go_queue::name`, applied
//! while compiling.

use std::time::Duration;

/// Reads `500ms`, `30s`, `1h 30m`, `2d`, and Go's `1m30s`: what `go_queue::time::parse_duration` reads.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let fail = |why: &str| Err(format!("`{text}` is not a duration: {why}"));
    let mut rest = text.trim();
    if rest.starts_with('-') {
        return fail("it must not be negative");
    }
    if rest.is_empty() {
        return fail("write for example `30s`");
    }
    if rest == "0" {
        return fail("write `0s`");
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number = take(&mut rest, |c| c.is_ascii_digit());
        let fraction = match rest.strip_prefix('.') {
            Some(after) => {
                rest = after;
                Some(take(&mut rest, |c| c.is_ascii_digit()))
            }
            None => None,
        };
        if number.is_empty() || fraction == Some("") {
            return fail("write numbers with units, for example `1m 30s`");
        }
        rest = rest.trim_start();
        let unit = take(&mut rest, |c| c.is_ascii_alphabetic() || c == 'µ');
        let nanos: u128 = match unit {
            "nanos" | "nsec" | "ns" => 1,
            "usec" | "us" | "µs" => 1_000,
            "millis" | "msec" | "ms" => 1_000_000,
            "seconds" | "second" | "secs" | "sec" | "s" => 1_000_000_000,
            "minutes" | "minute" | "min" | "mins" | "m" => 60_000_000_000,
            "hours" | "hour" | "hr" | "hrs" | "h" => 3_600_000_000_000,
            "days" | "day" | "d" => 86_400_000_000_000,
            "weeks" | "week" | "wk" | "wks" | "w" => 7 * 86_400_000_000_000,
            "M" | "month" | "months" | "y" | "yr" | "yrs" | "year" | "years" => {
                return fail("months and years have no fixed length, use days (`d`)");
            }
            "" => {
                return fail(&format!(
                    "the unit is missing, write for example `{number}s`"
                ));
            }
            unknown => {
                return fail(&format!(
                    "there is no unit `{unknown}`; units are `ms`, `s`, `m`, `h`, `d`"
                ));
            }
        };
        let Some(part) = scale(number, fraction.unwrap_or(""), nanos) else {
            return fail("it is too long, or finer than a nanosecond");
        };
        total += part;
        rest = rest.trim_start();
    }
    let nanos = total % 1_000_000_000;
    match (u64::try_from(total / 1_000_000_000), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) => Ok(Duration::new(seconds, nanos)),
        _ => fail("it is too long"),
    }
}

/// `number.fraction` times so many nanoseconds.
fn scale(number: &str, fraction: &str, nanos: u128) -> Option<u128> {
    let whole = u128::from(number.parse::<u64>().ok()?) * nanos;
    if fraction.is_empty() {
        return Some(whole);
    }
    let digits = u32::try_from(fraction.len()).ok()?;
    let numerator = u128::from(fraction.parse::<u64>().ok()?) * nanos;
    let denominator = 10_u128.checked_pow(digits)?;
    numerator
        .is_multiple_of(denominator)
        .then_some(whole + numerator / denominator)
}

fn take<'a>(rest: &mut &'a str, keep: impl Fn(char) -> bool) -> &'a str {
    let end = rest.find(|c| !keep(c)).unwrap_or(rest.len());
    let (taken, after) = rest.split_at(end);
    *rest = after;
    taken
}

/// Reads `1s..10m`, or one duration for both ends.
pub(crate) fn backoff(text: &str) -> Result<(Duration, Duration), String> {
    let (first, max) = text.split_once("..").unwrap_or((text, text));
    let (first, max) = (duration(first)?, duration(max)?);
    if first > max {
        return Err(format!(
            "`{text}` goes backwards: write the shorter wait first, for example `1s..10m`"
        ));
    }
    Ok((first, max))
}

/// Reads `200/s`, `10/m`, `5/10s`.
pub(crate) fn rate(text: &str) -> Result<(u32, Duration), String> {
    let fail = || format!("`{text}` is not a rate: write for example `200/s` or `10/m`");
    let (count, per) = text.split_once('/').ok_or_else(fail)?;
    let per = match per.trim() {
        "s" | "sec" | "second" => Ok(Duration::from_secs(1)),
        "m" | "min" | "minute" => Ok(Duration::from_secs(60)),
        "h" | "hour" => Ok(Duration::from_secs(3600)),
        "d" | "day" => Ok(Duration::from_secs(86_400)),
        other => duration(other),
    };
    match (count.trim().parse(), per) {
        (Ok(count), Ok(per)) if count > 0 && !per.is_zero() => Ok((count, per)),
        _ => Err(fail()),
    }
}

/// The rule of `go_queue::name::check_name`.
pub(crate) fn name(text: &str) -> Result<(), String> {
    let why = if text.is_empty() {
        "a name must not be empty".to_owned()
    } else if text.len() > 200 {
        format!("a name has at most 200 bytes, this one has {}", text.len())
    } else if text.starts_with('-') {
        "a name must not begin with `-`".to_owned()
    } else if matches!(text, "." | "..") {
        "`.` and `..` are not names".to_owned()
    } else if let Some(bad) = text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-'))
    {
        format!("a name may hold only letters A-Z a-z, digits, `.`, `_` and `-`, not {bad:?}")
    } else {
        return Ok(());
    };
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_at_run_time() {
        for text in [
            "500ms",
            "30s",
            "1h 30m",
            "1m30s",
            "2d",
            "0s",
            "1.5s",
            " 5 minutes ",
            "1h15m30.918s",
            "3 wks",
            "0.25h",
            "10us",
            "7ns",
            "1.5 days 2hr",
            "007s",
            "18446744073709551615s",
        ] {
            let want = humantime::parse_duration(text.trim()).expect(text);
            assert_eq!(duration(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn a_bad_duration_says_what_would_be_right() {
        for (text, part) in [
            ("", "30s"),
            ("0", "`0s`"),
            ("90", "the unit is missing, write for example `90s`"),
            ("1m30", "write for example `30s`"),
            ("-5s", "negative"),
            ("1M", "days"),
            ("1 year", "days"),
            ("soon", "numbers with units"),
            ("30x", "no unit `x`"),
            ("1.s", "numbers with units"),
            ("0.5ns", "finer than a nanosecond"),
            ("99999999999999999999s", "too long"),
            ("30s,", "numbers with units"),
        ] {
            let error = duration(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_back_off_has_two_ends() {
        let seconds = Duration::from_secs;
        assert_eq!(backoff("1s..10m"), Ok((seconds(1), seconds(600))));
        assert_eq!(backoff("1s .. 10m"), Ok((seconds(1), seconds(600))));
        assert_eq!(backoff("5s"), Ok((seconds(5), seconds(5))));
        assert!(backoff("10m..1s").is_err());
        assert!(backoff("1s..").is_err());
    }

    #[test]
    fn a_rate_is_a_number_and_a_time() {
        let seconds = Duration::from_secs;
        assert_eq!(rate("200/s"), Ok((200, seconds(1))));
        assert_eq!(rate("10 / min"), Ok((10, seconds(60))));
        assert_eq!(rate("5/10s"), Ok((5, seconds(10))));
        assert_eq!(rate("1000/day"), Ok((1000, seconds(86_400))));
        for bad in [
            "200",
            "0/s",
            "/s",
            "200/",
            "200/0s",
            "x/s",
            "200/fortnight",
            "200/ms",
        ] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_follows_the_one_rule() {
        for good in ["a", "orders", "a.b_c-9", "...", &"x".repeat(200)] {
            assert_eq!(name(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "a/b", "Ä", "-a", ".", "..", &"x".repeat(201)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
