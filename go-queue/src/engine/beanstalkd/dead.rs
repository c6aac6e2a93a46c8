//! Dead letters: jobs that were given up, buried in a tube of their own on as many nodes as a task must be confirmed by, so that
//! one of them outlives the loss of a node.
//!
//! A letter is written in this order: its copies are put and buried, the index names them, the claim of the task says that it is
//! dead. Only then does the consumer delete the job. A crash anywhere leaves the job, which is given up again: its letter
//! replaces the one before.
//!
//! Without a store there is no index; then the buried jobs are walked through, which takes a few commands for each.

mod jobs;
mod record;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::jobs::{Parcel, together};
use self::record::Record;
use super::codec::Answer;
use super::config::Config;
use super::letter::{Letter, LetterWriter};
use super::node::{Ask, Node};
use super::{ENGINE, Nodes, UNFINISHED};
use crate::dedup::{DeadEntry, DeadIndex, Mark, MarkWhat, Marked, Marks, StoreDown};
use crate::engine::{BoxFuture, DEFAULT_PRIORITY, DeadLetter, DeadLetters, DeadQuery, EngineError};
use crate::message::Id;
use crate::name::{Name, Place};
use crate::time::{Clock, WallTime};

/// The most that one page of a list brings.
const MAX_PAGE: usize = 1000;

/// What the tube of the dead letters of a tube is called behind its name.
pub(super) const SUFFIX: &str = ".dead";

/// How long a letter may be in hand while it is buried, in seconds.
const TTR: u32 = 60;

/// How often the claim of a task is told that its letter is kept, and the pause between.
const TOLD: u32 = 3;
const TOLD_PAUSE: Duration = Duration::from_millis(200);

/// The dead letters of an engine. Cheap to clone.
#[derive(Clone)]
pub(super) struct DeadTubes(Arc<Shared>);

struct Shared {
    nodes: Arc<Nodes>,
    config: Config,
    marks: Option<Arc<dyn Marks>>,
    clock: Clock,
    /// Tubes that are known to have had dead letters, for lists without an index.
    seen: Mutex<BTreeSet<Name>>,
    /// Two walks through one tube would hide letters from each other.
    walk: tokio::sync::Mutex<()>,
}

impl fmt::Debug for DeadTubes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadTubes")
            .field("nodes", &self.0.nodes)
            .finish_non_exhaustive()
    }
}

/// One copy of a letter or task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Copy {
    node: usize,
    job: u64,
}

/// A letter that was found, and where its copies lie.
#[derive(Clone, Debug)]
struct Found {
    cursor: u64,
    record: Record,
    copies: Vec<Copy>,
}

/// The tube of the dead letters of this one.
///
/// # Errors
/// If its name would be too long: such a tube is refused before anything is taken from it.
pub(super) fn dead_tube(tube: &Name) -> Result<Name, EngineError> {
    Name::new(&format!("{tube}{SUFFIX}")).map_err(|_| EngineError::Unusable {
        engine: ENGINE,
        what: format!("serve tube `{tube}`"),
        why: Arc::from("its name has more than 195 bytes, which leaves no room for `.dead`"),
    })
}

fn away(what: &str, why: impl Into<Arc<str>>) -> EngineError {
    EngineError::Unavailable {
        engine: ENGINE,
        what: what.to_owned(),
        why: why.into(),
    }
}

impl DeadTubes {
    /// The dead letters on these nodes. With a store they have an index there.
    pub(super) fn new(
        nodes: Arc<Nodes>,
        config: Config,
        marks: Option<Arc<dyn Marks>>,
        clock: Clock,
    ) -> Self {
        let seen = config.tubes.keys().cloned().collect();
        Self(Arc::new(Shared {
            nodes,
            config,
            marks,
            clock,
            seen: Mutex::new(seen),
            walk: tokio::sync::Mutex::default(),
        }))
    }
}

