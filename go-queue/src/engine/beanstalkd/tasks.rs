//! Taking tasks back and moving them, across replicas, with the truth as the answer.
//!
//! With a store the truth is one mark: what is revoked there starts nowhere, also not from a copy on a node that is away. The
//! copies are then removed as far as they can be reached. Without a store the copies are all there is: then every node must
//! answer.

mod find;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::Bytes;

use super::codec::{Answer, stat};
use super::copies::Job;
use super::node::{Ask, AskError};
use super::replicas::Replica;
use super::transfer::private_tube;
use super::{ENGINE, Shared};
use crate::dedup::{MarkWhat, Marked, Marks, StoreDown};
use crate::engine::{BoxFuture, EngineError, Published, Rescheduled, Revoked, TaskId, Tasks};
use crate::message::{Id, envelope, go_queue};
use crate::time::WallTime;
use find::Found;

/// So many tasks are changed at the same time.
const UNDER_WAY: usize = 64;

/// Changes to tasks of this engine.
#[derive(Debug)]
pub(super) struct Changes(pub(super) Arc<Shared>);

impl Tasks for Changes {
    fn revoke(&self, tasks: Vec<TaskId>) -> BoxFuture<'_, Vec<Result<Revoked, EngineError>>> {
        let shared = &self.0;
        Box::pin(at_once(tasks, move |task| async move {
            let revoked = shared.revoke(&task).await;
            revoked.map_err(|why| why.engine(&task, "revoke"))
        }))
    }

    fn reschedule(
        &self,
        tasks: Vec<(TaskId, WallTime)>,
    ) -> BoxFuture<'_, Vec<Result<Rescheduled, EngineError>>> {
        let shared = &self.0;
        Box::pin(at_once(tasks, move |(task, due)| async move {
            let moved = shared.reschedule(&task, due).await;
            moved.map_err(|why| why.engine(&task, "reschedule"))
        }))
    }
}

/// Why a task could not be changed.
#[derive(Debug)]
enum Stuck {
    /// The store or a node cannot tell now.
    Away(String),
    /// It cannot be, ever.
    Never(String),
}

impl Stuck {
    fn engine(self, task: &TaskId, verb: &str) -> EngineError {
        let what = format!("{verb} a task of tube `{}`", task.tube());
        match self {
            Self::Away(why) => EngineError::Unavailable {
                engine: ENGINE,
                what,
                why: Arc::from(why),
            },
            Self::Never(why) => EngineError::Unsupported {
                engine: ENGINE,
                what: format!("{what}: {why}"),
            },
        }
    }
}

impl From<StoreDown> for Stuck {
    fn from(down: StoreDown) -> Self {
        Self::Away(down.to_string())
    }
}

impl From<AskError> for Stuck {
    fn from(error: AskError) -> Self {
        Self::Away(error.to_string())
    }
}

impl Shared {
    async fn revoke(&self, task: &TaskId) -> Result<Revoked, Stuck> {
        let identified;
        let task = if task.id() == Id::default() {
            match self.identify(task).await? {
                Some(known) => identified = known,
                None => return Ok(Revoked::Unknown),
            }
            &identified
        } else {
            task
        };
        let Some(store) = &self.marks else {
            return self.revoke_by_nodes(task).await;
        };
        // The due time is in the copies; what is not known here is kept for the usual time and a look at them.
        let mut place = task.token().map(Arc::from);
        let mut known = false;
        if place.is_none() {
            match self.place_of(&**store, task, task.id()).await? {
                Noted::Nothing => {}
                Noted::At(at) => (known, place) = (true, at),
                Noted::Over(marked) => return Ok(revoked(&marked)),
            }
        }
        let mut found = self.find(task, place.as_deref()).await;
        if found.is_nothing()
            && let Noted::At(Some(moved)) =
                self.place_of(&**store, task, pointer(task.id())).await?
        {
            found = self.find(task, Some(&moved)).await;
        }
        let due = found
            .waits
            .iter()
            .filter_map(|(_, body)| self.due_of(task, body))
            .max();
        let due = due.unwrap_or_else(|| self.clock.now());
        let marked = self.marked(&**store, task, due, MarkWhat::Revoke).await?;
        if matches!(marked, Marked::Stored(_)) && self.config.tube(task.tube()).mixed_fleet {
            return self.revoke_taken(&**store, task, due).await;
        }
        if marked != Marked::Set {
            return Ok(revoked(&marked));
        }
        if found.is_nothing() && !known {
            // It concerned nothing.
            self.marked(&**store, task, due, MarkWhat::Forget).await?;
            return Ok(Revoked::Unknown);
        }
        // What cannot be removed now will meet the mark.
        let _ = self.remove(&found).await;
        Ok(Revoked::Revoked)
    }

