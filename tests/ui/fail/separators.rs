//! Commas and values that are not there.
use go_queue::prelude::*;

#[dq_handler(tube = "a" concurrency = 4)]
async fn a(id: u64) {
    drop(id);
}

#[dq_handler(tube = "b",, concurrency =)]
async fn b(id: u64) {
    drop(id);
}

#[dq_handler(tube: "c", +)]
async fn c(id: u64) {
    drop(id);
}

fn main() {}
