//! Sending without waiting: what is enqueued for an engine goes through one line, in order, and from there to it by the slice.
//!
//! ```text
//! enqueue -> room -> inbox -> [slice][slice][slice] -> engine
//!                                 answers -> Unconfirmed, room
//! ```
//!
//! One task drives the line, so that it moves whether or not anybody polls what `enqueue` answered, and engines confirm many
//! messages at once as they do for `send_all`.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Producer, SLICE, SLICES, Sendable};
use crate::engine::{Answers, BoxFuture, Outgoing, Publish, PublishError, Published, Taken};
use crate::name::Place;

/// So many messages for one engine may be without a confirmation.
const ROOM: u32 = 10_000;

/// A message that was handed over and is not confirmed yet: resolves to what `send` would have answered.
///
/// It goes its way whether or not this is polled. Dropping it takes nothing back; a failure that nobody hears is logged.
///
/// # Errors
/// Resolves to an error if the message was not accepted; see [`PublishError`]. [`PublishError::Closed`] is here also what becomes of an
/// answer whose line ended first, with the runtime in which the message was enqueued: then it may be stored.
#[must_use = "only this tells whether the message was stored: await it, or at least `producer.flush()`"]
pub struct Unconfirmed<R> {
    answer: oneshot::Receiver<Result<Published, PublishError>>,
    engine: &'static str,
    place: Place,
    done: fn(Place, &Published) -> R,
}

impl<R> fmt::Debug for Unconfirmed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unconfirmed").field(&self.place).finish()
    }
}

impl<R> Future for Unconfirmed<R> {
    type Output = Result<R, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        Pin::new(&mut this.answer).poll(cx).map(|answer| {
            let engine = this.engine;
            let published = answer.unwrap_or(Err(PublishError::Closed { engine }))?;
            Ok((this.done)(this.place.clone(), &published))
        })
    }
}

/// One message in the line.
struct Item {
    out: Outgoing,
    done: oneshot::Sender<Result<Published, PublishError>>,
}

/// The entrance of a line. It ends with the runtime in which it began; the next message begins another.
#[derive(Clone)]
struct Line {
    inbox: mpsc::UnboundedSender<Item>,
    room: Arc<Semaphore>,
}

/// The line to an engine, once something was enqueued for it.
#[derive(Default)]
pub(super) struct Entrance(RwLock<Option<Line>>);

impl Entrance {
    fn current(&self) -> Option<Line> {
        let line = self.0.read().unwrap_or_else(PoisonError::into_inner);
        line.as_ref()
            .filter(|line| !line.inbox.is_closed())
            .cloned()
    }

    /// The line that moves, or a new one. `None` outside a runtime.
    fn open(&self, engine: &Arc<dyn Publish>) -> Option<Line> {
        if let Some(line) = self.current() {
            return Some(line);
        }
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = slot.as_ref().filter(|line| !line.inbox.is_closed()) {
            return Some(line.clone());
        }
        let (inbox, items) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(ROOM as usize));
        runtime.spawn(drive(Arc::clone(engine), items, Closes(Arc::clone(&room))));
        Some(slot.insert(Line { inbox, room }).clone())
    }

    /// Waits until nothing is on its way.
    pub(super) async fn flush(&self) {
        if let Some(line) = self.current() {
            // All room is free then; a line that has ended has answered everybody.
            drop(line.room.acquire_many(ROOM).await);
        }
    }
}

impl Producer {
    /// What `enqueue` of the builders does.
    pub(super) async fn enqueue<S: Sendable>(
        &self,
        one: S,
    ) -> Result<Unconfirmed<S::Receipt>, PublishError> {
        let (to, out) = one.ready(self)?;
        let (engine, place) = (to.name, out.place.clone());
        let (done, answer) = oneshot::channel();
        let mut item = Item { out, done };
        // A line may end with its runtime just now; a second one that does, ends with ours.
        for _ in 0..2 {
            let Some(line) = to.entrance.open(&to.publish) else {
                break;
            };
            let Ok(permit) = line.room.acquire().await else {
                continue;
            };
            match line.inbox.send(item) {
                Ok(()) => {
                    // It comes back with the answer.
                    permit.forget();
                    return Ok(Unconfirmed {
                        answer,
                        engine,
                        place,
                        done: S::done,
                    });
                }
                Err(mpsc::error::SendError(back)) => item = back,
            }
        }
        Err(PublishError::Closed { engine })
    }

