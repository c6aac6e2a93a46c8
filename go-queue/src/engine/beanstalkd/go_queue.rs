//! Tasks on tubes with `wire: go-queue`: what they may carry, and how they are told apart.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::engine::{MAX_TASK_LEN, Outgoing, PublishError};
use crate::message::{Id, go_queue};
use crate::time::WallTime;

/// Makes bodies of the Go library. One for each engine: it tells tasks apart that are otherwise equal.
#[derive(Debug)]
pub(crate) struct Framer {
    nth: AtomicU32,
}

/// A body that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framed {
    /// The MD5 of the body.
    pub(crate) id: Id,
    /// When it is due, as the body says; never earlier than was asked, and at most two milliseconds later.
    pub(crate) due: WallTime,
}

impl Framer {
    /// Begins at a random number, so that two processes do not count alike.
    pub(crate) fn new() -> Self {
        Self {
            nth: AtomicU32::new(fastrand::u32(..)),
        }
    }

    /// Appends the body of one task. Every replica and every repeated put of the task takes the same bytes.
    ///
    /// # Errors
    /// [`PublishError::Unsupported`] for what has no place in the format, [`PublishError::TooLarge`]. Nothing was appended.
    pub(crate) fn frame(
        &self,
        message: &Outgoing,
        now: WallTime,
        into: &mut Vec<u8>,
    ) -> Result<Framed, PublishError> {
        let cannot = |what: &str| PublishError::Unsupported {
            engine: "beanstalkd",
            what: format!("{what} on {}, which has `wire: go-queue`", message.place),
        };
        if message.named {
            return Err(cannot("name a task"));
        }
        if message.body.key_len() > 0 {
            return Err(cannot("send a key"));
        }
        if message.body.head_len() > 0 {
            return Err(cannot("send headers"));
        }
        let due = if message.due == WallTime::EPOCH {
            now
        } else {
            message.due
        };
        let due = go_queue::distinct_due(due, self.nth.fetch_add(1, Ordering::Relaxed));
        let start = into.len();
        go_queue::wrap(due, message.body.payload(), into);
        let size = into.len() - start;
        if size > MAX_TASK_LEN {
            into.truncate(start);
            return Err(PublishError::TooLarge {
                place: message.place.clone(),
                size,
                limit: MAX_TASK_LEN,
            });
        }
        Ok(Framed {
            id: go_queue::id(&into[start..]),
            due,
        })
    }
}

/// The time to run of a put, in seconds: that of our leases, and at least what the Go library writes.
pub(crate) fn time_to_run(lease: Duration) -> u32 {
    let seconds = lease.max(go_queue::TIME_TO_RUN).as_secs();
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::DEFAULT_PRIORITY;
    use crate::message::{Body, ContentType, Flags};
    use crate::name::{Name, Place};

    fn outgoing(body: Body) -> Outgoing {
        Outgoing {
            place: Place::Tube(Name::literal("reminders")),
            id: Id::unique(),
            named: false,
            body,
            flags: Flags::NULL_KEY,
            content: ContentType::Json,
            due: WallTime::from_millis(1_700_000_000_000),
            priority: DEFAULT_PRIORITY,
        }
    }

    #[test]
    fn equal_tasks_have_different_bytes() {
        let framer = Framer::new();
        let task = outgoing(Body::pack(b"", b"", b"same"));
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let mut body = Vec::new();
            let framed = framer
                .frame(&task, WallTime::EPOCH, &mut body)
                .expect("a good task");
            assert!(framed.due >= task.due);
            let opened = go_queue::open(body.into()).expect("it opens");
            assert_eq!(
                (opened.message.id, opened.message.due),
                (framed.id, framed.due)
            );
            assert!(seen.insert(framed.id));
        }
    }

    #[test]
    fn a_task_that_is_due_now_is_due_now() {
        let now = WallTime::from_millis(1_800_000_000_000);
        let task = Outgoing {
            due: WallTime::EPOCH,
            ..outgoing(Body::default())
        };
        let framed = Framer::new().frame(&task, now, &mut Vec::new());
        let due = framed.expect("a good task").due;
        assert!(due >= now && due.since(now) < Duration::from_millis(2));
    }

    #[test]
    fn what_has_no_place_in_the_format_is_refused() {
        let mut header = Vec::new();
        crate::message::headers::encode(&mut header, "a", b"b").expect("a good header");
        let named = Outgoing {
            named: true,
            ..outgoing(Body::default())
        };
        let mut into = b"before".to_vec();
        for (task, word) in [
            (named, "name a task"),
            (outgoing(Body::pack(b"k", b"", b"")), "key"),
            (outgoing(Body::pack(b"", &header, b"")), "headers"),
            (
                outgoing(Body::pack(b"", b"", &vec![b'x'; 65_516])),
                "65536 bytes",
            ),
        ] {
            let error = Framer::new()
                .frame(&task, WallTime::EPOCH, &mut into)
                .expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(into, b"before");
        let most = outgoing(Body::pack(b"", b"", &vec![b'x'; 65_515]));
        assert!(
            Framer::new()
                .frame(&most, WallTime::EPOCH, &mut Vec::new())
                .is_ok()
        );
    }

    #[test]
    fn the_time_to_run_is_at_least_that_of_the_go_library() {
        assert_eq!(time_to_run(Duration::from_secs(60)), 60);
        assert_eq!(time_to_run(Duration::from_secs(1)), 5);
    }
}
