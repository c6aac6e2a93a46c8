//! Words that are not among the choices.
use go_queue::prelude::*;

#[kq_handler(topic = "a", order = keys, on_retry = "block", undecodable = drop, offset = latest, enabled = no)]
async fn a(id: u64) {
    drop(id);
}

#[kq_handler(topic = "b", when(header = "h", is = "i"), unmatched = retry, blocking = 1, handle = 3)]
async fn b(id: u64) {
    drop(id);
}

fn main() {}
