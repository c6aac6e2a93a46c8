//! Marks: read what is there, decide, and replace exactly that; who was overtaken decides again.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::Pipeline;

use super::Shared;
use super::dead_index::RedisDeadIndex;
use super::link::{Outage, Reply};
use super::value::{Change, marked};
use super::wire::{EXTEND, GO_LOCK, GO_LOCK_MS, KeyForm, Keys, Lua, SWAP, millis};
use crate::dedup::{DeadIndex, GoLock, GoLocked, GoLocks, Mark, MarkWhat, Marks, StoreDown, Told};
use crate::engine::BoxFuture;
use crate::message::Id;

/// How often a mark may be overtaken. A key changes a few times in the life of a task.
const ROUNDS: u32 = 12;

pub(super) struct RedisMarks {
    store: Arc<Shared>,
    /// Tubes with keys of the Go library.
    go_tubes: HashSet<String>,
}

impl fmt::Debug for RedisMarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisMarks")
            .field("link", &self.store.link)
            .finish_non_exhaustive()
    }
}

impl RedisMarks {
    pub(super) fn new(store: Arc<Shared>, go_tubes: HashSet<String>) -> Self {
        Self { store, go_tubes }
    }

    async fn mark_all(&self, marks: Vec<Mark>) -> Vec<Result<Told, StoreDown>> {
        let mut open: Vec<Open> = marks.into_iter().map(|mark| self.begin(mark)).collect();
        let mut whole = false;
        for _ in 0..ROUNDS {
            let asked: Vec<usize> = (0..open.len())
                .filter(|&at| open[at].answer.is_none())
                .collect();
            if asked.is_empty() {
                break;
            }
            let swap = std::mem::take(&mut whole);
            let request = self.store.link.request(|now| {
                let now = now.earliest;
                let mut pipeline = Pipeline::with_capacity(asked.len());
                for &at in &asked {
                    open[at].send(now, swap, &mut pipeline);
                }
                pipeline
            });
            match request.await {
                Ok(replies) => {
                    for (&at, reply) in asked.iter().zip(replies) {
                        whole |= reply == Reply::NoScript;
                        open[at].take(reply);
                    }
                }
                Err(outage) => {
                    let down = StoreDown::from(outage);
                    for &at in &asked {
                        open[at].answer = Some(Err(down.clone()));
                    }
                }
            }
        }
        open.into_iter()
            .map(|open| {
                open.answer
                    .unwrap_or_else(|| Err(down("the key never stood still")))
            })
            .collect()
    }

    fn begin(&self, mark: Mark) -> Open {
        let go = self.go_tubes.contains(mark.tube.as_str());
        let (form, least) = if go {
            (KeyForm::GoQueue, GO_LOCK_MS)
        } else {
            (KeyForm::Native, 1)
        };
        let keys = Keys::new(&self.store.prefix, &mark.tube, form);
        Open {
            key: keys.of(mark.id),
            generation: keys.generation(mark.id),
            id: mark.id,
            keys,
            // A name is rarely used twice: the first guess is that nothing is there.
            known: match mark.what {
                MarkWhat::Announce { .. } => Known::Nothing,
                _ => Known::Unread,
            },
            what: mark.what,
            keep: millis(mark.keep).max(least),
            now: 0,
            tried: None,
            answer: None,
        }
    }
}

/// What stands under a key.
enum Known {
    Unread,
    Nothing,
    Value(Vec<u8>),
}

impl Known {
    fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Value(value) => Some(value),
            Self::Unread | Self::Nothing => None,
        }
    }
}

/// A mark that is being set.
struct Open {
    keys: Keys,
    key: Vec<u8>,
    id: Id,
    generation: u16,
    what: MarkWhat,
    /// In milliseconds.
    keep: u64,
    /// The time of Redis when it was last asked.
    now: u64,
    /// What stands there, as far as known.
    known: Known,
    /// What will be the answer if nobody was faster.
    tried: Option<Told>,
    answer: Option<Result<Told, StoreDown>>,
}

impl Open {
    fn send(&mut self, now: u64, whole: bool, to: &mut Pipeline) {
        self.now = now;
        let decided = match self.known {
            Known::Unread => Change::None,
            Known::Nothing | Known::Value(_) => {
                let (told, change) = self.decide(self.known.value(), now);
                self.tried = Some(told);
                change
            }
        };
        let new = match decided {
            Change::Write(new) => new,
            Change::Remove => Vec::new(),
            // Not read yet, or nothing to do any more: a lease has ended since.
            Change::None => {
                self.tried = None;
                to.cmd("GET").arg(&self.key);
                return;
            }
        };
        let mut command = SWAP.call(whole, 1);
        command
            .arg(&self.key)
            .arg(self.known.value().unwrap_or_default())
            .arg(new)
            .arg(self.keep);
        to.add_command(command);
    }