impl Shared {
    fn index(&self) -> Option<Arc<dyn DeadIndex>> {
        self.marks.as_ref().map(|marks| marks.dead_index())
    }

    fn see(&self, tube: &Name) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.contains(tube.as_str()) {
            seen.insert(tube.clone());
        }
    }

    fn seen(&self) -> Vec<Name> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().cloned().collect()
    }

    fn go_queue(&self, tube: &Name) -> bool {
        self.config.tube(tube).wire.is_go_queue()
    }

    async fn keep(&self, letters: Vec<Letter>) -> Vec<Result<(), EngineError>> {
        const WHAT: &str = "keep a dead letter";
        let (_, quorum) = self.config.copies();
        let limit = self.nodes.iter().map(Node::max_job).min().unwrap_or(0);
        let mut parcels = Vec::with_capacity(letters.len());
        for letter in &letters {
            self.see(&letter.tube);
            let tube = match dead_tube(&letter.tube) {
                Ok(tube) => tube,
                Err(error) => return letters.iter().map(|_| Err(error.clone())).collect(),
            };
            parcels.push(Parcel {
                tube,
                body: record::encode(letter, limit),
                priority: DEFAULT_PRIORITY,
                ttr: TTR,
                first: letter.node,
                want: quorum,
                enough: quorum,
                copies: Vec::new(),
                tried: 0,
                why: None,
            });
        }
        self.store(&mut parcels).await;
        let mut unwanted: Vec<Copy> = Vec::new();
        let mut kept = Vec::new();
        for parcel in &parcels {
            if parcel.kept() {
                kept.extend_from_slice(&parcel.copies);
            } else {
                unwanted.extend_from_slice(&parcel.copies);
            }
        }
        self.bury(&kept).await;

        let noted = letters
            .iter()
            .zip(&parcels)
            .map(
                |(letter, parcel)| -> BoxFuture<'_, Result<(), EngineError>> {
                    Box::pin(async move {
                        if parcel.kept() {
                            return self
                                .note(letter, &parcel.copies)
                                .await
                                .map_err(|down| away(WHAT, down.to_string()));
                        }
                        let why = parcel
                            .why
                            .as_deref()
                            .unwrap_or("no other node is connected");
                        let (has, wants) = (parcel.copies.len(), parcel.enough);
                        Err(away(WHAT, format!("{has} of {wants} nodes took it: {why}")))
                    })
                },
            )
            .collect();
        let noted = together(noted).await;
        for (result, parcel) in noted.iter().zip(&parcels) {
            if result.is_err() && parcel.kept() {
                // It will be written again; two would be two.
                unwanted.extend_from_slice(&parcel.copies);
            }
        }
        self.delete(&unwanted).await;
        let dead = letters
            .iter()
            .zip(&noted)
            .filter(|(_, noted)| noted.is_ok());
        self.tell_claims(dead.map(|(letter, _)| letter)).await;
        noted
    }

    /// Writes the entry of a letter. Copies of one that was written before, for the same task, are removed.
    async fn note(&self, letter: &Letter, copies: &[Copy]) -> Result<(), StoreDown> {
        let Some(index) = self.index() else {
            return Ok(());
        };
        let id = record::id(letter);
        let before = index.find(letter.tube.clone(), id).await?;
        index
            .put(DeadEntry {
                tube: letter.tube.clone(),
                id,
                place: self.place(copies),
                died: letter.died,
            })
            .await?;
        if let Some((_, entry)) = before {
            self.delete(&self.copies(&entry.place)).await;
        }
        Ok(())
    }

    /// Tells the claims of tasks that their letters are kept. If that fails, a replica runs once more and is given up again.
    async fn tell_claims(&self, letters: impl Iterator<Item = &Letter>) {
        let Some(marks) = &self.marks else {
            return;
        };
        let mut open: Vec<Mark> = letters
            .map(|letter| Mark {
                tube: letter.tube.clone(),
                id: record::id(letter),
                what: MarkWhat::Dead {
                    attempts: letter.attempts,
                },
                keep: self.config.keep(&letter.tube).max(UNFINISHED),
            })
            .collect();
        for round in 0..TOLD {
            if open.is_empty() {
                return;
            }
            if round > 0 {
                tokio::time::sleep(TOLD_PAUSE).await;
            }
            let answers = marks.mark(open.clone()).await;
            let mut answers = answers.iter();
            open.retain(|_| matches!(answers.next(), Some(Err(_))));
        }
        if !open.is_empty() {
            let n = open.len();
            tracing::warn!(
                n,
                "the store does not know of dead letters that are kept; their replicas may run once more"
            );
        }
    }

    /// Reads the letter of an entry from one of the nodes that keep it.
    async fn fetch(&self, cursor: u64, entry: &DeadEntry) -> Result<Found, EngineError> {
        let copies = self.copies(&entry.place);
        let mut why: Arc<str> = Arc::from("none of its nodes is configured here");
        for copy in &copies {
            let node = &self.nodes[copy.node];
            match node.ask(Ask::Peek(copy.job)).await {
                Ok(Answer::Found { body, .. }) => {
                    let record = Record::read(&entry.tube, self.go_queue(&entry.tube), body);
                    // A node that lost everything counts from 1 again: the job of this number may be another.
                    if record.id == entry.id {
                        return Ok(Found {
                            cursor,
                            record,
                            copies,
                        });
                    }
                    why = format!("{} has another job of this number", node.endpoint()).into();
                }
                Ok(_) => why = format!("{} has lost it", node.endpoint()).into(),
                Err(error) => why = error.to_string().into(),
            }
        }
        Err(away("read a dead letter", why))
    }

    /// What is shown of a letter that cannot be read now.
    fn unread(cursor: u64, entry: &DeadEntry, why: &EngineError) -> DeadLetter {
        DeadLetter {
            cursor,
            place: Place::Tube(entry.tube.clone()),
            group: None,
            handler: Arc::from(""),
            id: entry.id,
            body: crate::message::Body::default(),
            flags: crate::message::Flags::MALFORMED,
            content: crate::message::ContentType::Raw,
            attempts: 0,
            reason: crate::outcome::reason(format_args!("not readable now: {why}")),
            at: WallTime::EPOCH,
            died: entry.died,
        }
    }

    async fn page(&self, query: DeadQuery) -> Result<Vec<DeadLetter>, EngineError> {
        let limit = query.limit.min(MAX_PAGE);
        let tube = match query.place {
            Some(Place::Topic(_)) => return Ok(Vec::new()),
            Some(Place::Tube(tube)) => Some(tube),
            None => None,
        };
        if query.group.is_some() || limit == 0 {
            return Ok(Vec::new());
        }
        let Some(index) = self.index() else {
            let (found, _) = self.walk_all(tube).await?;
            return Ok(found
                .iter()
                .filter(|found| query.after.is_none_or(|after| found.cursor > after))
                .take(limit)
                .map(|found| found.record.show(found.cursor))
                .collect());
        };
        self.restore(&index, tube.as_ref()).await?;
        let page = index
            .list(tube, query.after, limit)
            .await
            .map_err(|down| away("list dead letters", down.to_string()))?;
        let shown = page
            .iter()
            .map(|(cursor, entry)| -> BoxFuture<'_, DeadLetter> {
                Box::pin(async move {
                    match self.fetch(*cursor, entry).await {
                        Ok(found) => found.record.show(*cursor),
                        Err(why) => Self::unread(*cursor, entry, &why),
                    }
                })
            })
            .collect();
        Ok(together(shown).await)
    }

    /// An index that lost everything is written anew from the letters themselves, tube by tube.
    async fn restore(
        &self,
        index: &Arc<dyn DeadIndex>,
        tube: Option<&Name>,
    ) -> Result<(), EngineError> {
        let down = |down: StoreDown| away("restore the index of dead letters", down.to_string());
        let tubes = tube.map_or_else(|| self.seen(), |tube| vec![tube.clone()]);
        if tubes.is_empty() {
            return Ok(());
        }
        for tube in index.doubted(tubes).await.map_err(down)? {
            let (letters, mut whole) = self.walk_all(Some(tube.clone())).await?;
            for found in letters {
                let record = &found.record;
                // One that is being written is noted by who writes it, or written again.
                let asked = MarkWhat::Withdraw {
                    token: fastrand::u64(..),
                };
                if self.mark(&tube, record.id, asked).await? == Marked::Dying {
                    whole = false;
                    continue;
                }
                let entry = DeadEntry {
                    tube: record.tube.clone(),
                    id: record.id,
                    place: self.place(&found.copies),
                    died: record.died,
                };
                index.put(entry).await.map_err(down)?;
            }
            if whole {
                index.trust(tube).await.map_err(down)?;
            }
        }
        Ok(())
    }

    async fn find(&self, cursor: u64) -> Result<Option<Found>, EngineError> {
        let Some(index) = self.index() else {
            let (found, _) = self.walk_all(None).await?;
            return Ok(found.into_iter().find(|found| found.cursor == cursor));
        };
        match index
            .get(cursor)
            .await
            .map_err(|down| away("read a dead letter", down.to_string()))?
        {
            Some(entry) => self.fetch(cursor, &entry).await.map(Some),
            None => Ok(None),
        }
    }

    async fn mark(&self, tube: &Name, id: Id, what: MarkWhat) -> Result<Marked, EngineError> {
        let Some(marks) = &self.marks else {
            return Ok(Marked::Set);
        };
        let mark = Mark {
            tube: tube.clone(),
            id,
            what,
            keep: self.config.keep(tube),
        };
        match marks.mark(vec![mark]).await.pop() {
            Some(Ok(told)) => Ok(told.marked),
            Some(Err(down)) => Err(away("settle a dead letter", down.to_string())),
            None => Err(away("settle a dead letter", "the store did not answer")),
        }
    }

    /// Removes the letter itself. Answers whether it was this call that removed it.
    async fn remove(&self, cursor: u64, copies: &[Copy]) -> Result<bool, EngineError> {
        self.delete(copies).await;
        match self.index() {
            None => Ok(true),
            Some(index) => index
                .remove(cursor)
                .await
                .map_err(|down| away("remove a dead letter", down.to_string())),
        }
    }

    async fn replay(&self, cursor: u64) -> Result<bool, EngineError> {
        let Some(found) = self.find(cursor).await? else {
            return Ok(false);
        };
        let Record { tube, id, .. } = &found.record;
        // One that has run since, because its replay was cut short, needs no other run.
        if self.mark(tube, *id, MarkWhat::Replay).await? != Marked::Done {
            let (replicas, quorum) = self.config.copies();
            let (body, priority) = found.record.again(self.clock.now());
            let lease = u32::try_from(self.config.lease.as_secs()).unwrap_or(u32::MAX);
            let mut parcels = [Parcel {
                tube: tube.clone(),
                body,
                priority,
                ttr: lease.max(5),
                first: fastrand::usize(..self.nodes.len().max(1)),
                want: replicas,
                enough: quorum,
                copies: Vec::new(),
                tried: 0,
                why: None,
            }];
            self.store(&mut parcels).await;
            let [parcel] = &parcels;
            if !parcel.kept() {
                // The copies that were stored may run; the letter stays, and another replay finds out.
                let why = parcel.why.clone();
                let why = why.unwrap_or_else(|| Arc::from("too few nodes are connected"));
                return Err(away("replay a dead letter", why));
            }
        }
        self.remove(cursor, &found.copies).await
    }

    async fn purge(&self, cursor: u64) -> Result<bool, EngineError> {
        let (tube, id, copies) = match self.index() {
            Some(index) => {
                let entry = index.get(cursor).await;
                let entry = entry.map_err(|down| away("purge a dead letter", down.to_string()))?;
                let Some(entry) = entry else {
                    return Ok(false);
                };
                // Also one whose copies are lost. Copies are checked, so that no other job of the same number goes.
                let copies = match self.fetch(cursor, &entry).await {
                    Ok(_) => self.verified(&entry).await,
                    Err(_) => Vec::new(),
                };
                (entry.tube, entry.id, copies)
            }
            None => match self.find(cursor).await? {
                Some(found) => (found.record.tube, found.record.id, found.copies),
                None => return Ok(false),
            },
        };
        // It may be sent again under its name, but what lies on a node that is away now must not run when that returns.
        self.mark(&tube, id, MarkWhat::Purge).await?;
        self.remove(cursor, &copies).await
    }

    /// The copies of an entry that are what it says.
    async fn verified(&self, entry: &DeadEntry) -> Vec<Copy> {
        let mut verified = Vec::new();
        for copy in self.copies(&entry.place) {
            if let Ok(Answer::Found { body, .. }) =
                self.nodes[copy.node].ask(Ask::Peek(copy.job)).await
                && Record::read(&entry.tube, self.go_queue(&entry.tube), body).id == entry.id
            {
                verified.push(copy);
            }
        }
        verified
    }

    async fn count(&self, place: Option<Place>) -> Result<u64, EngineError> {
        let tube = match place {
            Some(Place::Topic(_)) => return Ok(0),
            Some(Place::Tube(tube)) => Some(tube),
            None => None,
        };
        match self.index() {
            Some(index) => {
                self.restore(&index, tube.as_ref()).await?;
                index
                    .count(tube)
                    .await
                    .map_err(|down| away("count dead letters", down.to_string()))
            }
            None => Ok(self.walk_all(tube).await?.0.len() as u64),
        }
    }
}

