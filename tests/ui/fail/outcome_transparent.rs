//! What is not there, or does not know, cannot be asked.
use go_queue::prelude::*;

#[derive(Debug, thiserror::Error, Outcome)]
enum ChargeError {
    #[error("a")]
    #[transparent]
    A,
    #[error("b")]
    #[transparent]
    B(u8, std::io::Error),
    #[error("c")]
    #[transparent]
    C(#[from] std::io::Error),
}

#[derive(Debug, thiserror::Error, Outcome)]
#[error("storing")]
#[transparent]
enum StoreError {
    A,
}

fn main() {}
