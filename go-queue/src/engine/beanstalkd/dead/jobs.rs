//! The jobs in which dead letters lie: stored on several nodes, set aside, named, removed.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

use super::super::codec::Answer;
use super::super::node::Ask;
use super::{Copy, Shared};
use crate::engine::{BoxFuture, DEFAULT_PRIORITY};
use crate::name::Name;

/// What a node said: the node, the mark of the command, the answer.
type Answered = (usize, usize, Result<Answer, Arc<str>>);

/// All of them at once; the outputs in order.
pub(super) async fn together<T>(mut futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut outputs: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut open = false;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match Pin::new(future).poll(cx) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => open = true,
                }
            }
        }
        if open { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

/// A body on its way to some nodes.
pub(super) struct Parcel {
    pub(super) tube: Name,
    pub(super) body: Bytes,
    pub(super) priority: u32,
    pub(super) ttr: u32,
    /// The node that is asked first.
    pub(super) first: usize,
    /// So many copies are wanted, and so many are enough.
    pub(super) want: usize,
    pub(super) enough: usize,
    pub(super) copies: Vec<Copy>,
    /// Nodes that were asked, as bits.
    pub(super) tried: u64,
    /// What one of them said.
    pub(super) why: Option<Arc<str>>,
}

impl Parcel {
    pub(super) fn kept(&self) -> bool {
        self.copies.len() >= self.enough
    }
}

impl Shared {
    /// Stores parcels, each on as many nodes as it wants; nodes that refuse are replaced by others while there are any.
    pub(super) async fn store(&self, parcels: &mut [Parcel]) {
        loop {
            let mut asks: Vec<Vec<(usize, Ask)>> = self.nodes.iter().map(|_| Vec::new()).collect();
            for (at, parcel) in parcels.iter_mut().enumerate() {
                let mut lack = parcel.want.saturating_sub(parcel.copies.len());
                for step in 0..self.nodes.len() {
                    let node = (parcel.first + step) % self.nodes.len();
                    if lack == 0 {
                        break;
                    }
                    if parcel.tried & (1 << node) != 0 || !self.nodes[node].is_up() {
                        continue;
                    }
                    parcel.tried |= 1 << node;
                    lack -= 1;
                    asks[node].push((
                        at,
                        Ask::Put {
                            tube: parcel.tube.clone(),
                            priority: parcel.priority,
                            delay: 0,
                            ttr: parcel.ttr,
                            body: parcel.body.clone(),
                        },
                    ));
                }
            }
            if asks.iter().all(Vec::is_empty) {
                return;
            }
            let mut unwanted = Vec::new();
            for (node, at, answer) in self.ask_each(asks).await {
                match answer {
                    Ok(Answer::Inserted(job)) => parcels[at].copies.push(Copy { node, job }),
                    Ok(other) => {
                        if let Answer::PutBuried(job) = other {
                            unwanted.push(Copy { node, job });
                        }
                        let why = format!("{} answered {other:?}", self.nodes[node].endpoint());
                        parcels[at].why = Some(why.into());
                    }
                    Err(why) => parcels[at].why = Some(why),
                }
            }
            self.delete(&unwanted).await;
        }
    }

    /// Hands commands to their nodes, all at once. Each comes back with its node, its mark and its answer.
    async fn ask_each(&self, asks: Vec<Vec<(usize, Ask)>>) -> Vec<Answered> {
        let mut sent: Vec<BoxFuture<'_, Vec<Answered>>> = Vec::new();
        for (node, asks) in asks.into_iter().enumerate() {
            if asks.is_empty() {
                continue;
            }
            let (marks, asks): (Vec<usize>, Vec<Ask>) = asks.into_iter().unzip();
            let answers = self.nodes[node].ask_all(asks);
            sent.push(Box::pin(async move {
                let answers = answers.await.into_iter();
                marks
                    .into_iter()
                    .zip(answers)
                    .map(|(mark, answer)| {
                        (node, mark, answer.map_err(|why| why.to_string().into()))
                    })
                    .collect()
            }));
        }
        together(sent).await.into_iter().flatten().collect()
    }

    fn by_node(&self, asks: impl IntoIterator<Item = (usize, Ask)>) -> Vec<Vec<(usize, Ask)>> {
        let mut each: Vec<Vec<(usize, Ask)>> = self.nodes.iter().map(|_| Vec::new()).collect();
        for (node, ask) in asks {
            if let Some(asks) = each.get_mut(node) {
                asks.push((0, ask));
            }
        }
        each
    }

    /// Sets letters aside. One that could not be buried is ready in a tube that nobody takes from, until a walk buries it.
    pub(super) async fn bury(&self, copies: &[Copy]) {
        let asks = copies.iter().flat_map(|copy| {
            let bury = Ask::Bury {
                id: copy.job,
                priority: DEFAULT_PRIORITY,
            };
            [(copy.node, Ask::ReserveJob(copy.job)), (copy.node, bury)]
        });
        self.ask_each(self.by_node(asks)).await;
    }

    /// Removes copies where it can be done. What stays behind is a letter that its claim or its index entry outlives.
    pub(super) async fn delete(&self, copies: &[Copy]) {
        if copies.is_empty() {
            return;
        }
        let asks = copies.iter().map(|copy| (copy.node, Ask::Delete(copy.job)));
        for (node, _, answer) in self.ask_each(self.by_node(asks)).await {
            if let Err(why) = answer {
                tracing::warn!(node = %self.nodes[node].endpoint(), %why, "a copy of a dead letter stays behind");
            }
        }
    }

    pub(super) fn place(&self, copies: &[Copy]) -> Arc<str> {
        let places: Vec<String> = copies
            .iter()
            .map(|copy| format!("{}/{}", self.nodes[copy.node].endpoint(), copy.job))
            .collect();
        places.join(",").into()
    }

    /// The copies that a place names, on nodes that are configured here.
    pub(super) fn copies(&self, place: &str) -> Vec<Copy> {
        let copy = |text: &str| {
            let (endpoint, job) = text.rsplit_once('/')?;
            let node = self
                .nodes
                .iter()
                .position(|node| &**node.endpoint() == endpoint)?;
            Some(Copy {
                node,
                job: job.parse().ok()?,
            })
        };
        place.split(',').filter_map(copy).collect()
    }
}
