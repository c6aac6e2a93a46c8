//! No tube, no topic.
use go_queue::prelude::*;

#[dq_handler]
async fn send(to: String) {
    drop(to);
}

#[kq_handler(group = "billing")]
async fn charge(id: u64) {
    drop(id);
}

#[kq_handler(topic = [])]
async fn nothing(id: u64) {
    drop(id);
}

#[dq_handler(tube)]
async fn which(id: u64) {
    drop(id);
}

fn main() {}
