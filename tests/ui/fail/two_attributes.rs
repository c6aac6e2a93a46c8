//! Two registrations of one function.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
#[kq_handler(topic = "emails")]
async fn send(to: String) {
    drop(to);
}

fn main() {}
