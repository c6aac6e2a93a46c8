//! Durations that are none.
use go_queue::prelude::*;

#[dq_handler(tube = "a", timeout = 30, lease = 45s, max_late = "90")]
async fn a(id: u64) {
    drop(id);
}

#[dq_handler(tube = "b", timeout = "1M", lease = "soon", max_late = "-5s")]
async fn b(id: u64) {
    drop(id);
}

#[kq_handler(topic = "c", timeout = "0s", linger = "30x")]
async fn c(ids: Vec<u64>) {
    drop(ids);
}

#[kq_handler(topic = "d", lease = "500ms", linger = "2h")]
async fn d(ids: Vec<u64>) {
    drop(ids);
}

fn main() {}
