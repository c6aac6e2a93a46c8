//! `none` with quotes.
use go_queue::prelude::*;

#[dq_handler(tube = "emails", timeout = "none")]
async fn send(to: String) {
    drop(to);
}

fn main() {}
