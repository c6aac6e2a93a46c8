//! What one run measured, and medians over several.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What one run measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// How many messages went through.
    pub(crate) messages: u64,
    /// Wall time of the measured part.
    pub(crate) wall: Duration,
    /// CPU time of the measured part, all threads of the process, user and system.
    pub(crate) cpu: Duration,
    /// Whatever else the scenario measures, by name.
    pub(crate) more: BTreeMap<String, f64>,
}

impl Figures {
    /// Adds something that only this scenario measures.
    pub(crate) fn with(mut self, name: &str, value: f64) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }

    pub(crate) fn per_second(&self) -> f64 {
        count(self.messages) / self.wall.as_secs_f64().max(1e-9)
    }

    pub(crate) fn wall_nanos_each(&self) -> f64 {
        self.wall.as_secs_f64() * 1e9 / count(self.messages).max(1.0)
    }

    /// CPU-seconds for a million messages, which is also microseconds for one.
    pub(crate) fn cpu_seconds_per_million(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / count(self.messages).max(1.0)
    }

    pub(crate) fn more(&self, name: &str) -> f64 {
        self.more.get(name).copied().unwrap_or(f64::NAN)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a bench are far below 2^52"
)]
pub(crate) fn count(n: u64) -> f64 {
    n as f64
}

/// `messages=N wall_ns=N cpu_ns=N name=value ..`
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wall, cpu) = (self.wall.as_nanos(), self.cpu.as_nanos());
        write!(f, "messages={} wall_ns={wall} cpu_ns={cpu}", self.messages)?;
        self.more
            .iter()
            .try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

impl FromStr for Figures {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut figures = Self::default();
        for part in text.split_whitespace() {
            let bad = || format!("not a figure: {part}");
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            let nanos = || value.parse().map(Duration::from_nanos).map_err(|_| bad());
            match name {
                "messages" => figures.messages = value.parse().map_err(|_| bad())?,
                "wall_ns" => figures.wall = nanos()?,
                "cpu_ns" => figures.cpu = nanos()?,
                other => {
                    let value = value.parse().map_err(|_| bad())?;
                    figures.more.insert(other.to_owned(), value);
                }
            }
        }
        Ok(figures)
    }
}

/// The middle one; of two the mean.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    percentile(values, 0.5)
}

/// The value below which this share lies, between its neighbours; NaN of nothing.
pub(crate) fn percentile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = share.clamp(0.0, 1.0) * count(last as u64);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the length"
    )]
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    values[low] + (values[high] - values[low]) * at.fract()
}

/// Set for a contender that runs under valgrind, which hides the part of the process that rustix reads the clock from.
pub(crate) const NO_CPU_CLOCK: &str = "GO_QUEUE_BENCH_NO_CPU_CLOCK";

/// CPU time of this process, all threads, user and system: the sum that getrusage gives, in nanoseconds.
pub(crate) fn cpu_time() -> Duration {
    if std::env::var_os(NO_CPU_CLOCK).is_some() {
        return Duration::ZERO;
    }
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Measures from [`Stopwatch::start`] on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: cpu_time(),
        }
    }

    pub(crate) fn figures(&self, messages: u64) -> Figures {
        Figures {
            messages,
            wall: self.wall.elapsed(),
            cpu: cpu_time().saturating_sub(self.cpu),
            more: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_they_are_written() {
        let figures = Figures {
            messages: 7,
            wall: Duration::from_nanos(1_234_567_890),
            cpu: Duration::from_nanos(5),
            more: BTreeMap::new(),
        }
        .with("p50_ms", 0.25);
        assert_eq!(figures.to_string().parse(), Ok(figures));
        assert!("messages=x".parse::<Figures>().is_err());
    }

    #[test]
    fn a_median_is_the_middle() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([1.0, 2.0]) - 1.5).abs() < f64::EPSILON);
        assert!((percentile([0.0, 10.0], 0.9) - 9.0).abs() < 1e-9);
        assert!(median([]).is_nan());
    }
}
