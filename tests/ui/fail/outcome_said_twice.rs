//! An error asks for one thing.
use go_queue::prelude::*;

#[derive(Debug, thiserror::Error, Outcome)]
#[error("charging")]
enum ChargeError {
    #[retry]
    #[dead]
    A,
    #[skip]
    #[skip]
    B,
    #[dead]
    C(#[transparent] StoreError),
    D(#[dead] u8),
    E(#[transparent] StoreError, #[transparent] StoreError),
}

#[derive(Debug, thiserror::Error, Outcome)]
#[error("storing")]
#[retry]
#[retry(after = "10s")]
struct StoreError;

fn main() {}
