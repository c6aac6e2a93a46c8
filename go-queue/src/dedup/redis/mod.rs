//! Claims and marks on Redis, for engines whose nodes know nothing of each other.
