//! What stands in the body of a dead letter: the body of the job as it was, and before it, in an envelope, what is known of its end.
//! Pure.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::super::letter::Letter;
use super::super::receive::Framing;
use crate::engine::{DEFAULT_PRIORITY, DeadLetter};
use crate::message::envelope::{self, Opened, Parts};
use crate::message::{Body, ContentType, Flags, Id, Message, go_queue, headers};
use crate::name::{Name, Place};
use crate::time::WallTime;

/// Marks a letter, and says when it was set aside, in nanoseconds.
const DIED: &str = "gq-dead-at";
const HANDLER: &str = "gq-dead-handler";
const ATTEMPTS: &str = "gq-dead-attempts";
const REASON: &str = "gq-dead-reason";
const WIRE: &str = "gq-dead-wire";

/// What a letter says that had no room for its reason.
const NO_ROOM: &str =
    "not kept: the task is as large as a job may be, which left no room for the reason";

/// A dead letter, read.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) tube: Name,
    /// Of the task.
    pub(super) id: Id,
    pub(super) handler: Arc<str>,
    pub(super) reason: Arc<str>,
    pub(super) attempts: u32,
    pub(super) died: WallTime,
    pub(super) go_queue: bool,
    /// The body of the job as it was.
    original: Bytes,
}

/// A body as it is understood, or as malformed.
fn open(original: &Bytes, go_queue: bool) -> Opened {
    let opened = if go_queue {
        go_queue::open(original.clone())
    } else {
        envelope::open(original.clone())
    };
    opened.unwrap_or_else(|closed| Opened {
        message: Message {
            id: Id::of_raw_body(&closed.raw),
            body: Body::new(closed.raw, 0, 0),
            flags: Flags::MALFORMED,
            ..Message::default()
        },
        parked_attempt: 0,
        priority: DEFAULT_PRIORITY,
    })
}

/// The id by which a job of this body is known.
pub(super) fn id(letter: &Letter) -> Id {
    open(&letter.body, is_go_queue(letter.framing)).message.id
}

fn is_go_queue(framing: Framing) -> bool {
    matches!(framing, Framing::GoQueue { .. })
}

/// The body of a letter, of at most `limit` bytes. What is known of the end is cut before the job is: if there is room for
/// nothing else, the body is that of the job.
pub(super) fn encode(letter: &Letter, limit: usize) -> Bytes {
    let go_queue = is_go_queue(letter.framing);
    let task = open(&letter.body, go_queue).message;
    let mut reason = &*letter.reason;
    loop {
        match try_encode(letter, &task, go_queue, reason) {
            Some(bytes) if bytes.len() <= limit => return bytes,
            Some(bytes) if !reason.is_empty() => {
                let over = bytes.len() - limit;
                reason = cut(reason, reason.len().saturating_sub(over));
            }
            _ => return letter.body.clone(),
        }
    }
}

/// At most so many bytes, whole characters.
fn cut(text: &str, len: usize) -> &str {
    let mut at = len.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    &text[..at]
}

fn try_encode(letter: &Letter, task: &Message, go_queue: bool, reason: &str) -> Option<Bytes> {
    let died = letter.died.as_nanos().to_string();
    let attempts = letter.attempts.to_string();
    let wire = if go_queue { "go-queue" } else { "native" };
    let mut extra = Vec::with_capacity(reason.len() + 192);
    for (name, value) in [
        (DIED, &*died),
        (HANDLER, &*letter.handler),
        (ATTEMPTS, &*attempts),
        (WIRE, wire),
        (REASON, reason),
    ] {
        headers::encode(&mut extra, name, value.as_bytes()).ok()?;
    }
    let body = Body::new(letter.body.clone(), 0, 0);
    let parts = Parts {
        id: task.id,
        due: task.due,
        at: task.at,
        parked_attempt: u16::try_from(letter.attempts).unwrap_or(u16::MAX),
        flags: Flags::NULL_KEY,
        content: ContentType::Raw,
        priority: DEFAULT_PRIORITY,
        extra: &extra,
        body: &body,
    };
    let mut bytes = BytesMut::with_capacity(parts.encoded_len());
    envelope::encode(&parts, &mut bytes).ok()?;
    Some(bytes.freeze())
}

impl Record {
    /// Reads the body of a letter of this tube. `go_queue` is how its jobs are framed, for a letter that does not say so itself.
    pub(super) fn read(tube: &Name, go_queue: bool, body: Bytes) -> Self {
        Self::letter(tube, &body).unwrap_or_else(|| Self {
            tube: tube.clone(),
            id: open(&body, go_queue).message.id,
            handler: Arc::from(""),
            reason: Arc::from(NO_ROOM),
            attempts: 0,
            died: WallTime::EPOCH,
            go_queue,
            original: body,
        })
    }

    fn letter(tube: &Name, body: &Bytes) -> Option<Self> {
        let message = envelope::open(body.clone()).ok()?.message;
        let headers = message.headers();
        Some(Self {
            tube: tube.clone(),
            id: message.id,
            died: WallTime::from_nanos(headers.get_str(DIED)?.parse().ok()?),
            handler: headers.get_str(HANDLER)?.into(),
            reason: headers.get_str(REASON)?.into(),
            attempts: headers.get_str(ATTEMPTS)?.parse().ok()?,
            go_queue: headers.get_str(WIRE)? == "go-queue",
            original: message.body.payload_bytes(),
        })
    }

