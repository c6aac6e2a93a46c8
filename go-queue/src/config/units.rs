//! Values as people write them: durations, sizes, rates, back-off, endpoints, names, and the way back for tables.

use std::sync::Arc;
use std::time::Duration;

use super::fields::Not;
use crate::handler::options::{Backoff, Rate, Timeout};
use crate::name::{Name, check_name};
use crate::time::{format_duration, parse_duration};

/// `30s`, `1h 30m`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, Not> {
    parse_duration(text).map_err(|error| {
        let error = error.to_string();
        // The words of the error may quote the text, and the text may be a secret in the wrong place.
        let remedy = ["unit is missing", "not negative", "use days"]
            .iter()
            .find(|known| error.contains(**known))
            .map_or(
                "write for example `30s`, `1m 30s` or `7d`",
                |known| match *known {
                    "unit is missing" => "the unit is missing, write for example `30s`",
                    "not negative" => "write a time that is not negative",
                    _ => "months and years have no fixed length, use days (`d`)",
                },
            );
        Not::new("is not a duration", remedy)
    })
}

/// A duration above zero.
pub(super) fn some_time(text: &str) -> Result<Duration, Not> {
    between(text, Duration::from_nanos(1), Duration::MAX)
}

/// A duration within bounds.
pub(super) fn between(text: &str, low: Duration, high: Duration) -> Result<Duration, Not> {
    let found = duration(text)?;
    if found < low {
        let low = if low <= Duration::from_nanos(1) {
            "more than `0s`".to_owned()
        } else {
            format!("at least `{}`", format_duration(low))
        };
        return Err(Not::new("is too short", format!("write {low}")));
    }
    if found > high {
        let high = format_duration(high);
        return Err(Not::new("is too long", format!("write at most `{high}`")));
    }
    Ok(found)
}

/// Something or `none`.
pub(super) fn or_none<T>(
    text: &str,
    read: impl FnOnce(&str) -> Result<T, Not>,
) -> Result<Option<T>, Not> {
    if text.eq_ignore_ascii_case("none") {
        Ok(None)
    } else {
        read(text).map(Some).map_err(|wrong| wrong.or("`none`"))
    }
}

/// A size within bounds.
pub(super) fn size_between(text: &str, low: u64, high: u64) -> Result<u64, Not> {
    let found = size(text)?;
    if (low..=high).contains(&found) {
        return Ok(found);
    }
    let (low, high) = (format_size(low), format_size(high));
    Err(Not::new(
        "is out of range",
        format!("write a size from `{low}` to `{high}`"),
    ))
}

