//! The user's names do not get in the way of what is generated.
#![allow(unused, non_camel_case_types)]

use go_queue::handler::Registry;
use go_queue::prelude::{Deserialize, Serialize, dq_handler, kq_handler};

mod std {}
mod core {}
mod alloc {}
struct Result;
struct Option;
struct Vec;
struct Arc;
struct Send;
struct Future;
struct Duration;
struct Context;
struct Probe;
struct Bound;
type Box = u8;

#[derive(Serialize, Deserialize)]
struct Ok(u8);
#[derive(Serialize, Deserialize)]
struct Err {
    run: u8,
}
struct None;

macro_rules! line {
    () => {
        compile_error!("not this one")
    };
}

#[dq_handler(tube = "a", timeout = "1s", retry(backoff = "1s..2s"))]
async fn payload(Ok(cx): Ok, go_queue::prelude::State(missing): go_queue::prelude::State<u8>) {
    let _ = (cx, missing);
}

#[kq_handler(topic = ["b", "c"], when(header = "type", is = "x"))]
async fn cx(payload: Err) -> ::std::result::Result<(), &'static str> {
    let _ = payload.run;
    ::std::result::Result::Ok(())
}

fn main() {
    assert_eq!(Registry::global().len(), 2);
    drop(payload::now(Ok(1)));
    let cx = 1;
    let payload = cx + 1;
    assert_eq!(payload, 2);
}
