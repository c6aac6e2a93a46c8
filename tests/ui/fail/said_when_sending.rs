//! What the sender says is no option.
use go_queue::prelude::*;

#[dq_handler(tube = "emails", delay = "5s", key = "user")]
async fn send(to: String) {
    drop(to);
}

#[kq_handler(topic = "orders", delay = "5s", brokers = ["10.0.0.5:9092"])]
async fn charge(id: u64) {
    drop(id);
}

fn main() {}
