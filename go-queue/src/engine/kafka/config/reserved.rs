//! Settings of librdkafka that are not for users.

use std::sync::Arc;

use super::Secret;

pub use crate::engine::reserved::{CONSUMER_RESERVED, PRODUCER_RESERVED};

/// Says which of these is reserved.
pub(super) fn problem(given: &[(Arc<str>, Secret)], reserved: &[(&str, &str)]) -> Option<String> {
    given.iter().find_map(|(name, _)| {
        let (_, why) = reserved.iter().find(|(known, _)| *known == &**name)?;
        Some(format!("the property `{name}` cannot be set: {why}"))
    })
}
