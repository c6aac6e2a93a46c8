//! Tubes that workers of the Go library watch as well (`mixed_fleet`): claim and transfer.
//!
//! A Go worker removes a job before it runs it, and takes a lock in Redis that it never gives back. So a job whose lock we hold must
//! never be seen in the shared tube again: a Go worker would remove it unexecuted, and beanstalkd shows a reserved job again in the moment
//! in which our connection ends. Therefore no handler runs on a job of the shared tube. Instead:
//!
//! 1. reserve the job in the shared tube;
//! 2. store a *record* of it in a private tube (`TUBE.taken`) on a quorum of the nodes, with a claim id;
//! 3. take the lock of the Go library by that claim id;
//! 4. delete the job, whoever has the lock now.
//!
//! The private tube is served like any other, with two-phase claims of its own, except that every start begins with the lock under the
//! claim id of its record ([`gate`]): it admits the record that has the lock and drops the others.
//!
//! If this process dies before 2, the job is seen again and anybody runs it. Between 2 and 3 the first that takes the lock
//! runs it: a Go worker, which makes the record void, or the record itself. From 3 on the record runs: whoever meets the
//! job again cannot have the lock and removes it. A lock whose answer was lost changes nothing, because it is asked again
//! under the same claim id.

mod gate;
mod placer;
#[cfg(test)]
mod tests;
mod twins;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::ENGINE;
use super::codec::{Answer, Command};
use super::link::{Link, LinkError, Tubes};
use crate::dedup::{GoLock, GoLocks};
use crate::engine::{
    BoxFuture, DEFAULT_PRIORITY, EngineError, MAX_TASK_LEN, Outgoing, PublishError, Receive,
};
use crate::message::{Body, ContentType, Flags, go_queue, headers};
use crate::name::{Name, Place};
use crate::time::{Clock, WallTime};
use gate::Gate;
use twins::{Twin, Twins};

pub(super) use placer::open;

/// The header of a record that names its claim.
const CLAIM_HEADER: &str = "gq-go-claim";

/// How many jobs of one node are under way at once.
const BATCH: usize = 64;

/// How long a node may keep an idle question. The heartbeat of the connection, and the longest time that a stop waits for it.
const IDLE: u32 = 1;

/// How often jobs in hand are touched. The Go library stores them with five seconds.
const TOUCH_EVERY: Duration = Duration::from_secs(1);

/// How long a node may take for anything else.
const PATIENCE: Duration = Duration::from_secs(10);

/// Back-off of connections and of what could not be stored or locked.
const BACK_OFF: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(2);

/// What the clocks of producers, workers and Redis may differ by.
const SKEW: Duration = Duration::from_secs(60);

/// A job that has no room in an envelope is left to the Go workers and looked at again after so many seconds.
const LEFT_FOR: u32 = 10;

/// The private tube of a shared one.
///
/// # Errors
/// [`EngineError::Unusable`] if the name is too long.
pub fn private_tube(shared: &Name) -> Result<Name, EngineError> {
    // The dead letters of the private tube need their five characters as well.
    if shared.len() + ".taken.dead".len() > super::codec::MAX_TUBE_LEN {
        return Err(EngineError::Unusable {
            engine: ENGINE,
            what: format!("share the tube `{shared}` with Go workers"),
            why: Arc::from(
                "its name has more than 189 bytes, so that `.taken.dead` has no room behind it",
            ),
        });
    }
    Name::new(&format!("{shared}.taken")).map_err(|error| EngineError::Unusable {
        engine: ENGINE,
        what: format!("share the tube `{shared}` with Go workers"),
        why: error.to_string().into(),
    })
}

