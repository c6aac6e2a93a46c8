//! Tasks on beanstalkd: one node or several, each task on some of them.

#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the two sides of the engine that use it come next"
    )
)]
mod codec;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the two sides of the engine that use it come next"
    )
)]
mod go_queue;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the two sides of the engine that use it come next"
    )
)]
mod link;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the two sides of the engine that use it come next"
    )
)]
mod transfer;
