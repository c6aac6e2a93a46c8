//! Tasks on beanstalkd: one node or several, each task on some of them.

mod alarm;
mod codec;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the engine that uses it comes next")
)]
mod go_queue;
mod hold;
mod letter;
mod link;
mod node_end;
mod receive;
mod session;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the engine that uses it comes next")
)]
mod transfer;
