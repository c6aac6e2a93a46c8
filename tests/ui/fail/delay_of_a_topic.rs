//! Constructors of the other kind.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send(to: String) {
    drop(to);
}

#[kq_handler(topic = "orders")]
async fn charge(id: u64) {
    let _ = id;
}

fn main() {
    let _ = charge::delay(7, minutes(15));
    let _ = charge::now(7);
    let _ = send::push("a@example.org".to_owned());
    let _ = charge::at(7, std::time::SystemTime::now());
}
