//! Looking for the copies of a task where its token says that they are.

use bytes::Bytes;

use crate::engine::TaskId;
use crate::engine::beanstalkd::Shared;
use crate::engine::beanstalkd::codec::{Answer, stat};
use crate::engine::beanstalkd::node::{Ask, AskError};
use crate::engine::beanstalkd::replicas::Replica;
use crate::message::{envelope, go_queue};
use crate::time::WallTime;

/// A copy that changes hands while it is looked at is looked at so often.
const LOOKS: usize = 3;

/// Where a copy is.
#[derive(Debug)]
enum Look {
    /// There, and in nobody's hands; its body.
    Waits(Bytes),
    /// In the hands of a worker, started or not; its body.
    Held(Bytes),
    /// Not there, or another task by now.
    Absent,
    /// Its node does not say.
    Silent(AskError),
}

/// What was found of a task.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Copies in nobody's hands.
    pub(super) waits: Vec<(Replica, Bytes)>,
    /// The body of a copy that a worker has.
    held: Option<Bytes>,
    /// Copies change hands faster than they can be looked at: workers are at it.
    pub(super) restless: bool,
    /// A node does not say.
    pub(super) silent: Option<AskError>,
}

impl Found {
    pub(super) fn is_nothing(&self) -> bool {
        self.waits.is_empty() && !self.is_in_hand() && self.silent.is_none()
    }

    pub(super) fn is_in_hand(&self) -> bool {
        self.held.is_some() || self.restless
    }

    /// The task itself.
    pub(super) fn body(&self) -> Option<&Bytes> {
        let waits = self.waits.first().map(|(_, body)| body);
        waits.or(self.held.as_ref())
    }
}

impl Shared {
    /// Looks for the copies that a token names.
    pub(super) async fn find(&self, task: &TaskId, place: Option<&str>) -> Found {
        let mut found = Found::default();
        let mut left: Vec<Replica> = place.map_or_else(Vec::new, |place| self.copies_in(place));
        for _ in 0..LOOKS {
            let mut again = Vec::new();
            let looks = self.look(task, &left).await;
            for (copy, look) in left.into_iter().zip(looks) {
                match look {
                    Some(Look::Waits(body)) => found.waits.push((copy, body)),
                    Some(Look::Held(body)) => found.held = Some(body),
                    Some(Look::Absent) => {}
                    Some(Look::Silent(error)) => found.silent = Some(error),
                    None => again.push(copy),
                }
            }
            left = again;
            if left.is_empty() {
                return found;
            }
        }
        found.restless = true;
        found
    }

    /// Looks once. `None`: the copy changed hands between the two questions.
    async fn look(&self, task: &TaskId, copies: &[Replica]) -> Vec<Option<Look>> {
        let asks = copies.iter().flat_map(|copy| {
            [
                (copy.node, Ask::Peek(copy.job)),
                (copy.node, Ask::StatsJob(copy.job)),
            ]
        });
        let mut answers = self.ask_nodes(asks).await.into_iter();
        copies
            .iter()
            .map(|_| {
                let both = (answers.next(), answers.next());
                let (Some(Ok(shown)), Some(Ok(stats))) = both else {
                    let error = match both {
                        (Some(Err(error)), _) | (_, Some(Err(error))) => error,
                        _ => AskError::Closed,
                    };
                    return Some(Look::Silent(error));
                };
                match (shown, stats) {
                    // Ids begin anew when a node is started without its binlog: it may be another task by now.
                    (Answer::Found { body, .. }, _) if !self.is_of(task, &body) => {
                        Some(Look::Absent)
                    }
                    (Answer::Found { body, .. }, Answer::Stats(stats)) => {
                        match stat(&stats, "state") {
                            Some("reserved") => Some(Look::Held(body)),
                            _ => Some(Look::Waits(body)),
                        }
                    }
                    (Answer::Found { .. }, _) => None,
                    _ => Some(Look::Absent),
                }
            })
            .collect()
    }

    /// Removes the copies that are in nobody's hands.
    pub(super) async fn remove(&self, found: &Found) -> Vec<Result<bool, AskError>> {
        let copies: Vec<Replica> = found.waits.iter().map(|(copy, _)| *copy).collect();
        self.delete(&copies).await
    }

    /// The copies that a token names, as far as their nodes are still configured.
    pub(super) fn copies_in(&self, place: &str) -> Vec<Replica> {
        place
            .split(',')
            .filter_map(|part| {
                // `endpoint/job` or, as the Go library writes it, `endpoint/tube/job`.
                let (endpoint, rest) = part.split_once('/')?;
                let job = rest.rsplit('/').next()?.parse().ok()?;
                let node = self
                    .nodes
                    .iter()
                    .find(|node| **node.endpoint() == *endpoint)?;
                Some(Replica {
                    node: node.index(),
                    job,
                })
            })
            .collect()
    }

    pub(super) fn is_of(&self, task: &TaskId, body: &Bytes) -> bool {
        if self.config.tube(task.tube()).wire.is_go_queue() {
            go_queue::id(body) == task.id()
        } else {
            envelope::open(body.clone()).is_ok_and(|opened| opened.message.id == task.id())
        }
    }

    pub(super) fn due_of(&self, task: &TaskId, body: &Bytes) -> Option<WallTime> {
        if self.config.tube(task.tube()).wire.is_go_queue() {
            go_queue::unwrap(body).ok().map(|(due, _)| due)
        } else {
            let opened = envelope::open(body.clone()).ok()?;
            Some(opened.message.due)
        }
    }
}
