//! Keys, scripts, and the commands of a claim as they go to Redis.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Pipeline};

use super::command::{Command, End, Step};
use super::link::Reading;
use super::value::{Standing, Value, owner};
use crate::message::Id;

/// How long the Go library keeps its locks in milliseconds. Whatever replaces a lock lives at least as long.
pub(super) const GO_LOCK_MS: u64 = 3_600_500;

/// How the key of a task is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyForm {
    /// `<prefix>:<scope>:<id as 32 hex digits>`; all generations of a name have one.
    #[default]
    Native,
    /// The id as 32 hex digits and nothing else: the MD5 of the job, as workers of the Go library make it.
    GoQueue,
}

/// Makes the keys of one scope.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    head: Vec<u8>,
    form: KeyForm,
}

impl Keys {
    pub(super) fn new(prefix: &str, scope: &str, form: KeyForm) -> Self {
        let head = match form {
            KeyForm::Native => format!("{prefix}:{scope}:").into_bytes(),
            KeyForm::GoQueue => Vec::new(),
        };
        Self { head, form }
    }

    /// The generation of a task, among those that share its key.
    pub(super) fn generation(&self, id: Id) -> u16 {
        match self.form {
            KeyForm::Native => id.generation(),
            KeyForm::GoQueue => 0,
        }
    }

    /// The id of the task of this generation that shares the key of this one.
    pub(super) fn in_generation(&self, id: Id, generation: u16) -> Id {
        match self.form {
            KeyForm::Native => id.in_generation(generation),
            KeyForm::GoQueue => id,
        }
    }

    pub(super) fn of(&self, id: Id) -> Vec<u8> {
        let id = self.in_generation(id, 0);
        let mut key = Vec::with_capacity(self.head.len() + 32);
        key.extend_from_slice(&self.head);
        for byte in id.0.to_be_bytes() {
            for half in [byte >> 4, byte & 15] {
                key.push(b"0123456789abcdef"[usize::from(half)]);
            }
        }
        key
    }
}

/// A script with its SHA-1, by which Redis knows it.
pub(super) struct Lua {
    pub(super) text: &'static str,
    pub(super) hash: &'static str,
}

impl Lua {
    /// Begins a call. `whole` sends the text, which Redis then knows by its digest.
    pub(super) fn call(&self, whole: bool, keys: usize) -> Cmd {
        let mut command = if whole {
            let mut command = Cmd::with_capacity(8, self.text.len() + 256);
            command.arg("EVAL").arg(self.text);
            command
        } else {
            let mut command = Cmd::with_capacity(8, 256);
            command.arg("EVALSHA").arg(self.hash);
            command
        };
        command.arg(keys);
        command
    }
}

/// `SET .. NX GET` for servers before 7.0. Arguments: value, milliseconds.
static ACQUIRE: Lua = Lua {
    hash: "e8b69fe8e99d54a0bfa70b3718fee6137afcced1",
    text: "local v = redis.call('GET', KEYS[1])
if not v then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return v",
};

/// How a script ends that writes its second argument for so many milliseconds as its third says. What says that earlier generations of a
/// name were revoked lives as long as was said once.
macro_rules! set_for_as_long {
    () => {
        "local px = tonumber(ARGV[3])
if string.find(ARGV[2], '^%d+~') then px = math.max(px, redis.call('PTTL', KEYS[1])) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', px)
return 1"
    };
}

/// Replaces exactly this value. Arguments: the old value (empty: none), the new one (empty: none), milliseconds. Answers 1, or
/// what is there instead.
pub(super) static SWAP: Lua = Lua {
    hash: "4c34f2d10bba37ab46389d0e18ee89144fdaabd8",
    text: concat!(
        "local v = redis.call('GET', KEYS[1]) or ''
if v ~= ARGV[1] then return v end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) return 1 end
",
        set_for_as_long!()
    ),
};

/// Replaces what this owner wrote, or nothing at all. Arguments: the owner between colons, the new value (empty: none),
/// milliseconds. Answers 1, or what is there instead.
static SETTLE: Lua = Lua {
    hash: "24125c9d8a02c64d6add1973158ac706a0311814",
    text: concat!(
        "local v = redis.call('GET', KEYS[1])
if v and not string.find(v, ARGV[1], 1, true) then return v end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) return 1 end
",
        set_for_as_long!()
    ),
};

/// That a named task is done, unless its name was sent anew since. Arguments: the generation, the value, milliseconds.
static DONE: Lua = Lua {
    hash: "e32cb18c6b6a5a243ffc781fdee728d249f22bc0",
    text: concat!(
        "local v = redis.call('GET', KEYS[1])
local newer = v and ((tonumber(string.match(v, '^(%d+)~')) or 0) - ARGV[1]) % 65536
if newer and newer > 0 and newer < 32768 then return v end
",
        set_for_as_long!()
    ),
};

