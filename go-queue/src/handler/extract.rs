//! Extractors: what every parameter after the payload is.

use std::any::type_name;
use std::fmt;
use std::future::{Future, ready};

use bytes::Bytes;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::message::{self, Id, Message};
use crate::outcome::BoxError;
use crate::time::WallTime;

use super::{Context, Env, Kind, Kq, Missing};

/// A parameter that the framework fills in. The plan is made once, at start: what is missing is known before the first
/// message.
///
/// Write your own with `impl<K: Kind> FromContext<K> for ..`, or for `Dq` or `Kq` alone if it makes no sense for the other.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an extractor for this kind of handler",
    label = "not an extractor here",
    note = "parameters after the payload are extractors: `State<T>`, `Meta`, `Key`, `Headers`, `Cancel`, `Producer`; in a `kq_handler` also \
            `Partition`, `Offset`, `Timestamp`; or your own type with `FromContext`"
)]
pub trait FromContext<K: Kind>: Sized {
    /// What is found out once, at start.
    type Plan: Send + Sync + 'static;

    /// Makes the plan, or says what is missing.
    ///
    /// # Errors
    /// If the app lacks something; it is reported with the handler's place before anything runs.
    fn plan(env: &Env) -> Result<Self::Plan, Missing>;

    /// Fills the parameter in, for each run.
    ///
    /// # Errors
    /// Counts as the handler's own error, unless it says [`Rejection::dead`].
    fn extract<'a>(
        plan: &'a Self::Plan,
        cx: &'a Context,
    ) -> impl Future<Output = Result<Self, Rejection>> + Send + 'a;
}

/// Why an extractor could not fill its parameter in.
#[derive(Debug)]
pub struct Rejection {
    /// What it said.
    pub error: BoxError,
    /// Whether trying again is of no use: to the dead letters.
    pub dead: bool,
}

impl Rejection {
    /// Trying again is of no use.
    pub fn dead(error: impl Into<BoxError>) -> Self {
        Self {
            error: error.into(),
            dead: true,
        }
    }
}

impl<E: Into<BoxError>> From<E> for Rejection {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            dead: false,
        }
    }
}

/// A value that the app was given with `.state(value)`. Cloned for each run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State<T>(pub T);

/// What can be state: all that is `Clone + Send + Sync + 'static`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be state",
    label = "cannot be state",
    note = "state is cloned for each run, and runs are on several threads, so it is `Clone + Send + Sync`: add `#[derive(Clone)]`, or put it into \
            an `Arc`"
)]
pub trait Shared: Clone + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Clone + Send + Sync + 'static> Shared for T {}

impl<K: Kind, T: Shared> FromContext<K> for State<T> {
    type Plan = T;

    fn plan(env: &Env) -> Result<T, Missing> {
        env.get::<T>().cloned().ok_or_else(|| {
            let name = short_type_name(type_name::<T>());
            Missing {
                remedy: format!("add `.state(value)` with a value of type `{name}` to the app"),
                parameter: format!("State<{name}>"),
            }
        })
    }

    fn extract<'a>(
        plan: &'a T,
        _: &'a Context,
    ) -> impl Future<Output = Result<Self, Rejection>> + Send + 'a {
        ready(Ok(Self(plan.clone())))
    }
}

/// `alloc::sync::Arc<app::mail::Smtp>` becomes `Arc<Smtp>`.
pub(crate) fn short_type_name(full: &str) -> String {
    let mut short = String::new();
    let mut word = String::new();
    for c in full.chars() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
        } else if c == ':' {
            word.clear();
        } else {
            short.push_str(&word);
            word.clear();
            short.push(c);
        }
    }
    short + &word
}

/// What is known of the message apart from its payload; of a batch, of its first message (`Vec<Meta>` has all).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meta {
    /// Its id: the same at every attempt; use it to make effects idempotent.
    pub id: Id,
    /// Number of this start, from 1.
    pub attempt: u32,
    /// When it was accepted.
    pub at: WallTime,
    /// When it was due.
    pub due: WallTime,
    /// The tube or topic it came from.
    pub source: std::sync::Arc<str>,
    /// The group, for topics.
    pub group: Option<std::sync::Arc<str>>,
}

impl Meta {
    fn of(message: &Message, cx: &Context) -> Self {
        Self {
            id: message.id,
            attempt: message.attempt,
            at: message.at,
            due: message.due,
            source: cx.about().source.clone(),
            group: cx.about().group.clone(),
        }
    }
}

/// The key, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key(pub Option<Bytes>);

impl Key {
    /// The key as text, if there is one and it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        self.0
            .as_deref()
            .and_then(|key| std::str::from_utf8(key).ok())
    }

    fn of(message: &Message) -> Self {
        Self(
            message
                .key()
                .map(|key| message.body.bytes().slice(..key.len())),
        )
    }
}

/// The headers, decoded for this run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub message::Headers);

impl std::ops::Deref for Headers {
    type Target = message::Headers;
    fn deref(&self) -> &message::Headers {
        &self.0
    }
}

