//! References to extractors, as other frameworks have them.
use go_queue::prelude::*;

#[derive(Clone)]
struct Db;

#[dq_handler(tube = "emails")]
async fn send(to: String, db: &State<Db>, producer: &Producer) {
    let _ = (to, db, producer);
}

fn main() {}