/// Where records are stored.
pub(crate) trait Records: Send + Sync + fmt::Debug {
    /// Stores records, one answer for each, in order. What some nodes have stored is never taken back: the same record is
    /// stored again until a quorum has it.
    fn store(&self, records: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<(), PublishError>>>;
}

/// What an end on a shared tube needs.
#[derive(Clone, Debug)]
pub(crate) struct MixedFleet {
    /// The tube that Go workers watch.
    pub(crate) shared: Name,
    /// Its nodes.
    pub(crate) endpoints: Vec<Arc<str>>,
    /// How long a connection may take to be made.
    pub(crate) connect_timeout: Duration,
    /// Stores into the private tube.
    pub(crate) records: Arc<dyn Records>,
    /// The locks of the Go library.
    pub(crate) locks: Arc<dyn GoLocks>,
    /// Whether a task is too late to be sure of it.
    pub(crate) clock: Clock,
}

impl MixedFleet {
    /// One end of the shared tube. `private` is an end of its private tube.
    ///
    /// # Errors
    /// If the name of the tube is too long.
    pub(crate) fn open(self, private: Box<dyn Receive>) -> Result<Box<dyn Receive>, EngineError> {
        let private_tube = private_tube(&self.shared)?;
        let (stop, stopped) = watch::channel(false);
        let crew = Arc::new(Crew {
            nodes: Mutex::new(Nodes {
                each: vec![NodeState::default(); self.endpoints.len()],
                waker: None,
            }),
            twins: Mutex::new(Twins::default()),
            private_tube,
            fleet: self,
        });
        let mut tasks = JoinSet::new();
        for node in 0..crew.fleet.endpoints.len() {
            tasks.spawn(Arc::clone(&crew).serve_node(node, stopped.clone()));
        }
        Ok(Box::new(Gate::new(private, crew, stop, tasks)))
    }
}

/// What the tasks of one end share: one for each node.
#[derive(Debug)]
struct Crew {
    fleet: MixedFleet,
    private_tube: Name,
    twins: Mutex<Twins>,
    nodes: Mutex<Nodes>,
}

/// How the nodes are, and who wants to know.
#[derive(Debug)]
struct Nodes {
    each: Vec<NodeState>,
    waker: Option<Waker>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NodeState {
    /// Why it is not served; `None` before the first connection as well.
    down: Option<Arc<str>>,
    up: bool,
    /// It answered that nothing is ready, and nothing is in hand.
    idle: bool,
    next_due: Option<WallTime>,
}

impl Crew {
    fn tell(&self, node: usize, change: impl FnOnce(&mut NodeState)) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = nodes.each[node].clone();
        change(&mut nodes.each[node]);
        let changed = nodes.each[node] != before;
        let waker = if changed { nodes.waker.take() } else { None };
        drop(nodes);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn twins<T>(&self, with: impl FnOnce(&mut Twins) -> T) -> T {
        with(&mut self.twins.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves one node until the stop, over as many connections as it takes.
    async fn serve_node(self: Arc<Self>, node: usize, mut stopped: watch::Receiver<bool>) {
        let endpoint = &self.fleet.endpoints[node];
        let mut pause = BACK_OFF.start;
        while !*stopped.borrow_and_update() {
            let tube: Arc<str> = Arc::from(self.fleet.shared.as_str());
            let tubes = Tubes {
                used: Some(Arc::clone(&tube)),
                watched: Some(tube),
            };
            let within = self.fleet.connect_timeout;
            // A server may be set to take more than a task may have.
            let max_body = 16 * MAX_TASK_LEN;
            let over = match Link::dial(Arc::clone(endpoint), tubes, within, max_body).await {
                Ok(link) => {
                    pause = BACK_OFF.start;
                    self.tell(node, |state| {
                        state.up = true;
                        state.down = None;
                    });
                    let mut visit = Visit::new(&self, node, link);
                    visit.serve(&mut stopped).await
                }
                Err(error) => Err(error),
            };
            let Err(error) = over else { return };
            tracing::warn!(%endpoint, tube = %self.fleet.shared, %error, "a node of a shared tube is not served");
            self.tell(node, |state| {
                *state = NodeState {
                    down: Some(format!("{endpoint}: {error}").into()),
                    ..NodeState::default()
                };
            });
            let jitter = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::select! {
                () = sleep(jitter) => {}
                _ = stopped.changed() => {}
            }
            pause = (pause * 2).min(BACK_OFF.end);
        }
    }

    /// The record of a job.
    fn record(&self, job: &Job) -> Result<Outgoing, PublishError> {
        let mut head = Vec::with_capacity(40);
        headers::encode(&mut head, CLAIM_HEADER, &job.lock.claim)?;
        let payload = &job.raw[job.prefix..];
        let malformed = if job.prefix == 0 {
            Flags::MALFORMED
        } else {
            Flags::default()
        };
        let record = Outgoing {
            place: Place::Tube(self.private_tube.clone()),
            id: job.lock.id,
            named: false,
            body: Body::pack(b"", &head, payload),
            flags: Flags::NULL_KEY.with(malformed),
            content: ContentType::Raw,
            due: job.due,
            priority: DEFAULT_PRIORITY,
        };
        record.check_size(true)?;
        Ok(record)
    }
}

/// One job of the shared tube in hand.
#[derive(Debug)]
struct Job {
    /// At its node.
    number: u64,
    raw: Bytes,
    /// Length of what stands before the payload; 0 if the body does not open.
    prefix: usize,
    due: WallTime,
    lock: GoLock,
    stage: Stage,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not begun: new, or a replica of it is being stored from another node.
    New,
    /// Its record is to be stored, by us.
    Store,
    /// Its record is stored; the lock is to be taken.
    Lock,
    /// The lock has been decided; it is to be deleted.
    Delete,
}

impl Job {
    fn new(number: u64, raw: Bytes) -> Self {
        let (due, prefix) = go_queue::unwrap(&raw).unwrap_or((WallTime::EPOCH, 0));
        let lock = GoLock {
            id: go_queue::id(&raw),
            claim: [0; 16],
        };
        Self {
            number,
            raw,
            prefix,
            due,
            lock,
            stage: Stage::New,
        }
    }

    /// Whether a lock that can be taken proves no more that nobody has run it.
    fn is_beyond_proof(&self, now: WallTime) -> bool {
        self.prefix > 0 && go_queue::is_late(self.due, now, go_queue::PROOF.saturating_sub(SKEW))
    }
}

/// What was asked of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Reserve,
    Touch(u64),
    NextDue,
    /// Delete, release, bury: the answer says nothing that is needed.
    End,
}

/// One connection to a node and the jobs in hand on it.
struct Visit<'a> {
    crew: &'a Crew,
    node: usize,
    link: Link<Asked>,
    hand: Vec<Job>,
    /// When the jobs in hand were reserved or touched.
    touched: Instant,
    pause: Duration,
}

impl Drop for Visit<'_> {
    /// With the connection ends what is in hand; the jobs are seen again. Another replica may go on with the same claims.
    fn drop(&mut self) {
        let begun = self.hand.iter().filter(|job| job.stage == Stage::Store);
        let ids: Vec<_> = begun.map(|job| job.lock.id).collect();
        if !ids.is_empty() {
            self.crew.twins(|twins| {
                for id in ids {
                    twins.leave(id);
                }
            });
        }
    }
}

impl<'a> Visit<'a> {
    fn new(crew: &'a Crew, node: usize, link: Link<Asked>) -> Self {
        Self {
            crew,
            node,
            link,
            hand: Vec::with_capacity(BATCH),
            touched: Instant::now(),
            pause: BACK_OFF.start,
        }
    }