    /// A task that was taken from a tube shared with Go workers: the lock is ours, and its record waits in the private tube.
    async fn revoke_taken(
        &self,
        store: &dyn Marks,
        task: &TaskId,
        due: WallTime,
    ) -> Result<Revoked, Stuck> {
        let private = private_tube(task.tube()).map_err(|why| Stuck::Never(why.to_string()))?;
        let mark = self.mark(&private, task.id(), due, MarkWhat::Revoke);
        let answer = store.mark(vec![mark]).await.into_iter().next();
        let told =
            answer.ok_or_else(|| Stuck::Away("the dedup store said nothing".to_owned()))??;
        Ok(revoked(&told.marked))
    }

    /// The task that the ids of the Go library name: they do not hold its id, its copies do.
    async fn identify(&self, task: &TaskId) -> Result<Option<TaskId>, Stuck> {
        let copies = task
            .token()
            .map_or_else(Vec::new, |ids| self.copies_in(ids));
        let asks = copies.iter().flat_map(|copy| {
            [
                (copy.node, Ask::Peek(copy.job)),
                (copy.node, Ask::StatsJob(copy.job)),
            ]
        });
        let mut answers = self.ask_nodes(asks).await.into_iter();
        let mut silent = None;
        let mut ids = Vec::new();
        while let (Some(shown), Some(stats)) = (answers.next(), answers.next()) {
            match (shown, stats) {
                (Ok(Answer::Found { body, .. }), Ok(Answer::Stats(stats))) => {
                    // Numbers begin anew when a node is started without its binlog.
                    let here = stat(&stats, "tube") == Some(task.tube().as_str());
                    if here && go_queue::unwrap(&body).is_ok() {
                        ids.push(go_queue::id(&body));
                    }
                }
                (Err(error), _) | (_, Err(error)) => silent = Some(error),
                _ => {}
            }
        }
        ids.dedup();
        match (&ids[..], silent) {
            ([id], _) => Ok(Some(TaskId::new(
                task.tube().clone(),
                &Published {
                    id: *id,
                    existed: false,
                    token: task.token().map(Arc::from),
                    partition: 0,
                    offset: 0,
                },
            ))),
            ([], None) => Ok(None),
            ([], Some(error)) => Err(error.into()),
            _ => Err(Stuck::Never(
                "its ids name different tasks: a node was started anew without its binlog"
                    .to_owned(),
            )),
        }
    }

    async fn revoke_by_nodes(&self, task: &TaskId) -> Result<Revoked, Stuck> {
        let place = self.moved.of(task.id()).or(task.token().map(Arc::from));
        let found = self.find(task, place.as_deref()).await;
        if let Some(error) = found.silent {
            return Err(error.into());
        }
        if found.is_in_hand() {
            return Ok(Revoked::Running);
        }
        let mut gone = 0;
        for removed in self.remove(&found).await {
            gone += usize::from(removed?);
        }
        Ok(match (gone, found.waits.len()) {
            // beanstalkd remembers nothing of a job that is gone: run, revoked, or never there.
            (_, 0) => Revoked::Unknown,
            (gone, all) if gone == all => Revoked::Revoked,
            // A worker was faster.
            _ => Revoked::Running,
        })
    }

