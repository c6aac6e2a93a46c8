//! What a handler may know: its messages, the app's state, and whether it should stop.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::message::Message;

/// What a run of a handler may know. Made once for each running place and reused.
#[derive(Debug)]
pub struct Context {
    message: Message,
    rest: Vec<Message>,
    cancelled: AtomicBool,
    token: OnceLock<CancellationToken>,
    about: Arc<About>,
}

/// What is the same for all runs of a subscription.
#[derive(Debug, Default)]
pub struct About {
    /// The handler's name.
    pub handler: Arc<str>,
    /// The tube or topic.
    pub source: Arc<str>,
    /// The group, for topics.
    pub group: Option<Arc<str>>,
}

impl Context {
    /// A context without a message, for a slot.
    pub fn new(about: Arc<About>) -> Self {
        Self {
            message: Message::default(),
            rest: Vec::new(),
            cancelled: AtomicBool::new(false),
            token: OnceLock::new(),
            about,
        }
    }

    /// A context with one message: to call a bound handler by hand, as tests do.
    pub fn with_message(about: Arc<About>, message: Message) -> Self {
        Self {
            message,
            ..Self::new(about)
        }
    }

    /// The message; of a batch the first.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// All messages: of a batch in order, otherwise the one.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = &Message> + Clone {
        Messages {
            first: Some(&self.message),
            rest: self.rest.iter(),
        }
    }

    /// Handler, source and group.
    pub fn about(&self) -> &Arc<About> {
        &self.about
    }

    /// Whether the handler should stop: timeout, abort, or the lease was lost.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// A token that is cancelled when the handler should stop. Made on first use.
    pub fn cancel_token(&self) -> CancellationToken {
        let token = self.token.get_or_init(CancellationToken::new);
        // `cancel` sets the flag before it looks for a token; whichever comes second sees the other.
        if self.is_cancelled() {
            token.cancel();
        }
        token.clone()
    }

    /// Tells the handler to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }

    /// Whether the handler has asked for the token, so that it is worth waiting for.
    pub fn listens(&self) -> bool {
        self.token.get().is_some()
    }

    pub(crate) fn load(&mut self, message: Message) {
        self.message = message;
        self.rest.clear();
        *self.cancelled.get_mut() = false;
        if self.token.get_mut().is_some() {
            self.token = OnceLock::new();
        }
    }

    pub(crate) fn add(&mut self, message: Message) {
        self.rest.push(message);
    }
}

#[derive(Clone)]
struct Messages<'a> {
    first: Option<&'a Message>,
    rest: std::slice::Iter<'a, Message>,
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a Message;

    fn next(&mut self) -> Option<&'a Message> {
        self.first.take().or_else(|| self.rest.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.rest.len() + usize::from(self.first.is_some());
        (len, Some(len))
    }
}

impl ExactSizeIterator for Messages<'_> {}

/// The app's state by type, checked at start.
#[derive(Default)]
pub struct Env {
    values: HashMap<TypeId, (Box<dyn Any + Send + Sync>, &'static str)>,
}

impl Env {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value. One of the same type is replaced; answers whether there was one.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) -> bool {
        self.values
            .insert(TypeId::of::<T>(), (Box::new(value), type_name::<T>()))
            .is_some()
    }

    /// The value of this type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.values
            .get(&TypeId::of::<T>())
            .and_then(|(value, _)| value.downcast_ref())
    }

    /// The names of the types that are there, sorted.
    pub fn type_names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.values.values().map(|(_, name)| *name).collect();
        names.sort_unstable();
        names
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Env").field(&self.type_names()).finish()
    }
}

/// Something that a handler's parameter needs and that the app was not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The parameter, for example `State<Mailer>`.
    pub parameter: String,
    /// What to do, for example "add `.state(mailer)`".
    pub remedy: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_taken_after_the_cancel_is_cancelled() {
        let cx = Context::new(Arc::default());
        cx.cancel();
        assert!(cx.cancel_token().is_cancelled());
    }

    #[test]
    fn a_token_taken_before_the_cancel_is_cancelled() {
        let mut cx = Context::new(Arc::default());
        let token = cx.cancel_token();
        cx.cancel();
        assert!(token.is_cancelled() && cx.listens());
        cx.load(Message::default());
        assert!(!cx.is_cancelled() && !cx.listens());
    }

    #[test]
    fn messages_of_a_batch_come_in_order() {
        let mut cx = Context::new(Arc::default());
        for offset in 0..3 {
            let message = Message {
                offset,
                ..Message::default()
            };
            if offset == 0 {
                cx.load(message);
            } else {
                cx.add(message);
            }
        }
        assert_eq!(cx.messages().len(), 3);
        assert_eq!(
            cx.messages().map(|m| m.offset).collect::<Vec<_>>(),
            [0, 1, 2]
        );
    }
}
