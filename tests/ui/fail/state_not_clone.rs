//! State is cloned for each run.
use go_queue::prelude::*;

struct Db;

#[dq_handler(tube = "emails")]
async fn send(to: String, State(db): State<Db>) {
    drop((to, db));
}

fn main() {}