const SIZES: [(&str, u64); 9] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// `64MiB`, `1.5GB`: decimal and binary units, each meaning what it says.
pub(super) fn size(text: &str) -> Result<u64, Not> {
    let wrong = |remedy: &str| Not::new("is not a size", remedy);
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    if number.is_empty() || unit.is_empty() && !number.contains('.') && number == "0" {
        return Err(wrong("write for example `64MiB` or `1GB`"));
    }
    if unit.is_empty() {
        return Err(wrong("the unit is missing, write for example `64MiB`"));
    }
    let Some((_, factor)) = SIZES.iter().find(|(name, _)| *name == unit) else {
        return Err(wrong(
            "its unit must be B, KB, MB, GB, TB, KiB, MiB, GiB or TiB",
        ));
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let too_large = || Not::new("is out of range", "write a smaller size");
    let digits = |text: &str| -> Result<u128, Not> {
        if text.is_empty() {
            return Ok(0);
        }
        if text.len() > 18 {
            return Err(too_large());
        }
        text.parse()
            .map_err(|_| wrong("write for example `64MiB` or `1GB`"))
    };
    let scale = 10_u128.pow(u32::try_from(fraction.len().min(18)).unwrap_or(18));
    let bytes = (digits(whole)? * scale + digits(fraction)?) * u128::from(*factor) / scale;
    match u64::try_from(bytes)
        .ok()
        .filter(|bytes| i64::try_from(*bytes).is_ok())
    {
        Some(0) => Err(Not::new("is too small", "write at least `1B`")),
        Some(bytes) => Ok(bytes),
        None => Err(too_large()),
    }
}

/// Writes a size the way [`size`] reads it.
pub(super) fn format_size(bytes: u64) -> String {
    let unit = SIZES
        .iter()
        .filter(|(_, factor)| bytes.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor);
    match unit {
        Some((name, factor)) => {
            let name = name.to_ascii_uppercase().replace("IB", "iB");
            format!("{}{name}", bytes / factor)
        }
        None => format!("{bytes}B"),
    }
}

/// `200/s`, `6000/m`, `5/10s`.
pub(super) fn rate(text: &str) -> Result<Rate, Not> {
    let wrong = || Not::new("is not a rate", "write for example `200/s` or `5/10s`");
    let (count, per) = text.split_once('/').ok_or_else(wrong)?;
    let count: u32 = count.trim().parse().map_err(|_| wrong())?;
    let per = match per.trim() {
        "s" | "sec" | "second" => Duration::from_secs(1),
        "m" | "min" | "minute" => Duration::from_secs(60),
        "h" | "hour" => Duration::from_secs(3600),
        "d" | "day" => Duration::from_secs(86_400),
        other => duration(other).map_err(|_| wrong())?,
    };
    if count == 0 || per.is_zero() {
        return Err(Not::new(
            "lets nothing through",
            "write at least one in some time, `enabled: false` to switch the handler off",
        ));
    }
    Ok(Rate { count, per })
}

/// Writes a rate the way [`rate`] reads it.
pub(super) fn format_rate(rate: Rate) -> String {
    match rate.per.as_secs() {
        1 if rate.per.subsec_nanos() == 0 => format!("{}/s", rate.count),
        60 if rate.per.subsec_nanos() == 0 => format!("{}/m", rate.count),
        3600 if rate.per.subsec_nanos() == 0 => format!("{}/h", rate.count),
        _ => format!(
            "{}/{}",
            rate.count,
            format_duration(rate.per).replace(' ', "")
        ),
    }
}

/// `1s..10m`, or one duration for a wait that does not grow.
pub(super) fn backoff(text: &str) -> Result<Backoff, Not> {
    let (first, max) = text.split_once("..").unwrap_or((text, text));
    let wrong = |_| Not::new("is not a back-off", "write for example `1s..10m`");
    let backoff = Backoff {
        first: duration(first.trim()).map_err(wrong)?,
        max: duration(max.trim()).map_err(wrong)?,
    };
    if backoff.first > backoff.max {
        return Err(Not::new(
            "ends before it begins",
            "write the shorter wait first, for example `1s..10m`",
        ));
    }
    Ok(backoff)
}

/// Writes a back-off the way [`backoff`] reads it.
pub(super) fn format_backoff(backoff: Backoff) -> String {
    let short = |time| format_duration(time).replace(' ', "");
    if backoff.first == backoff.max {
        short(backoff.first)
    } else {
        format!("{}..{}", short(backoff.first), short(backoff.max))
    }
}

/// A duration or `none`.
pub(super) fn timeout(text: &str) -> Result<Timeout, Not> {
    Ok(match or_none(text, some_time)? {
        Some(time) => Timeout::After(time),
        None => Timeout::None,
    })
}

/// Writes a timeout the way [`timeout`] reads it.
pub(super) fn format_timeout(timeout: Timeout) -> String {
    match timeout {
        Timeout::After(time) => format_duration(time),
        Timeout::None => "none".to_owned(),
    }
}

/// The name of a tube, topic, group or service.
pub(super) fn name(text: &str) -> Result<Name, Not> {
    Name::new(text).map_err(|why| Not::new("is not a name", why.to_string()))
}

/// `host:port`, with brackets around an IPv6 address.
pub(super) fn endpoint(text: &str) -> Result<Arc<str>, Not> {
    let wrong = |remedy: &str| Not::new("is not an endpoint", remedy);
    if text.contains("://") || text.contains('@') {
        let wrong = wrong("write `host:port`, and user and password under keys of their own");
        return Err(wrong.hidden());
    }
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| wrong("the port is missing, write `host:port`"))?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() {
        return Err(wrong("the host is missing, write `host:port`"));
    }
    if host.contains(':') && !bracketed {
        return Err(wrong("put brackets around an IPv6 address: `[::1]:11300`"));
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(wrong("write `host:port`"));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(Arc::from(text)),
        _ => Err(wrong("its port must be a number from 1 to 65535")),
    }
}

/// A text as a name: what the rule of names forbids becomes `-`.
pub(super) fn sanitised(text: &str) -> Option<Name> {
    let name: String = text
        .chars()
        .map(|c| match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '-' => c,
            _ => '-',
        })
        .take(crate::name::MAX_NAME_LEN)
        .collect();
    let name = name.trim_start_matches(['-', '.']);
    check_name(name).ok()?;
    Name::new(name).ok()
}
