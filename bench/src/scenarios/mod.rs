//! The scenarios, one file each.

mod dispatch;
mod embedded_drain;
pub(crate) mod embedded_latency;
mod embedded_send;
mod timers;

use crate::scenario::Scenario;

/// All of them, in the order of the list.
pub(crate) const ALL: &[Scenario] = &[
    dispatch::SCENARIO,
    embedded_drain::SCENARIO,
    embedded_latency::SCENARIO,
    embedded_send::SCENARIO,
    timers::SCENARIO,
];
