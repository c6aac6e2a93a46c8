//! The answer to a batch for single messages.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send(to: String) -> Vec<Outcome> {
    drop(to);
    Vec::new()
}

fn main() {}
