//! The app from outside: real attributes, the real `App`, on the memory engine with paused time and on SQLite, and worker
//! processes where signals, exit codes or several processes matter. What the pump and the engines promise each for
//! themselves is tested beside them; here is what a user of the whole sees.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "cases stand outside of their `#[test]`, which is stamped for each engine, and handlers panic on purpose"
)]
#![expect(
    clippy::similar_names,
    clippy::ignored_unit_patterns,
    clippy::too_many_arguments,
    reason = "what began has begun; `_: ()` is how a handler without a payload is written; and one takes every extractor"
)]

mod batches;
mod commands;
mod extractors;
mod failing;
mod files;
mod first_worker;
mod identity;
mod kafka;
mod kafka_security;
mod life;
mod middleware;
mod order;
mod payloads;
mod processes;
mod secrets;
mod sending;
mod setup;
mod stage;
mod stopping;
mod times;
mod worker;
