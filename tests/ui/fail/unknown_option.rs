//! Slips of the finger and names from elsewhere.
use go_queue::prelude::*;

#[dq_handler(tub = "emails", concurency = 4, retries = 3, workers = 2, colour = "red")]
async fn send(to: String) {
    drop(to);
}

fn main() {}
