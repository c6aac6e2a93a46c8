//! The only file that writes to the terminal.

use std::io::{self, IsTerminal, Stderr, Write};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// One line, or several, to standard output. A closed pipe is not an error of ours.
pub(super) fn line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// One line, or several, to standard error.
pub(super) fn error_line(text: &str) {
    let mut out = io::stderr().lock();
    let _ = writeln!(out, "{text}");
}

/// A log in JSON on standard error: what reads it there cannot read anything else.
type JsonLog =
    tracing_subscriber::fmt::Subscriber<JsonFields, Format<Json>, LevelFilter, fn() -> Stderr>;

/// Why the program ends, to standard error.
pub(super) fn last_words(text: &str) {
    if tracing::dispatcher::get_default(tracing::Dispatch::is::<JsonLog>) {
        tracing::error!("{text}");
    } else {
        error_line(text);
    }
}

/// Bytes to standard output as they are.
pub(super) fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// `NO_COLOR` counts if it says anything (no-color.org).
fn wants_colours(no_color: Option<std::ffi::OsString>) -> bool {
    no_color.is_none_or(|said| said.is_empty())
}

/// How far something is, on one line of standard error that is written again and again. Nothing where nobody looks: standard error is not
/// a terminal.
pub(super) struct Progress {
    what: &'static str,
    all: u64,
    shown: bool,
}

impl Progress {
    /// Of so many things in all.
    pub(super) fn begin(what: &'static str, all: u64) -> Self {
        Self {
            what,
            all,
            shown: io::stderr().is_terminal(),
        }
    }

    /// So many are done.
    pub(super) fn is_at(&self, done: u64) {
        if self.shown {
            let mut out = io::stderr().lock();
            let _ = write!(out, "\r{}", bar(self.what, done, self.all)).and_then(|()| out.flush());
        }
    }
}

impl Drop for Progress {
    /// Leaves the line as it was.
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// `sending [#####.....]  50 %  1000 of 2000`
fn bar(what: &str, done: u64, all: u64) -> String {
    const WIDTH: u64 = 30;
    let done = done.min(all);
    let part = |whole: u64| (done * whole).checked_div(all).unwrap_or(whole);
    let full = usize::try_from(part(WIDTH)).unwrap_or(0);
    let rest = usize::try_from(WIDTH).unwrap_or(0) - full;
    format!(
        "{what} [{}{}] {:>3} %  {done} of {all}",
        "#".repeat(full),
        ".".repeat(rest),
        part(100)
    )
}

/// Logs to standard error as the configuration says, unless the program has a `tracing` subscriber already.
pub(super) fn log(config: &LogConfig) {
    let level = match config.level() {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let terminal = io::stderr().is_terminal();
    let colours = terminal && wants_colours(std::env::var_os("NO_COLOR"));
    let logs = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr as fn() -> Stderr)
        // It would report by a macro that panics where standard error is full or closed.
        .log_internal_errors(false)
        .with_target(false);
    let json = match config.format() {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    // Set already: the program's own subscriber wins.
    let _ = if json {
        logs.json().try_init()
    } else {
        logs.with_ansi(colours).try_init()
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_counts_if_it_says_anything() {
        assert!(wants_colours(None));
        assert!(wants_colours(Some("".into())));
        assert!(!wants_colours(Some("1".into())));
    }

    #[test]
    fn a_bar_is_empty_at_the_beginning_and_full_at_the_end() {
        assert_eq!(
            bar("sending", 0, 4),
            format!("sending [{}]   0 %  0 of 4", ".".repeat(30))
        );
        assert_eq!(
            bar("sending", 2, 4),
            format!(
                "sending [{}{}]  50 %  2 of 4",
                "#".repeat(15),
                ".".repeat(15)
            )
        );
        assert_eq!(
            bar("sending", 4, 4),
            format!("sending [{}] 100 %  4 of 4", "#".repeat(30))
        );
        assert!(
            bar("sending", 0, 0).contains("100 %"),
            "nothing to do is done"
        );
    }
}
