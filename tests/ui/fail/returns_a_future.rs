//! What an `async fn` was before there was one.
use std::future::Future;

use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
fn send(to: String) -> impl Future<Output = ()> {
    async move { drop(to) }
}

fn main() {}
