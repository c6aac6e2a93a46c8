//! Errors that say what they ask for, in all their shapes.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unused, rust_2018_idioms, clippy::all, clippy::pedantic)]
#![expect(dead_code, reason = "only what they ask for is looked at")]

use std::fmt::{self, Display};
use std::time::Duration;

use go_queue::handler::{Registered, Registry};
use go_queue::outcome::{Asks, ClassifyError, ErrorCase, ErrorClass};
use go_queue::prelude::*;

macro_rules! shown {
    ($($name:ty),*) => {
        $(impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        })*
    };
}

mod ours {
    pub(crate) use ::go_queue as queue;
}

/// Everything there is.
#[derive(Debug, Outcome)]
enum Charge {
    Unsaid,
    #[retry]
    Cut(u8),
    #[retry(after = "1m 30s")]
    Closed { _why: &'static str },
    #[retry(after = wait)]
    Limit { wait: Duration, _more: u8 },
    #[retry(after = 1)]
    Maybe(u8, Option<Duration>),
    #[dead]
    r#Gone,
    #[skip]
    Old(String),
    #[transparent]
    Store(Box<Store>),
    #[transparent]
    Named { inner: Store },
    Of(u8, #[transparent] Wrapped<Store>),
}

/// A struct.
#[derive(Debug, Outcome)]
#[dead]
struct Store;

/// Dead unless it says something else.
#[derive(Debug, Outcome)]
#[outcome(crate = ours::queue)]
#[dead]
enum Usual {
    A,
    #[skip]
    B,
}

/// Generic, with bounds of its own.
#[derive(Debug, Outcome)]
#[transparent]
struct Wrapped<E: fmt::Debug>(E)
where
    E: Send;

/// Generic with what is not asked.
#[derive(Outcome)]
enum Either<'a, L, R, const N: usize> {
    #[transparent]
    Left(L),
    #[dead]
    Right(R, &'a [u8; N]),
}

/// Nothing can go wrong.
#[derive(Debug, Outcome)]
enum Never {}

shown!(Charge, Store, Usual, Never, Wrapped<Store>);

impl<L, R, const N: usize> Display for Either<'_, L, R, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("either")
    }
}

#[dq_handler(tube = "a")]
async fn charge((): ()) -> Result<(), Charge> {
    Err(Charge::Unsaid)
}

#[dq_handler(tube = "b")]
async fn either((): ()) -> Result<Outcome, Either<'static, Store, u8, 3>> {
    Err(Either::Left(Store))
}

#[kq_handler(topic = "c")]
async fn each(all: Vec<u8>) -> Result<Vec<Outcome>, Wrapped<Usual>> {
    drop(all);
    Ok(Vec::new())
}

impl Display for Wrapped<Usual> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[dq_handler(tube = "d")]
async fn unnamed((): ()) -> Result<(), impl Display> {
    Err("no")
}

#[dq_handler(tube = "e", blocking)]
fn plain((): ()) -> anyhow::Result<()> {
    Ok(())
}

#[dq_handler(tube = "f")]
async fn never((): ()) -> Result<(), Never> {
    Ok(())
}

fn rows<H: Registered>() -> Vec<String> {
    let rows = ErrorCase::rows((H::DEF.errors)()).into_iter();
    rows.map(|(error, asks)| format!("{error}: {asks}")).collect()
}

fn main() {
    assert_eq!(Registry::global().len(), 6);
    let second = Duration::from_secs(1);
    for (error, class) in [
        (Charge::Unsaid, ErrorClass::Retry),
        (Charge::Cut(1), ErrorClass::Retry),
        (Charge::Closed { _why: "" }, ErrorClass::RetryAfter(90 * second)),
        (Charge::Limit { wait: second, _more: 1 }, ErrorClass::RetryAfter(second)),
        (Charge::Maybe(1, None), ErrorClass::Retry),
        (Charge::Maybe(1, Some(second)), ErrorClass::RetryAfter(second)),
        (Charge::Gone, ErrorClass::Dead),
        (Charge::Old(String::new()), ErrorClass::Skip),
        (Charge::Store(Box::new(Store)), ErrorClass::Dead),
        (Charge::Named { inner: Store }, ErrorClass::Dead),
        (Charge::Of(1, Wrapped(Store)), ErrorClass::Dead),
    ] {
        assert_eq!(error.classify(), class, "{error:?}");
    }
    assert_eq!((Usual::A.classify(), Usual::B.classify()), (ErrorClass::Dead, ErrorClass::Skip));
    assert_eq!(Either::<Store, u8, 0>::Right(1, &[]).classify(), ErrorClass::Dead);
    let want = [
        "Unsaid: retry",
        "Cut: retry",
        "Closed: retry after 1m 30s",
        "Limit: retry after `wait`",
        "Maybe: retry after `1`",
        "Gone: dead letter",
        "Old: skip",
        "Store::Store: dead letter",
        "Named::Store: dead letter",
        "Of::Wrapped::Store: dead letter",
    ];
    assert_eq!(rows::<charge>(), want);
    assert_eq!(rows::<either>(), ["Left::Store: dead letter", "Right: dead letter"]);
    assert_eq!(rows::<each>(), ["Wrapped::A: dead letter", "Wrapped::B: skip"]);
    assert_eq!(rows::<unnamed>(), [""; 0]);
    assert_eq!(rows::<plain>(), [""; 0]);
    assert_eq!(rows::<never>(), [""; 0]);
    assert_eq!(<Store as ClassifyError>::CASES[0].asks, Asks::Dead);
}