    async fn reschedule(&self, task: &TaskId, due: WallTime) -> Result<Rescheduled, Stuck> {
        if self.config.tube(task.tube()).wire.is_go_queue() {
            return Err(Stuck::Never(
                "the due time is part of its identity on the wire of the Go library; revoke it and send it again"
                    .to_owned(),
            ));
        }
        let due = due.max(self.clock.now());
        let given = task.token().map(Arc::from);
        match self.marks.clone() {
            None => {
                let place = self.moved.of(task.id()).or(given);
                self.move_by_nodes(task, place, due).await
            }
            // What is known here of an earlier move may be of an earlier task of this name: the id itself comes first.
            Some(store) => self.move_by_mark(&*store, task, given, due).await,
        }
    }

    async fn move_by_mark(
        &self,
        store: &dyn Marks,
        task: &TaskId,
        mut place: Option<Arc<str>>,
        due: WallTime,
    ) -> Result<Rescheduled, Stuck> {
        if place.is_none() {
            match self.place_of(store, task, task.id()).await? {
                Noted::Nothing => return Ok(Rescheduled::Unknown),
                Noted::At(at) => place = at,
                Noted::Over(marked) => return Ok(rescheduled(&marked)),
            }
        }
        let mut found = self.find(task, place.as_deref()).await;
        if found.body().is_none()
            && let Noted::At(Some(moved)) = self.place_of(store, task, pointer(task.id())).await?
        {
            found = self.find(task, Some(&moved)).await;
        }
        if found.body().is_none()
            && let Some(moved) = self.moved.of(task.id())
        {
            // The store has not noted the move; this process has.
            found = self.find(task, Some(&moved)).await;
        }
        // From here on no copy starts before the new time, wherever it is.
        let what = MarkWhat::NotBefore { due };
        let marked = self.marked(store, task, due, what).await?;
        if marked != Marked::Set {
            return Ok(rescheduled(&marked));
        }
        // Also a copy that a worker has fetched ahead: it has not started, and now meets the mark.
        let Some(body) = found.body() else {
            self.marked(store, task, due, MarkWhat::Forget).await?;
            return match found {
                Found {
                    silent: Some(error),
                    ..
                } => Err(error.into()),
                Found { restless: true, .. } => Ok(Rescheduled::Running),
                _ => Ok(Rescheduled::Unknown),
            };
        };
        let copies = match self.put_moved(task, body, due).await {
            Ok(copies) => copies,
            Err(stuck) => {
                // The old copies are where they were.
                self.marked(store, task, due, MarkWhat::Forget).await?;
                return Err(stuck);
            }
        };
        // An old copy that stays meets the mark, and then the claim of the new one.
        let _ = self.remove(&found).await;
        let place = self.token(super::Wire::Native, task.tube(), copies.into_iter());
        self.moved.note(task.id(), place.clone());
        let pointer = self.mark(
            task.tube(),
            pointer(task.id()),
            due,
            MarkWhat::Stored { place },
        );
        // Without it this process alone finds the copies; the mark of a later change stops them all the same.
        let _ = store.mark(vec![pointer]).await;
        Ok(Rescheduled::Rescheduled)
    }

