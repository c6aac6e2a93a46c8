//! Where the writer leaves its answers for one end of a subscription.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;

use crate::delivery::{Receipt, Settlement};
use crate::message::{Body, ContentType, Flags, Id, Message};
use crate::time::WallTime;

/// Set in the flags of a row whose id was chosen by its producer; leaves in [`Receipt::group`].
pub(super) const NAMED: u32 = 1 << 8;

/// One message as it was read, its body still a range of the slice's buffer.
#[derive(Debug)]
pub(super) struct Row {
    /// The job, or the offset of a record.
    pub(super) token: u64,
    pub(super) id: Id,
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) key_len: u32,
    pub(super) head_len: u32,
    pub(super) attempt: u32,
    pub(super) flags: u32,
    pub(super) content: u8,
    pub(super) created: i64,
    pub(super) due: i64,
    /// Position in its partition; 0 for tasks.
    pub(super) offset: i64,
}

/// What one claim or fetch brought.
#[derive(Debug, Default)]
pub(super) struct Slice {
    pub(super) epoch: u32,
    /// Partition as people count it, and as the tables do; 0 for tubes.
    pub(super) part: u32,
    pub(super) bytes: Bytes,
    pub(super) rows: VecDeque<Row>,
}

impl Slice {
    /// The leases of what is in it.
    pub(super) fn receipts(&self) -> impl Iterator<Item = Receipt> + '_ {
        self.rows.iter().map(|row| Receipt {
            epoch: self.epoch,
            group: row.flags & NAMED,
            token: row.token,
        })
    }

    /// A message whose body shares the buffer of its slice.
    pub(super) fn message(&self, row: &Row) -> Message {
        let range = row.start as usize..(row.start + row.len) as usize;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the flags of a message are the low byte"
        )]
        let flags = Flags(row.flags as u8);
        Message {
            id: row.id,
            body: Body::new(
                self.bytes.slice(range),
                row.key_len as usize,
                row.head_len as usize,
            ),
            attempt: row.attempt,
            place: self.part,
            offset: row.offset,
            at: WallTime::from_millis(row.created),
            due: WallTime::from_nanos(row.due),
            flags,
            content: ContentType::from_byte(row.content),
        }
    }
}

/// A change of what an end holds.
#[derive(Clone, Debug)]
pub(super) enum Word {
    /// A new epoch: of this partition, from this offset on, but for what is done behind it (one bit for each record).
    Took {
        epoch: u32,
        gid: i64,
        part: u32,
        from: i64,
        done: Vec<u8>,
    },
    /// The epoch is to be given back.
    Leaving { epoch: u32 },
    /// The epoch is over.
    Lost { epoch: u32 },
}

/// What lies in a mailbox.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) slices: VecDeque<Slice>,
    pub(super) words: VecDeque<Word>,
    /// Requests whose transaction is committed.
    pub(super) committed: u32,
    /// Requests that the disk has confirmed, if that was asked.
    pub(super) confirmed: u32,
    /// Settlements that came too late.
    pub(super) stale: u64,
    /// Emptied vectors, to be used again.
    pub(super) spare: Vec<Vec<Settlement>>,
    /// The last look found nothing to hand out.
    pub(super) empty: bool,
    /// The next due time of the place.
    pub(super) next_due: Option<WallTime>,
    /// Why the store does not serve now.
    pub(super) down: Option<Arc<str>>,
    /// The writer has ended.
    pub(super) closed: bool,
    /// Its owner waits for `confirmed` to grow.
    pub(super) wants_confirmation: bool,
    waker: Option<Waker>,
}

impl Inbox {
    /// Asks to be woken by the next post.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            slot => *slot = Some(cx.waker().clone()),
        }
    }
}

/// Shared by the writer and one end of a subscription. Locked once for each slice, by two threads.
#[derive(Debug, Default)]
pub(super) struct Mailbox(Mutex<Inbox>);

impl Mailbox {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inbox> {
        // Nothing that runs under this lock can leave the inbox half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the inbox and wakes its owner.
    pub(super) fn post(&self, change: impl FnOnce(&mut Inbox)) {
        let waker = {
            let mut inbox = self.lock();
            change(&mut inbox);
            inbox.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Changes the inbox; wakes its owner only if the change says so.
    pub(super) fn post_if(&self, change: impl FnOnce(&mut Inbox) -> bool) {
        let waker = {
            let mut inbox = self.lock();
            if change(&mut inbox) {
                inbox.waker.take()
            } else {
                None
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
