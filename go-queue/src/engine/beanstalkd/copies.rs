//! A slice of jobs on its way to several nodes, and what the nodes have said so far.
//!
//! It is shared by the caller and the drivers of the nodes: the caller hands it over and waits, each driver writes the jobs that are its
//! own and reports all answers that came with one read at once. Whoever reports the last answer that the caller waits for
//! wakes it. A caller that is gone disturbs nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::figures::Figures;
use super::placement::NodeSet;
use crate::name::Name;
use crate::time::WallTime;

/// One job, as it is stored on each of its nodes.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Where to.
    pub(crate) tube: Name,
    /// What, byte for byte the same on every node.
    pub(crate) body: Bytes,
    /// Not before this time. The delay is computed when the command is written.
    pub(crate) due: WallTime,
    /// Lower goes first.
    pub(crate) priority: u32,
    /// Seconds that a worker may hold it without a sign of life.
    pub(crate) ttr: u32,
    /// The delay is rounded up, for workers that do not look whether it is due.
    pub(crate) round_up: bool,
}

/// What one node said to one put, or why it said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutOutcome {
    /// Stored, under this id of the node.
    Stored(u64),
    /// Not stored.
    Refused(Refusal),
    /// The connection ended before the answer: it may be stored.
    Unknown,
}

/// Why a node did not store a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// It was not asked: the connection was gone, or busy for too long.
    NotAsked,
    /// It takes no more jobs until it is started anew.
    Draining,
    /// No room in its memory or binlog.
    Full,
    /// It takes no jobs of this size.
    TooBig,
}

/// How one job stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// On these nodes it was tried.
    pub(crate) tried: NodeSet,
    /// These have not answered yet.
    pub(crate) waiting: NodeSet,
    /// These have stored it.
    pub(crate) stored: NodeSet,
    /// These may have stored it.
    pub(crate) unknown: NodeSet,
    /// Of the refusals the one that says most.
    pub(crate) refusal: Option<Refusal>,
    /// The caller waits for it no more.
    settled: bool,
}

/// What the caller waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// So many confirmations are needed.
    pub(crate) quorum: usize,
    /// On so many nodes it is to be stored.
    pub(crate) replicas: usize,
    /// Every node that was chosen is waited for, not only the quorum.
    pub(crate) every: bool,
}

/// The slice.
#[derive(Debug)]
pub(crate) struct Copies {
    jobs: Vec<Job>,
    nodes: usize,
    goal: Goal,
    figures: Arc<Figures>,
    board: Mutex<Board>,
    /// Room in the window of the engine; given back when the last node is done with the slice.
    _room: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct Board {
    standing: Vec<Standing>,
    /// The id of each job at each node; row by row.
    ids: Vec<u64>,
    /// Jobs that the caller still waits for.
    open: usize,
    /// Some job lacks what the nodes it was handed to cannot give: the caller may know another.
    lacking: bool,
    /// The caller has its answer, or has gone. What still comes was written behind it.
    left: bool,
    waker: Option<Waker>,
}

impl Copies {
    /// A slice of jobs, each about to be handed to its nodes.
    pub(crate) fn new(
        jobs: Vec<Job>,
        placed: impl Iterator<Item = NodeSet>,
        nodes: usize,
        goal: Goal,
        figures: Arc<Figures>,
        room: OwnedSemaphorePermit,
    ) -> Arc<Self> {
        let standing: Vec<Standing> = placed
            .map(|nodes| Standing {
                tried: nodes,
                waiting: nodes,
                ..Standing::default()
            })
            .collect();
        debug_assert_eq!(standing.len(), jobs.len());
        let board = Board {
            ids: vec![0; jobs.len() * nodes],
            open: jobs.len(),
            standing,
            ..Board::default()
        };
        Arc::new(Self {
            jobs,
            nodes,
            goal,
            figures,
            board: Mutex::new(board),
            _room: room,
        })
    }

    /// The jobs.
    pub(crate) fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // Nothing that can panic runs while it is held.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one node said, for any number of jobs.
    pub(crate) fn report(
        &self,
        node: usize,
        outcomes: impl IntoIterator<Item = (u32, PutOutcome)>,
    ) {
        let mut guard = self.board();
        let board = &mut *guard;
        let mut missed = 0;
        for (job, outcome) in outcomes {
            let stored = matches!(outcome, PutOutcome::Stored(_));
            if board.left {
                missed += u64::from(!stored);
                continue;
            }
            let at = job as usize;
            if let PutOutcome::Stored(id) = outcome {
                board.ids[at * self.nodes + node] = id;
            }
            let standing = &mut board.standing[at];
            standing.take(node, outcome);
            if standing.settled {
                continue;
            }
            if standing.has_reached(self.goal) {
                standing.settled = true;
                board.open -= 1;
            } else if !stored || standing.waiting.is_empty() {
                board.lacking = true;
            }
        }
        let waker = if board.open == 0 || board.lacking {
            board.waker.take()
        } else {
            None
        };
        drop(guard);
        if missed > 0 {
            self.figures.missed_behind(missed);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// `Ready(true)`: the caller waits for nothing more. `Ready(false)`: some job needs another node, see [`Copies::retry`].
    pub(crate) fn poll_answers(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut board = self.board();
        if board.open == 0 {
            return Poll::Ready(true);
        }
        if std::mem::take(&mut board.lacking) {
            return Poll::Ready(false);
        }
        match &mut board.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Looks at each job that lacks copies: `next` is told how it stands and how many it lacks, and answers the nodes to try;
    /// those are answered here with the jobs, to be handed over. A job that gets none and waits for nobody is given up.
    pub(crate) fn retry(
        &self,
        mut next: impl FnMut(&Standing, usize) -> NodeSet,
    ) -> Vec<(u32, NodeSet)> {
        let mut again = Vec::new();
        let mut guard = self.board();
        let board = &mut *guard;
        for (at, standing) in (0..).zip(&mut board.standing) {
            let counted = standing.stored.len() + standing.waiting.len();
            if standing.settled || counted >= self.goal.replicas {
                continue;
            }
            let nodes = next(standing, self.goal.replicas - counted);
            if !nodes.is_empty() {
                standing.tried = standing.tried.with(nodes);
                standing.waiting = standing.waiting.with(nodes);
                again.push((at, nodes));
            } else if standing.waiting.is_empty() {
                standing.settled = true;
                board.open -= 1;
            }
        }
        again
    }

    /// The caller leaves, answered or not: how each job stands, and its ids by node. What is reported later was written behind
    /// it.
    pub(crate) fn leave(&self) -> (Vec<Standing>, Vec<u64>) {
        let mut board = self.board();
        board.left = true;
        board.waker = None;
        let standing = std::mem::take(&mut board.standing);
        (standing, std::mem::take(&mut board.ids))
    }
}

impl Standing {
    fn take(&mut self, node: usize, outcome: PutOutcome) {
        let node = NodeSet::one(node);
        self.waiting = self.waiting.without(node);
        match outcome {
            PutOutcome::Stored(_) => self.stored = self.stored.with(node),
            PutOutcome::Unknown => self.unknown = self.unknown.with(node),
            PutOutcome::Refused(refusal) => self.refusal = self.refusal.max(Some(refusal)),
        }
    }

    fn has_reached(&self, goal: Goal) -> bool {
        if goal.every {
            self.waiting.is_empty() && self.stored.len() >= goal.replicas
        } else {
            self.stored.len() >= goal.quorum
        }
    }
}
