//! A function without an attribute among the chosen handlers.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send(to: String) {
    drop(to);
}

struct Other;

fn main() {
    let _ = handlers![send, Other];
}
