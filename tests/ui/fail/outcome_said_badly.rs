//! Words of `#[derive(Outcome)]` with too much, too little, or something else behind them.
use go_queue::prelude::*;

#[derive(Debug, thiserror::Error, Outcome)]
#[error("charging")]
enum ChargeError {
    #[retry(after = 10)]
    A,
    #[retry(after = 10s)]
    B,
    #[retry(after = "soon")]
    C,
    #[retry("10s")]
    D,
    #[retry = "10s"]
    E,
    #[retry(afer = "10s", max = 3)]
    F,
    #[retry()]
    G,
    #[retry(after)]
    H,
    #[dead("gone")]
    I,
    #[skip = true]
    J,
    #[outcome(dead)]
    K,
    #[retry(after = wiat)]
    L { wait: std::time::Duration },
    #[retry(after = 3)]
    M(std::time::Duration),
    #[retry(after = WAIT.long())]
    N,
}

#[derive(Debug, thiserror::Error, Outcome)]
#[error("storing")]
#[retry(after = wait)]
#[outcome(krate = my::queue)]
enum StoreError {
    A { wait: std::time::Duration },
}

fn main() {}
