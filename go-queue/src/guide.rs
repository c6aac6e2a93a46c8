//! The guide: the pages of the folder `docs`, with their examples compiled and run.
//!
//! | you want | page |
//! |---|---|
//! | to begin | [first worker](first_worker) |
//! | something to happen later, or every day | [delays and schedules](delays_and_schedules) |
//! | speed, and order where it matters | [ordering and concurrency](ordering_and_concurrency) |
//! | to deal with failures | [failing well](failing_well) |
//! | to know what is promised | [delivery] |
//! | to configure it | [configuration](crate::config) |
//! | to test your handlers | [testing] |
//! | it inside of your own program | [embedding] |
//! | to run it in production | [deploying] |
//! | a new version | [upgrading] |
//! | to come from the Go library | [migrating from Go](migrating_from_go), [wire] |
//! | to know how it works | [architecture] |

#[doc = "[producer]: crate::producer::Producer"]
#[doc = "[state]: crate::handler::extract::State"]
#[doc = "[delays]: crate::guide::delays_and_schedules"]
#[doc = "[ordering]: crate::guide::ordering_and_concurrency"]
#[doc = "[failing]: crate::guide::failing_well"]
#[doc = "[testing]: crate::guide::testing"]
#[doc = "[deploying]: crate::guide::deploying"]
#[doc = ""]
#[cfg_attr(feature = "testing", doc = include_str!("../docs/first-worker.md"))]
#[cfg_attr(
    not(feature = "testing"),
    doc = "The first worker: this page is there with the feature `testing`."
)]
pub mod first_worker {}

#[doc = include_str!("../docs/delays-and-schedules.md")]
pub mod delays_and_schedules {}

#[doc = "[delivery]: crate::guide::delivery"]
#[doc = ""]
#[doc = include_str!("../docs/ordering-and-concurrency.md")]
pub mod ordering_and_concurrency {}

#[doc = "[delivery]: crate::guide::delivery"]
#[doc = "[testing]: crate::guide::testing"]
#[doc = "[dead_letters]: crate::engine::DeadLetters"]
#[doc = ""]
#[doc = include_str!("../docs/failing-well.md")]
pub mod failing_well {}

#[doc = "[architecture]: crate::guide::architecture"]
#[doc = "[api]: crate::engine::DeadLetters"]
#[doc = ""]
#[doc = include_str!("../docs/delivery.md")]
pub mod delivery {}

#[cfg_attr(feature = "testing", doc = "[testing]: crate::testing::TestApp")]
#[cfg_attr(feature = "testing", doc = "")]
#[cfg_attr(feature = "testing", doc = include_str!("../docs/testing.md"))]
#[cfg_attr(
    not(feature = "testing"),
    doc = "Testing: this page is there with the feature `testing`."
)]
pub mod testing {}

#[doc = include_str!("../docs/embedding.md")]
pub mod embedding {}

#[doc = include_str!("../docs/deploying.md")]
pub mod deploying {}

#[doc = "[delivery]: crate::guide::delivery"]
#[doc = "[migrating]: crate::guide::migrating_from_go"]
#[doc = ""]
#[doc = include_str!("../docs/upgrading.md")]
pub mod upgrading {}

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
