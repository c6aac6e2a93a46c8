//! Numbers that are none, or none that can be.
use go_queue::prelude::*;

#[dq_handler(tube = "a", concurrency = 0, waiting = -1, lanes = "2", priority = 5_000_000_000)]
async fn a(id: u64) {
    drop(id);
}

#[kq_handler(topic = "b", batch = 0, rate = "200", concurrency = 64k)]
async fn b(ids: Vec<u64>) {
    drop(ids);
}

fn main() {}