/// The lock script of the Go library, byte for byte, so that both share one entry of the script cache.
pub(super) static GO_LOCK: Lua = Lua {
    hash: "dbecad63894903ddf755d05d73a3eb7432ef75c0",
    text: "if redis.call(\"GET\", KEYS[1]) == ARGV[1] then
    redis.call(\"SET\", KEYS[1], ARGV[1], \"PX\", ARGV[2])
    return \"OK\"
else
    return redis.call(\"SET\", KEYS[1], ARGV[1], \"NX\", \"PX\", ARGV[2])
end",
};

/// Lengthens the life of exactly this value. Arguments: the value, milliseconds.
pub(super) static EXTEND: Lua = Lua {
    hash: "dba8305253ce460b9d2d8605f77697d1a65c3058",
    text: "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1",
};

/// What the commands of an end have in common.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    pub(super) keys: Keys,
    /// Begins every owner token of this end.
    pub(super) nonce: Arc<str>,
    pub(super) lease: Duration,
    /// How long what is done stays known, in milliseconds.
    pub(super) keep: u64,
    /// How long a count outlives the run that it counts, in milliseconds.
    pub(super) hold: u64,
}

/// A hundred years in milliseconds: Redis refuses what ends beyond its calendar.
const CENTURY: u64 = 3_155_760_000_000;

/// In milliseconds, rounded up.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).map_or(CENTURY, |millis| millis.min(CENTURY))
}

impl Encoder {
    /// Appends a command as it goes out at `now`, by the clock of Redis.
    pub(super) fn encode(&self, command: &Command, now: Reading, get: bool, to: &mut Pipeline) {
        let key = self.keys.of(command.id);
        let generation = self.keys.generation(command.id);
        let stored = |value| Standing { generation, value }.to_vec();
        let Reading {
            earliest: now,
            latest,
        } = now;
        let owner = owner(&self.nonce, command.seq);
        let until = now.saturating_add(millis(self.lease));
        let running = |attempt| {
            stored(Value::Running {
                attempt,
                owner: &owner,
                until,
            })
        };
        let cmd = match &command.step {
            Step::Acquire if get => {
                let mut cmd = Cmd::with_capacity(7, key.len() + 96);
                cmd.arg("SET").arg(key).arg(running(1));
                cmd.arg("NX").arg("GET").arg("PX").arg(self.hold);
                cmd
            }
            Step::Acquire => {
                let mut cmd = ACQUIRE.call(command.whole, 1);
                cmd.arg(key).arg(running(1)).arg(self.hold);
                cmd
            }
            Step::Take { old, attempt } => {
                let mut cmd = SWAP.call(command.whole, 1);
                cmd.arg(key).arg(old).arg(running(*attempt)).arg(self.hold);
                cmd
            }
            Step::Renew { attempt } => self.settle(command, key, &owner, &running(*attempt), 0),
            Step::Done { .. } if command.id.is_named() => {
                let mut cmd = DONE.call(command.whole, 1);
                cmd.arg(key).arg(generation);
                let until = (generation > 0).then(|| latest.saturating_add(self.keep));
                cmd.arg(stored(Value::Done { until })).arg(self.keep);
                cmd
            }
            Step::Done { .. } => {
                let mut cmd = Cmd::with_capacity(5, key.len() + 64);
                cmd.arg("SET").arg(key).arg("D").arg("PX").arg(self.keep);
                cmd
            }
            Step::End { attempt, end, .. } | Step::Free { attempt, end, .. } => {
                let attempt = *attempt;
                let owner_text = &*owner;
                let (value, more) = match end {
                    End::Wait { after } => {
                        let after = millis(*after);
                        // What is free at once is free by every clock. What waits does so by the latest reading that our clock
                        // allows, since who asks goes by the earliest of his.
                        let not_before = if after == 0 {
                            0
                        } else {
                            latest.saturating_add(after)
                        };
                        let value = Value::Waiting {
                            attempt,
                            owner: owner_text,
                            not_before,
                        };
                        (stored(value), after)
                    }
                    End::Dying { within } => {
                        let within = millis(*within);
                        let value = Value::Dying {
                            attempt,
                            owner: owner_text,
                            until: now.saturating_add(within),
                        };
                        (stored(value), within)
                    }
                    End::Gone => (Vec::new(), 0),
                };
                self.settle(command, key, &owner, &value, more)
            }
        };
        to.add_command(cmd);
    }

    fn settle(&self, command: &Command, key: Vec<u8>, owner: &str, value: &[u8], more: u64) -> Cmd {
        let mut cmd = SETTLE.call(command.whole, 1);
        cmd.arg(key)
            .arg(format!(":{owner}:"))
            .arg(value)
            .arg(self.hold.saturating_add(more));
        cmd
    }
}

#[cfg(test)]
mod tests {
    use super::super::dead_index;
    use super::*;

    #[test]
    fn keys_are_those_of_the_go_library_where_asked() {
        let id = Id(0x7738_a7b9_4f1f_d27f_9ea7_d0c0_5bcd_d423);
        let raw = Keys::new("gq", "reminders", KeyForm::GoQueue).of(id);
        assert_eq!(raw, b"7738a7b94f1fd27f9ea7d0c05bcdd423");
        let native = Keys::new("gq", "reminders", KeyForm::Native).of(Id(10));
        assert_eq!(native, b"gq:reminders:0000000000000000000000000000000a");
    }

    #[test]
    fn scripts_are_known_by_their_digests() {
        let all = [&ACQUIRE, &SWAP, &SETTLE, &DONE, &GO_LOCK, &EXTEND];
        for script in all.into_iter().chain(dead_index::SCRIPTS) {
            let hash = redis::Script::new(script.text);
            assert_eq!(script.hash, hash.get_hash(), "{}", script.text);
        }
    }

    #[test]
    fn the_lock_script_is_the_one_of_the_go_library() {
        assert_eq!(GO_LOCK.text.len(), 193);
        assert_eq!(GO_LOCK.hash, "dbecad63894903ddf755d05d73a3eb7432ef75c0");
    }
}
