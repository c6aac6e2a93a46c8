//! A handler without `async`.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
fn send(to: String) {
    drop(to);
}

fn main() {}
