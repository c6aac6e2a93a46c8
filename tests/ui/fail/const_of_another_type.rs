//! A tube for one payload, a handler for another.
use go_queue::prelude::*;

const REMINDERS: Tube<String> = Tube::new("reminders");
const ORDERS: Topic<u64> = Topic::new("orders");
const NAME: &str = "name";

#[dq_handler(tube = REMINDERS)]
async fn remind(user: u64) {
    drop(user);
}

#[dq_handler(tube = ORDERS)]
async fn charge(id: u64) {
    drop(id);
}

#[kq_handler(topic = ["a", NAME])]
async fn named(id: u64) {
    drop(id);
}

fn main() {}