    /// Moves jobs until the stop, or until the connection is over. Returning lets go of what is in hand.
    async fn serve(&mut self, stopped: &mut watch::Receiver<bool>) -> Result<(), LinkError> {
        while !*stopped.borrow_and_update() {
            tokio::select! {
                taken = self.take() => taken?,
                _ = stopped.changed() => return Ok(()),
            }
            self.choose();
            self.store().await?;
            self.lock().await?;
            self.delete().await?;
            if self.hand.is_empty() {
                self.pause = BACK_OFF.start;
                continue;
            }
            // A replica elsewhere, or a store that is away.
            let only_twins = self.hand.iter().all(|job| job.stage == Stage::New);
            let pause = if only_twins {
                Duration::from_millis(1)
            } else {
                self.pause = (self.pause * 2).min(TOUCH_EVERY);
                self.pause
            };
            self.touching(sleep(pause)).await?;
        }
        Ok(())
    }

    /// Reserves what is ready. With nothing in hand the node may wait for something.
    async fn take(&mut self) -> Result<(), LinkError> {
        let room = BATCH - self.hand.len();
        if self.hand.is_empty() {
            self.link.push(&Command::PeekDelayed, Asked::NextDue)?;
            self.link
                .push(&Command::ReserveWithTimeout(IDLE), Asked::Reserve)?;
        }
        for _ in usize::from(self.hand.is_empty())..room {
            self.link
                .push(&Command::ReserveWithTimeout(0), Asked::Reserve)?;
        }
        self.exchange().await
    }

