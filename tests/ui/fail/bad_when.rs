//! The parts of `when`.
use go_queue::prelude::*;

#[kq_handler(topic = "orders", when(header = "type"))]
async fn created(id: u64) {
    drop(id);
}

#[kq_handler(topic = "orders", when(heder = "type", is = 3))]
async fn changed(id: u64) {
    drop(id);
}

#[kq_handler(topic = "orders", when = "order.created")]
async fn removed(id: u64) {
    drop(id);
}

fn main() {}
