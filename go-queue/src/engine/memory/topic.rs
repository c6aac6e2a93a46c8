//! One topic: its partitions, how long they are kept, and the groups that read them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::engine::{DeadLetter, Outgoing, PublishError, Published, Start, TopicConfig};
use crate::message::{Flags, Message, partition};
use crate::name::Name;
use crate::time::WallTime;

use super::arena::Arena;
use super::group::Group;

/// Age is looked at so often.
const RETENTION_PACE: Duration = Duration::from_secs(1);

/// A topic, shared by its members and producers.
#[derive(Debug)]
pub(super) struct Topic(Mutex<Log>);

impl Topic {
    pub(super) fn new(config: TopicConfig) -> Self {
        Self(Mutex::new(Log::new(config)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Log> {
        // Nothing in here panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(super) struct Partition {
    first: i64,
    records: VecDeque<Message>,
    /// Records of one partition are read and removed together.
    arena: Arena,
    /// Whether this slice has added to it.
    touched: bool,
}

impl Partition {
    /// The offset of the next record.
    pub(super) fn end(&self) -> i64 {
        self.first + i64::try_from(self.records.len()).unwrap_or(i64::MAX)
    }

    pub(super) fn record(&self, offset: i64) -> Option<&Message> {
        self.records.get(usize::try_from(offset - self.first).ok()?)
    }
}

#[derive(Debug)]
pub(super) struct Log {
    config: TopicConfig,
    pub(super) partitions: Vec<Partition>,
    names: HashMap<Name, usize>,
    pub(super) groups: Vec<Group>,
    /// The partition of the next record without a key.
    turn: u32,
    bytes: u64,
    age_checked: WallTime,
}

impl Log {
    fn new(config: TopicConfig) -> Self {
        let partitions = (0..config.partitions.max(1))
            .map(|_| Partition::default())
            .collect();
        Self {
            config,
            partitions,
            names: HashMap::new(),
            groups: Vec::new(),
            turn: 0,
            bytes: 0,
            age_checked: WallTime::EPOCH,
        }
    }

    /// The number of a group, which begins at `start` if it is new.
    pub(super) fn group(&mut self, name: &Name, start: Start) -> usize {
        if let Some(&group) = self.names.get(name) {
            return group;
        }
        let group = Group::new(self.partitions.iter().map(|partition| match start {
            Start::First => partition.first,
            Start::Last => partition.end(),
        }));
        self.names.insert(name.clone(), self.groups.len());
        self.groups.push(group);
        self.groups.len() - 1
    }

    /// Appends a record.
    ///
    /// # Errors
    /// If it is to be delayed.
    pub(super) fn push(&mut self, out: Outgoing, now: WallTime) -> Result<Published, PublishError> {
        if out.due > now {
            let what = format!("delay a record of {}: send a task instead", out.place);
            return Err(PublishError::Unsupported {
                engine: super::NAME,
                what,
            });
        }
        let count = u32::try_from(self.partitions.len()).unwrap_or(u32::MAX);
        let number = if out.flags.contains(Flags::NULL_KEY) {
            self.turn = (self.turn + 1) % count;
            self.turn
        } else {
            partition::of_key(out.body.key(), count)
        };
        let place = &mut self.partitions[number as usize];
        let offset = place.end();
        self.bytes += out.body.len() as u64;
        place.touched = true;
        place.records.push_back(Message {
            id: out.id,
            body: place.arena.place(out.body),
            attempt: 1,
            place: number,
            offset,
            at: now,
            due: now,
            flags: out.flags,
            content: out.content,
        });
        Ok(Published {
            id: out.id,
            existed: false,
            token: None,
            partition: number,
            offset,
        })
    }

    /// Wakes who holds what this slice has added to.
    pub(super) fn wake_readers(&mut self, wakers: &mut Vec<Waker>) {
        for (number, partition) in self.partitions.iter_mut().enumerate() {
            if std::mem::take(&mut partition.touched) {
                self.groups
                    .iter_mut()
                    .for_each(|group| group.wake_owner(number, wakers));
            }
        }
    }

    /// Removes what is older or more than is to be kept. Cheap if nothing is.
    pub(super) fn retain(&mut self, now: WallTime) {
        if let Some(age) = self.config.age
            && (now.since(self.age_checked) >= RETENTION_PACE || now < self.age_checked)
        {
            self.age_checked = now;
            for number in 0..self.partitions.len() {
                let limit = self.removable(number);
                let old = |record: &Message| now.since(record.at) > age;
                while self.partitions[number]
                    .records
                    .front()
                    .is_some_and(|record| record.offset < limit && old(record))
                {
                    self.remove_first(number);
                }
            }
        }
        while self.config.size.is_some_and(|size| self.bytes > size) {
            let removable = |number: &usize| {
                let first = self.partitions[*number].records.front();
                first.is_some_and(|record| record.offset < self.removable(*number))
            };
            let oldest = (0..self.partitions.len())
                .filter(removable)
                .min_by_key(|number| {
                    self.partitions[*number]
                        .records
                        .front()
                        .map(|record| record.at)
                });
            let Some(oldest) = oldest else { break };
            self.remove_first(oldest);
        }
    }

    /// Below which offset records of a partition may go.
    fn removable(&self, number: usize) -> i64 {
        let limits = self
            .groups
            .iter()
            .map(|group| group.cursors[number].may_remove_below(self.config.drop_unread));
        limits.min().unwrap_or(i64::MAX)
    }

    fn remove_first(&mut self, number: usize) {
        let partition = &mut self.partitions[number];
        if let Some(record) = partition.records.pop_front() {
            partition.first += 1;
            self.bytes -= record.body.len() as u64;
            let first = partition.first;
            self.groups
                .iter_mut()
                .for_each(|group| group.cursors[number].skip_to(first));
        }
    }

    /// Makes a dead letter deliverable again, to its group only.
    pub(super) fn replay(&mut self, letter: DeadLetter, message: Message, wakers: &mut Vec<Waker>) {
        let group = letter.group.and_then(|name| self.names.get(&name).copied());
        if let Some(group) = group.and_then(|group| self.groups.get_mut(group)) {
            let partition = message.place as usize;
            group.cursors[partition].replay(message);
            group.wake_owner(partition, wakers);
        }
    }
}
