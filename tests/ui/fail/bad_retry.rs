//! The parts of `retry`.
use go_queue::prelude::*;

#[dq_handler(tube = "a", retry = 8)]
async fn a(id: u64) {
    drop(id);
}

#[dq_handler(tube = "b", retry(maximum = 8, backof = "1s"))]
async fn b(id: u64) {
    drop(id);
}

#[dq_handler(tube = "c", retry(max = "8", backoff = "10m..1s"))]
async fn c(id: u64) {
    drop(id);
}

#[dq_handler(tube = "d", retry(backoff = "1..10"))]
async fn d(id: u64) {
    drop(id);
}

#[dq_handler(tube = "e", retry, backoff = "1s..10m")]
async fn e(id: u64) {
    drop(id);
}

fn main() {}
