//! The library may be found elsewhere: in a crate that hands it on.
mod ours {
    pub mod inner {
        pub use ::go_queue as queue;
    }
}

use ours::inner::queue::prelude::*;

#[dq_handler(tube = "a", timeout = "5s", crate = ours::inner::queue)]
async fn a(_: (), _: Meta) {}

#[kq_handler(crate = crate::ours::inner::queue, topic = "b", order = none, when(header = "h", is = "i"))]
async fn b(_: Vec<u8>, State(_): State<u8>) {}

fn main() {
    assert_eq!(ours::inner::queue::handler::Registry::global().len(), 2);
}
