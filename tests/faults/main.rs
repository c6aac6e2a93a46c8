//! Real processes on one SQLite file, killed, stopped and restarted, and the ledger that counts what became of the messages.
//!
//! The short form runs with all tests. The long form of the kill tests:
//!
//! ```console
//! $ GO_QUEUE_TEST_KILLS=2000 cargo test -p go-queue-tests --test faults -- --nocapture killed
//! ```
//!
//! `GO_QUEUE_TEST_SEED` repeats the choices of a run that failed.

mod kills;
mod site;
mod starts;
mod stops;
