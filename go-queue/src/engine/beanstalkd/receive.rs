//! One end of a subscription to a tube: every node at once, polled inside `turn`, without a task or a channel.
//!
//! ```text
//! settlements -> session of their epoch -> commands
//! nodes in rotation: answers -> due? deliver : hold -> reserves for the room that is left -> one write each
//! ```
//!
//! What comes of a node goes straight into the turn while there is room, else into `ahead`. What came before its time is held
//! until then: the server knows whole seconds only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::alarm::Alarm;
use super::hold::{Hold, Parcel};
use super::letter::{Letter, LetterWriter, Letters};
use super::node_end::NodeEnd;
use crate::delivery::{Delivery, Notice, Receipt, Settlement};
use crate::engine::{EngineError, HealthState, Order, Receive, Subscribe, Turn};
use crate::message::{Flags, Message};
use crate::name::{Name, Place, Side};
use crate::time::{Clock, WallTime};

/// How long `close` waits for the last answers.
const CLOSE: Duration = Duration::from_secs(5);

/// How long after an envelope of a later version was met the end says so.
const NEWER_SHOWN: Duration = Duration::from_secs(35);

/// A job in hand is touched when it is so old. The time to run of a job is its producer's word, which nobody here has heard: this
/// keeps those of 2 s and more, the shortest that the server can warn about, and is a command a second for those that run long.
const RENEW: Duration = Duration::from_millis(700);

/// What waits so long for room is given back: somebody else may have some.
const AHEAD_FOR: Duration = Duration::from_millis(100);

/// What stands in the bodies of a tube.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// The envelope of this library.
    Native,
    /// That of the Go library.
    GoQueue {
        /// A task met so long after its time is a dead letter.
        late: Option<Duration>,
    },
}

/// What the ends of one engine share.
#[derive(Debug)]
pub(super) struct Site {
    /// The nodes, as configured.
    pub(super) endpoints: Vec<Arc<str>>,
    /// How long connecting may take.
    pub(super) connect: Duration,
    /// How long a node may owe an answer, beyond what it was told to wait.
    pub(super) patience: Duration,
    /// The time to run that jobs are stored with.
    pub(super) lease: Duration,
    /// Every task that was accepted is on so many nodes.
    pub(super) quorum: usize,
    /// The most jobs in hand on one connection.
    pub(super) unacked: usize,
    /// Measures due times.
    pub(super) clock: Clock,
    /// Keeps dead letters; without one the jobs are buried where they are.
    pub(super) letters: Option<Arc<dyn LetterWriter>>,
    /// Names connections.
    pub(super) epochs: AtomicU32,
}

impl Site {
    /// A name for one more connection.
    pub(super) fn next_epoch(&self) -> u32 {
        self.epochs.fetch_add(1, Ordering::Relaxed)
    }
}

/// What an end knows of its tube.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) tube: Name,
    pub(super) wire_tube: Arc<str>,
    pub(super) framing: Framing,
    pub(super) order: Order,
    pub(super) label: Arc<str>,
    /// Jobs in hand are touched when they are so old.
    pub(super) renew: Duration,
    /// A claim in a dedup store guards every start: attempts come from there, and a delete that comes late harms nobody.
    pub(super) claimed: bool,
}

/// Opens one end. Connects in its first turns, not here.
///
/// # Errors
/// If the place is not a tube.
pub(super) fn open(
    site: Arc<Site>,
    subscribe: &Subscribe,
    framing: Framing,
) -> Result<Box<dyn Receive>, EngineError> {
    let Place::Tube(tube) = &subscribe.place else {
        return Err(EngineError::Unsupported {
            engine: "beanstalkd",
            what: format!("serve {}: it keeps no {}", subscribe.place, Side::Topics),
        });
    };
    let source = Arc::new(Source {
        tube: tube.clone(),
        wire_tube: Arc::from(tube.as_str()),
        framing,
        order: subscribe.order,
        label: Arc::clone(&subscribe.label),
        renew: RENEW.min(site.lease / 3).min(subscribe.lease / 3),
        claimed: subscribe.claimed,
    });
    let nodes = (0_u32..)
        .zip(&site.endpoints)
        .map(|(index, endpoint)| NodeEnd::new(index, Arc::clone(endpoint)))
        .collect();
    Ok(Box::new(TubeEnd {
        nodes,
        first: 0,
        desk: Desk {
            ahead: VecDeque::new(),
            ahead_since: None,
            hold: Hold::default(),
            letters: Letters::new(site.letters.clone()),
            stale: 0,
            newer_seen: None,
            quiet: false,
            limit: 0,
            now: Instant::now(),
            wall: site.clock.now(),
            site,
            source,
        },
        alarm: Alarm::default(),
        ticker: Alarm::default(),
        closing: None,
    }))
}

