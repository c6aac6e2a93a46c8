//! What is generated passes the strictest lints of its user.
#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused,
    nonstandard_style,
    rust_2018_idioms,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes
)]

use go_queue::handler::Registry;
use go_queue::prelude::*;

/// A payload that borrows.
#[derive(Serialize, Deserialize, Debug)]
pub struct Order<'a> {
    id: &'a str,
}

/// Documented, public, and without an `await`.
#[kq_handler(topic = "orders", group = "billing")]
pub async fn charge(order: Order<'_>) {
    let _ = order.id.len();
}

/// Does nothing of what it could, all day.
#[dq_handler(tube = "reminders", priority = 3, concurrency = 64)]
async fn remind((): (), State(_name): State<String>, _: Meta) -> Result<(), std::fmt::Error> {
    Ok(())
}

#[dq_handler(tube = "sums", blocking)]
fn sums(numbers: Vec<u64>) {
    drop(numbers);
}

#[deprecated = "nobody sends it any more"]
#[dq_handler(tube = "old", producer = false, handle = false)]
async fn old(text: String) {
    drop(text);
}

fn main() {
    assert_eq!(Registry::global().len(), 4);
    assert_eq!(handlers![charge, remind, sums].len(), 3);
    drop((charge::push(Order { id: "a" }), remind::now(())));
    drop((
        remind::delay((), seconds(1)),
        remind::at((), std::time::SystemTime::now()),
    ));
    drop(sums::now(1));
}
