//! The engine in this process: tasks and topics in memory, not durable. It defines what the other engines do, runs under
//! tokio's paused clock, and is the place for delayed tasks that need not survive the process.
//!
//! One [`Memory`] serves any number of lanes and producers; each tube and each topic has one lock, taken once for a
//! slice. What is published wakes the lanes that wait for it and nobody else.

mod alarm;
mod arena;
mod cursor;
mod dead;
mod group;
mod job;
mod order;
mod ready;
mod task_lane;
mod timer;
mod topic;
mod topic_lane;
mod tube;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering as Atomic};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::engine::{
    BoxFuture, Capabilities, DeadLetters, Engine, EngineError, Outgoing, Publish, PublishError,
    Published, Receive, Rescheduled, Revoked, Subscribe, TaskId, Tasks, TopicConfig,
};
use crate::message::Message;
use crate::name::{Name, Place, Side};
use crate::time::{Clock, WallTime, hours};

use dead::Dead;
use task_lane::TaskLane;
use topic::Topic;
use topic_lane::TopicLane;
use tube::Tube;

const NAME: &str = "memory";

/// What a [`Memory`] engine is made of.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// The wall clock of due times. Under a paused runtime: [`Clock::following_tokio`].
    pub clock: Clock,
    /// How topics are kept, by name.
    pub topics: HashMap<Name, TopicConfig>,
    /// How every other topic is kept.
    pub topic: TopicConfig,
    /// How long the id of a named task stays known after the task is done, by tube.
    pub keeps: HashMap<Name, Duration>,
    /// As long in every other tube.
    pub keep: Duration,
    /// Whether tasks are held to the size that every engine takes.
    pub portable: bool,
    /// How often a lane that waits for a due time looks at the clock, which somebody may have stepped.
    pub look: Duration,
}

impl MemoryConfig {
    /// Topics of eight partitions kept for seven days, ids of named tasks known for 24 hours, a look at the clock each second.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            topics: HashMap::new(),
            topic: TopicConfig::default(),
            keeps: HashMap::new(),
            keep: hours(24),
            portable: true,
            look: Duration::from_secs(1),
        }
    }
}

/// The engine in this process. Cloning shares it.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: MemoryConfig,
    tubes: Mutex<HashMap<Name, Arc<Tube>>>,
    topics: Mutex<HashMap<Name, Arc<Topic>>>,
    dead: Dead,
    epochs: AtomicU32,
    closed: AtomicBool,
    hash: foldhash::fast::RandomState,
}

fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl Memory {
    /// An empty engine with the defaults of [`MemoryConfig::new`].
    pub fn new(clock: Clock) -> Self {
        Self::with(MemoryConfig::new(clock))
    }

    /// An empty engine.
    pub fn with(config: MemoryConfig) -> Self {
        Self(Arc::new(Shared {
            config,
            tubes: Mutex::default(),
            topics: Mutex::default(),
            dead: Dead::default(),
            epochs: AtomicU32::new(1),
            closed: AtomicBool::new(false),
            hash: foldhash::fast::RandomState::default(),
        }))
    }

    /// Takes out of a tube everything that has not started, what may start first, then what waits by due time: for a
    /// program that stops and wants to run or keep elsewhere what would end with it.
    pub fn drain(&self, tube: &Name) -> Vec<Message> {
        let found = lock(&self.0.tubes).get(tube).cloned();
        found.map_or_else(Vec::new, |tube| {
            tube.lock().drain(self.0.config.clock.now())
        })
    }

    /// Ends every lease of a place, as if all its consumers had lost their connection: for fault tests. Each lane hears
    /// `Lost` and goes on; what was in hand counts as started and is delivered again.
    pub fn cut(&self, place: &Place) {
        self.0.cut(place);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("tubes", &lock(&self.0.tubes).keys().collect::<Vec<_>>())
            .field("topics", &lock(&self.0.topics).keys().collect::<Vec<_>>())
            .finish()
    }
}

impl Shared {
    fn tube(&self, name: &Name) -> Arc<Tube> {
        let mut tubes = lock(&self.tubes);
        if let Some(tube) = tubes.get(name) {
            return Arc::clone(tube);
        }
        Arc::clone(tubes.entry(name.clone()).or_default())
    }

    fn topic(&self, name: &Name) -> Arc<Topic> {
        let mut topics = lock(&self.topics);
        if let Some(topic) = topics.get(name) {
            return Arc::clone(topic);
        }
        let config = self
            .config
            .topics
            .get(name)
            .unwrap_or(&self.config.topic)
            .clone();
        let topic = Arc::new(Topic::new(config));
        topics.insert(name.clone(), Arc::clone(&topic));
        topic
    }

