//! Options of the other attribute.
use go_queue::prelude::*;

#[dq_handler(topic = "emails", group = "mail", on_retry = block)]
async fn send(to: String) {
    drop(to);
}

#[kq_handler(tube = "orders", priority = 3, max_late = "1h")]
async fn charge(id: u64) {
    drop(id);
}

fn main() {}
