//! Without a condition everything matches.
use go_queue::prelude::*;

#[kq_handler(topic = "orders", unmatched = skip)]
async fn charge(id: u64) {
    let _ = id;
}

fn main() {}
