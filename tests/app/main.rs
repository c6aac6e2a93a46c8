//! The app from outside: real attributes, the real `App`, on the memory engine with paused time and on SQLite, and worker
//! processes where signals, exit codes or several processes matter. What the pump and the engines promise each for
//! themselves is tested beside them; here is what a user of the whole sees.

#![expect(
    clippy::unwrap_used,
    clippy::similar_names,
    reason = "cases stand outside of their `#[test]`, which is stamped for each engine; and what began has begun"
)]

mod batches;
mod extractors;
mod failing;
mod files;
mod identity;
mod life;
mod middleware;
mod order;
mod payloads;
mod processes;
mod sending;
mod setup;
mod stage;
mod stopping;
mod times;
mod worker;
