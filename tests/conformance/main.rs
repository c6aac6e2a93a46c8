//! The conformance suite, stamped for each engine of this workspace.

mod sqlite;

use go_queue::testing::conformance::InMemory;
use sqlite::OnFile;

go_queue::engine_conformance!(memory, InMemory::fresh());
go_queue::engine_conformance!(sqlite_engine, OnFile::fresh().await);