/// One end: the nodes, and the desk where what comes of them is sorted.
#[derive(Debug)]
struct TubeEnd {
    nodes: Vec<NodeEnd>,
    /// Which node is polled first.
    first: usize,
    desk: Desk,
    /// For what is held, exact.
    alarm: Alarm,
    /// For everything else.
    ticker: Alarm,
    /// When `close` gives up.
    closing: Option<Instant>,
}

/// What all connections of an end share while they are polled.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) site: Arc<Site>,
    pub(super) source: Arc<Source>,
    /// Due, leased, and without room so far.
    ahead: VecDeque<Parcel>,
    ahead_since: Option<Instant>,
    pub(super) hold: Hold,
    pub(super) letters: Letters,
    pub(super) stale: u64,
    /// When an envelope of a later version was met last.
    pub(super) newer_seen: Option<Instant>,
    pub(super) quiet: bool,
    /// How many deliveries a turn may hold: those that were in it, and the room.
    limit: usize,
    pub(super) now: Instant,
    pub(super) wall: WallTime,
}

impl Desk {
    /// Hands out what is due, or keeps it until there is room.
    pub(super) fn hand_out(&mut self, parcel: Parcel, turn: &mut Turn) {
        if self.ahead.is_empty() && turn.deliver.len() < self.limit {
            turn.deliver.push(self.delivery(parcel));
        } else {
            self.ahead_since.get_or_insert(self.now);
            self.ahead.push_back(parcel);
        }
    }

    fn delivery(&self, parcel: Parcel) -> Delivery {
        Delivery {
            order: order_of(self.source.order, &parcel.message),
            message: parcel.message,
            receipt: parcel.receipt,
        }
    }

    /// One lease is over by itself, whatever its message waits for.
    pub(super) fn forget_one(&mut self, receipt: Receipt, turn: &mut Turn) {
        let before = self.ahead.len();
        self.ahead.retain(|parcel| parcel.receipt != receipt);
        if self.ahead.len() == before && !self.hold.forget_one(receipt) {
            turn.notice.push(Notice::LostOne(receipt));
        }
    }

    /// A connection is gone, and with it every lease of its epoch.
    pub(super) fn forget(&mut self, epoch: u32, turn: &mut Turn) {
        self.ahead.retain(|parcel| parcel.receipt.epoch != epoch);
        self.hold.forget(epoch);
        self.letters.forget(epoch);
        // Of this very turn: handed out and lost at once.
        turn.notice.push(Notice::Lost(epoch));
    }
}

/// What runs one at a time. Tasks have no partitions: a task without a key waits for nobody.
fn order_of(order: Order, message: &Message) -> u64 {
    use std::hash::BuildHasher;
    match order {
        Order::Key if !message.flags.contains(Flags::NULL_KEY) => {
            foldhash::fast::FixedState::default()
                .hash_one(message.body.key())
                .max(1)
        }
        _ => 0,
    }
}

impl TubeEnd {
    /// Everything but the reserves: settlements, what is held, what the nodes say.
    fn exchange(&mut self, cx: &mut Context<'_>, turn: &mut Turn) {
        self.desk.now = turn.now;
        self.desk.wall = self.desk.site.clock.now();
        self.desk.limit = turn.deliver.len() + turn.free;
        self.settle(turn);
        if !turn.open && !self.desk.quiet {
            self.desk.quiet = true;
        }
        if self.desk.quiet {
            self.hand_back();
        }
        self.drain_ahead(turn);
        self.ring(turn);
        let count = self.nodes.len();
        for step in 0..count {
            let at = (self.first + step) % count;
            self.nodes[at].poll(cx, &mut self.desk, turn);
        }
        self.first = (self.first + 1) % count.max(1);
        self.letters(cx);
    }

