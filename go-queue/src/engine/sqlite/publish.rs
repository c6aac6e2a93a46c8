//! The producing side.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Handle;
use super::failure::{ENGINE, Failure};
use super::queue::{Answers, Put, Request};
use super::tube::Stored;
use crate::engine::{BoxFuture, Outgoing, Publish, PublishError, Published};
use crate::name::Place;

/// So many messages go into one transaction, so that no slice holds the write lock for long.
const CHUNK: usize = 1024;

/// So many chunks of one slice are under way.
const UNDER_WAY: usize = 4;

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
            Place::Topic(_) if out.due > self.0.shared.clock.now() => {
                Err(PublishError::Unsupported {
                    engine: ENGINE,
                    what: "delay a record of a topic; send a task for later".to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Hands a chunk to the writer.
    fn put(&self, slice: Vec<Outgoing>) -> Pending {
        let (reply, answer) = oneshot::channel();
        let n = slice.len();
        let put = Put {
            answers: Vec::with_capacity(slice.len()),
            slice,
            reply,
        };
        match self.0.shared.queue.push(Request::Put(put)) {
            Ok(()) => Pending::Asked(answer, n),
            Err(_) => Pending::Closed(n),
        }
    }

    /// Waits for the answers of a chunk.
    async fn answers(&self, pending: Pending, into: &mut Vec<Result<Published, PublishError>>) {
        match pending {
            Pending::Asked(answer, n) => {
                // The writer answers every put, also when it ends; without an answer it has failed.
                let Ok((slice, answers)) = answer.await else {
                    into.extend((0..n).map(|_| Err(Failure::Closed.publish())));
                    return;
                };
                let store = self.0.shared.store;
                into.extend(
                    answers
                        .into_iter()
                        .zip(slice)
                        .map(|(answer, out)| answer.map(|stored| published(store, &out, stored))),
                );
            }
            Pending::Closed(n) => into.extend((0..n).map(|_| Err(Failure::Closed.publish()))),
            Pending::Refused(error) => into.push(Err(error)),
        }
    }
}

/// The answers of one chunk, not there yet.
enum Pending {
    Asked(oneshot::Receiver<(Vec<Outgoing>, Answers)>, usize),
    Closed(usize),
    Refused(PublishError),
}

fn published(store: i64, out: &Outgoing, stored: Stored) -> Published {
    match out.place {
        Place::Tube(_) => Published {
            id: out.id,
            existed: stored.existed,
            token: Some(super::change::token(store, stored.number)),
            partition: 0,
            offset: 0,
        },
        Place::Topic(_) => Published {
            id: out.id,
            existed: false,
            token: None,
            partition: stored.partition,
            offset: stored.number,
        },
    }
}

impl Publish for Publisher {
    fn publish(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<Published, PublishError>>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(slice.len());
            if slice.len() <= CHUNK && slice.iter().all(|out| self.check(out).is_ok()) {
                self.answers(self.put(slice), &mut answers).await;
                return answers;
            }
            // Several chunks are under way, so that one is stored while the last is synced.
            let mut pending = VecDeque::new();
            let mut chunk = Vec::with_capacity(CHUNK.min(slice.len()));
            for out in slice {
                let checked = self.check(&out);
                let refused = checked.is_err();
                if !refused {
                    chunk.push(out);
                }
                if !chunk.is_empty() && (refused || chunk.len() == CHUNK) {
                    pending.push_back(self.put(std::mem::take(&mut chunk)));
                    chunk.reserve(CHUNK);
                }
                if let Err(error) = checked {
                    pending.push_back(Pending::Refused(error));
                }
                while pending.len() > UNDER_WAY
                    && let Some(first) = pending.pop_front()
                {
                    self.answers(first, &mut answers).await;
                }
            }
            if !chunk.is_empty() {
                pending.push_back(self.put(chunk));
            }
            for rest in pending {
                self.answers(rest, &mut answers).await;
            }
            answers
        })
    }
}
