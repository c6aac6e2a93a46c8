//! One node as an end sees it: its connections, which of them asks and which waits, and how they are made again.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::link::{Link, LinkError, Tubes};
use super::receive::Desk;
use super::session::{Session, Tide, Word};
use crate::engine::{BoxFuture, Turn};
use crate::time::WallTime;

/// Bounds of the time between two tries to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A connection that lived so long was a good one.
const LIVED: Duration = Duration::from_secs(1);

/// The most connections for the sake of one that waits while others have jobs in hand.
const MOST_TO_WAIT: usize = 4;

/// The same where a claim makes a late delete harmless.
const MOST_TO_WAIT_CLAIMED: usize = 2;

/// The most connections in all: beyond the jobs in hand on one.
const MOST: usize = 8;

/// How often a node is asked where no connection may wait.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// So long after a backlog has ended every connection has deletes to come: none waits in front of them.
const ENDED_FOR: Duration = Duration::from_millis(200);

/// The largest body that a node may send. Servers take 65,535 bytes unless they are told otherwise.
const LARGEST_BODY: usize = 64 << 20;

/// One node.
pub(super) struct NodeEnd {
    index: u32,
    endpoint: Arc<str>,
    sessions: Vec<Session>,
    dialing: Option<BoxFuture<'static, Result<Link<Word>, LinkError>>>,
    /// Connections that are wanted.
    wanted: usize,
    /// Not before this time.
    retry_at: Option<Instant>,
    tries: u32,
    failure: Option<Arc<str>>,
    tide: Tide,
    ask_at: Option<Instant>,
    /// A connection was made after the last look at them: nothing wakes for it yet.
    unheard: bool,
}

