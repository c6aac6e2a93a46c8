//! Types that are not there, or not whole.
use go_queue::prelude::*;

#[dq_handler(tube = "a")]
async fn a(order: Order) -> Result<(), ChargeError> {
    drop(order);
    Ok(())
}

#[dq_handler(tube = "b")]
async fn b(id: u64, db: State) {
    drop((id, db));
}

fn main() {}
