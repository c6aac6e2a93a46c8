//! A payload that must stay on its thread.
use std::rc::Rc;

use go_queue::prelude::*;

struct Order(Rc<u8>);

impl<'de> Deserialize<'de> for Order {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        u8::deserialize(input).map(|n| Self(Rc::new(n)))
    }
}

#[kq_handler(topic = "orders", producer = false)]
async fn charge(order: Order) {
    drop(order.0);
}

fn main() {}