    /// Writes what was pushed and reads all answers.
    async fn exchange(&mut self) -> Result<(), LinkError> {
        let within = PATIENCE;
        timeout(within, self.read_all())
            .await
            .unwrap_or(Err(LinkError::NotInTime { within }))
    }

    async fn read_all(&mut self) -> Result<(), LinkError> {
        std::future::poll_fn(|cx| self.link.poll_flush(cx)).await?;
        while self.link.outstanding() > 0 {
            let (asked, answer) = std::future::poll_fn(|cx| self.link.poll_answer(cx)).await?;
            self.hear(asked, answer);
        }
        Ok(())
    }

    fn hear(&mut self, asked: Asked, answer: Answer) {
        match (asked, answer) {
            (Asked::Reserve, Answer::Reserved { id, body }) => {
                if self.hand.is_empty() {
                    self.touched = Instant::now();
                }
                self.hand.push(Job::new(id, body));
                self.crew.tell(self.node, |state| state.idle = false);
            }
            (Asked::Reserve, Answer::TimedOut) if self.hand.is_empty() => {
                self.crew.tell(self.node, |state| state.idle = true);
            }
            (Asked::Touch(number), Answer::NotFound) => {
                // Its time was over: it is in other hands. If its record is stored, that goes its own way.
                if let Some(at) = self.hand.iter().position(|job| job.number == number) {
                    let job = self.hand.swap_remove(at);
                    if job.stage == Stage::Store {
                        self.crew.twins(|twins| twins.leave(job.lock.id));
                    }
                }
            }
            (Asked::NextDue, Answer::Found { body, .. }) => {
                let due = go_queue::unwrap(&body).ok().map(|(due, _)| due);
                self.crew.tell(self.node, |state| state.next_due = due);
            }
            (Asked::NextDue, _) => self.crew.tell(self.node, |state| state.next_due = None),
            _ => {}
        }
    }

    /// Decides what becomes of the jobs that have not begun.
    fn choose(&mut self) {
        let now = self.crew.fleet.clock.now();
        let hand = &mut self.hand;
        self.crew.twins(|twins| {
            for job in hand.iter_mut().filter(|job| job.stage == Stage::New) {
                if job.is_beyond_proof(now) {
                    continue;
                }
                match twins.meet(job.lock.id) {
                    Twin::Ours(claim) => {
                        job.lock.claim = claim;
                        job.stage = Stage::Store;
                    }
                    Twin::Stored(claim) => {
                        job.lock.claim = claim;
                        job.stage = Stage::Lock;
                    }
                    Twin::Elsewhere => {}
                }
            }
        });
        let link = &mut self.link;
        let endpoint = &self.crew.fleet.endpoints[self.node];
        let tube = &self.crew.fleet.shared;
        hand.retain(|job| {
            if job.stage != Stage::New || !job.is_beyond_proof(now) {
                return true;
            }
            tracing::error!(
                %endpoint, %tube, job = job.number, due = %job.due,
                "a task was met so late that a Go worker may have run it; it is buried in its tube: kick it to run it, or delete it"
            );
            let bury = Command::Bury {
                id: job.number,
                priority: go_queue::PRIORITY,
            };
            // No number is refused.
            link.push(&bury, Asked::End).is_err()
        });
    }

