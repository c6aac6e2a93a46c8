//! Nothing between the parentheses.
use go_queue::prelude::*;

#[dq_handler(tube = "nightly")]
async fn nightly() {}

fn main() {}
