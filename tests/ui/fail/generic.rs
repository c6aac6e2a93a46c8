//! A handler with a type parameter.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send<T: Send>(to: Json<T>) {
    drop(to);
}

#[dq_handler(tube = "more")]
async fn more(to: impl Send) {
    drop(to);
}

fn main() {}
