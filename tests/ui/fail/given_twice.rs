//! Options and topics that are there already.
use go_queue::prelude::*;

#[kq_handler(topic = ["orders", "orders"], concurrency = 4, concurrency = 8)]
async fn charge(id: u64) {
    drop(id);
}

fn main() {}
