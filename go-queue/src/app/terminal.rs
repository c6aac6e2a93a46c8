//! The only file that writes to the terminal.

use std::io::{self, Write};

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