impl fmt::Debug for NodeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeEnd")
            .field("endpoint", &self.endpoint)
            .field("sessions", &self.sessions)
            .field("wanted", &self.wanted)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl NodeEnd {
    pub(super) fn new(index: u32, endpoint: Arc<str>) -> Self {
        Self {
            index,
            endpoint,
            sessions: Vec::new(),
            dialing: None,
            wanted: 1,
            retry_at: None,
            tries: 0,
            failure: None,
            tide: Tide::default(),
            ask_at: None,
            unheard: false,
        }
    }

    pub(super) fn session(&mut self, epoch: u32) -> Option<&mut Session> {
        self.sessions
            .iter_mut()
            .find(|session| session.epoch == epoch)
    }

    pub(super) fn is_up(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// It cannot be reached.
    pub(super) fn is_away(&self) -> bool {
        !self.is_up() && self.failure.is_some()
    }

    pub(super) fn failure(&self) -> Option<&Arc<str>> {
        self.failure.as_ref()
    }

    pub(super) fn next_due(&self) -> Option<WallTime> {
        self.tide.next_due
    }

    pub(super) fn reserves(&self) -> usize {
        self.sessions.iter().map(|session| session.reserves).sum()
    }

    /// Jobs that are reserved and wait for their history.
    pub(super) fn in_line(&self) -> usize {
        self.sessions.iter().map(Session::in_line).sum()
    }

    /// Jobs that have room set aside for them. Those that the server may say of have none: a node without any would keep the last
    /// places from one that has some. What such a wait brings lies ahead for a moment.
    pub(super) fn coming(&self) -> usize {
        let waiting = self.sessions.iter().filter(|session| session.waits).count();
        self.reserves() - waiting + self.in_line()
    }

    pub(super) fn has_dying(&self) -> bool {
        self.sessions.iter().any(|session| session.dying > 0)
    }

    /// It has said that nothing is ready, and owes no confirmation.
    pub(super) fn is_empty(&self) -> bool {
        self.is_up() && self.tide.dry && self.sessions.iter().all(Session::is_settled)
    }

    /// Connects where a connection is missing, and hears what the others say.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, desk: &mut Desk, turn: &mut Turn) {
        self.connect(cx, desk);
        self.unheard = false;
        let mut at = 0;
        while at < self.sessions.len() {
            let session = &mut self.sessions[at];
            let heard = session.poll(cx, &mut self.tide, desk, turn);
            session.tend(&self.tide, desk);
            match heard {
                Ok(()) => at += 1,
                Err(error) => self.lose(at, &error, desk, turn),
            }
        }
    }

    fn connect(&mut self, cx: &mut Context<'_>, desk: &Desk) {
        if self.dialing.is_none()
            && self.sessions.len() < self.wanted
            && !desk.quiet
            && self.retry_at.is_none_or(|at| desk.now >= at)
        {
            let tubes = Tubes {
                used: Some(Arc::clone(&desk.source.wire_tube)),
                watched: Some(Arc::clone(&desk.source.wire_tube)),
            };
            let endpoint = Arc::clone(&self.endpoint);
            let within = desk.site.connect;
            self.dialing = Some(Box::pin(Link::dial(endpoint, tubes, within, LARGEST_BODY)));
        }
        let Some(dialing) = &mut self.dialing else {
            return;
        };
        let Poll::Ready(dialled) = dialing.as_mut().poll(cx) else {
            return;
        };
        self.dialing = None;
        match dialled {
            Ok(link) => {
                if let Some(why) = self.failure.take() {
                    tracing::info!(node = %self.endpoint, tube = %desk.source.tube, %why, "the node is back");
                }
                self.retry_at = None;
                let epoch = desk.site.next_epoch();
                let session = Session::new(link, epoch, self.index, desk.now);
                self.sessions.push(session);
                self.unheard = true;
            }
            Err(error) => self.fail(&error, desk),
        }
    }

    fn fail(&mut self, error: &LinkError, desk: &Desk) {
        let why = format!("{}: {error}", self.endpoint);
        // A server that closes what we are leaving anyway is no news.
        if self.failure.is_none() && !desk.quiet {
            tracing::warn!(node = %self.endpoint, tube = %desk.source.tube, why = %error, "the node cannot be used; trying again");
        }
        if self.failure.as_deref() != Some(why.as_str()) {
            self.failure = Some(Arc::from(why));
        }
        let (least, most) = BACKOFF;
        let bound = least.saturating_mul(1 << self.tries.min(10)).min(most);
        self.tries = self.tries.saturating_add(1);
        // All ends of all processes lose a node at once: they come back one by one.
        let wait = least.mul_f64(0.5) + bound.mul_f64(fastrand::f64());
        self.retry_at = Some(desk.now + wait.min(most));
    }

    fn lose(&mut self, at: usize, error: &LinkError, desk: &mut Desk, turn: &mut Turn) {
        let session = self.sessions.remove(at);
        if desk.now - session.born >= LIVED {
            self.tries = 0;
        }
        desk.forget(session.epoch, turn);
        // What the node knows may have changed with a restart.
        if self.sessions.is_empty() {
            self.tide = Tide::default();
            self.wanted = 1;
        }
        self.fail(error, desk);
    }

    /// Asks for jobs: at most `share` that are ready, or, where nothing is ready and there is room at all, to be told when one
    /// comes. Answers for how many room is to be set aside.
    pub(super) fn reserve(&mut self, share: usize, has_room: bool, desk: &Desk) -> usize {
        if self.sessions.iter().any(|session| session.waits) {
            return 0;
        }
        if !self.tide.dry {
            let Self { sessions, tide, .. } = self;
            let open = sessions
                .iter_mut()
                .find(|session| session.capacity(desk) > 0);
            if let Some(session) = open {
                return session.top_up(share, tide, desk);
            }
            let full = sessions.iter().all(|session| session.hushed.is_none());
            if share > 0 && full && self.reserves() == 0 {
                self.want_another(MOST);
            }
            return 0;
        }
        if !has_room || self.reserves() > 0 {
            return 0;
        }
        if let Some(idle) = self.sessions.iter_mut().find(|s| s.is_idle()) {
            idle.wait();
            return 0;
        }
        let most = if desk.source.claimed {
            MOST_TO_WAIT_CLAIMED
        } else {
            MOST_TO_WAIT
        };
        let can_grow = self.want_another(most);
        // One that has only answers to come can wait in a moment, and then nothing stands behind its wait.
        let settling = self.sessions.iter().any(|session| session.leased() == 0);
        let ended = self
            .tide
            .ended
            .is_some_and(|at| desk.now.saturating_duration_since(at) < ENDED_FOR);
        let open = self
            .sessions
            .iter_mut()
            .find(|session| session.capacity(desk) > 0);
        let Some(open) = open else {
            if !can_grow {
                self.want_another(MOST);
            }
            return 0;
        };
        if desk.source.claimed && !can_grow && !ended {
            if !settling {
                open.wait();
            }
            return 0;
        }
        if self.ask_at.is_none_or(|at| desk.now >= at) {
            self.ask_at = Some(desk.now + ASK_EVERY);
            open.ask_once();
            return 1;
        }
        0
    }

    /// Whether one more connection is on its way.
    fn want_another(&mut self, most: usize) -> bool {
        if self.wanted == self.sessions.len() && self.wanted < most {
            self.wanted += 1;
        }
        self.wanted > self.sessions.len() && self.failure.is_none()
    }

    /// After quiet.
    pub(super) fn hand_back_line(&mut self, desk: &Desk) {
        for session in &mut self.sessions {
            session.hand_back_line(desk);
        }
    }

    /// Writes what has gathered, and begins to connect where one more connection turned out to be wanted.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, desk: &mut Desk, turn: &mut Turn) {
        self.connect(cx, desk);
        let mut at = 0;
        while at < self.sessions.len() {
            match self.sessions[at].flush(cx, desk.now) {
                Ok(()) => at += 1,
                Err(error) => self.lose(at, &error, desk, turn),
            }
        }
    }

    /// Closes every connection when what was settled is confirmed. `wait`: not yet, more is to be written.
    pub(super) fn close(
        &mut self,
        cx: &mut Context<'_>,
        wait: bool,
        desk: &mut Desk,
        turn: &mut Turn,
    ) -> Poll<()> {
        self.dialing = None;
        if wait {
            self.flush(cx, desk, turn);
            return if self.sessions.is_empty() {
                Poll::Ready(())
            } else {
                Poll::Pending
            };
        }
        let mut at = 0;
        while at < self.sessions.len() {
            let session = &mut self.sessions[at];
            match session.poll_close(cx, &mut self.tide, desk, turn) {
                Poll::Pending => at += 1,
                Poll::Ready(Ok(())) => {
                    self.sessions.remove(at);
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(node = %self.endpoint, why = %error, "a connection ended before it had confirmed everything");
                    self.sessions.remove(at);
                }
            }
        }
        if self.sessions.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// When something is to be done here without an answer.
    pub(super) fn wakes_at(&self, desk: &Desk) -> Option<Instant> {
        let sessions = self.sessions.iter().filter_map(|s| s.wakes_at(desk));
        let missing = self.dialing.is_none() && self.sessions.len() < self.wanted && !desk.quiet;
        let retry = self.retry_at.filter(|_| missing);
        let asks = self
            .ask_at
            .filter(|at| self.tide.dry && !desk.quiet && *at > desk.now);
        let unheard = self.unheard.then_some(desk.now);
        sessions.chain(retry).chain(asks).chain(unheard).min()
    }
}
