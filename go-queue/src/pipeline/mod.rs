//! The pipeline: one pump for every engine.
//!
//! ```text
//! receive -> order -> claim -> middleware -> extract -> handler -> outcome -> settlement -> settle
//! ```
//!
//! A subscription is served by one or more lanes. A lane is one task with one [`Pump`], which owns its deliveries from
//! receive to settle: everything in hand is an entry of one table, under two counters, `running` and `in hand`.

pub mod control;
pub mod detour;
pub mod plan;
pub mod policy;
pub mod pump;

mod batches;
mod claims;
mod finish;
mod stops;
mod table;
mod wake;

#[cfg(test)]
mod tests;

pub use control::{Control, Counts, LaneStatus};
pub use plan::Plan;
pub use pump::Pump;
