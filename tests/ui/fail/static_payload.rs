//! A payload that borrows for ever.
use go_queue::prelude::*;

#[derive(Serialize, Deserialize)]
struct Order<'a> {
    id: &'a str,
}

#[kq_handler(topic = "orders")]
async fn charge(order: Order<'static>) {
    let _ = order.id;
}

fn main() {}
