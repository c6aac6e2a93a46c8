//! The consuming side: one client for each end.
