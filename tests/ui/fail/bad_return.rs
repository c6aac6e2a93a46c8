//! A value that says nothing.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send(to: String) -> usize {
    to.len()
}

#[dq_handler(tube = "more")]
async fn more(to: String) -> Result<usize, String> {
    Ok(to.len())
}

fn main() {}
