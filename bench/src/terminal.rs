//! The one place that writes to the terminal.

use std::fmt;

#[expect(
    clippy::print_stdout,
    reason = "the table is the product of this program"
)]
pub(crate) fn say(text: impl fmt::Display) {
    println!("{text}");
}

#[expect(
    clippy::print_stderr,
    reason = "what is not the table does not belong into it"
)]
pub(crate) fn fail(text: impl fmt::Display) {
    eprintln!("{text}");
}
