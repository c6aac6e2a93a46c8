//! Real processes on one SQLite file, on beanstalkd nodes and Redis, or on Kafka, killed, stopped, cut off and restarted, and the ledger that
//! counts what became of the messages.
//!
//! The short form runs with all tests. The long form of the kill tests:
//!
//! ```console
//! $ GO_QUEUE_TEST_KILLS=2000 cargo test -p go-queue-tests --test faults -- --nocapture killed
//! ```
//!
//! `GO_QUEUE_TEST_CHANGES=60` lets so many members join, leave and die in each of the Kafka tests of membership.
//! `GO_QUEUE_TEST_ROUNDS=20` repeats the faults of servers and of the network so often, and `GO_QUEUE_TEST_STALL=30` lets what is
//! stopped stand still for so many seconds. `GO_QUEUE_TEST_SEED` repeats the choices of a run that failed.

mod claims;
mod cluster;
mod kafka;
mod kafka_brokers;
mod kafka_members;
mod kafka_quickstart;
mod kafka_records;
mod kafka_topics;
mod kills;
mod network;
mod nodes;
mod redis;
mod site;
mod starts;
mod stops;
mod workers;
