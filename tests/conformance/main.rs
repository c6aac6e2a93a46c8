//! The conformance suite, stamped for each engine of this workspace.

mod beanstalkd;
mod claimed;
mod kafka;
mod renamed;
mod sqlite;

use beanstalkd::{OnNodes, all_is_installed, one_node_is_installed};
use go_queue::engine::kafka::GroupProtocol;
use go_queue::testing::conformance::InMemory;
use go_queue_tests::servers::kafka_is_installed;
use kafka::{COOPERATIVE, OnBroker, RANGE};
use sqlite::OnFile;

go_queue::engine_conformance!(memory, InMemory::fresh());
go_queue::engine_conformance!(sqlite_engine, OnFile::fresh().await);
go_queue::engine_conformance!(one_node, OnNodes::alone(false).await, if one_node_is_installed());
go_queue::engine_conformance!(one_node_with_a_binlog, OnNodes::alone(true).await, if one_node_is_installed());
go_queue::engine_conformance!(three_nodes_and_redis, OnNodes::three(false).await, if all_is_installed());
go_queue::engine_conformance!(three_nodes_with_a_binlog_and_redis, OnNodes::three(true).await, if all_is_installed());
go_queue::engine_conformance!(kafka_cooperative, OnBroker::fresh(COOPERATIVE).await, if kafka_is_installed());
go_queue::engine_conformance!(kafka_range, OnBroker::fresh(RANGE).await, if every_protocol());
go_queue::engine_conformance!(kafka_kip848, OnBroker::fresh(GroupProtocol::Consumer).await, if every_protocol());

/// The other protocols of groups take as long again each: whoever works on the Kafka engine sets `GO_QUEUE_TEST_PROTOCOLS`.
fn every_protocol() -> bool {
    std::env::var_os("GO_QUEUE_TEST_PROTOCOLS").is_some() && kafka_is_installed()
}
