//! What the consuming end needs of whoever writes dead letters.

use std::sync::Arc;
use std::task::Context;

use crate::message::Message;

/// A record that is to be set aside.
#[derive(Debug)]
pub(in super::super) struct Letter {
    /// As it was handed out: key, headers, payload, partition, offset, time.
    pub(in super::super) message: Message,
    /// Why, at most 1 KB.
    pub(in super::super) reason: Arc<str>,
    /// How often it was started.
    pub(in super::super) attempts: u32,
}

/// Writes the dead letters of one end.
pub(in super::super) trait Graves: Send {
    /// Takes a letter. Tries until it is stored.
    fn bury(&mut self, ticket: u64, letter: Letter);

    /// Appends the tickets of the letters that are stored. Registers the waker for the next one, and for a change of `trouble`.
    fn poll(&mut self, cx: &mut Context<'_>, stored: &mut Vec<u64>);

    /// Why letters that it has taken cannot be written at the moment.
    fn trouble(&self) -> Option<Arc<str>>;
}
