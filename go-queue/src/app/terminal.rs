//! The only file that writes to the terminal.

use std::io::{self, IsTerminal, Write};

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

/// Logs to standard error as the configuration says, unless the program has a `tracing` subscriber already.
pub(super) fn log(config: &LogConfig) {
    use tracing_subscriber::filter::LevelFilter;
    let level = match config.level() {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let terminal = io::stderr().is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none();
    let logs = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
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