    fn settle(&mut self, turn: &mut Turn) {
        for settlement in turn.settle.drain(..) {
            let Settlement { receipt, how } = settlement;
            let session = self
                .nodes
                .iter_mut()
                .find_map(|node| node.session(receipt.epoch));
            match session {
                Some(session) => session.settle(receipt, how, &mut self.desk),
                None => self.desk.stale += 1,
            }
        }
    }

    fn drain_ahead(&mut self, turn: &mut Turn) {
        while turn.deliver.len() < self.desk.limit
            && let Some(parcel) = self.desk.ahead.pop_front()
        {
            turn.deliver.push(self.desk.delivery(parcel));
            self.desk.ahead_since = Some(self.desk.now);
        }
        match self.desk.ahead_since {
            Some(_) if self.desk.ahead.is_empty() => self.desk.ahead_since = None,
            Some(since) if self.desk.now - since >= AHEAD_FOR => {
                self.desk.ahead_since = None;
                let ahead = std::mem::take(&mut self.desk.ahead);
                self.give_back(ahead);
            }
            _ => {}
        }
    }

    /// What was held and is due now.
    fn ring(&mut self, turn: &mut Turn) {
        while let Some(parcel) = self.desk.hold.due(self.desk.wall) {
            self.desk.hand_out(parcel, turn);
        }
        while let Some(pause) = self.desk.hold.over(self.desk.now) {
            let session = self
                .nodes
                .iter_mut()
                .find_map(|node| node.session(pause.receipt.epoch));
            if let Some(session) = session {
                session.end_pause(&pause, &self.desk);
            }
        }
    }

    /// After quiet: what has not started goes back, uncounted.
    fn hand_back(&mut self) {
        let ahead = std::mem::take(&mut self.desk.ahead);
        self.desk.ahead_since = None;
        self.give_back(ahead);
        let held = self.desk.hold.take_held();
        self.give_back(held);
        for pause in self.desk.hold.take_pauses() {
            let session = self
                .nodes
                .iter_mut()
                .find_map(|node| node.session(pause.receipt.epoch));
            if let Some(session) = session {
                session.cut_pause(&pause, &self.desk);
            }
        }
        for node in &mut self.nodes {
            node.hand_back_line(&self.desk);
        }
    }

    fn give_back(&mut self, parcels: impl IntoIterator<Item = Parcel>) {
        for parcel in parcels {
            let session = self
                .nodes
                .iter_mut()
                .find_map(|node| node.session(parcel.receipt.epoch));
            if let Some(session) = session {
                session.give_back(parcel.receipt, 0, &self.desk);
            }
        }
    }

    fn letters(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(written) = self.desk.letters.poll(cx, self.desk.now) {
            for (receipt, kept) in written {
                let session = self
                    .nodes
                    .iter_mut()
                    .find_map(|node| node.session(receipt.epoch));
                if let Some(session) = session {
                    session.letter_written(receipt, kept, &mut self.desk);
                }
            }
        }
    }

    /// Asks the nodes for what there is room for.
    fn reserve(&mut self, turn: &Turn) {
        let ahead = self.desk.ahead.len();
        let asked: usize = self.nodes.iter().map(NodeEnd::coming).sum();
        let in_line: usize = self.nodes.iter().map(NodeEnd::in_line).sum();
        let free = self.desk.limit.saturating_sub(turn.deliver.len());
        let has_room = free > ahead + in_line && !self.desk.quiet;
        let mut room = if self.desk.quiet {
            0
        } else {
            free.saturating_sub(asked + ahead)
        };
        let count = self.nodes.len();
        for step in 0..count {
            let at = (self.first + step) % count;
            // The rest is shared by those that have not been asked yet.
            let share = room.div_ceil(count - step);
            let node = &mut self.nodes[at];
            room = room.saturating_sub(node.reserve(share, has_room, &self.desk));
        }
    }

