//! The handler side.
