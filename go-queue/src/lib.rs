#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

#[cfg(windows)]
compile_error!(
    "go-queue does not run on Windows: it needs Unix sockets and file locks. Use WSL 2."
);

// The macros name `::go_queue`; inside this crate that is this crate.
#[expect(
    unused_extern_crates,
    reason = "named by expanded attributes in the tests of this crate"
)]
extern crate self as go_queue;

pub mod app;
pub mod config;
pub mod dedup;
pub mod delivery;
pub mod engine;
pub mod handler;
pub mod message;
pub mod middleware;
pub mod name;
pub mod outcome;
pub mod pipeline;
pub mod producer;
pub mod time;

#[cfg(feature = "testing")]
pub mod testing;

#[doc(hidden)]
pub mod private;
