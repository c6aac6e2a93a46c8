//! The plan of one lane: everything the pump needs to know, resolved before the first message.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Capabilities;
use crate::handler::Handle;
use crate::handler::context::About;
use crate::handler::options::{OnRetry, Rate, Undecodable};
use crate::time::Clock;

use super::detour::Detour;
use super::policy::RetryPolicy;

/// How one lane serves its subscription.
pub struct Plan {
    /// Handler, source and group, for logs.
    pub about: Arc<About>,
    /// The handler with its middleware.
    pub handle: Arc<dyn Handle>,
    /// How many runs at a time; at least 1.
    pub concurrency: usize,
    /// How many messages may wait in hand beyond the running ones.
    pub waiting: usize,
    /// How long one run may take; `None` is without end.
    pub timeout: Option<Duration>,
    /// How long a cancelled run may take to end by itself.
    pub grace: Duration,
    /// When a failed message runs again, and when no more.
    pub retry: RetryPolicy,
    /// What a failed message does to its key where the engine does not redeliver.
    pub on_retry: OnRetry,
    /// What becomes of what does not decode.
    pub undecodable: Undecodable,
    /// Batches, if the handler takes them.
    pub batch: Option<Batch>,
    /// Later than this a task is dead.
    pub max_late: Option<Duration>,
    /// At most so many deliveries in a time.
    pub rate: Option<Rate>,
    /// What the engine can do on this side.
    pub capabilities: Capabilities,
    /// Whether a message runs without its claim while the dedup store is away.
    pub run_on_outage: bool,
    /// Where dead letters go if the engine keeps none.
    pub detour: Option<Arc<dyn Detour>>,
    /// The wall clock, for `max_late`.
    pub clock: Clock,
}

/// Size and patience of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The largest.
    pub size: usize,
    /// How long one that is not full waits for more.
    pub linger: Duration,
}

impl Plan {
    /// A plan with the defaults: one at a time, no waiting, 60 s, 8 retries.
    pub fn new(about: Arc<About>, handle: Arc<dyn Handle>, capabilities: Capabilities) -> Self {
        Self {
            about,
            handle,
            concurrency: 1,
            waiting: 0,
            timeout: Some(Duration::from_secs(60)),
            grace: Duration::from_secs(5),
            retry: RetryPolicy::default(),
            on_retry: OnRetry::Block,
            undecodable: Undecodable::DeadLetter,
            batch: None,
            max_late: None,
            rate: None,
            capabilities,
            run_on_outage: false,
            detour: None,
            clock: Clock::system(),
        }
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("handler", &self.about.handler)
            .field("source", &self.about.source)
            .field("concurrency", &self.concurrency)
            .field("waiting", &self.waiting)
            .field("timeout", &self.timeout)
            .field("retry", &self.retry)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}
