//! The producing side.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::failure::{ENGINE, Failure};
use super::queue::{Put, Request};
use super::tube::Stored;
use super::Handle;
use crate::engine::{BoxFuture, Outgoing, Publish, PublishError, Published};
use crate::message::Id;
use crate::name::Place;

/// So many messages go into one transaction, so that no slice holds the write lock for long.
const CHUNK: usize = 1024;

/// The producing side of the engine.
#[derive(Debug)]
pub(super) struct Publisher(pub(super) Arc<Handle>);

impl Publisher {
    fn check(&self, out: &Outgoing) -> Result<(), PublishError> {
        let portable = match &out.place {
            Place::Tube(name) => self.0.shared.config.is_portable(name),
            Place::Topic(_) => true,
        };
        out.check_size(portable)?;
        match &out.place {
            Place::Topic(_) if out.due > self.0.shared.clock.now() => Err(PublishError::Unsupported {
                engine: ENGINE,
                what: "delay a record of a topic; send a task for later".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    async fn put(&self, slice: Vec<Outgoing>, into: &mut Vec<Result<Published, PublishError>>) {
        let ids: Vec<(Id, bool)> =
            slice.iter().map(|out| (out.id, matches!(out.place, Place::Tube(_)))).collect();
        let (reply, answer) = oneshot::channel();
        let put = Put { answers: Vec::with_capacity(slice.len()), slice, reply };
        let answers = match self.0.shared.queue.push(Request::Put(put)) {
            Ok(()) => answer.await.ok(),
            Err(_) => None,
        };
        let Some(answers) = answers else {
            into.extend(ids.iter().map(|_| Err(Failure::Closed.publish())));
            return;
        };
        let store = self.0.shared.store;
        into.extend(answers.into_iter().zip(ids).map(|(answer, (id, task))| {
            answer.map(|stored| published(store, id, task, stored))
        }));
    }
}

fn published(store: i64, id: Id, task: bool, stored: Stored) -> Published {
    if task {
        let token = super::change::token(store, stored.number);
        Published { id, existed: stored.existed, token: Some(token), partition: 0, offset: 0 }
    } else {
        let (partition, offset) = (stored.partition, stored.number);
        Published { id, existed: false, token: None, partition, offset }
    }
}

impl Publish for Publisher {
    fn publish(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<Published, PublishError>>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(slice.len());
            if slice.len() <= CHUNK && slice.iter().all(|out| self.check(out).is_ok()) {
                self.put(slice, &mut answers).await;
                return answers;
            }
            let mut chunk = Vec::with_capacity(CHUNK.min(slice.len()));
            for out in slice {
                let checked = self.check(&out);
                if checked.is_ok() {
                    chunk.push(out);
                }
                if chunk.len() == CHUNK || (checked.is_err() && !chunk.is_empty()) {
                    self.put(std::mem::take(&mut chunk), &mut answers).await;
                }
                if let Err(error) = checked {
                    answers.push(Err(error));
                }
            }
            if !chunk.is_empty() {
                self.put(chunk, &mut answers).await;
            }
            answers
        })
    }
}
