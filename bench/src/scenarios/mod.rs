//! The scenarios, one file each.

mod dispatch;
mod dq;
mod dq_ceiling;
mod dq_drain;
mod dq_lateness;
mod dq_send;
mod embedded_drain;
pub(crate) mod embedded_latency;
mod embedded_send;
mod kq;
mod kq_drain;
mod kq_instructions;
mod kq_latency;
mod kq_mixed;
mod kq_push;
mod timers;

use crate::scenario::Scenario;

/// All of them, in the order of the list.
pub(crate) const ALL: &[Scenario] = &[
    dispatch::SCENARIO,
    dq_ceiling::SCENARIO,
    dq_drain::NOTHING,
    dq_drain::ONE_MILLISECOND,
    dq_lateness::SCENARIO,
    dq_send::ONE,
    dq_send::MANY,
    embedded_drain::SCENARIO,
    embedded_latency::SCENARIO,
    embedded_send::SCENARIO,
    kq_drain::JSON,
    kq_drain::ONE_MILLISECOND,
    kq_instructions::SCENARIO,
    kq_latency::SCENARIO,
    kq_mixed::SCENARIO,
    kq_push::MANY,
    kq_push::BULK,
    timers::SCENARIO,
];
