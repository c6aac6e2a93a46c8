//! Parameters that nothing fills in.
use go_queue::prelude::*;

struct Db;

#[dq_handler(tube = "emails")]
async fn send(to: String, tries: u32, db: Db) {
    drop((to, tries, db));
}

fn main() {}
