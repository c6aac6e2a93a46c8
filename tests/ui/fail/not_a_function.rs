//! The attribute on something else.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
struct Send {
    to: String,
}

fn main() {}