    /// Without a store nothing stops a copy: each is taken into the hands of this engine first, so that no worker can.
    async fn move_by_nodes(
        &self,
        task: &TaskId,
        place: Option<Arc<str>>,
        due: WallTime,
    ) -> Result<Rescheduled, Stuck> {
        let found = self.find(task, place.as_deref()).await;
        if let Some(error) = found.silent {
            return Err(error.into());
        }
        if found.is_in_hand() {
            return Ok(Rescheduled::Running);
        }
        let Some((_, body)) = found.waits.first() else {
            return Ok(Rescheduled::Unknown);
        };
        let waiting = found.waits.iter();
        let asks = waiting.map(|(copy, _)| (copy.node, Ask::ReserveJob(copy.job)));
        let mut taken = Vec::new();
        let mut error = None;
        for ((copy, _), answer) in found.waits.iter().zip(self.ask_nodes(asks).await) {
            match answer {
                Ok(Answer::Reserved { .. }) => taken.push(*copy),
                Ok(_) => {}
                Err(why) => error = Some(why),
            }
        }
        let stopped = match error {
            Some(why) => Some(Err(why.into())),
            // A worker was faster.
            None if taken.len() < found.waits.len() => Some(Ok(Rescheduled::Running)),
            None => None,
        };
        if let Some(stopped) = stopped {
            self.give_back(task, &taken, body).await;
            return stopped;
        }
        let copies = match self.put_moved(task, body, due).await {
            Ok(copies) => copies,
            Err(stuck) => {
                self.give_back(task, &taken, body).await;
                return Err(stuck);
            }
        };
        let place = self.token(super::Wire::Native, task.tube(), copies.into_iter());
        self.moved.note(task.id(), place);
        for deleted in self.delete(&taken).await {
            // A connection that ended meanwhile has made the old copy ready again.
            if !deleted? {
                return Err(Stuck::Away(
                    "a node lost the old copy from its hands; the task may run at both times"
                        .to_owned(),
                ));
            }
        }
        Ok(Rescheduled::Rescheduled)
    }

    /// Stores the task again, with its new time.
    async fn put_moved(
        &self,
        task: &TaskId,
        body: &Bytes,
        due: WallTime,
    ) -> Result<Vec<Replica>, Stuck> {
        let priority =
            envelope::open(body.clone()).map_or(envelope::DEFAULT_PRIORITY, |o| o.priority);
        let job = Job {
            tube: task.tube().clone(),
            body: envelope::with_due(body, due).map_err(|why| Stuck::Never(why.to_string()))?,
            due,
            priority,
            ttr: u32::try_from(self.config.lease.as_secs()).unwrap_or(u32::MAX),
            round_up: false,
        };
        let placed = self
            .store(vec![job], true)
            .await
            .map_err(|_| Stuck::Away(self.why_away()))?;
        let copies: Vec<Replica> = placed.replicas(0).collect();
        if copies.len() >= self.quorum {
            return Ok(copies);
        }
        // The old copies stay; these must not.
        let _ = self.delete(&copies).await;
        Err(Stuck::Away(format!(
            "{} of {} nodes confirmed its new time",
            copies.len(),
            self.quorum
        )))
    }

    /// Gives copies back as they were.
    async fn give_back(&self, task: &TaskId, taken: &[Replica], body: &Bytes) {
        let priority =
            envelope::open(body.clone()).map_or(envelope::DEFAULT_PRIORITY, |o| o.priority);
        let due = self.due_of(task, body).unwrap_or_default();
        let left = due.since(self.clock.now()).as_secs();
        let delay = u32::try_from(left).unwrap_or(u32::MAX);
        let asks = taken.iter().map(|copy| {
            let release = Ask::Release {
                id: copy.job,
                priority,
                delay,
            };
            (copy.node, release)
        });
        // A node that does not answer gives them back by itself when the connection ends.
        let _ = self.ask_nodes(asks).await;
    }

    async fn marked(
        &self,
        store: &dyn Marks,
        task: &TaskId,
        due: WallTime,
        what: MarkWhat,
    ) -> Result<Marked, Stuck> {
        self.one_mark(store, task, task.id(), due, what).await
    }

