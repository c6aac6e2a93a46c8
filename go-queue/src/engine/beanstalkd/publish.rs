//! The producing side: messages become jobs, jobs become copies on nodes, and the answer is what became of them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::config::Wire;
use super::copies::{Job, Refusal};
use super::replicas::{NotPlaced, Placed, Replica};
use super::{ENGINE, Shared, UNFINISHED};
use crate::dedup::{Mark, MarkWhat, Marked, StoreDown};
use crate::engine::{
    BoxFuture, DEFAULT_PRIORITY, MAX_TASK_LEN, Outgoing, Publish, PublishError, Published,
};
use crate::message::{Flags, Id, envelope, go_queue};
use crate::name::{Name, Place};
use crate::time::WallTime;

/// So many messages of a slice are under way at a time: more would only wait in front of the nodes, and time out there.
const CHUNK: usize = 1024;

/// The producing side of the engine.
#[derive(Debug)]
pub(super) struct Publisher(pub(super) Arc<Shared>);

impl Publish for Publisher {
    fn publish(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<Published, PublishError>>> {
        Box::pin(self.0.publish(slice))
    }
}

type Answer = Result<Published, PublishError>;

/// A message on its way: where its answer belongs, and what the answer needs.
struct Parcel {
    /// Which of the slice.
    at: usize,
    id: Id,
    /// It was announced under this token.
    announced: Option<u64>,
    wire: Wire,
}

/// How a name was announced.
#[derive(Clone, Copy)]
struct Announced {
    token: u64,
    /// The task that has the name.
    id: Id,
}

/// A message that is sent under a name another one of the slice has.
struct Twin {
    at: usize,
    /// Which of the slice has it.
    of: usize,
}

impl Shared {
    async fn publish(&self, slice: Vec<Outgoing>) -> Vec<Answer> {
        if slice.len() <= CHUNK {
            return self.publish_chunk(&slice).await;
        }
        let mut answers = Vec::with_capacity(slice.len());
        for chunk in slice.chunks(CHUNK) {
            answers.extend(self.publish_chunk(chunk).await);
        }
        answers
    }

    async fn publish_chunk(&self, slice: &[Outgoing]) -> Vec<Answer> {
        let now = self.clock.now();
        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(slice.len());
        answers.resize_with(slice.len(), || None);
        let mut twins = Vec::new();
        let known = if slice.iter().any(|out| out.named) {
            self.announce(slice, now, &mut answers, &mut twins).await
        } else {
            HashMap::new()
        };

        let mut parcels = Vec::with_capacity(slice.len());
        let mut jobs = Vec::with_capacity(slice.len());
        let mut buffer = BytesMut::with_capacity(slice.iter().map(room).sum());
        for (at, out) in slice.iter().enumerate() {
            if answers[at].is_some() || twins.iter().any(|twin: &Twin| twin.at == at) {
                continue;
            }
            let announced = known.get(&at);
            let packed = match announced.filter(|name| name.id != out.id) {
                None => self.pack(out, now, &mut buffer),
                // The name was revoked before: this task is another than the one that had it.
                Some(&Announced { id, .. }) => {
                    let out = Outgoing { id, ..out.clone() };
                    self.pack(&out, now, &mut buffer)
                }
            };
            match packed {
                Err(error) => answers[at] = Some(Err(error)),
                Ok((id, job)) => {
                    parcels.push(Parcel {
                        at,
                        id,
                        announced: announced.map(|name| name.token),
                        wire: self.config.tube(&job.tube).wire,
                    });
                    jobs.push(job);
                }
            }
        }
        if !jobs.is_empty() {
            self.place(parcels, jobs, &mut answers).await;
        }
        for Twin { at, of } in twins {
            answers[at] = match &answers[of] {
                Some(Ok(first)) => Some(Ok(Published {
                    existed: true,
                    ..first.clone()
                })),
                other => other.clone(),
            };
        }
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or(Err(PublishError::Closed { engine: ENGINE })))
            .collect()
    }

