//! Many mistakes, one build.
use go_queue::prelude::*;

struct Db;

#[dq_handler(tub = "e mails", timeout = 30, retry(max = many), order = key)]
pub fn send<T>(to: &str, db: &Db, meta: Meta) -> Vec<Outcome> {
    drop((to, db, meta));
    Vec::new()
}

#[kq_handler(topic = "or ders", concurrency = none)]
async fn charge(order: Db, count: u32) -> usize {
    drop(order);
    count as usize
}

fn main() {
    let _ = charge;
}
