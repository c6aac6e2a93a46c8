//! Bodies of messages that come and go together, many in one buffer.
//!
//! A buffer of its own costs a message two allocations, for the bytes and for their count, and gives both back in another order than it
//! took them, which is the dear way. The price: the last message of a buffer keeps all of it. So what may stay
//! long, a task that waits for its time or a dead letter, has a buffer of its own.

use bytes::{Bytes, BytesMut};

use crate::message::Body;

/// Bytes of a buffer.
const BUFFER: usize = 32 << 10;
/// A larger body has its own.
const SMALL: usize = 1 << 10;

/// Where the next bodies go.
#[derive(Debug, Default)]
pub(super) struct Arena(BytesMut);

impl Arena {
    /// The same body, in the buffer of its neighbours.
    pub(super) fn place(&mut self, body: Body) -> Body {
        let len = body.len();
        if len == 0 || len > SMALL {
            return body;
        }
        if self.0.capacity() < len {
            self.0 = BytesMut::with_capacity(BUFFER);
        }
        self.0.extend_from_slice(body.bytes());
        Body::new(self.0.split().freeze(), body.key_len(), body.head_len())
    }
}

/// The same body, in a buffer of its own.
pub(super) fn alone(body: &Body) -> Body {
    let bytes = Bytes::copy_from_slice(body.bytes());
    Body::new(bytes, body.key_len(), body.head_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_same_in_the_arena_and_alone() {
        let mut arena = Arena::default();
        for len in [0, 1, 100, SMALL, SMALL + 1, 3 * BUFFER] {
            for _ in 0..50 {
                let payload = vec![b'x'; len];
                let body = Body::pack(b"key", b"", &payload);
                for same in [arena.place(body.clone()), alone(&body)] {
                    assert_eq!((same.key(), same.payload()), (&b"key"[..], &payload[..]));
                }
            }
        }
    }

    #[test]
    fn neighbours_share_a_buffer_and_one_alone_does_not() {
        let mut arena = Arena::default();
        let body = Body::pack(b"", b"", b"hundred");
        let (first, second) = (arena.place(body.clone()), arena.place(body));
        let end = first.bytes().as_ptr().wrapping_add(first.len());
        assert_eq!(end, second.bytes().as_ptr());
        assert_ne!(alone(&first).bytes().as_ptr(), first.bytes().as_ptr());
    }
}