/// What became of several letters: what failed is an error only if nothing was done.
#[derive(Default)]
struct Tally {
    done: usize,
    failed: Option<EngineError>,
}

impl Tally {
    fn count(&mut self, cursor: u64, result: Result<bool, EngineError>) {
        match result {
            Ok(done) => self.done += usize::from(done),
            Err(error) => {
                tracing::warn!(cursor, %error, "a dead letter stays as it is");
                self.failed.get_or_insert(error);
            }
        }
    }

    fn result(self) -> Result<usize, EngineError> {
        match self.failed {
            Some(error) if self.done == 0 => Err(error),
            _ => Ok(self.done),
        }
    }
}

impl LetterWriter for DeadTubes {
    fn keep(&self, letters: Vec<Letter>) -> BoxFuture<'static, Vec<Result<(), EngineError>>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.keep(letters).await })
    }
}

impl DeadLetters for DeadTubes {
    fn list(&self, query: DeadQuery) -> BoxFuture<'_, Result<Vec<DeadLetter>, EngineError>> {
        Box::pin(self.0.page(query))
    }

    fn show(&self, cursor: u64) -> BoxFuture<'_, Result<Option<DeadLetter>, EngineError>> {
        Box::pin(async move {
            let found = self.0.find(cursor).await?;
            Ok(found.map(|found| found.record.show(cursor)))
        })
    }

    fn replay(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(async move {
            let mut tally = Tally::default();
            for cursor in cursors {
                tally.count(cursor, self.0.replay(cursor).await);
            }
            tally.result()
        })
    }

    fn purge(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(async move {
            let mut tally = Tally::default();
            for cursor in cursors {
                tally.count(cursor, self.0.purge(cursor).await);
            }
            tally.result()
        })
    }

    fn count(&self, place: Option<Place>) -> BoxFuture<'_, Result<u64, EngineError>> {
        Box::pin(self.0.count(place))
    }
}
