//! The handler side: what an attribute registers, and the erased form that the pump runs.
//!
//! A handler is erased once for each subscription ([`Handle`]), and each running place owns one [`Slot`], so that starting
//! a handler allocates nothing.

mod blocking;
pub mod context;
pub mod extract;
pub mod options;
pub mod payload;
pub mod registry;
pub mod slot;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::task;

use crate::engine::BoxFuture;
use crate::message::{ContentType, Message};
use crate::middleware::Middleware;
use crate::name::Side;
use crate::outcome::{ErrorCase, Outcome};

pub use context::{About, Context, Env, Missing};
pub use extract::FromContext;
pub use options::Options;
pub use registry::Registry;

use std::task::Poll;

/// The two kinds of handlers, as types: [`Dq`] and [`Kq`]. Extractors are generic over it, so that one that makes no sense
/// for a kind does not compile there.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a kind of handler",
    label = "not a kind of handler",
    note = "write `FromContext<Dq>` for handlers of tubes, `FromContext<Kq>` for those of topics, `impl<K: Kind> FromContext<K>` for both"
)]
pub trait Kind: Send + Sync + 'static {
    /// The kind as a value.
    const SIDE: Side;
}

/// Handlers of tubes: `#[dq_handler]`.
#[derive(Clone, Copy, Debug)]
pub enum Dq {}

/// Handlers of topics: `#[kq_handler]`.
#[derive(Clone, Copy, Debug)]
pub enum Kq {}

impl Kind for Dq {
    const SIDE: Side = Side::Tasks;
}

impl Kind for Kq {
    const SIDE: Side = Side::Topics;
}

/// Where a handler stands in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// As `file!()` gives it.
    pub file: &'static str,
    /// From 1.
    pub line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What a handler consumes, as its attribute says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A tube.
    Tube(&'static str),
    /// One or more topics; the group is the configured one unless the attribute names it.
    Topics {
        /// At least one.
        topics: &'static [&'static str],
        /// The consumer group, if the attribute names it.
        group: Option<&'static str>,
    },
}

impl Source {
    /// The side it belongs to.
    pub fn side(&self) -> Side {
        match self {
            Self::Tube(_) => Side::Tasks,
            Self::Topics { .. } => Side::Topics,
        }
    }

    /// The names of its places.
    pub fn names(&self) -> &[&'static str] {
        match self {
            Self::Tube(name) => std::slice::from_ref(name),
            Self::Topics { topics, .. } => topics,
        }
    }
}

/// `when(header = "type", is = "order.created")`: several handlers share one topic and group, and the header decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// The name of the header.
    pub header: &'static str,
    /// The value it must have.
    pub is: &'static str,
}

/// Everything that is known of one handler: const data that its attribute writes.
pub struct HandlerDef {
    /// The name of the function.
    pub name: &'static str,
    /// `module_path!()` of the function.
    pub module: &'static str,
    /// `CARGO_PKG_NAME` of its crate.
    pub package: &'static str,
    /// Where it stands.
    pub location: Location,
    /// What it consumes.
    pub source: Source,
    /// Which of the messages of its source it takes.
    pub when: Option<When>,
    /// Whether it takes a batch (`Vec<T>`).
    pub batch: bool,
    /// Whether it runs on threads of its own.
    pub blocking: bool,
    /// The defaults that its attribute gives.
    pub options: Options,
    /// Its payload type as written.
    pub payload: &'static str,
    /// How its payload is encoded.
    pub content: ContentType,
    /// What its errors ask for, if their type says so (empty if not); [`ErrorCase::rows`] makes rows of it.
    pub errors: fn() -> &'static [ErrorCase],
    /// The middleware that its attribute names, outermost first.
    pub middleware: &'static [fn() -> Arc<dyn Middleware>],
    /// Binds it to the app's state for one subscription, or says what is missing.
    pub bind: Bind,
    /// Whether a payload would decode, and if not, why not.
    pub check: fn(&Message) -> Result<(), Arc<str>>,
}

/// Binds a handler to the app's state for one subscription, or says all that is missing.
pub type Bind = fn(&Env, Arc<About>) -> Result<Arc<dyn Handle>, Vec<Missing>>;

impl HandlerDef {
    /// `module::name`.
    pub fn path(&self) -> String {
        format!("{}::{}", self.module, self.name)
    }

    /// Whether people mean this handler by these words: its name, or a longer end of its path.
    pub(crate) fn is_meant_by(&self, words: &str) -> bool {
        self.path().strip_suffix(words).is_some_and(|before| {
            !words.is_empty() && (before.is_empty() || before.ends_with("::"))
        })
    }
}

impl fmt::Debug for HandlerDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerDef")
            .field("path", &self.path())
            .field("source", &self.source)
            .field("location", &format_args!("{}", self.location))
            .finish_non_exhaustive()
    }
}

/// Implemented by the attributes for the hidden type that has the function's name; `handlers![..]` names it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a handler",
    note = "mark the function with `#[dq_handler(tube = \"..\")]` or `#[kq_handler(topic = \"..\")]`"
)]
pub trait Registered {
    /// What the attribute says.
    const DEF: &'static HandlerDef;
}

/// A handler bound to its state, before erasure. Written by the attributes.
pub trait Run: Send + Sync + 'static {
    /// Decodes, extracts, calls the function, and says what it meant.
    ///
    /// # Cancel safety
    /// The future is dropped at a timeout, on abort, and when the lease is lost.
    fn run<'a>(&'a self, cx: &'a Context) -> impl Future<Output = Outcome> + Send + 'a;
}

/// A handler, erased once for each subscription.
pub trait Handle: Send + Sync + 'static {
    /// A reusable place for one run at a time.
    fn slot(self: Arc<Self>) -> Box<dyn Slot>;

    /// One run with a boxed future: what middleware calls.
    fn call<'a>(&'a self, cx: &'a Context) -> BoxFuture<'a, Outcome>;
}

impl fmt::Debug for dyn Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

/// A reusable place for one run of a handler.
pub trait Slot: Send {
    /// Puts a message in place. Nothing runs.
    fn load(&mut self, message: Message);

    /// One more for a batch that has not started.
    fn add(&mut self, message: Message);

    /// Makes the future in place and polls it once. Catches panics.
    fn start(&mut self, cx: &mut task::Context<'_>) -> Poll<Outcome>;

    /// Polls the future. Catches panics.
    fn poll(&mut self, cx: &mut task::Context<'_>) -> Poll<Outcome>;

    /// Drops the future. Catches panics.
    fn clear(&mut self);

    /// What the handler may know: the message for detours and policies, the flag for cancel.
    fn context(&self) -> &Context;
}

impl fmt::Debug for dyn Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
