//! Names that no broker takes.
use go_queue::prelude::*;

#[dq_handler(tube = "e mails")]
async fn send(to: String) {
    drop(to);
}

#[kq_handler(topic = ["orders", "a/b", ""], group = "-billing")]
async fn charge(id: u64) {
    drop(id);
}

#[dq_handler(tube = 7)]
async fn seven(id: u64) {
    drop(id);
}

fn main() {}
