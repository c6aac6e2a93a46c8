//! The dedup store of one process.
