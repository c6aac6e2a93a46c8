//! A time to wait that is none.
use go_queue::prelude::*;

#[derive(Debug, thiserror::Error, Outcome)]
#[error("too many requests")]
#[retry(after = seconds)]
struct TooMany {
    seconds: u64,
}

fn main() {}