    /// Waits until everything that was enqueued before is confirmed, or has failed, which the answers of
    /// [`enqueue`](super::Push::enqueue) tell. An app does so when it stops; a program that only sends does it before it ends.
    /// What is enqueued meanwhile waits.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn flush(&self) {
        let Some(routes) = self.0.routes.get() else {
            return;
        };
        let sides = routes.tasks.iter().chain(&routes.topics);
        for route in sides.chain(routes.places.values()) {
            route.entrance.flush().await;
        }
    }
}

type Waiting = Vec<oneshot::Sender<Result<Published, PublishError>>>;

/// A slice that the engine has taken.
struct Slice<'a> {
    answers: BoxFuture<'a, Answers>,
    waiting: Waiting,
}

/// Whoever waits for room hears that there is none any more, also where the runtime ends.
struct Closes(Arc<Semaphore>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Moves a line until every entrance is gone.
async fn drive(engine: Arc<dyn Publish>, mut items: mpsc::UnboundedReceiver<Item>, room: Closes) {
    let mut came = Vec::with_capacity(SLICE);
    let mut taking: Option<(BoxFuture<'_, Taken<'_>>, Waiting)> = None;
    let mut under_way: VecDeque<Slice<'_>> = VecDeque::new();
    let mut is_open = true;
    while is_open || taking.is_some() || !under_way.is_empty() || !came.is_empty() {
        // Few slices gather more each; a whole one gathers no more, and its time runs from when the engine has it.
        let is_worth_it = came.len() == SLICE || (under_way.len() <= SLICES && !came.is_empty());
        if taking.is_none() && is_worth_it {
            let (slice, waiting) = came
                .drain(..)
                .map(|item: Item| (item.out, item.done))
                .unzip();
            taking = Some((engine.take(slice), waiting));
        }
        let room_left = SLICE - came.len();
        tokio::select! {
            biased;
            () = next_answer(&mut under_way, &room.0), if !under_way.is_empty() => {}
            taken = taken(&mut taking) => {
                if let Some((_, waiting)) = taking.take() {
                    let answers = taken.answers();
                    under_way.push_back(Slice { answers, waiting });
                }
            }
            count = items.recv_many(&mut came, room_left), if is_open && room_left > 0 => {
                is_open = count > 0;
            }
        }
    }
}

/// Waits until the slice that is being handed over is taken; for ever where there is none.
async fn taken<'a>(taking: &mut Option<(BoxFuture<'a, Taken<'a>>, Waiting)>) -> Taken<'a> {
    match taking {
        Some((taken, _)) => taken.await,
        None => std::future::pending().await,
    }
}

/// Lets all slices move, the oldest first, until one is answered.
async fn next_answer(under_way: &mut VecDeque<Slice<'_>>, room: &Semaphore) {
    let (at, answers) = poll_fn(|cx| {
        for (at, slice) in under_way.iter_mut().enumerate() {
            if let Poll::Ready(answers) = slice.answers.as_mut().poll(cx) {
                return Poll::Ready((at, answers));
            }
        }
        Poll::Pending
    })
    .await;
    let Some(slice) = under_way.remove(at) else {
        return;
    };
    let count = slice.waiting.len();
    // Who gets no answer hears that the engine is closed.
    for (done, answer) in slice.waiting.into_iter().zip(answers) {
        if let Err(Err(error)) = done.send(answer) {
            tracing::error!(%error, "a message was not stored, and nobody waited for its answer");
        }
    }
    room.add_permits(count);
}

#[cfg(test)]
mod tests;
