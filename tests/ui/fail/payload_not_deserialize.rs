//! A payload that cannot be read.
use go_queue::prelude::*;

#[derive(Serialize)]
struct Email {
    to: String,
}

#[dq_handler(tube = "emails")]
async fn send(email: Email) {
    drop(email.to);
}

fn main() {}
