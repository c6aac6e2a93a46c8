//! An error that cannot be written into a dead letter.
use go_queue::prelude::*;

struct Refused;

#[kq_handler(topic = "orders")]
async fn charge(id: u64) -> Result<(), Refused> {
    let _ = id;
    Err(Refused)
}

fn main() {}