    /// Whether no accepted task waits. Nodes that cannot be reached count for nothing as long as they are fewer than every task
    /// is on: each task that one of them has is on another as well, and its claim keeps it from running again when they return.
    fn nodes_are_empty(&self) -> bool {
        let mut away = 0;
        self.nodes.iter().all(|node| {
            let is_away = node.is_away();
            away += usize::from(is_away);
            is_away || node.is_empty()
        }) && away < self.desk.site.quorum
    }

    fn health(&self, turn: &mut Turn) {
        let desk = &self.desk;
        turn.health.stale = desk.stale;
        turn.health.empty = desk.ahead.is_empty()
            && desk.letters.is_empty()
            && desk.hold.pauses() == 0
            && self.nodes_are_empty();
        turn.health.next_due = self
            .nodes
            .iter()
            .filter_map(NodeEnd::next_due)
            .chain(desk.hold.next_due())
            .min();
        let newer = desk
            .newer_seen
            .is_some_and(|seen| desk.now - seen < NEWER_SHOWN);
        let state = if newer {
            down(
                "a task in this tube was written by a later version of this library: update this worker",
            )
        } else if self.nodes.iter().any(NodeEnd::is_up) {
            HealthState::Up
        } else if let Some(why) = self.nodes.iter().find_map(NodeEnd::failure) {
            HealthState::Down(Arc::clone(why))
        } else {
            HealthState::Starting
        };
        if turn.health.state != state {
            turn.health.state = state;
        }
    }

    /// Arms what wakes this end without the sockets. True if a time has come already.
    fn arm(&mut self, cx: &mut Context<'_>) -> bool {
        let desk = &self.desk;
        let mut rings = false;
        if let Some(at) = desk.hold.next(desk.wall, desk.now) {
            rings |= self.alarm.poll(cx, at, desk.now);
        }
        let tick = self
            .nodes
            .iter()
            .filter_map(|node| node.wakes_at(desk))
            .chain(desk.ahead_since.map(|since| since + AHEAD_FOR))
            .chain(desk.letters.wakes_at())
            .chain(self.closing)
            .min();
        if let Some(at) = tick {
            rings |= self.ticker.poll_coarse(cx, at, desk.now);
        }
        rings
    }
}

fn down(why: &str) -> HealthState {
    HealthState::Down(Arc::from(why))
}

impl Receive for TubeEnd {
    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        let heard = turn.notice.len();
        let came = turn.deliver.len();
        self.exchange(cx, turn);
        self.reserve(turn);
        for node in &mut self.nodes {
            node.flush(cx, &mut self.desk, turn);
        }
        self.health(turn);
        let again = self.arm(cx);
        if again || turn.deliver.len() > came || turn.notice.len() > heard {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn close(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        turn.open = false;
        turn.free = 0;
        let bound = *self.closing.get_or_insert(turn.now + CLOSE);
        loop {
            self.exchange(cx, turn);
            // Deletes of dead letters follow their letters: until those are written the connections stay open.
            let wait = self.nodes.iter().any(NodeEnd::has_dying);
            let mut open = false;
            for node in &mut self.nodes {
                open |= node.close(cx, wait, &mut self.desk, turn).is_pending();
            }
            self.health(turn);
            // What the bound cuts off is void: its leases end with the connections.
            if !open || turn.now >= bound {
                self.nodes.clear();
                return Poll::Ready(Ok(()));
            }
            if !self.arm(cx) {
                return Poll::Pending;
            }
            turn.now = Instant::now();
        }
    }
}

impl Desk {
    /// A letter for people about a job that is given up.
    pub(super) fn letter(&self, node: u32, id: u64, reason: Arc<str>, attempts: u32) -> Letter {
        Letter {
            tube: self.source.tube.clone(),
            framing: self.source.framing,
            handler: Arc::clone(&self.source.label),
            node: usize::try_from(node).unwrap_or(usize::MAX),
            job: id,
            body: bytes::Bytes::new(),
            reason,
            attempts,
            died: self.wall,
        }
    }
}

#[cfg(test)]
mod tests;
