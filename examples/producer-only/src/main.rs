//! A service that only sends: it links no handlers, and opens a producer with the configuration that it shares with the worker.
#![expect(
    clippy::print_stdout,
    reason = "it shows what it does on standard output; the log goes to standard error"
)]

use go_queue::prelude::*;
use producer_only_shared::{MAILS, Mail};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let producer = Producer::open("config.yaml").await?;
    let mail = |to: &str, subject: &str| Mail {
        to: to.to_owned(),
        subject: subject.to_owned(),
    };
    MAILS.now(mail("ada", "welcome")).send(&producer).await?;
    let later = MAILS.delay(mail("ada", "how do you like it?"), seconds(1));
    later.send(&producer).await?;
    // Taken back before it runs. The answer is the truth: it will not run.
    let never = MAILS
        .delay(mail("ada", "we miss you"), days(30))
        .send(&producer)
        .await?;
    println!("the third mail is {:?}", producer.revoke(&never).await?);
    println!("sent");
    Ok(())
}
