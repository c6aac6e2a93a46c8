//! A message that is made and not sent.
#![deny(unused_must_use)]

use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send(to: String) {
    drop(to);
}

fn main() {
    send::now("a@example.org".to_owned());
}
