//! The memory engine: tasks and log in this process; it defines the semantics that every other engine must match.