    fn next_epoch(&self) -> u32 {
        self.epochs.fetch_add(1, Atomic::Relaxed)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Atomic::Acquire)
    }

    /// Stores a slice. A run of one place is stored under one lock.
    fn accept(&self, slice: Vec<Outgoing>) -> Vec<Result<Published, PublishError>> {
        let mut answers = Vec::with_capacity(slice.len());
        if self.is_closed() {
            answers.resize_with(slice.len(), || Err(PublishError::Closed { engine: NAME }));
            return answers;
        }
        let now = self.config.clock.now();
        let mut wakers = Vec::new();
        let mut rest = slice.into_iter().peekable();
        while let Some(first) = rest.next() {
            let place = first.place.clone();
            let run = std::iter::once(first).chain(std::iter::from_fn(|| {
                rest.next_if(|out| out.place == place)
            }));
            match &place {
                Place::Tube(name) => self.put(name, run, now, &mut answers, &mut wakers),
                Place::Topic(name) => self.push(name, run, now, &mut answers, &mut wakers),
            }
        }
        wake(wakers);
        answers
    }

    fn put(
        &self,
        name: &Name,
        run: impl Iterator<Item = Outgoing>,
        now: WallTime,
        answers: &mut Vec<Result<Published, PublishError>>,
        wakers: &mut Vec<Waker>,
    ) {
        let tube = self.tube(name);
        let mut tasks = tube.lock();
        tasks.forget(now);
        let armed = tasks.next_due();
        answers.extend(run.map(|out| {
            out.check_size(self.config.portable)?;
            tasks.put(out, now)
        }));
        let due = tasks.next_due();
        // Lanes that wait look at the ready tasks, and arm their timers for an earlier one.
        if !tasks.is_idle() || due.is_some_and(|due| armed.is_none_or(|armed| due < armed)) {
            tasks.wake_idle(None, wakers);
        }
    }
}

impl Shared {
    fn push(
        &self,
        name: &Name,
        run: impl Iterator<Item = Outgoing>,
        now: WallTime,
        answers: &mut Vec<Result<Published, PublishError>>,
        wakers: &mut Vec<Waker>,
    ) {
        let topic = self.topic(name);
        let mut log = topic.lock();
        answers.extend(run.map(|out| {
            out.check_size(self.config.portable)?;
            log.push(out, now)
        }));
        log.retain(now);
        log.wake_readers(wakers);
    }

    /// Ends all leases of a place.
    fn cut(&self, place: &Place) {
        let mut wakers = Vec::new();
        match place {
            Place::Tube(name) => {
                let tube = self.tube(name);
                let mut tasks = tube.lock();
                tasks.cut(|| self.next_epoch());
                tasks.wake_all(&mut wakers);
            }
            Place::Topic(name) => {
                let topic = self.topic(name);
                let mut log = topic.lock();
                for group in &mut log.groups {
                    group.cut(&mut || self.next_epoch(), &mut wakers);
                }
            }
        }
        wake(wakers);
    }
}

impl Engine for Memory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self, side: Side) -> Capabilities {
        let tasks = side == Side::Tasks;
        Capabilities {
            supported: true,
            redeliver: tasks,
            dead_letter: true,
            delayed: tasks,
            priority: tasks,
            log: !tasks,
            durable: false,
            fenced: true,
        }
    }

    fn subscribe<'a>(
        &'a self,
        to: &'a Subscribe,
    ) -> BoxFuture<'a, Result<Box<dyn Receive>, EngineError>> {
        Box::pin(async move {
            if self.0.is_closed() {
                return Err(EngineError::Closed { engine: NAME });
            }
            match &to.place {
                Place::Tube(name) => {
                    let lane = TaskLane::open(Arc::clone(&self.0), self.0.tube(name), to);
                    Ok(Box::new(lane) as Box<dyn Receive>)
                }
                Place::Topic(name) => {
                    let Some(group) = to.group.clone() else {
                        let what = format!("read {} without a consumer group", to.place);
                        return Err(EngineError::Unsupported { engine: NAME, what });
                    };
                    let lane = TopicLane::open(Arc::clone(&self.0), self.0.topic(name), group, to);
                    Ok(Box::new(lane) as Box<dyn Receive>)
                }
            }
        })
    }

    fn publisher(&self) -> Arc<dyn Publish> {
        Arc::clone(&self.0) as Arc<dyn Publish>
    }

    fn tasks(&self) -> Option<Arc<dyn Tasks>> {
        Some(Arc::clone(&self.0) as Arc<dyn Tasks>)
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::clone(&self.0) as Arc<dyn DeadLetters>)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.0.closed.store(true, Atomic::Release);
        Box::pin(async { Ok(()) })
    }
}

impl Publish for Shared {
    fn publish(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<Published, PublishError>>> {
        Box::pin(async move { self.accept(slice) })
    }
}

impl Tasks for Shared {
    fn revoke(&self, tasks: Vec<TaskId>) -> BoxFuture<'_, Vec<Result<Revoked, EngineError>>> {
        Box::pin(async move {
            let now = self.config.clock.now();
            let revoke = |task: &TaskId| {
                let tube = lock(&self.tubes).get(task.tube()).cloned();
                tube.map_or(Revoked::Unknown, |tube| tube.lock().revoke(task.id(), now))
            };
            tasks.iter().map(|task| Ok(revoke(task))).collect()
        })
    }

    fn reschedule(
        &self,
        tasks: Vec<(TaskId, WallTime)>,
    ) -> BoxFuture<'_, Vec<Result<Rescheduled, EngineError>>> {
        Box::pin(async move {
            let now = self.config.clock.now();
            let mut wakers = Vec::new();
            let mut reschedule = |task: &TaskId, due: WallTime| {
                let Some(tube) = lock(&self.tubes).get(task.tube()).cloned() else {
                    return Rescheduled::Unknown;
                };
                let mut tasks = tube.lock();
                let armed = tasks.next_due();
                let answer = tasks.reschedule(task.id(), due, now);
                if due <= now || armed.is_none_or(|armed| due < armed) {
                    tasks.wake_idle(None, &mut wakers);
                }
                answer
            };
            let answers = tasks
                .iter()
                .map(|(task, due)| Ok(reschedule(task, *due)))
                .collect();
            wake(wakers);
            answers
        })
    }
}
