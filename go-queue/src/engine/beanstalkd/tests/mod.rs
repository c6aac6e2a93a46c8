//! The producing side against real nodes, and against a node that misbehaves.
