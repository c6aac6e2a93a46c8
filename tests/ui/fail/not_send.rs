//! Something that must stay on its thread, held while waiting.
use std::rc::Rc;

use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send(to: String) {
    let to = Rc::new(to);
    std::future::ready(()).await;
    drop(to);
}

fn main() {}
