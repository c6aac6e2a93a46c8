//! A payload that can be read and not written.
use go_queue::prelude::*;

#[derive(Deserialize)]
struct Email {
    to: String,
}

#[dq_handler(tube = "emails")]
async fn send(email: Email) {
    drop(email.to);
}

#[kq_handler(topic = "emails", batch = 10)]
async fn all(emails: Vec<Email>) {
    drop(emails);
}

fn main() {}
