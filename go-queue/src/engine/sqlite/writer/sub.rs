//! One end of a subscription, as the writer knows it.

use std::sync::Arc;

use crate::delivery::Settlement;
use crate::engine::sqlite::group::Member;
use crate::engine::sqlite::mailbox::{Mailbox, Slice, Word};
use crate::time::WallTime;

/// One end of a subscription, as the writer knows it.
#[derive(Debug)]
pub(in crate::engine::sqlite) struct Sub {
    pub(in crate::engine::sqlite) no: u32,
    pub(in crate::engine::sqlite) mailbox: Arc<Mailbox>,
    pub(in crate::engine::sqlite) session: u32,
    /// Length of its lease in milliseconds.
    pub(in crate::engine::sqlite) lease: i64,
    pub(in crate::engine::sqlite) label: Arc<str>,
    /// Room for so many more at its end.
    pub(in crate::engine::sqlite) credit: usize,
    /// There may be something to hand out.
    pub(in crate::engine::sqlite) maybe: bool,
    /// The first due time known.
    pub(in crate::engine::sqlite) next_due: Option<WallTime>,
    pub(in crate::engine::sqlite) kind: Kind,
    pub(super) post: Post,
}

/// What an end reads.
#[derive(Debug)]
pub(in crate::engine::sqlite) enum Kind {
    Tube(i64),
    Topic(Member),
}

/// What goes to a mailbox after the commit, in one post.
#[derive(Debug, Default)]
pub(super) struct Post {
    pub(super) slices: Vec<Slice>,
    pub(super) words: Vec<Word>,
    pub(super) committed: u32,
    pub(super) stale: u64,
    pub(super) spare: Vec<Vec<Settlement>>,
    /// What a look found: nothing to hand out, and the next due time.
    pub(super) looked: Option<(bool, Option<WallTime>)>,
}

impl Sub {
    pub(in crate::engine::sqlite) fn new(
        no: u32,
        mailbox: Arc<Mailbox>,
        session: u32,
        lease: i64,
        label: Arc<str>,
        kind: Kind,
    ) -> Self {
        Self {
            no,
            mailbox,
            session,
            lease,
            label,
            credit: 0,
            maybe: true,
            next_due: None,
            kind,
            post: Post::default(),
        }
    }

    /// The key by which it is woken: a tube, or minus a topic.
    pub(super) fn place(&self) -> i64 {
        match &self.kind {
            Kind::Tube(tube) => *tube,
            Kind::Topic(member) => -member.topic,
        }
    }

    /// Adds room, after what was granted before is taken back.
    pub(in crate::engine::sqlite) fn grant(&mut self, room: usize, withdraw: bool) {
        if withdraw {
            self.credit = 0;
        }
        if room > 0 && self.credit == 0 {
            self.maybe = true;
        }
        self.credit += room;
    }

    pub(in crate::engine::sqlite) fn say(&mut self, word: Word) {
        self.post.words.push(word);
    }

    pub(in crate::engine::sqlite) fn give(&mut self, slice: Slice) {
        self.credit = self.credit.saturating_sub(slice.rows.len());
        self.post.slices.push(slice);
    }

    pub(in crate::engine::sqlite) fn looked(&mut self, empty: bool, next_due: Option<WallTime>) {
        self.maybe = !empty;
        self.next_due = next_due;
        self.post.looked = Some((empty, next_due));
    }

    /// Puts what is there into the mailbox.
    pub(super) fn deliver(&mut self) {
        let post = &mut self.post;
        let news = !post.slices.is_empty() || !post.words.is_empty() || post.committed > 0;
        if !news && post.looked.is_none() {
            return;
        }
        self.mailbox.post_if(|inbox| {
            let mut wake = news;
            inbox.slices.extend(post.slices.drain(..));
            inbox.words.extend(post.words.drain(..));
            inbox.committed = inbox
                .committed
                .wrapping_add(std::mem::take(&mut post.committed));
            inbox.stale += std::mem::take(&mut post.stale);
            inbox.spare.append(&mut post.spare);
            inbox.spare.truncate(4);
            if let Some((empty, next_due)) = post.looked.take() {
                wake |= inbox.empty != empty || inbox.next_due != next_due;
                inbox.empty = empty;
                inbox.next_due = next_due;
            }
            wake |= inbox.down.take().is_some();
            wake
        });
    }
}
