//! Failing well: an error says what should become of the message.
#![expect(
    clippy::print_stdout,
    reason = "it shows what it does on standard output; the log goes to standard error"
)]

use go_queue::outcome::{ClassifyError, Outcome};
use go_queue::prelude::*;

/// An order to be paid.
#[derive(Serialize, Deserialize)]
struct Payment {
    order: String,
}

/// Why a payment did not go through.
#[derive(Debug, thiserror::Error)]
enum PayError {
    #[error("the bank is busy")]
    Busy,
    #[error("the card is not known")]
    UnknownCard,
    #[error("it was paid before")]
    PaidBefore,
    #[error("the connection broke")]
    Broken,
}

impl ClassifyError for PayError {
    fn classify(&self) -> Outcome {
        match self {
            // The bank has said when to come again.
            Self::Busy => Outcome::retry_after(millis(300), self),
            // Nothing that waiting would mend: to the dead letters, with this text.
            Self::UnknownCard => Outcome::dead(self),
            // What was wanted is there.
            Self::PaidBefore => Outcome::Skip,
            // Again, by the policy of the handler.
            Self::Broken => Outcome::retry(self),
        }
    }
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
