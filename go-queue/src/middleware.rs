//! Middleware: an onion of plain functions around the handler. Without any there is no cost.

use std::fmt;
use std::sync::Arc;

use crate::engine::BoxFuture;
use crate::handler::context::About;
use crate::handler::slot::erase;
use crate::handler::{Context, Handle, Run};
use crate::outcome::Outcome;

/// Something that runs around every handler of an app or around one handler.
///
/// ```
/// use go_queue::middleware::{Middleware, Next};
/// use go_queue::handler::Context;
/// use go_queue::engine::BoxFuture;
/// use go_queue::outcome::Outcome;
///
/// struct Timed;
///
/// impl Middleware for Timed {
///     fn call<'a>(&'a self, cx: &'a Context, next: Next<'a>) -> BoxFuture<'a, Outcome> {
///         Box::pin(async move {
///             let began = std::time::Instant::now();
///             let outcome = next.run(cx).await;
///             tracing::debug!(took = ?began.elapsed(), handler = %cx.about().handler, "handled");
///             outcome
///         })
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a middleware",
    label = "not a middleware",
    note = "`middleware = ..` takes values whose type implements `Middleware`: a unit struct, a const, or a call that returns one"
)]
pub trait Middleware: Send + Sync + 'static {
    /// Does what it does, and calls `next` or not.
    ///
    /// # Cancel safety
    /// The future is dropped at a timeout, on abort, and when the lease is lost.
    fn call<'a>(&'a self, cx: &'a Context, next: Next<'a>) -> BoxFuture<'a, Outcome>;
}

/// The rest of the onion.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    layers: &'a [Arc<dyn Middleware>],
    handler: &'a dyn Handle,
}

impl<'a> Next<'a> {
    /// Runs the rest.
    pub fn run(self, cx: &'a Context) -> BoxFuture<'a, Outcome> {
        match self.layers.split_first() {
            Some((first, layers)) => first.call(cx, Next { layers, ..self }),
            None => self.handler.call(cx),
        }
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field("layers", &self.layers.len())
            .finish_non_exhaustive()
    }
}

/// Puts layers around a handler, outermost first. Without layers it is the handler itself.
pub fn chain(
    handler: Arc<dyn Handle>,
    layers: Vec<Arc<dyn Middleware>>,
    about: Arc<About>,
    blocking: bool,
) -> Arc<dyn Handle> {
    if layers.is_empty() {
        handler
    } else {
        erase(Chain { handler, layers }, about, blocking)
    }
}

struct Chain {
    handler: Arc<dyn Handle>,
    layers: Vec<Arc<dyn Middleware>>,
}

impl Run for Chain {
    // The box of the outermost layer as it is: a future around it would only pass polls on.
    fn run<'a>(&'a self, cx: &'a Context) -> impl Future<Output = Outcome> + Send + 'a {
        Next {
            layers: &self.layers,
            handler: &*self.handler,
        }
        .run(cx)
    }
}
