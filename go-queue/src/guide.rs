//! The guide: the pages of the folder `docs`, with their examples compiled and run.

#[doc = "[architecture]: crate::guide::architecture"]
#[doc = "[api]: crate::engine::DeadLetters"]
#[doc = ""]
#[doc = include_str!("../docs/delivery.md")]
pub mod delivery {}

#[doc = "[delivery]: crate::guide::delivery"]
#[doc = ""]
#[doc = include_str!("../docs/ARCHITECTURE.md")]
pub mod architecture {}

#[doc = "[migrating]: crate::guide::migrating_from_go"]
#[doc = ""]
#[doc = include_str!("../docs/wire.md")]
pub mod wire {}

#[doc = "[wire]: crate::guide::wire"]
#[doc = ""]
#[doc = include_str!("../docs/migrating-from-go.md")]
pub mod migrating_from_go {}

#[doc = "[delivery]: crate::guide::delivery"]
#[doc = ""]
#[doc = include_str!("../docs/kafka.md")]
pub mod kafka {}
