//! A payload that borrows, with a named lifetime.
use go_queue::prelude::*;

#[derive(Serialize, Deserialize)]
struct Order<'a> {
    id: &'a str,
}

#[kq_handler(topic = "orders")]
async fn charge<'a>(order: Order<'a>) {
    let _ = order.id;
}

fn main() {}
