//! The attributes of go-queue.
