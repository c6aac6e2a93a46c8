//! The index of dead letters: cursors in order, of all tubes and of each, and what stands behind them.
//!
//! All its keys share one hash tag, so that one script may change them on a cluster as well. A cursor is a time in
//! microseconds, or one more than the last: an index that lost everything never gives a cursor out again for another letter.

use std::fmt;
use std::sync::Arc;

use super::Shared;
use super::link::Reply;
use super::marks::Call;
use super::wire::Lua;
use crate::dedup::{DeadEntry, DeadIndex, StoreDown};
use crate::engine::BoxFuture;
use crate::message::Id;
use crate::name::Name;
use crate::time::WallTime;

/// Keys: entries, cursors by task, all cursors, cursors of the tube, the last cursor. Arguments: the task, its entry, the time.
static PUT: Lua = Lua {
    hash: "2dead26c8ac7171413406190dcb48650f92b02f6",
    text: "local c = redis.call('HGET', KEYS[2], ARGV[1])
if not c then
  local n = tonumber(ARGV[3])
  local last = tonumber(redis.call('GET', KEYS[5]) or '0')
  if n <= last then n = last + 1 end
  c = string.format('%.0f', n)
  redis.call('SET', KEYS[5], c)
  redis.call('HSET', KEYS[2], ARGV[1], c)
  redis.call('ZADD', KEYS[3], c, c)
  redis.call('ZADD', KEYS[4], c, c)
end
redis.call('HSET', KEYS[1], c, ARGV[2])
return c",
};

/// Keys: entries, the cursors to list. Arguments: behind this cursor, at most so many.
static LIST: Lua = Lua {
    hash: "ff789138d9e7c19f4e3f7d3bf6412a3cd5a27bb3",
    text: "local found = {}
for _, c in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])) do
  local entry = redis.call('HGET', KEYS[1], c)
  if entry then
    found[#found + 1] = c
    found[#found + 1] = entry
  end
end
return found",
};

/// Keys: entries. Arguments: the cursor.
static GET: Lua = Lua {
    hash: "4688a0f6e1e971a14e2d596031751f0590d37a92",
    text: "return redis.call('HGET', KEYS[1], ARGV[1])",
};

/// Keys: entries, cursors by task. Arguments: the task.
static FIND: Lua = Lua {
    hash: "5bb77cd1f7c28224069f6d2eca8738789a27b23d",
    text: "local c = redis.call('HGET', KEYS[2], ARGV[1])
if not c then return false end
return {c, redis.call('HGET', KEYS[1], c)}",
};

/// Keys: entries, cursors by task, all cursors. Arguments: the cursor, what the key of a tube begins with (same hash tag).
static REMOVE: Lua = Lua {
    hash: "f7ed80f1aa7cac0f8cf8c950c0243ed9646c3ed2",
    text: "local entry = redis.call('HGET', KEYS[1], ARGV[1])
if not entry then return 0 end
local tube, id = string.match(entry, '^([^\\n]*)\\n([^\\n]*)\\n')
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], tube .. '\\n' .. id)
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', ARGV[2] .. tube, ARGV[1])
return 1",
};

/// Keys: the cursors to count.
static COUNT: Lua = Lua {
    hash: "069031802520e6bede929a90688aa1aaeff3de25",
    text: "return redis.call('ZCARD', KEYS[1])",
};

/// Keys: the tubes that are whole. Arguments: tubes. Answers those that are not.
static DOUBTED: Lua = Lua {
    hash: "921ae212257e4132eff701fe9a4f18750b6fd791",
    text: "local found = {}
for _, tube in ipairs(ARGV) do
  if redis.call('SISMEMBER', KEYS[1], tube) == 0 then found[#found + 1] = tube end
end
return found",
};

/// Keys: the tubes that are whole. Arguments: one more.
static TRUST: Lua = Lua {
    hash: "f4d24541261242fd1be161c98c2e7d1a6910a6dc",
    text: "return redis.call('SADD', KEYS[1], ARGV[1])",
};

#[cfg(test)]
pub(super) static SCRIPTS: [&Lua; 8] =
    [&PUT, &LIST, &GET, &FIND, &REMOVE, &COUNT, &DOUBTED, &TRUST];

pub(super) struct RedisDeadIndex {
    store: Arc<Shared>,
    /// Begins every key.
    head: String,
}

impl fmt::Debug for RedisDeadIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDeadIndex")
            .field("link", &self.store.link)
            .finish_non_exhaustive()
    }
}

impl RedisDeadIndex {
    pub(super) fn new(store: Arc<Shared>) -> Self {
        let head = format!("{{{}:dead}}:", store.prefix);
        Self { store, head }
    }

    fn key(&self, name: &str) -> Vec<u8> {
        format!("{}{name}", self.head).into_bytes()
    }

    fn cursors(&self, tube: Option<&Name>) -> Vec<u8> {
        match tube {
            Some(tube) => self.key(&format!("tube:{tube}")),
            None => self.key("all"),
        }
    }

    async fn call(
        &self,
        script: &Lua,
        keys: Vec<Vec<u8>>,
        args: Vec<Vec<u8>>,
    ) -> Result<Reply, StoreDown> {
        let mut replies = self.store.call(script, &[Call { keys, args }]).await;
        replies.pop().unwrap_or_else(|| Err(strange()))
    }
}

