//! State that must stay on its thread.
use std::rc::Rc;

use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send(to: String, State(db): State<Rc<u8>>) {
    drop((to, db));
}

fn main() {}
