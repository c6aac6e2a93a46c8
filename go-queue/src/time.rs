//! Time: the wall clock that due times are measured by, and durations as people write them.
//!
//! The only place that reads the wall clock. Waiting is measured by tokio's monotonic clock, which tests can pause.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A point of wall time: nanoseconds since the Unix epoch, years 1677 to 2262.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(i64);

impl WallTime {
    /// The Unix epoch; as a due time it means "now".
    pub const EPOCH: Self = Self(0);

    /// From nanoseconds since the Unix epoch.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From milliseconds since the Unix epoch; saturates.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This much later, or `None` beyond the year 2262.
    pub fn checked_add(self, by: Duration) -> Option<Self> {
        self.0
            .checked_add(i64::try_from(by.as_nanos()).ok()?)
            .map(Self)
    }

    /// This much later, at most the year 2262.
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Self {
        self.checked_add(by).unwrap_or(Self(i64::MAX))
    }

    /// This much earlier, at least the year 1677.
    #[must_use]
    pub fn saturating_sub(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero if it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// From the standard library's type, or `None` outside of the years 1677 to 2262.
    pub fn from_system(time: SystemTime) -> Option<Self> {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).ok().map(Self),
            Err(before) => i64::try_from(before.duration().as_nanos())
                .ok()
                .map(|n| Self(-n)),
        }
    }

    /// As the standard library's type.
    pub fn to_system(self) -> SystemTime {
        let distance = Duration::from_nanos(self.0.unsigned_abs());
        if self.0 >= 0 {
            UNIX_EPOCH + distance
        } else {
            UNIX_EPOCH - distance
        }
    }
}

impl fmt::Display for WallTime {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 0 {
            humantime::format_rfc3339_millis(self.to_system()).fmt(f)
        } else {
            write!(f, "{} ms before 1970", -self.as_millis())
        }
    }
}

/// The wall clock of an app. Cloning shares it.
///
/// The virtual clock follows tokio's clock from a fixed start, so `tokio::time::pause` and `advance` move due times
/// and timers together.
#[derive(Clone, Debug)]
pub struct Clock(Arc<ClockState>);

#[derive(Debug)]
struct ClockState {
    /// `None`: the system's clock.
    follows: Option<(Instant, WallTime)>,
    /// Added to what is read; what a clock step in a test changes.
    offset: AtomicI64,
}

impl Clock {
    /// The system's wall clock.
    pub fn system() -> Self {
        Self(Arc::new(ClockState {
            follows: None,
            offset: AtomicI64::new(0),
        }))
    }

    /// A clock that starts at `start` and follows tokio's (pausable) clock.
    pub fn following_tokio(start: WallTime) -> Self {
        let state = ClockState {
            follows: Some((Instant::now(), start)),
            offset: AtomicI64::new(0),
        };
        Self(Arc::new(state))
    }

    /// The wall time now.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the wall clock"
    )]
    pub fn now(&self) -> WallTime {
        let base = match self.0.follows {
            None => WallTime::from_system(SystemTime::now()).unwrap_or_default(),
            Some((began, start)) => start.saturating_add(began.elapsed()),
        };
        WallTime(base.0.saturating_add(self.0.offset.load(Ordering::Relaxed)))
    }

    /// Steps this clock by so many nanoseconds, as an operator or a time server would: for fault tests.
    pub fn step(&self, nanos: i64) {
        self.0.offset.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a duration: {why}")]
pub struct DurationError {
    text: String,
    why: String,
}

/// Reads `500ms`, `30s`, `1h 30m`, `2d`, and Go's `1m30s`. A unit is required; months and years are refused because
/// their length is not one.
///
/// # Errors
/// Says what is wrong and what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let fail = |why: &str| DurationError {
        text: text.to_owned(),
        why: why.to_owned(),
    };
    let trimmed = text.trim();
    if trimmed.starts_with('-') {
        return Err(fail("write a time that is not negative"));
    }
    if trimmed.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fail(if trimmed.is_empty() {
            "write for example `30s`"
        } else if trimmed == "0" {
            "write `0s`"
        } else {
            "the unit is missing, write for example `30s`"
        }));
    }
    let units = trimmed
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|unit| !unit.is_empty());
    for unit in units {
        if matches!(
            unit,
            "M" | "month" | "months" | "y" | "yr" | "yrs" | "year" | "years"
        ) {
            return Err(fail(
                "months and years have no fixed length, use days (`d`)",
            ));
        }
    }
    humantime::parse_duration(trimmed).map_err(|error| match error {
        // Its own text offers months and years.
        humantime::DurationError::UnknownUnit { unit, .. } => fail(&format!(
            "there is no unit `{unit}`, there are ns, us, ms, s, m, h, d and w"
        )),
        error => fail(&error.to_string()),
    })
}

/// Writes a duration the way [`parse_duration`] reads it.
pub fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// So many milliseconds.
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// So many seconds.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// So many minutes.
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n.saturating_mul(60))
}

/// So many hours.
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n.saturating_mul(3600))
}

/// So many days of 24 hours.
pub const fn days(n: u64) -> Duration {
    Duration::from_secs(n.saturating_mul(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_and_go_write_them() {
        for (text, want) in [
            ("500ms", millis(500)),
            ("30s", seconds(30)),
            ("1h 30m", minutes(90)),
            ("1m30s", seconds(90)),
            ("2d", days(2)),
            ("0s", seconds(0)),
            ("1.5s", millis(1500)),
        ] {
            assert_eq!(parse_duration(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn a_bad_duration_says_what_would_be_right() {
        for (text, part) in [
            ("90", "unit is missing"),
            ("", "30s"),
            ("-5s", "negative"),
            ("1M", "days"),
            ("1 year", "days"),
            ("soon", "not a duration"),
        ] {
            let error = parse_duration(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_due_time_beyond_the_range_is_none() {
        assert_eq!(WallTime::EPOCH.checked_add(Duration::MAX), None);
        assert_eq!(
            WallTime::from_nanos(i64::MAX).checked_add(Duration::from_nanos(1)),
            None
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_virtual_clock_moves_with_tokio() {
        let clock = Clock::following_tokio(WallTime::from_millis(1_000));
        tokio::time::advance(minutes(15)).await;
        assert_eq!(clock.now(), WallTime::from_millis(901_000));
        clock.step(-1_000_000);
        assert_eq!(clock.now(), WallTime::from_millis(900_999));
    }
}
