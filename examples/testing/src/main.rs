//! Handlers and their tests. The point is in `tests.rs`: `cargo test -p testing`.
#![expect(
    clippy::print_stdout,
    reason = "it shows what it does on standard output; the log goes to standard error"
)]

mod ledger;
#[cfg(test)]
mod tests;

use go_queue::prelude::*;
use ledger::Ledger;

/// Somebody bought something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: String,
    cents: u64,
}

/// Books an order, and asks for its payment a week later if it is still open.
#[kq_handler(topic = "orders", group = "billing")]
async fn book(
    order: Order,
    State(ledger): State<Ledger>,
    producer: Producer,
) -> anyhow::Result<()> {
    ledger.book(&order.id, order.cents)?;
    // Named after the order: if this handler runs twice, there is still one reminder.
    remind::delay(order.id.clone(), days(7))
        .id(&order.id)
        .send(&producer)
        .await?;
    println!("booked {} over {} cents", order.id, order.cents);
    Ok(())
}

/// Reminds of an order that is not paid.
#[dq_handler(tube = "reminders", retry(max = 2, backoff = "1m"))]
async fn remind(order: String, State(ledger): State<Ledger>) -> anyhow::Result<()> {
    if ledger.is_open(&order)? {
        println!("reminded of {order}");
    }
    Ok(())
}

/// The same app for `main` and for the tests; what is outside of it is handed in.
fn app(ledger: Ledger) -> App {
    App::new().handlers(handlers![book, remind]).state(ledger)
}

#[tokio::main]
async fn main() -> Exit {
    app(Ledger::default())
        .on_start(|producer| async move {
            let order = Order {
                id: "o-1".into(),
                cents: 2450,
            };
            book::push(order).send(&producer).await.map(drop)
        })
        .run()
        .await
        .into()
}
