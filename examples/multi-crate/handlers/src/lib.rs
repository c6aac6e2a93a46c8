//! Handlers in a library crate of their own: the program only names it.
#![expect(
    clippy::print_stdout,
    reason = "it shows what it does on standard output; the log goes to standard error"
)]

use go_queue::prelude::*;

/// Somebody to say hello to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Guest {
    /// Their name.
    pub name: String,
}

/// Says hello. Registers itself where it stands: no list of handlers is kept anywhere.
#[dq_handler(tube = "greetings")]
pub async fn greet(guest: Guest) {
    println!("hello {}", guest.name);
}
