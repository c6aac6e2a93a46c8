//! Words without the derive, a word that is none, and the derive on something else.
use go_queue::prelude::*;

#[derive(Debug, thiserror::Error)]
enum ChargeError {
    #[error("gone")]
    #[dead]
    NoAccount,
}

#[derive(Debug, thiserror::Error, Outcome)]
enum StoreError {
    #[error("full")]
    #[retyr]
    Full,
}

#[derive(Outcome)]
union Both {
    a: u8,
    b: i8,
}

fn main() {}
