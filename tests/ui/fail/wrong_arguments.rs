//! Delays and times of another type.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send(to: String, producer: Producer) {
    let _ = send::delay(to.clone(), 5);
    let _ = send::at(to.clone(), minutes(5));
    let _ = send::now(to.clone()).send(producer).await;
    let _ = send::now(to).priority("high");
}

fn main() {}
