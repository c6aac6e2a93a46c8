//! Extractors where the payload belongs.
use go_queue::prelude::*;

#[derive(Clone)]
struct Db;

#[dq_handler(tube = "emails")]
async fn send(State(db): State<Db>, to: String) {
    drop((db, to));
}

#[kq_handler(topic = "orders")]
async fn charge(meta: Meta) {
    drop(meta);
}

fn main() {}
