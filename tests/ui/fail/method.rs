//! A handler inside of an `impl`.
use go_queue::prelude::*;

struct Mailer;

impl Mailer {
    #[dq_handler(tube = "emails")]
    async fn send(&self, to: String) {
        drop(to);
    }
}

fn main() {}
