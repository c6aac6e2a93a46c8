//! An extractor that is not there always.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send(to: String, key: Option<Key>) {
    let _ = (to, key);
}

fn main() {}
