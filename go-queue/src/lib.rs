// The first definition of a link wins: here they lead to items, in the file itself to files.
#![doc = "[delivery]: crate::guide::delivery"]
#![doc = "[first]: crate::guide::first_worker"]
#![doc = "[delays]: crate::guide::delays_and_schedules"]
#![doc = "[ordering]: crate::guide::ordering_and_concurrency"]
#![doc = "[failing]: crate::guide::failing_well"]
#![doc = "[testing]: crate::guide::testing"]
#![doc = "[embedding]: crate::guide::embedding"]
#![doc = "[deploying]: crate::guide::deploying"]
#![doc = "[upgrading]: crate::guide::upgrading"]
#![doc = "[configuration]: crate::config"]
#![doc = "[architecture]: crate::guide::architecture"]
#![doc = "[wire]: crate::guide::wire"]
#![doc = "[migrating]: crate::guide::migrating_from_go"]
#![doc = "[dq_handler]: macro@crate::dq_handler"]
#![doc = "[kq_handler]: macro@crate::kq_handler"]
#![doc = "[dead_letters]: crate::engine::DeadLetters"]
#![doc = ""]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
// One module of the Kafka engine says why it needs it; nothing else has any.
#![cfg_attr(not(feature = "kafka"), forbid(unsafe_code))]

#[cfg(windows)]
compile_error!(
    "go-queue does not run on Windows: it needs Unix sockets and file locks. Use WSL 2."
);

// The macros name `::go_queue`; inside this crate that is this crate.
#[cfg_attr(
    not(all(test, feature = "testing")),
    expect(
        unused_extern_crates,
        reason = "named by expanded attributes in the tests of this crate"
    )
)]
extern crate self as go_queue;

pub mod app;
pub mod config;
pub mod dedup;
pub mod delivery;
pub mod engine;
pub mod guide;
pub mod handler;
pub mod message;
pub mod middleware;
pub mod name;
pub mod outcome;
pub mod pipeline;
pub mod producer;
pub mod secret;
pub mod time;

#[cfg(feature = "testing")]
pub mod testing;

/// Makes an `async fn` the handler of a tube: of tasks that run now, later, or at a time.
///
/// ```
/// use go_queue::prelude::*;
///
/// #[derive(Serialize, Deserialize)]
/// struct Reminder {
///     user: u64,
///     text: String,
/// }
///
/// #[derive(Clone)]
/// struct Mailer;
///
/// /// Sends one reminder.
/// #[dq_handler(tube = "reminders", concurrency = 64, timeout = "30s", retry(max = 8, backoff = "1s..10m"))]
/// async fn remind(task: Reminder, State(mailer): State<Mailer>, meta: Meta) -> Result<(), std::io::Error> {
///     let _ = (task.user, task.text, mailer, meta.attempt);
///     Ok(())
/// }
///
/// // The function stays a function, and its name is the producer too.
/// let reminder = Reminder { user: 7, text: "tea".into() };
/// let enqueue = remind::delay(reminder, minutes(15)).id("tea-7");
/// # drop(enqueue);
/// ```
///
/// # The function
/// The first parameter is the payload: a type with `Deserialize` (JSON), [`Text`], [`Raw`], or `_: ()`. It may borrow from the
/// message (`Order<'_>`); a text that may have escapes is a `Cow<str>` with `#[serde(borrow)]`, because a `&str` refuses them. `Vec<T>` makes a batch. Every other parameter is an extractor: [`State`], [`Meta`], [`Key`],
/// [`Headers`], [`Cancel`], [`Producer`], or your own [`FromContext`]. It returns `()`, [`Outcome`], `Vec<Outcome>` (batches),
/// or `Result` of these with an error that displays. An `Err` means: again later. An error with
/// [`#[derive(Outcome)]`](derive@outcome::Outcome) says more.
///
/// The name of the function is also the name of a hidden type with the constructors `now(payload)`, `delay(payload, duration)` and
/// `at(payload, time)`, which return an [`Enqueue`]; [`handlers!`] takes it as well.
/// So a handler named like a module beside it does not compile, and one named like a crate (`redis`) hides that crate there: say
/// `handle = RedisTask`.
///
/// # Options
/// They have the same names in YAML, which overrides them. Durations are texts such as `"30s"`.
///
/// | option | meaning |
/// |---|---|
/// | `tube = "x"`, `tube = CONST` | what it serves, by name or by a const [`Tube<T>`](producer::Tube); required |
/// | `concurrency = n` | how many run at a time |
/// | `waiting = n` | how many may wait in hand beyond those |
/// | `lanes = n` | how many tasks serve the tube |
/// | `timeout = ".."`, `timeout = none` | how long one run may take |
/// | `retry(max = n, backoff = "1s..10m")`, `retry = none` | how often a failed task runs again; each wait is drawn from zero to a bound, which doubles from the first to the last of these |
/// | `undecodable = dead_letter`, `skip`, `retry` | what becomes of a payload that does not decode |
/// | `batch = n`, `linger = ".."` | the largest batch, and how long one that is not full waits |
/// | `max_late = ".."` | a task met later than this goes to the dead letters |
/// | `lease = ".."` | how long a task stays ours without a renewal |
/// | `priority = n` | priority of what the constructors send; lower goes first |
/// | `rate = "200/s"` | at most so many starts in a time |
/// | `enabled = false` | not run unless the configuration says so |
/// | `blocking` | runs on a thread of its own; the function may be without `async` |
/// | `middleware = M`, `middleware = [A, B]` | [`Middleware`](middleware::Middleware) around this handler, outermost first |
/// | `producer = false` | no constructors; the payload need not be `Serialize` |
/// | `handle = Name`, `handle = false` | another name for the hidden type, or none |
/// | `crate = path` | where this library is found, if not at `::go_queue` |
///
/// [`Text`]: handler::payload::Text
/// [`Raw`]: handler::payload::Raw
/// [`State`]: handler::extract::State
/// [`Meta`]: handler::extract::Meta
/// [`Key`]: handler::extract::Key
/// [`Headers`]: handler::extract::Headers
/// [`Cancel`]: handler::extract::Cancel
/// [`Producer`]: producer::Producer
/// [`Enqueue`]: producer::Enqueue
/// [`FromContext`]: handler::FromContext
/// [`Outcome`]: enum@outcome::Outcome
pub use go_queue_macros::dq_handler;