    /// Makes the job of a message.
    pub(super) fn pack(
        &self,
        out: &Outgoing,
        now: WallTime,
        buffer: &mut BytesMut,
    ) -> Result<(Id, Job), PublishError> {
        let Place::Tube(tube) = &out.place else {
            return Err(unsupported(format!("keep records of {}", out.place)));
        };
        // Due "now" is this moment: consumers report how late they are.
        let due = if out.due <= WallTime::EPOCH {
            now
        } else {
            out.due
        };
        let lease = u32::try_from(self.config.lease.as_secs()).unwrap_or(u32::MAX);
        let job = |body: Bytes, due, priority, round_up| Job {
            tube: tube.clone(),
            body,
            due,
            priority,
            ttr: lease,
            round_up,
        };
        if self.config.tube(tube).wire.is_go_queue() {
            refuse_what_go_cannot_carry(out)?;
            let size = go_queue::MAX_PREFIX_LEN + out.body.len();
            if size > MAX_TASK_LEN {
                return Err(too_large(out.place.clone(), size, MAX_TASK_LEN));
            }
            let nth = self.nth.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let due = go_queue::distinct_due(due, nth);
            go_queue::wrap(due, out.body.payload(), buffer);
            let body = buffer.split().freeze();
            let priority = match out.priority {
                DEFAULT_PRIORITY => go_queue::PRIORITY,
                given => given,
            };
            let job = Job {
                ttr: lease.max(go_queue::LEAST_TIME_TO_RUN),
                ..job(body, due, priority, true)
            };
            return Ok((go_queue::id(&job.body), job));
        }
        out.check_size(true)?;
        let parts = envelope::Parts {
            id: out.id,
            due,
            at: now,
            parked_attempt: 0,
            flags: out.flags,
            content: out.content,
            priority: out.priority,
            extra: &[],
            body: &out.body,
        };
        envelope::encode(&parts, buffer)
            .map_err(|error| too_large(out.place.clone(), error.len, usize::from(u16::MAX)))?;
        let body = buffer.split().freeze();
        Ok((out.id, job(body, due, out.priority, false)))
    }

    /// Stores the jobs and writes the answers.
    async fn place(&self, parcels: Vec<Parcel>, jobs: Vec<Job>, answers: &mut [Option<Answer>]) {
        let tubes: Vec<(Name, WallTime, usize)> = jobs
            .iter()
            .map(|job| (job.tube.clone(), job.due, job.body.len()))
            .collect();
        // Ids of the Go library name all replicas; and without a store of marks a copy that was written behind could not be
        // revoked any more.
        let every = self.marks.is_none() || parcels.iter().any(|p| p.wire.is_go_queue());
        let placed = match self.store(jobs, every).await {
            Ok(placed) => placed,
            Err(why) => {
                for parcel in &parcels {
                    answers[parcel.at] = Some(Err(self.not_placed(why)));
                }
                return self.settle_names(&parcels, &tubes, answers).await;
            }
        };
        let mut failed = Vec::new();
        let mut counts = (0, 0);
        for (nth, (parcel, (tube, _, _))) in parcels.iter().zip(&tubes).enumerate() {
            let standing = placed.standing(nth);
            if standing.stored.len() < self.quorum {
                failed.push(nth);
                continue;
            }
            if standing.stored.len() + standing.waiting.len() < self.replicas {
                counts.1 += 1;
            } else {
                counts.0 += 1;
            }
            answers[parcel.at] = Some(Ok(Published {
                id: parcel.id,
                existed: false,
                token: Some(self.token(parcel.wire, tube, placed.replicas(nth))),
                partition: 0,
                offset: 0,
            }));
        }
        self.figures.accepted(counts.0, counts.1, self.replicas);
        if !failed.is_empty() {
            let harmless = self.undo(&failed, &parcels, &tubes, &placed).await;
            for (&nth, harmless) in failed.iter().zip(harmless) {
                self.figures.undone(harmless);
                let (tube, _, size) = &tubes[nth];
                let error = self.failure(&placed, nth, tube, *size, !harmless);
                answers[parcels[nth].at] = Some(Err(error));
            }
        }
        self.settle_names(&parcels, &tubes, answers).await;
    }

    /// Takes back what was stored of jobs without a quorum. Whether nothing of each can run any more.
    async fn undo(
        &self,
        failed: &[usize],
        parcels: &[Parcel],
        tubes: &[(Name, WallTime, usize)],
        placed: &Placed,
    ) -> Vec<bool> {
        let replicas: Vec<(usize, Replica)> = failed
            .iter()
            .enumerate()
            .flat_map(|(row, &nth)| placed.replicas(nth).map(move |replica| (row, replica)))
            .collect();
        let mut gone: Vec<bool> = failed
            .iter()
            .map(|&nth| placed.standing(nth).unknown.is_empty())
            .collect();
        let asked: Vec<Replica> = replicas.iter().map(|(_, replica)| *replica).collect();
        for ((row, _), deleted) in replicas.iter().zip(self.delete(&asked).await) {
            // A worker may have it already.
            gone[*row] &= deleted.unwrap_or(false);
        }
        let Some(store) = &self.marks else {
            return gone;
        };
        // A named task that may be stored is sent again by the same name, and runs once. An unnamed one must not run: its sender
        // was told that it was not accepted.
        let left: Vec<usize> = (0..failed.len())
            .filter(|&row| !gone[row] && parcels[failed[row]].announced.is_none())
            .collect();
        if left.is_empty() {
            return gone;
        }
        let marks = left.iter().map(|&row| {
            let (tube, due, _) = &tubes[failed[row]];
            self.mark(tube, parcels[failed[row]].id, *due, MarkWhat::Revoke)
        });
        let marked = store.mark(marks.collect()).await;
        for (row, marked) in left.into_iter().zip(marked) {
            let marked = marked.map(|told| told.marked);
            gone[row] = matches!(marked, Ok(Marked::Set | Marked::Revoked));
        }
        gone
    }