    async fn one_mark(
        &self,
        store: &dyn Marks,
        task: &TaskId,
        id: Id,
        due: WallTime,
        what: MarkWhat,
    ) -> Result<Marked, Stuck> {
        let mark = self.mark(task.tube(), id, due, what);
        let answers = store.mark(vec![mark]).await;
        let answer = answers.into_iter().next();
        let told =
            answer.ok_or_else(|| Stuck::Away("the dedup store said nothing".to_owned()))??;
        Ok(told.marked)
    }

    /// Asks the store where the copies under this id are: to take back an announcement that nobody made changes nothing.
    async fn place_of(&self, store: &dyn Marks, task: &TaskId, id: Id) -> Result<Noted, Stuck> {
        let asked = MarkWhat::Withdraw {
            token: fastrand::u64(..),
        };
        let now = self.clock.now();
        Ok(match self.one_mark(store, task, id, now, asked).await? {
            Marked::Set => Noted::Nothing,
            Marked::Stored(place) => Noted::At(place),
            over => Noted::Over(over),
        })
    }
}

/// What the store has noted under an id.
enum Noted {
    Nothing,
    /// It is stored; perhaps it is known where.
    At(Option<Arc<str>>),
    /// It runs, has run, or is among the dead letters.
    Over(Marked),
}

/// Under this id the store keeps where a task was moved to: its own mark says that it may not start.
fn pointer(id: Id) -> Id {
    let mut text = *b"moved\0................";
    text[6..].copy_from_slice(&id.0.to_be_bytes());
    Id::of_raw_body(&text)
}

fn revoked(marked: &Marked) -> Revoked {
    match marked {
        Marked::Set | Marked::Stored(_) => Revoked::Revoked,
        Marked::Running => Revoked::Running,
        Marked::Done | Marked::Dying | Marked::Dead => Revoked::AlreadyRun,
        Marked::Revoked => Revoked::Unknown,
    }
}

fn rescheduled(marked: &Marked) -> Rescheduled {
    match marked {
        Marked::Set | Marked::Stored(_) => Rescheduled::Rescheduled,
        Marked::Running => Rescheduled::Running,
        Marked::Done | Marked::Dying | Marked::Dead => Rescheduled::AlreadyRun,
        Marked::Revoked => Rescheduled::Unknown,
    }
}

/// The most moved tasks that a process remembers; the oldest goes first.
const REMEMBERED: usize = 65_536;

/// Where this process has moved tasks to.
#[derive(Debug, Default)]
pub(super) struct Moved(Mutex<MovedTasks>);

#[derive(Debug, Default)]
struct MovedTasks {
    places: HashMap<Id, Arc<str>>,
    order: VecDeque<Id>,
}

impl Moved {
    fn of(&self, id: Id) -> Option<Arc<str>> {
        let moved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        moved.places.get(&id).cloned()
    }

    fn note(&self, id: Id, place: Arc<str>) {
        let mut moved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if moved.places.insert(id, place).is_none() {
            moved.order.push_back(id);
        }
        if moved.order.len() > REMEMBERED
            && let Some(oldest) = moved.order.pop_front()
        {
            moved.places.remove(&oldest);
        }
    }
}

/// Runs one future for each, some of them at the same time, on this task.
async fn at_once<T, R, F: Future<Output = R>>(items: Vec<T>, run: impl Fn(T) -> F) -> Vec<R> {
    let mut results = Vec::with_capacity(items.len());
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        let mut under_way: Vec<_> = items
            .by_ref()
            .take(UNDER_WAY)
            .map(|item| Box::pin(run(item)))
            .collect();
        let mut done: Vec<Option<R>> = Vec::new();
        done.resize_with(under_way.len(), || None);
        poll_fn(|cx| {
            let mut open = false;
            for (future, slot) in under_way.iter_mut().zip(&mut done) {
                if slot.is_none() {
                    match future.as_mut().poll(cx) {
                        Poll::Ready(result) => *slot = Some(result),
                        Poll::Pending => open = true,
                    }
                }
            }
            if open { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        results.extend(done.into_iter().flatten());
    }
    results
}
