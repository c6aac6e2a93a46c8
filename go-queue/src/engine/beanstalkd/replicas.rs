//! Storing jobs on several nodes: which are asked, who stands in for whom, when it is enough.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::Shared;
use super::codec::Answer;
use super::copies::{Copies, Goal, Job, Standing};
use super::node::{Ask, AskError, Node, Work};
use super::placement::{NodeSet, choose};

/// So many messages of a slice go to the same nodes, where there are more nodes than replicas.
const CHUNK: usize = 64;

/// A job takes one permit of the window, and one more for each so many bytes.
const GRAIN: usize = 8 << 10;

/// The window of an engine: so many jobs were handed over and are not answered by all their nodes. It is what holds callers back
/// when a node is slower than the quorum: small enough for such a node to take all of it within its deadline, so that no copy is
/// given up for want of time, and large enough for a node far away.
const WINDOW: usize = 2048;

/// The window of a new engine.
pub(super) fn window() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(WINDOW))
}

/// One copy of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    /// On which node, by its place in the configuration.
    pub(crate) node: usize,
    /// Its id there.
    pub(crate) job: u64,
}

/// What became of a slice of jobs.
#[derive(Debug)]
pub(crate) struct Placed {
    standing: Vec<Standing>,
    ids: Vec<u64>,
    nodes: usize,
}

impl Placed {
    /// How a job stands.
    pub(crate) fn standing(&self, at: usize) -> &Standing {
        &self.standing[at]
    }

    /// The confirmed copies of a job.
    pub(crate) fn replicas(&self, at: usize) -> impl Iterator<Item = Replica> + '_ {
        self.standing[at].stored.iter().map(move |node| Replica {
            node,
            job: self.ids[at * self.nodes + node],
        })
    }
}

/// Why nothing of a slice was handed to any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotPlaced {
    /// Only so many nodes take jobs.
    TooFew(usize),
    /// Too much is under way.
    Busy,
}

impl Shared {
    /// The nodes that take jobs now.
    fn writable(&self) -> NodeSet {
        let now = Instant::now();
        let writable = self.nodes.iter().filter(|node| node.is_writable(now));
        writable.fold(NodeSet::EMPTY, |set, node| {
            set.with(NodeSet::one(node.index()))
        })
    }

    /// The nodes that take jobs, as soon as they are enough for the quorum. A node that is started anew is worth a moment.
    async fn enough(&self) -> Result<NodeSet, NotPlaced> {
        let mut writable = self.writable();
        if writable.len() >= self.quorum {
            return Ok(writable);
        }
        let until = Instant::now() + self.config.deadline;
        loop {
            let changed = self.changed.notified();
            writable = self.writable();
            if writable.len() >= self.quorum {
                return Ok(writable);
            }
            let closed = self.nodes.iter().all(Node::is_closing);
            if closed || timeout_at(until, changed).await.is_err() {
                return Err(NotPlaced::TooFew(writable.len()));
            }
        }
    }

    /// Stores jobs: each on `replicas` healthy nodes at once, others standing in for those that fail. Ends when each job has its
    /// quorum (`every`: when all chosen nodes have answered), or no node is left to try. A job below the quorum may have
    /// copies all the same: the caller takes them back.
    ///
    /// # Cancel safety
    /// If the future is dropped each job may or may not be stored. Nobody else is disturbed.
    pub(crate) async fn store(&self, jobs: Vec<Job>, every: bool) -> Result<Placed, NotPlaced> {
        let writable = self.enough().await?;
        let size: usize = jobs.iter().map(|job| 1 + job.body.len() / GRAIN).sum();
        let size = u32::try_from(size.min(WINDOW)).unwrap_or(u32::MAX);
        // Every node answers or is cut off in time, so that there is room again.
        let room = match self.window.clone().try_acquire_many_owned(size) {
            Ok(room) => room,
            Err(_) => timeout(
                self.config.deadline,
                self.window.clone().acquire_many_owned(size),
            )
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or(NotPlaced::Busy)?,
        };
        let spreads = writable.len() > self.replicas;
        let chunk = if spreads { CHUNK } else { jobs.len().max(1) };
        let n = jobs.len();
        let chosen: Vec<NodeSet> = (0..n.div_ceil(chunk))
            .map(|_| choose(writable, self.replicas, |below| fastrand::usize(..below)))
            .collect();
        let copies = Copies::new(
            jobs,
            (0..n).map(|at| chosen[at / chunk]),
            self.nodes.len(),
            Goal {
                quorum: self.quorum,
                replicas: self.replicas,
                every,
            },
            self.figures.clone(),
            room,
        );
        for (nodes, at) in chosen.into_iter().zip((0..n).step_by(chunk)) {
            self.hand_over(&copies, at, n.min(at + chunk), nodes);
        }
        while !poll_fn(|cx| copies.poll_answers(cx)).await {
            let writable = self.writable();
            let again = copies.retry(|standing, lacks| {
                choose(writable.without(standing.tried), lacks, |below| {
                    fastrand::usize(..below)
                })
            });
            for (at, nodes) in again {
                self.hand_over(&copies, at as usize, at as usize + 1, nodes);
            }
        }
        let (standing, ids) = copies.leave();
        Ok(Placed {
            standing,
            ids,
            nodes: self.nodes.len(),
        })
    }

    fn hand_over(&self, copies: &Arc<Copies>, from: usize, to: usize, nodes: NodeSet) {
        let since = Instant::now();
        for index in nodes.iter() {
            let node = &self.nodes[index];
            let work = Work::Put {
                copies: copies.clone(),
                from: u32::try_from(from).unwrap_or(u32::MAX),
                to: u32::try_from(to).unwrap_or(u32::MAX),
                since,
            };
            for refused in node.hand_over([work]) {
                node.refuse(refused);
            }
        }
    }

    /// Removes copies. One answer for each: whether it is gone by this call.
    pub(crate) async fn delete(&self, replicas: &[Replica]) -> Vec<Result<bool, AskError>> {
        let asks = replicas
            .iter()
            .map(|replica| (replica.node, Ask::Delete(replica.job)));
        let answers = self.ask_nodes(asks).await;
        answers
            .into_iter()
            .map(|answer| answer.map(|answer| answer == Answer::Deleted))
            .collect()
    }

    /// Asks several nodes, all at the same time; one answer for each ask, in order. The asks of one node leave in one write.
    pub(crate) async fn ask_nodes(
        &self,
        asks: impl IntoIterator<Item = (usize, Ask)>,
    ) -> Vec<Result<Answer, AskError>> {
        let mut of_node: Vec<Vec<Ask>> = vec![Vec::new(); self.nodes.len()];
        let mut order = Vec::new();
        for (node, ask) in asks {
            order.push(node);
            of_node[node].push(ask);
        }
        let under_way: Vec<_> = of_node
            .into_iter()
            .zip(self.nodes.iter())
            .map(|(asks, node)| (!asks.is_empty()).then(|| node.ask_all(asks)))
            .collect();
        let mut said = Vec::with_capacity(self.nodes.len());
        for answers in under_way {
            said.push(match answers {
                Some(answers) => answers.await.into_iter(),
                None => Vec::new().into_iter(),
            });
        }
        order
            .into_iter()
            .map(|node| said[node].next().unwrap_or(Err(AskError::Closed)))
            .collect()
    }
}
