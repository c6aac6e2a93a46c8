//! The text of an error is kept with the dead letter.
use go_queue::prelude::*;

#[derive(Debug, Outcome)]
enum ChargeError {
    #[dead]
    NoAccount,
}

#[dq_handler(tube = "charges")]
async fn charge(cents: u64) -> Result<(), ChargeError> {
    let _ = cents;
    Err(ChargeError::NoAccount)
}

fn main() {}
