//! The options of a handler. Attribute and YAML use the same names; what is not said is `None`.

use std::time::Duration;

use crate::engine::{Order, Start};

/// What an attribute or the configuration says of one handler. Each field is one option; `None` means "not said".
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// How many runs at a time.
    pub concurrency: Option<u32>,
    /// How many messages may wait in hand beyond the running ones.
    pub waiting: Option<u32>,
    /// How many tasks serve the subscription.
    pub lanes: Option<u32>,
    /// What is kept in order (topics only).
    pub order: Option<Order>,
    /// How long one run may take.
    pub timeout: Option<Timeout>,
    /// How often a failed message runs again: the first run is not counted.
    pub retry_max: Option<u32>,
    /// The wait before a failed message runs again.
    pub backoff: Option<Backoff>,
    /// What a failed record does to its key (topics only).
    pub on_retry: Option<OnRetry>,
    /// What becomes of a payload that does not decode.
    pub undecodable: Option<Undecodable>,
    /// What becomes of a record that no `when` matches (topics only).
    pub unmatched: Option<Unmatched>,
    /// The largest batch.
    pub batch: Option<u32>,
    /// How long a batch that is not full waits.
    pub linger: Option<Duration>,
    /// A task met later than this goes to the dead letters.
    pub max_late: Option<Duration>,
    /// The lease (time to run); renewed while the message is in hand.
    pub lease: Option<Duration>,
    /// Priority of tasks that the typed producer sends.
    pub priority: Option<u32>,
    /// Where a new group begins (topics only).
    pub offset: Option<Start>,
    /// At most so many starts in a time.
    pub rate: Option<Rate>,
    /// Whether it runs at all.
    pub enabled: Option<bool>,
}

impl Options {
    /// Nothing said. For `const` use: `Options { concurrency: Some(4), ..Options::NONE }` does not compile outside of the
    /// crate, so the attributes chain the `with_` functions.
    pub const NONE: Self = Self {
        concurrency: None,
        waiting: None,
        lanes: None,
        order: None,
        timeout: None,
        retry_max: None,
        backoff: None,
        on_retry: None,
        undecodable: None,
        unmatched: None,
        batch: None,
        linger: None,
        max_late: None,
        lease: None,
        priority: None,
        offset: None,
        rate: None,
        enabled: None,
    };
}

macro_rules! with {
    ($($(#[$doc:meta])* $name:ident: $field:ident: $type:ty;)*) => {
        impl Options {
            $($(#[$doc])* #[must_use]
            pub const fn $name(mut self, value: $type) -> Self {
                self.$field = Some(value);
                self
            })*
        }
    };
}

with! {
    /// Sets [`Options::concurrency`].
    with_concurrency: concurrency: u32;
    /// Sets [`Options::waiting`].
    with_waiting: waiting: u32;
    /// Sets [`Options::lanes`].
    with_lanes: lanes: u32;
    /// Sets [`Options::order`].
    with_order: order: Order;
    /// Sets [`Options::timeout`].
    with_timeout: timeout: Timeout;
    /// Sets [`Options::retry_max`].
    with_retry_max: retry_max: u32;
    /// Sets [`Options::backoff`].
    with_backoff: backoff: Backoff;
    /// Sets [`Options::on_retry`].
    with_on_retry: on_retry: OnRetry;
    /// Sets [`Options::undecodable`].
    with_undecodable: undecodable: Undecodable;
    /// Sets [`Options::unmatched`].
    with_unmatched: unmatched: Unmatched;
    /// Sets [`Options::batch`].
    with_batch: batch: u32;
    /// Sets [`Options::linger`].
    with_linger: linger: Duration;
    /// Sets [`Options::max_late`].
    with_max_late: max_late: Duration;
    /// Sets [`Options::lease`].
    with_lease: lease: Duration;
    /// Sets [`Options::priority`].
    with_priority: priority: u32;
    /// Sets [`Options::offset`].
    with_offset: offset: Start;
    /// Sets [`Options::rate`].
    with_rate: rate: Rate;
    /// Sets [`Options::enabled`].
    with_enabled: enabled: bool;
}

/// How long one run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// So long. Then the handler is cancelled, and dropped after a grace if it listens to [`Cancel`].
    ///
    /// [`Cancel`]: crate::handler::extract::Cancel
    After(Duration),
    /// As long as it likes; must be written.
    None,
}

/// Exponential back-off with full jitter between these bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first wait.
    pub first: Duration,
    /// Upper bound of every wait.
    pub max: Duration,
}

/// What a failed record does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRetry {
    /// The key waits until it succeeds or is dead.
    Block,
    /// To the dead letters at once.
    DeadLetter,
}

/// What becomes of a payload that does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecodable {
    /// To the dead letters, without a retry.
    DeadLetter,
    /// Removed and counted.
    Skip,
    /// Tried again by the retry policy: the next version may know it.
    Retry,
}

/// What becomes of a record that no `when` matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// To the dead letters.
    DeadLetter,
    /// Removed and counted.
    Skip,
}

/// So many starts in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In how long.
    pub per: Duration,
}
