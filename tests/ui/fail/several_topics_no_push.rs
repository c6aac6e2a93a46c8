//! Of several topics nobody knows which one is meant; and a handler may have no producer.
use go_queue::prelude::*;

#[kq_handler(topic = ["orders", "refunds"])]
async fn charge(id: u64) {
    let _ = id;
}

#[dq_handler(tube = "emails", producer = false)]
async fn send(to: String) {
    drop(to);
}

fn main() {
    let _ = charge::push(7);
    let _ = send::now("a@example.org".to_owned());
    let _ = send::delay("a@example.org".to_owned(), minutes(1));
}
