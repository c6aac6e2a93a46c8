//! The conformance suite, stamped for each engine of this workspace.

use go_queue::testing::conformance::InMemory;

go_queue::engine_conformance!(memory, InMemory::fresh());
