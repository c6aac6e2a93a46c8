//! Middleware: something that runs around handlers, around all of an app or around one.
#![expect(
    clippy::print_stdout,
    reason = "it shows what it does on standard output; the log goes to standard error"
)]

use go_queue::engine::BoxFuture;
use go_queue::handler::Context;
use go_queue::middleware::{Middleware, Next};
use go_queue::outcome::Outcome;
use go_queue::prelude::*;

/// Says what begins and how it ended. Around every handler of the app.
struct Journal;

impl Middleware for Journal {
    fn call<'a>(&'a self, cx: &'a Context, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let handler = cx.about().handler.clone();
            let outcome = next.run(cx).await;
            let word = match &outcome {
                Outcome::Done => "done",
                Outcome::Skip => "skipped",
                _ => "failed",
            };
            println!("{handler}: {word}");
            outcome
        })
    }
}

/// Lets only messages of one tenant through: the handler does not start for others.
struct OnlyTenant(&'static str);

impl Middleware for OnlyTenant {
    fn call<'a>(&'a self, cx: &'a Context, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        if cx.message().headers().get_str("tenant") == Some(self.0) {
            next.run(cx)
        } else {
            Box::pin(std::future::ready(Outcome::Skip))
        }
    }
}

/// Bills somebody of the tenant `acme`.
#[dq_handler(tube = "bills", middleware = OnlyTenant("acme"))]
async fn bill(customer: String) {
    println!("billed {customer}");
}

#[tokio::main]
async fn main() -> Exit {
    App::new()
        .middleware(Journal)
        .on_start(send)
        .run()
        .await
        .into()
}

async fn send(producer: Producer) -> Result<(), go_queue::engine::PublishError> {
    for (customer, tenant) in [("ada", "acme"), ("eve", "other")] {
        let task = bill::now(customer.to_owned()).id(customer);
        task.header("tenant", tenant).send(&producer).await?;
    }
    Ok(())
}
