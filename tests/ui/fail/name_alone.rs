//! A name without saying what it names.
use go_queue::prelude::*;

#[dq_handler("emails")]
async fn send(to: String) {
    drop(to);
}

fn main() {}