fn strange() -> StoreDown {
    StoreDown {
        why: Arc::from("the index of dead letters holds what this version does not write"),
    }
}

/// The task of an entry, as it stands at its beginning.
fn task(tube: &Name, id: Id) -> String {
    format!("{tube}\n{:032x}", id.0)
}

fn write(entry: &DeadEntry) -> Vec<u8> {
    let died = entry.died.as_nanos();
    format!("{}\n{died}\n{}", task(&entry.tube, entry.id), entry.place).into_bytes()
}

fn read(bytes: &[u8]) -> Option<DeadEntry> {
    let mut parts = std::str::from_utf8(bytes).ok()?.splitn(4, '\n');
    Some(DeadEntry {
        tube: Name::new(parts.next()?).ok()?,
        id: Id(u128::from_str_radix(parts.next()?, 16).ok()?),
        died: WallTime::from_nanos(parts.next()?.parse().ok()?),
        place: Arc::from(parts.next()?),
    })
}

fn cursor(bytes: &[u8]) -> Result<u64, StoreDown> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(strange)
}

fn both(pair: &[Reply]) -> Result<(u64, DeadEntry), StoreDown> {
    match pair {
        [Reply::Text(at), Reply::Text(entry)] => {
            Ok((cursor(at)?, read(entry).ok_or_else(strange)?))
        }
        _ => Err(strange()),
    }
}

impl DeadIndex for RedisDeadIndex {
    fn put(&self, entry: DeadEntry) -> BoxFuture<'_, Result<u64, StoreDown>> {
        Box::pin(async move {
            let micros = (entry.died.as_nanos() / 1000).max(1);
            let keys = vec![
                self.key("entries"),
                self.key("tasks"),
                self.key("all"),
                self.cursors(Some(&entry.tube)),
                self.key("last"),
            ];
            let args = vec![
                task(&entry.tube, entry.id).into_bytes(),
                write(&entry),
                micros.to_string().into_bytes(),
            ];
            match self.call(&PUT, keys, args).await? {
                Reply::Text(text) => cursor(&text),
                _ => Err(strange()),
            }
        })
    }

    fn list(
        &self,
        tube: Option<Name>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(u64, DeadEntry)>, StoreDown>> {
        Box::pin(async move {
            let keys = vec![self.key("entries"), self.cursors(tube.as_ref())];
            let args = vec![
                after.unwrap_or(0).to_string().into_bytes(),
                limit.to_string().into_bytes(),
            ];
            let Reply::List(found) = self.call(&LIST, keys, args).await? else {
                return Err(strange());
            };
            found.chunks_exact(2).map(both).collect()
        })
    }

    fn find(
        &self,
        tube: Name,
        id: Id,
    ) -> BoxFuture<'_, Result<Option<(u64, DeadEntry)>, StoreDown>> {
        Box::pin(async move {
            let keys = vec![self.key("entries"), self.key("tasks")];
            let args = vec![task(&tube, id).into_bytes()];
            match self.call(&FIND, keys, args).await? {
                Reply::Nil => Ok(None),
                Reply::List(found) => both(&found).map(Some),
                _ => Err(strange()),
            }
        })
    }

    fn get(&self, cursor: u64) -> BoxFuture<'_, Result<Option<DeadEntry>, StoreDown>> {
        Box::pin(async move {
            let args = vec![cursor.to_string().into_bytes()];
            match self.call(&GET, vec![self.key("entries")], args).await? {
                Reply::Nil => Ok(None),
                Reply::Text(entry) => read(&entry).map(Some).ok_or_else(strange),
                _ => Err(strange()),
            }
        })
    }

    fn remove(&self, cursor: u64) -> BoxFuture<'_, Result<bool, StoreDown>> {
        Box::pin(async move {
            let keys = vec![self.key("entries"), self.key("tasks"), self.key("all")];
            let args = vec![cursor.to_string().into_bytes(), self.key("tube:")];
            Ok(self.call(&REMOVE, keys, args).await? == Reply::Int(1))
        })
    }

    fn doubted(&self, tubes: Vec<Name>) -> BoxFuture<'_, Result<Vec<Name>, StoreDown>> {
        Box::pin(async move {
            let args = tubes.iter().map(|tube| tube.as_bytes().to_vec()).collect();
            let Reply::List(found) = self.call(&DOUBTED, vec![self.key("whole")], args).await?
            else {
                return Err(strange());
            };
            let is_doubted = |tube: &Name| {
                let bytes = tube.as_bytes();
                found
                    .iter()
                    .any(|one| matches!(one, Reply::Text(text) if text == bytes))
            };
            Ok(tubes.into_iter().filter(is_doubted).collect())
        })
    }

    fn trust(&self, tube: Name) -> BoxFuture<'_, Result<(), StoreDown>> {
        Box::pin(async move {
            let args = vec![tube.as_bytes().to_vec()];
            match self.call(&TRUST, vec![self.key("whole")], args).await? {
                Reply::Int(_) => Ok(()),
                _ => Err(strange()),
            }
        })
    }

    fn count(&self, tube: Option<Name>) -> BoxFuture<'_, Result<u64, StoreDown>> {
        Box::pin(async move {
            let keys = vec![self.cursors(tube.as_ref())];
            match self.call(&COUNT, keys, Vec::new()).await? {
                Reply::Int(count) => Ok(u64::try_from(count).unwrap_or(0)),
                _ => Err(strange()),
            }
        })
    }
}
