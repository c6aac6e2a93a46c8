//! Functions that nobody may call just so.
use go_queue::prelude::*;

#[dq_handler(tube = "a")]
async unsafe fn a(id: u64) {
    let _ = id;
}

#[dq_handler(tube = "b", blocking)]
const fn b(id: u64) {
    let _ = id;
}

#[dq_handler(tube = "c", blocking)]
extern "C" fn c(id: u64) {
    let _ = id;
}

#[dq_handler(tube = "d")]
async fn d(id: u64)
where
    u64: Copy,
{
    let _ = id;
}

fn main() {}
