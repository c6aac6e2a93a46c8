//! Middleware that is none.
use go_queue::prelude::*;

struct Audit;

#[dq_handler(tube = "emails", middleware = Audit)]
async fn send(to: String) {
    drop(to);
}

#[dq_handler(tube = "more", middleware = "audit")]
async fn more(to: String) {
    drop(to);
}

fn main() {}
