//! Failing well: an error says what should become of the message.
#![expect(
    clippy::print_stdout,
    reason = "it shows what it does on standard output; the log goes to standard error"
)]

use go_queue::outcome::Outcome;
use go_queue::prelude::*;

/// An order to be paid.
#[derive(Serialize, Deserialize)]
struct Payment {
    order: String,
}

/// Why a payment did not go through, and what should become of it then.
#[derive(Debug, thiserror::Error, Outcome)]
enum PayError {
    /// The bank has said when to come again.
    #[error("the bank is busy")]
    #[retry(after = "300ms")]
    Busy,
    /// Nothing that waiting would mend: to the dead letters, with this text.
    #[error("the card is not known")]
    #[dead]
    UnknownCard,
    /// What was wanted is there.
    #[error("it was paid before")]
    #[skip]
    PaidBefore,
    /// Again, by the policy of the handler.
    #[error("the connection broke")]
    #[retry]
    Broken,
}

/// Pays. An error without a classification, and a panic, would mean: again, by the policy.
#[dq_handler(tube = "payments", retry(max = 2, backoff = "100ms..1s"))]
async fn pay(payment: Payment, meta: Meta) -> Result<(), PayError> {
    let result = bank(&payment.order, meta.attempt);
    match &result {
        Ok(()) => println!("{} attempt {}: paid", payment.order, meta.attempt),
        Err(error) => println!("{} attempt {}: {error}", payment.order, meta.attempt),
    }
    result
}

/// Stands for a bank.
fn bank(order: &str, attempt: u32) -> Result<(), PayError> {
    match (order, attempt) {
        ("busy", 1) => Err(PayError::Busy),
        ("unknown", _) => Err(PayError::UnknownCard),
        ("twice", _) => Err(PayError::PaidBefore),
        ("broken", _) => Err(PayError::Broken),
        _ => Ok(()),
    }
}

#[tokio::main]
async fn main() -> Exit {
    App::new().on_start(order).run().await.into()
}

async fn order(producer: Producer) -> Result<(), go_queue::engine::PublishError> {
    for order in ["fine", "busy", "unknown", "twice", "broken"] {
        let payment = Payment {
            order: order.into(),
        };
        pay::now(payment).id(order).send(&producer).await?;
    }
    Ok(())
}
