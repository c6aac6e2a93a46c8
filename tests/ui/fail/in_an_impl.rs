//! A handler inside of an `impl`, without `self`.
use go_queue::prelude::*;

struct Mailer;

impl Mailer {
    #[dq_handler(tube = "emails")]
    async fn send(to: String) {
        drop(to);
    }
}

fn main() {}