    fn take(&mut self, reply: Reply) {
        match (reply, self.tried.take()) {
            (Reply::Int(_), Some(answer)) => self.answer = Some(Ok(answer)),
            (Reply::Text(value), Some(_)) if value.is_empty() => self.found(Known::Nothing),
            (Reply::Text(value), _) => self.found(Known::Value(value)),
            (Reply::Nil, None) => self.found(Known::Nothing),
            (Reply::NoScript, _) => {}
            (Reply::Refused(why), _) => self.answer = Some(Err(StoreDown { why })),
            _ => self.answer = Some(Err(down("Redis answered something else than was asked"))),
        }
    }

    /// This stands there now. A mark that changes nothing is answered by that.
    fn found(&mut self, known: Known) {
        if let (told, Change::None) = self.decide(known.value(), self.now) {
            self.answer = Some(Ok(told));
        }
        self.known = known;
    }

    fn decide(&self, value: Option<&[u8]>, now: u64) -> (Told, Change) {
        let (marked, change, generation) = marked(&self.what, self.generation, value, now);
        let id = self.keys.in_generation(self.id, generation);
        (Told { marked, id }, change)
    }
}

fn down(why: &str) -> StoreDown {
    StoreDown { why: why.into() }
}

impl From<Outage> for StoreDown {
    fn from(outage: Outage) -> Self {
        Self {
            why: outage.fault.to_string().into(),
        }
    }
}

impl Shared {
    /// Runs one script for each of these arguments, as one request.
    pub(super) async fn call(&self, script: &Lua, calls: &[Call]) -> Vec<Result<Reply, StoreDown>> {
        let mut replies: Vec<Option<Reply>> = vec![None; calls.len()];
        for whole in [false, true] {
            let open: Vec<usize> = (0..calls.len())
                .filter(|&at| matches!(replies[at], None | Some(Reply::NoScript)))
                .collect();
            if open.is_empty() {
                break;
            }
            let request = self.link.request(|_| {
                let mut pipeline = Pipeline::with_capacity(open.len());
                for &at in &open {
                    let Call { keys, args } = &calls[at];
                    let mut command = script.call(whole, keys.len());
                    command.arg(keys).arg(args);
                    pipeline.add_command(command);
                }
                pipeline
            });
            match request.await {
                Ok(answers) => {
                    for (at, answer) in open.into_iter().zip(answers) {
                        replies[at] = Some(answer);
                    }
                }
                Err(outage) => {
                    let down = StoreDown::from(outage);
                    return calls.iter().map(|_| Err(down.clone())).collect();
                }
            }
        }
        replies
            .into_iter()
            .map(|reply| match reply {
                Some(Reply::Refused(why)) => Err(StoreDown { why }),
                Some(Reply::NoScript | Reply::NoGet) | None => {
                    Err(down("Redis does not take scripts"))
                }
                Some(reply) => Ok(reply),
            })
            .collect()
    }
}

/// Keys and arguments of one call of a script.
pub(super) struct Call {
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) args: Vec<Vec<u8>>,
}

impl Marks for RedisMarks {
    fn mark(&self, marks: Vec<Mark>) -> BoxFuture<'_, Vec<Result<Told, StoreDown>>> {
        Box::pin(self.mark_all(marks))
    }

    fn dead_index(&self) -> Arc<dyn DeadIndex> {
        Arc::new(RedisDeadIndex::new(Arc::clone(&self.store)))
    }

    fn go_locks(&self) -> Option<Arc<dyn GoLocks>> {
        Some(Arc::new(RedisGoLocks(Arc::clone(&self.store))))
    }
}

/// The locks of the Go library.
struct RedisGoLocks(Arc<Shared>);

impl fmt::Debug for RedisGoLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisGoLocks").field(&self.0.link).finish()
    }
}

impl RedisGoLocks {
    async fn run(
        &self,
        script: &Lua,
        locks: Vec<GoLock>,
        time: u64,
    ) -> Vec<Result<GoLocked, StoreDown>> {
        let keys = Keys::new("", "", KeyForm::GoQueue);
        let calls: Vec<Call> = locks
            .into_iter()
            .map(|lock| Call {
                keys: vec![keys.of(lock.id)],
                args: vec![lock.claim.to_vec(), time.to_string().into_bytes()],
            })
            .collect();
        let replies = self.0.call(script, &calls).await;
        replies
            .into_iter()
            .map(|reply| {
                Ok(match reply? {
                    Reply::Ok | Reply::Int(1) => GoLocked::Ours,
                    Reply::Text(text) if text == b"OK" => GoLocked::Ours,
                    _ => GoLocked::Theirs,
                })
            })
            .collect()
    }
}

impl GoLocks for RedisGoLocks {
    fn lock(&self, locks: Vec<GoLock>) -> BoxFuture<'_, Vec<Result<GoLocked, StoreDown>>> {
        Box::pin(self.run(&GO_LOCK, locks, GO_LOCK_MS))
    }

    fn keep(
        &self,
        locks: Vec<GoLock>,
        keep: Duration,
    ) -> BoxFuture<'_, Vec<Result<GoLocked, StoreDown>>> {
        Box::pin(self.run(&EXTEND, locks, millis(keep).max(GO_LOCK_MS)))
    }
}
