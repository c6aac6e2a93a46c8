//! Numbers that are none, or none that can be.
use go_queue::prelude::*;

#[dq_handler(tube = "a", concurrency = "8", waiting = -1, lanes = 1000, priority = 5_000_000_000)]
async fn a(id: u64) {
    drop(id);
}

#[kq_handler(topic = "b", batch = 100_000, rate = "200", concurrency = 0)]
async fn b(ids: Vec<u64>) {
    drop(ids);
}

#[kq_handler(topic = "c", concurrency = 1_000_001, waiting = 10_000_001, lanes = 257, batch = 65_537)]
async fn c(ids: Vec<u64>) {
    drop(ids);
}

fn main() {}