    /// As people see it.
    pub(super) fn show(&self, cursor: u64) -> DeadLetter {
        let task = open(&self.original, self.go_queue).message;
        DeadLetter {
            cursor,
            place: Place::Tube(self.tube.clone()),
            group: None,
            handler: Arc::clone(&self.handler),
            id: self.id,
            body: task.body,
            flags: task.flags,
            content: task.content,
            attempts: self.attempts,
            reason: Arc::clone(&self.reason),
            at: task.at,
            died: self.died,
        }
    }

    /// The body that runs again, due now, and its priority. What has a limit to how late it may be met would be set aside again
    /// at once if it kept its time.
    pub(super) fn again(&self, now: WallTime) -> (Bytes, u32) {
        let opened = open(&self.original, self.go_queue);
        if opened.message.is_malformed() {
            return (self.original.clone(), DEFAULT_PRIORITY);
        }
        if self.go_queue {
            // The time is part of what the task is to the Go library: this is a new task there, with an id of its own.
            let payload = opened.message.body.payload();
            let mut body = BytesMut::with_capacity(go_queue::MAX_PREFIX_LEN + payload.len());
            go_queue::wrap(now, payload, &mut body);
            return (body.freeze(), go_queue::PRIORITY);
        }
        let body =
            envelope::with_due(&self.original, now).unwrap_or_else(|_| self.original.clone());
        (body, opened.priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(payload: &[u8], priority: u32) -> Bytes {
        let body = Body::pack(b"key", b"", payload);
        let parts = Parts {
            id: Id(77),
            due: WallTime::from_millis(5),
            at: WallTime::from_millis(4),
            parked_attempt: 0,
            flags: Flags::default(),
            content: ContentType::Json,
            priority,
            extra: &[],
            body: &body,
        };
        let mut bytes = BytesMut::new();
        envelope::encode(&parts, &mut bytes).expect("it fits");
        bytes.freeze()
    }

    fn letter(body: Bytes, framing: Framing) -> Letter {
        Letter {
            tube: Name::literal("tube"),
            framing,
            handler: Arc::from("app::handler"),
            node: 0,
            job: 1,
            body,
            reason: Arc::from("it failed: \u{e4}\u{f6}\u{fc}"),
            attempts: 9,
            died: WallTime::from_millis(1234),
        }
    }

    const NOW: WallTime = WallTime::from_millis(99_000);

    #[test]
    fn a_letter_says_what_it_was_given() {
        let sent = letter(task(b"{}", 7), Framing::Native);
        let record = Record::read(&sent.tube, false, encode(&sent, 65_535));
        let shown = record.show(5);
        assert_eq!((shown.cursor, shown.id, shown.attempts), (5, Id(77), 9));
        assert_eq!(
            (&*shown.reason, &*shown.handler),
            (&*sent.reason, "app::handler")
        );
        assert_eq!(
            (shown.body.key(), shown.body.payload()),
            (&b"key"[..], &b"{}"[..])
        );
        assert_eq!(shown.content, ContentType::Json);
        assert_eq!(
            (shown.at, shown.died),
            (WallTime::from_millis(4), sent.died)
        );
        let (body, priority) = record.again(NOW);
        let again = envelope::open(body).expect("whole");
        assert_eq!((again.message.id, again.message.due), (Id(77), NOW));
        assert_eq!((again.priority, priority), (7, 7));
        assert_eq!(again.message.body.payload(), b"{}");
    }

    #[test]
    fn a_body_that_does_not_open_is_kept_as_it_was() {
        let raw = Bytes::from_static(b"nonsense");
        let sent = letter(raw.clone(), Framing::Native);
        let record = Record::read(&sent.tube, false, encode(&sent, 65_535));
        let shown = record.show(1);
        assert!(shown.flags.contains(Flags::MALFORMED));
        assert_eq!(shown.body.payload(), &raw[..]);
        assert_eq!(shown.id, Id::of_raw_body(&raw));
        assert_eq!(record.again(NOW).0, raw);
    }

    #[test]
    fn a_task_of_the_go_library_runs_again_with_a_new_time() {
        let raw = Bytes::from_static(b"1700000000000000000/1000");
        let sent = letter(raw.clone(), Framing::GoQueue { late: None });
        let record = Record::read(&sent.tube, false, encode(&sent, 65_535));
        assert!(record.go_queue, "the letter knows");
        assert_eq!(record.id, go_queue::id(&raw));
        assert_eq!(&record.again(NOW).0[..], b"99000000000/1000");
    }

    #[test]
    fn a_task_without_room_for_its_reason_is_kept_whole() {
        let body = task(&[b'x'; 1000], 1024);
        let sent = letter(body.clone(), Framing::Native);
        let whole = encode(&sent, 65_535).len();
        for limit in body.len()..whole + 2 {
            let encoded = encode(&sent, limit);
            assert!(encoded.len() <= limit, "{limit}");
            let record = Record::read(&sent.tube, false, encoded);
            let shown = record.show(1);
            assert_eq!(shown.id, Id(77), "{limit}");
            assert_eq!(shown.body.payload(), [b'x'; 1000], "{limit}");
            let cut = sent.reason.starts_with(&*shown.reason);
            assert!(
                cut || &*shown.reason == NO_ROOM,
                "{limit}: {}",
                shown.reason
            );
        }
    }
}
