//! A parameter that may not be there.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send(to: String, #[cfg(test)] meta: Meta) {
    drop(to);
}

fn main() {}
