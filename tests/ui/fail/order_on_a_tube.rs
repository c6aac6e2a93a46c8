//! Order where there is none.
use go_queue::prelude::*;

#[dq_handler(tube = "emails", order = key)]
async fn send(to: String) {
    drop(to);
}

fn main() {}
