//! Records that are made and not sent, and sends that nobody waits for.
#![deny(unused_must_use)]

use go_queue::prelude::*;

#[kq_handler(topic = "orders")]
async fn charge(id: u64, producer: Producer) {
    charge::push(id + 1).key("k");
    charge::push(id + 2).send(&producer);
    charge::push(id + 3).send(&producer).await;
}

fn main() {}
