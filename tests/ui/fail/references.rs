//! References as arguments.
use go_queue::prelude::*;

#[derive(Clone)]
struct Db;

#[dq_handler(tube = "emails")]
async fn send(to: &str, db: &Db, State(db2): State<&Db>) {
    let _ = (to, db, db2);
}

#[kq_handler(topic = "lines")]
async fn lines(lines: Vec<&str>) {
    drop(lines);
}

fn main() {}
