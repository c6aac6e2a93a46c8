//! Places with their payload types, for services that do not link the handlers.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use crate::handler::payload::Produce;
use crate::name::Name;

use super::{Enqueue, Push};

/// A tube with its payload type, for services that do not link the handlers:
/// `pub const REMINDERS: Tube<Reminder> = Tube::new("reminders");`
pub struct Tube<T: ?Sized>(&'static str, PhantomData<fn(&T)>);

/// A topic with its payload type, for services that do not link the handlers.
pub struct Topic<T: ?Sized>(&'static str, PhantomData<fn(&T)>);

macro_rules! typed_place {
    ($type:ident) => {
        impl<T: ?Sized> $type<T> {
            /// Names it. In a `const`, a bad name is a compile error.
            ///
            /// # Panics
            /// If the name breaks the rule of [`check_name`](crate::name::check_name) and this is not in a `const`.
            pub const fn new(name: &'static str) -> Self {
                let _checked = Name::literal(name);
                // `Name` has a destructor that cannot run in a const.
                std::mem::forget(_checked);
                Self(name, PhantomData)
            }

            /// Its name.
            pub const fn name(&self) -> &'static str {
                self.0
            }
        }

        impl<T: ?Sized> Clone for $type<T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T: ?Sized> Copy for $type<T> {}

        impl<T: ?Sized> fmt::Debug for $type<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($type)).field(&self.0).finish()
            }
        }
    };
}

typed_place!(Tube);
typed_place!(Topic);

#[expect(
    clippy::needless_pass_by_value,
    reason = "a payload is handed over; a borrow would put `&` into every call"
)]
impl<T: Produce> Tube<T> {
    /// A task to run as soon as possible.
    pub fn now(&self, payload: T) -> Enqueue {
        Enqueue::new(self.0, &payload)
    }

    /// A task to run after this time.
    pub fn delay(&self, payload: T, delay: Duration) -> Enqueue {
        Enqueue::new(self.0, &payload).after(delay)
    }

    /// A task to run at this time; in the past means now.
    pub fn at(&self, payload: T, at: SystemTime) -> Enqueue {
        Enqueue::new(self.0, &payload).not_before(at)
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a payload is handed over; a borrow would put `&` into every call"
)]
impl<T: Produce> Topic<T> {
    /// A record for the end of the log.
    pub fn push(&self, payload: T) -> Push {
        Push::new(self.0, &payload)
    }
}