    /// Step 2.
    async fn store(&mut self) -> Result<(), LinkError> {
        let mut records = Vec::new();
        let mut numbers = Vec::new();
        let mut refused = Vec::new();
        for job in self.hand.iter().filter(|job| job.stage == Stage::Store) {
            match self.crew.record(job) {
                Ok(record) => {
                    records.push(record);
                    numbers.push(job.number);
                }
                Err(error) => refused.push((job.number, error)),
            }
        }
        for (number, error) in refused {
            self.leave_to_go(number, &error)?;
        }
        if records.is_empty() {
            return Ok(());
        }
        let store = Arc::clone(&self.crew.fleet.records);
        let results = self.touching(store.store(records)).await?;
        for (number, result) in numbers.into_iter().zip(results) {
            let Some(job) = self.hand.iter_mut().find(|job| job.number == number) else {
                continue;
            };
            match result {
                Ok(()) => {
                    job.stage = Stage::Lock;
                    let id = job.lock.id;
                    self.crew.twins(|twins| twins.stored(id));
                }
                Err(error @ PublishError::TooLarge { .. }) => self.leave_to_go(number, &error)?,
                Err(error) => {
                    tracing::warn!(tube = %self.crew.private_tube, %error, "a task of a shared tube could not be stored yet");
                }
            }
        }
        Ok(())
    }

    /// A job that cannot have a record. No lock was asked for it, so a Go worker may run it.
    fn leave_to_go(&mut self, number: u64, error: &PublishError) -> Result<(), LinkError> {
        let Some(at) = self.hand.iter().position(|job| job.number == number) else {
            return Ok(());
        };
        let job = self.hand.swap_remove(at);
        self.crew.twins(|twins| twins.leave(job.lock.id));
        tracing::error!(
            endpoint = %self.crew.fleet.endpoints[self.node], tube = %self.crew.fleet.shared, job = number, %error,
            "a task of a shared tube is left to the Go workers"
        );
        let release = Command::Release {
            id: number,
            priority: go_queue::PRIORITY,
            delay: LEFT_FOR,
        };
        self.link.push(&release, Asked::End)?;
        Ok(())
    }

    /// Step 3.
    async fn lock(&mut self) -> Result<(), LinkError> {
        let wanted = self.hand.iter().filter(|job| job.stage == Stage::Lock);
        let (numbers, asks): (Vec<_>, Vec<_>) = wanted.map(|job| (job.number, job.lock)).unzip();
        if asks.is_empty() {
            return Ok(());
        }
        let locks = Arc::clone(&self.crew.fleet.locks);
        let answers = self.touching(locks.lock(asks)).await?;
        for (number, answer) in numbers.into_iter().zip(answers) {
            match answer {
                // Whose it is, is the record's business: this copy is of no more use.
                Ok(_) => {
                    let job = self.hand.iter_mut().find(|job| job.number == number);
                    if let Some(job) = job {
                        job.stage = Stage::Delete;
                    }
                }
                Err(error) => {
                    tracing::warn!(tube = %self.crew.fleet.shared, %error, "the lock of a task is not decided yet");
                }
            }
        }
        Ok(())
    }

    /// Step 4.
    async fn delete(&mut self) -> Result<(), LinkError> {
        let link = &mut self.link;
        self.hand.retain(|job| {
            // No number is refused.
            job.stage != Stage::Delete
                || link.push(&Command::Delete(job.number), Asked::End).is_err()
        });
        if self.link.outstanding() > 0 {
            self.exchange().await?;
        }
        Ok(())
    }

    /// Waits for something and keeps what is in hand.
    async fn touching<T>(&mut self, what: impl Future<Output = T>) -> Result<T, LinkError> {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                biased;
                done = &mut what => return Ok(done),
                () = tokio::time::sleep_until(self.touched + TOUCH_EVERY) => {
                    for job in &self.hand {
                        self.link.push(&Command::Touch(job.number), Asked::Touch(job.number))?;
                    }
                    self.touched = Instant::now();
                    self.exchange().await?;
                }
            }
        }
    }
}
