//! The scenarios, one file each.

mod dispatch;
mod timers;

use crate::scenario::Scenario;

/// All of them, in the order of the list.
pub(crate) const ALL: &[Scenario] = &[dispatch::SCENARIO, timers::SCENARIO];