/// The partition of a record. Topics only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partition(pub u32);

/// The offset of a record. Topics only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offset(pub i64);

/// When a record was accepted. Topics only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp(pub WallTime);

/// The body of an extractor that reads one message: of a batch the first.
macro_rules! of_message {
    (|$message:ident, $cx:ident| $value:expr) => {
        type Plan = ();

        fn plan(_: &Env) -> Result<(), Missing> {
            Ok(())
        }

        fn extract<'a>(
            (): &'a (),
            $cx: &'a Context,
        ) -> impl Future<Output = Result<Self, Rejection>> + Send + 'a {
            let $message = $cx.message();
            ready(Ok($value))
        }
    };
}

/// The body of an extractor that reads all messages of a batch.
macro_rules! of_each {
    (|$message:ident, $cx:ident| $value:expr) => {
        type Plan = ();

        fn plan(_: &Env) -> Result<(), Missing> {
            Ok(())
        }

        fn extract<'a>(
            (): &'a (),
            $cx: &'a Context,
        ) -> impl Future<Output = Result<Self, Rejection>> + Send + 'a {
            ready(Ok($cx.messages().map(|$message| $value).collect()))
        }
    };
}

// The heads are written out because compile errors show them.

#[diagnostic::do_not_recommend]
impl<K: Kind> FromContext<K> for Meta {
    of_message!(|message, cx| Meta::of(message, cx));
}

#[diagnostic::do_not_recommend]
impl<K: Kind> FromContext<K> for Vec<Meta> {
    of_each!(|message, cx| Meta::of(message, cx));
}

#[diagnostic::do_not_recommend]
impl<K: Kind> FromContext<K> for Key {
    of_message!(|message, cx| Key::of(message));
}

#[diagnostic::do_not_recommend]
impl<K: Kind> FromContext<K> for Vec<Key> {
    of_each!(|message, cx| Key::of(message));
}

#[diagnostic::do_not_recommend]
impl<K: Kind> FromContext<K> for Headers {
    of_message!(|message, cx| Headers(message.headers()));
}

#[diagnostic::do_not_recommend]
impl<K: Kind> FromContext<K> for Vec<Headers> {
    of_each!(|message, cx| Headers(message.headers()));
}

#[diagnostic::do_not_recommend]
impl FromContext<Kq> for Partition {
    of_message!(|message, cx| Partition(message.place));
}

#[diagnostic::do_not_recommend]
impl FromContext<Kq> for Vec<Partition> {
    of_each!(|message, cx| Partition(message.place));
}

#[diagnostic::do_not_recommend]
impl FromContext<Kq> for Offset {
    of_message!(|message, cx| Offset(message.offset));
}

#[diagnostic::do_not_recommend]
impl FromContext<Kq> for Vec<Offset> {
    of_each!(|message, cx| Offset(message.offset));
}

#[diagnostic::do_not_recommend]
impl FromContext<Kq> for Timestamp {
    of_message!(|message, cx| Timestamp(message.at));
}

#[diagnostic::do_not_recommend]
impl FromContext<Kq> for Vec<Timestamp> {
    of_each!(|message, cx| Timestamp(message.at));
}

/// Says when the handler should stop: timeout, abort, or the lease was lost. A handler that takes it has a grace of five
/// seconds to end by itself; its outcome counts.
#[derive(Clone, Default)]
pub struct Cancel(CancellationToken);

impl Cancel {
    /// Whether it should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until it should stop.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub fn cancelled(&self) -> WaitForCancellationFutureOwned {
        self.0.clone().cancelled_owned()
    }

    /// As a token, for `run_until_cancelled` and child tokens.
    pub fn token(&self) -> &CancellationToken {
        &self.0
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel")
            .field("is_cancelled", &self.is_cancelled())
            .finish()
    }
}

#[diagnostic::do_not_recommend]
impl<K: Kind> FromContext<K> for Cancel {
    type Plan = ();

    fn plan(_: &Env) -> Result<(), Missing> {
        Ok(())
    }

    fn extract<'a>(
        (): &'a (),
        cx: &'a Context,
    ) -> impl Future<Output = Result<Self, Rejection>> + Send + 'a {
        ready(Ok(Self(cx.cancel_token())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_are_shown_without_their_paths() {
        assert_eq!(
            short_type_name("alloc::sync::Arc<app::mail::Smtp>"),
            "Arc<Smtp>"
        );
        assert_eq!(short_type_name("(a::B, [c::D; 3])"), "(B, [D; 3])");
        assert_eq!(
            short_type_name("alloc::sync::Arc<dyn app::Mailer>"),
            "Arc<dyn Mailer>"
        );
    }

    #[test]
    fn a_missing_state_names_type_and_remedy() {
        let missing =
            <State<String> as FromContext<Kq>>::plan(&Env::new()).expect_err("nothing there");
        assert_eq!(missing.parameter, "State<String>");
        assert!(missing.remedy.contains(".state("));
    }
}
