//! For tests: the conformance suite, and tools to test handlers.

pub mod conformance;
