//! Beside the real Go library: what it stores, runs and revokes, and what we do.
//!
//! The programs of the Go library are in `go/` and are built here, from the sources that the Go module proxy serves. They need Go 1.21;
//! without it the tests say that they are skipped, and in CI they fail.

mod apps;
mod fleet;
mod wire;