    /// Announces the named ones and answers those that are there already. How the others were announced, by their place in the
    /// slice.
    async fn announce(
        &self,
        slice: &[Outgoing],
        now: WallTime,
        answers: &mut [Option<Answer>],
        twins: &mut Vec<Twin>,
    ) -> HashMap<usize, Announced> {
        let mut first: HashMap<(&str, Id), usize> = HashMap::new();
        let mut asked = Vec::new();
        let mut marks = Vec::new();
        for (at, out) in slice.iter().enumerate() {
            let Place::Tube(tube) = &out.place else {
                continue;
            };
            if !out.named || self.config.tube(tube).wire.is_go_queue() {
                continue;
            }
            if let Some(&of) = first.get(&(tube.as_str(), out.id)) {
                twins.push(Twin { at, of });
                continue;
            }
            first.insert((tube.as_str(), out.id), at);
            // What can never be stored is not announced.
            if out.check_size(true).is_err() {
                continue;
            }
            let token = fastrand::u64(..);
            asked.push((at, token));
            marks.push(self.mark(tube, out.id, out.due.max(now), MarkWhat::Announce { token }));
        }
        let Some(store) = self.marks.as_ref().filter(|_| !marks.is_empty()) else {
            return HashMap::new();
        };
        let mut tokens = HashMap::new();
        for ((at, token), told) in asked.into_iter().zip(store.mark(marks).await) {
            let (id, place) = match told.map(|told| (told.id, told.marked)) {
                Ok((id, Marked::Set | Marked::Revoked)) => {
                    tokens.insert(at, Announced { token, id });
                    continue;
                }
                Ok((id, Marked::Stored(place))) => (id, place),
                Ok((id, Marked::Running | Marked::Done | Marked::Dying | Marked::Dead)) => {
                    (id, None)
                }
                Err(StoreDown { why }) => {
                    let why = format!(
                        "whether a task with this name is stored is not known, because the dedup store did not answer: {why}"
                    );
                    answers[at] = Some(Err(unavailable(why, false)));
                    continue;
                }
            };
            answers[at] = Some(Ok(Published {
                id,
                existed: true,
                token: place,
                partition: 0,
                offset: 0,
            }));
        }
        tokens
    }

    /// Notes the named ones that are stored, and takes back what was announced of those that are not.
    async fn settle_names(
        &self,
        parcels: &[Parcel],
        tubes: &[(Name, WallTime, usize)],
        answers: &[Option<Answer>],
    ) {
        let Some(store) = &self.marks else {
            return;
        };
        let marks: Vec<Mark> = parcels
            .iter()
            .zip(tubes)
            .filter_map(|(parcel, (tube, due, _))| {
                let token = parcel.announced?;
                let what = match answers[parcel.at].as_ref()? {
                    Ok(published) => MarkWhat::Stored {
                        place: published.token.clone()?,
                    },
                    Err(error) if maybe_stored(error) => return None,
                    Err(_) => MarkWhat::Withdraw { token },
                };
                Some(self.mark(tube, parcel.id, *due, what))
            })
            .collect();
        if !marks.is_empty() {
            // What could not be noted stays announced: who sends it again stores it again under the same id, and it runs once.
            let _ = store.mark(marks).await;
        }
    }

    /// A mark that is kept until the task is due and a while longer: a task that is not done is known, however late its workers are.
    pub(crate) fn mark(&self, tube: &Name, id: Id, due: WallTime, what: MarkWhat) -> Mark {
        let mut keep = self.config.keep(tube);
        if self.config.tube(tube).wire.is_go_queue() {
            // Go workers run what comes up to half an hour late and is not marked.
            keep = keep.max(go_queue::CLAIM_LIFE);
        }
        if !matches!(what, MarkWhat::Revoke) {
            keep = keep.max(UNFINISHED);
        }
        Mark {
            tube: tube.clone(),
            id,
            what,
            keep: due.since(self.clock.now()).saturating_add(keep),
        }
    }

