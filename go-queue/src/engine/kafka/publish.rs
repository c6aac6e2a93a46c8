//! The producing side.
