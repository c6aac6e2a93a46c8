//! The table of what is in hand: entries, their stages, and the lists that run through them.

use std::hash::{BuildHasherDefault, Hasher};

use tokio::time::Instant;

use crate::delivery::{How, Receipt};
use crate::message::Message;

/// No entry, no place.
pub(super) const NIL: u32 = u32::MAX;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not in use.
    Free,
    /// Behind another of its key.
    Queued,
    /// Handed back or lost while it was queued; freed when its key comes to it.
    Void,
    /// The dedup store was asked.
    Claiming,
    /// The dedup store said later.
    Held,
    /// A batch that may still grow.
    Gathering,
    /// Only a running place is missing.
    Ready,
    /// Has a place, the handler runs.
    Running,
    /// Has a place, is written elsewhere.
    Detour,
    /// Has a place, the dedup store is told how it ended.
    Confirming,
    /// Failed, waits to run again, keeps its key.
    Backoff,
}

/// One message in hand, or one batch.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of one entry, each looked at alone"
)]
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) stage: Stage,
    /// Which use of this entry: what names it from outside is void with the next.
    pub(super) round: u32,
    pub(super) order: u64,
    /// The next of its key.
    pub(super) next: u32,
    /// Its running place.
    pub(super) place: u32,
    /// Neighbours among the running ones, in the order of their start.
    pub(super) earlier: u32,
    pub(super) later: u32,
    /// Start of the run, or of the gathering.
    pub(super) since: Instant,
    /// Goes back instead of starting.
    pub(super) back: bool,
    /// Its lease is gone: no settlement.
    pub(super) lost: bool,
    /// It holds its claim.
    pub(super) claimed: bool,
    /// Was told to stop, and has a grace.
    pub(super) ending: bool,
    /// Is in the list of running ones.
    pub(super) listed: bool,
    /// Answers of the dedup store that are missing.
    pub(super) asks: u32,
    pub(super) receipt: Receipt,
    /// The other receipts of a batch.
    pub(super) more: Vec<Receipt>,
    /// The message, while it has no place.
    pub(super) message: Option<Message>,
    /// The other messages of a batch, while it has no place.
    pub(super) others: Vec<Message>,
    /// How each of it is settled, in the order of the receipts.
    pub(super) hows: Vec<How>,
}

impl Entry {
    /// How many messages it is.
    pub(super) fn len(&self) -> usize {
        1 + self.more.len()
    }

    /// All its receipts.
    pub(super) fn receipts(&self) -> impl Iterator<Item = Receipt> + '_ {
        std::iter::once(self.receipt).chain(self.more.iter().copied())
    }
}

/// Entries, made on demand and reused, the last used first.
#[derive(Debug)]
pub(super) struct Table {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Takes an entry into use.
    pub(super) fn take(&mut self, stage: Stage, order: u64, receipt: Receipt, now: Instant) -> u32 {
        if let Some(ticket) = self.free.pop() {
            let entry = &mut self.entries[ticket as usize];
            entry.stage = stage;
            entry.order = order;
            entry.receipt = receipt;
            entry.since = now;
            return ticket;
        }
        let ticket = u32::try_from(self.entries.len())
            .expect("a lane has fewer than four billion messages in hand");
        self.entries.push(Entry {
            stage,
            round: 0,
            order,
            next: NIL,
            place: NIL,
            earlier: NIL,
            later: NIL,
            since: now,
            back: false,
            lost: false,
            claimed: false,
            ending: false,
            listed: false,
            asks: 0,
            receipt,
            more: Vec::new(),
            message: None,
            others: Vec::new(),
            hows: Vec::new(),
        });
        ticket
    }

    /// Puts an entry back; everything that names it is void.
    pub(super) fn free(&mut self, ticket: u32) {
        let entry = &mut self.entries[ticket as usize];
        entry.stage = Stage::Free;
        entry.round = entry.round.wrapping_add(1);
        entry.next = NIL;
        entry.place = NIL;
        entry.back = false;
        entry.lost = false;
        entry.claimed = false;
        entry.ending = false;
        entry.asks = 0;
        entry.more.clear();
        entry.message = None;
        entry.others.clear();
        entry.hows.clear();
        self.free.push(ticket);
    }

    /// All entries, used or not.
    pub(super) fn tickets(&self) -> std::ops::Range<u32> {
        // `take` made sure that the length fits.
        0..u32::try_from(self.entries.len()).unwrap_or(NIL)
    }
}

impl std::ops::Index<u32> for Table {
    type Output = Entry;
    fn index(&self, ticket: u32) -> &Entry {
        &self.entries[ticket as usize]
    }
}

impl std::ops::IndexMut<u32> for Table {
    fn index_mut(&mut self, ticket: u32) -> &mut Entry {
        &mut self.entries[ticket as usize]
    }
}

/// The running entries in the order of their start, linked through the table: a queue of deadlines beside it would grow
/// without bound behind one long run.
#[derive(Debug)]
pub(super) struct Runs {
    pub(super) first: u32,
    last: u32,
}

impl Runs {
    pub(super) fn new() -> Self {
        Self {
            first: NIL,
            last: NIL,
        }
    }

    pub(super) fn push(&mut self, table: &mut Table, ticket: u32) {
        let last = std::mem::replace(&mut self.last, ticket);
        let entry = &mut table[ticket];
        entry.earlier = last;
        entry.later = NIL;
        entry.listed = true;
        if last == NIL {
            self.first = ticket;
        } else {
            table[last].later = ticket;
        }
    }

    pub(super) fn remove(&mut self, table: &mut Table, ticket: u32) {
        let entry = &mut table[ticket];
        if !std::mem::take(&mut entry.listed) {
            return;
        }
        let (earlier, later) = (entry.earlier, entry.later);
        if earlier == NIL {
            self.first = later;
        } else {
            table[earlier].later = later;
        }
        if later == NIL {
            self.last = earlier;
        } else {
            table[later].earlier = earlier;
        }
    }
}

/// Order values are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Never called for `u64`; right for anything else all the same.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        // Engines may number partitions from 1: spread small numbers over the high bits that the map looks at.
        self.0 = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// From order value to ticket.
pub(super) type OrderMap = std::collections::HashMap<u64, u32, BuildHasherDefault<Identity>>;
