//! Up to where the work on a partition is finished without a hole.
