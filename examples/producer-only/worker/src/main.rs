//! The worker of the mails. The const makes sure that the payload is the one that is sent.
#![expect(
    clippy::print_stdout,
    reason = "it shows what it does on standard output; the log goes to standard error"
)]

use go_queue::prelude::*;
use producer_only_shared::{MAILS, Mail};

/// Sends a mail.
#[dq_handler(tube = MAILS)]
async fn deliver(mail: Mail) {
    println!("to {}: {}", mail.to, mail.subject);
}

#[tokio::main]
async fn main() -> Exit {
    App::new().run().await.into()
}