    /// What goes into the id of a task: where its copies are.
    pub(crate) fn token(
        &self,
        wire: Wire,
        tube: &Name,
        replicas: impl Iterator<Item = Replica>,
    ) -> Arc<str> {
        let mut text = String::with_capacity(96);
        for replica in replicas {
            if !text.is_empty() {
                text.push(',');
            }
            let endpoint = self.nodes[replica.node].endpoint();
            // Writing to a string cannot fail.
            let _ = if wire.is_go_queue() {
                write!(text, "{endpoint}/{tube}/{}", replica.job)
            } else {
                write!(text, "{endpoint}/{}", replica.job)
            };
        }
        Arc::from(text)
    }

    pub(super) fn not_placed(&self, why: NotPlaced) -> PublishError {
        match why {
            NotPlaced::Busy => unavailable(
                "too much waits for its nodes already; send less at a time".to_owned(),
                false,
            ),
            NotPlaced::TooFew(_) if self.is_closed() => PublishError::Closed { engine: ENGINE },
            NotPlaced::TooFew(0) => unavailable(self.why_away(), false),
            NotPlaced::TooFew(_) => PublishError::UnderReplicated {
                confirmed: 0,
                wanted: self.quorum,
                maybe_stored: false,
            },
        }
    }

    pub(super) fn failure(
        &self,
        placed: &Placed,
        nth: usize,
        tube: &Name,
        size: usize,
        maybe_stored: bool,
    ) -> PublishError {
        let standing = placed.standing(nth);
        let confirmed = standing.stored.len();
        if confirmed > 0 {
            return PublishError::UnderReplicated {
                confirmed,
                wanted: self.quorum,
                maybe_stored,
            };
        }
        if !standing.unknown.is_empty() {
            return unavailable(self.why_away(), maybe_stored);
        }
        match standing.refusal {
            Some(Refusal::TooBig) => {
                let limits = standing.tried.iter().map(|node| self.nodes[node].max_job());
                let limit = limits.min().unwrap_or(MAX_TASK_LEN).min(size - 1);
                too_large(Place::Tube(tube.clone()), size, limit)
            }
            Some(Refusal::Full) => PublishError::Full {
                engine: ENGINE,
                why: Arc::from(
                    "the nodes are out of memory or disk; add a node, or give them more room",
                ),
            },
            Some(Refusal::Draining) => unavailable(
                "the nodes are draining: they take no tasks until they are started anew".to_owned(),
                false,
            ),
            Some(Refusal::NotAsked) | None => unavailable(self.why_away(), false),
        }
    }

    /// What is in the way at each node that cannot be used.
    pub(super) fn why_away(&self) -> String {
        let away = self.nodes.iter().filter_map(|node| {
            let why = node.away()?;
            Some(format!("{}: {why}", node.endpoint()))
        });
        let away: Vec<String> = away.collect();
        if away.is_empty() {
            "not enough nodes took it in time".to_owned()
        } else {
            away.join("; ")
        }
    }
}

/// Room that a message takes in the buffer of its slice.
fn room(out: &Outgoing) -> usize {
    envelope::encoded_len(out.priority, &out.body).min(MAX_TASK_LEN)
}

fn maybe_stored(error: &PublishError) -> bool {
    matches!(
        error,
        PublishError::Unavailable {
            maybe_stored: true,
            ..
        } | PublishError::UnderReplicated {
            maybe_stored: true,
            ..
        }
    )
}

/// Nothing that was said is dropped in silence.
fn refuse_what_go_cannot_carry(out: &Outgoing) -> Result<(), PublishError> {
    let what = if out.named {
        "a name"
    } else if out.body.key_len() > 0 || !out.flags.contains(Flags::NULL_KEY) {
        "a key"
    } else if out.body.head_len() > 0 {
        "headers"
    } else {
        return Ok(());
    };
    Err(unsupported(format!(
        "send a task with {what} to {}: the wire of the Go library has no room for it",
        out.place
    )))
}

fn unsupported(what: String) -> PublishError {
    PublishError::Unsupported {
        engine: ENGINE,
        what,
    }
}

fn unavailable(why: String, maybe_stored: bool) -> PublishError {
    PublishError::Unavailable {
        engine: ENGINE,
        why: Arc::from(why),
        maybe_stored,
    }
}

fn too_large(place: Place, size: usize, limit: usize) -> PublishError {
    PublishError::TooLarge { place, size, limit }
}