/// Makes an `async fn` the handler of topics: of the records of a log, read by a consumer group.
///
/// ```
/// use go_queue::prelude::*;
///
/// #[derive(Serialize, Deserialize)]
/// struct Click {
///     page: String,
/// }
///
/// #[kq_handler(topic = "clicks", group = "stats", batch = 500, linger = "50ms")]
/// async fn clicks(batch: Vec<Click>) -> Result<(), std::io::Error> {
///     let _ = batch.len();
///     Ok(())
/// }
///
/// let push = clicks::push(Click { page: "/".into() }).key("visitor-7");
/// # drop(push);
/// ```
///
/// The function is as with [`dq_handler`]; [`Partition`], [`Offset`] and [`Timestamp`] are extractors here too. The hidden type
/// has the constructor `push(payload)`, which returns a [`Push`](producer::Push), unless there are several topics.
///
/// # Options
/// Those of [`dq_handler`] apart from `tube`, `max_late` and `priority`, and:
///
/// | option | meaning |
/// |---|---|
/// | `topic = "x"`, `topic = CONST`, `topic = ["a", B]` | what it reads, by name or by a const [`Topic<T>`](producer::Topic); required |
/// | `group = "x"` | the consumer group; the configured one if it is not said |
/// | `order = none`, `key`, `partition` | what is kept in order |
/// | `on_retry = block`, `dead_letter` | whether a failed record holds its key, or is set aside at once |
/// | `offset = first`, `last` | where a new group begins |
/// | `when(header = "type", is = "order.created")` | takes only these records: several handlers share one topic and group |
/// | `unmatched = dead_letter`, `skip` | what becomes of a record that no `when` matches; beside a `when` only |
///
/// Handlers that share a topic and a group by `when` are served by one subscription: they have the same options, and at most one of them takes
/// a record.
///
/// ```
/// use go_queue::prelude::*;
///
/// #[derive(Serialize, Deserialize)]
/// struct Created {
///     order: u64,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct Cancelled {
///     order: u64,
///     why: String,
/// }
///
/// #[kq_handler(topic = "orders", group = "mail", when(header = "type", is = "order.created"), unmatched = skip)]
/// async fn welcome(event: Created) {
///     drop(event.order);
/// }
///
/// #[kq_handler(topic = "orders", group = "mail", when(header = "type", is = "order.cancelled"), unmatched = skip)]
/// async fn regret(event: Cancelled) {
///     drop((event.order, event.why));
/// }
///
/// let push = welcome::push(Created { order: 7 }).header("type", "order.created");
/// # drop(push);
/// ```
///
/// [`Partition`]: handler::extract::Partition
/// [`Offset`]: handler::extract::Offset
/// [`Timestamp`]: handler::extract::Timestamp
pub use go_queue_macros::kq_handler;

/// What programs with handlers need: `use go_queue::prelude::*;`.
pub mod prelude {
    pub use crate::app::{App, Exit};
    pub use crate::engine::{EngineError, PublishError, Rescheduled, Revoked, TaskId};
    pub use crate::handler::extract::{
        Cancel, Headers, Key, Meta, Offset, Partition, State, Timestamp,
    };
    #[cfg(feature = "msgpack")]
    pub use crate::handler::payload::MsgPack;
    #[cfg(feature = "protobuf")]
    pub use crate::handler::payload::Protobuf;
    pub use crate::handler::payload::{Json, Nullable, Raw, Text};
    pub use crate::outcome::Outcome;
    pub use crate::producer::{Producer, Topic, Tube};
    pub use crate::time::{days, hours, millis, minutes, seconds};
    pub use crate::{dq_handler, handlers, kq_handler};
    pub use serde::{Deserialize, Serialize};
}

#[doc(hidden)]
pub mod private;
