//! Names and times without their quotes.
use go_queue::prelude::*;

const BILLING: &str = "billing";

#[dq_handler(tube = emails, timeout = Duration::from_secs(3))]
async fn send(to: String) {
    drop(to);
}

#[kq_handler(topic = ["orders", refunds], group = BILLING, offset = "first")]
async fn charge(id: u64) {
    let _ = id;
}

fn main() {}
