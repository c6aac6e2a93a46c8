//! Claims and marks on Redis, for engines whose nodes know nothing of each other.
//!
//! One key for each task says what became of it ([`value`](self) in the source has the table). A run takes the key with one plain
//! command and says that it is done with another; everything rare (a retry, a takeover, a revocation) compares and sets in a
//! script. Times are those of Redis. Nothing here waits for Redis on the way of a message: a lane's end sends one request for all
//! asks of a turn and takes the answers when they have come, and while Redis is away asks are answered at once.

mod command;
mod config;
mod dead_index;
mod end;
mod fault;
mod link;
mod machine;
mod marks;
#[cfg(test)]
pub(crate) mod tests;
mod value;
mod wire;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::end::RedisEnd;
use self::link::Link;
use self::machine::{Machine, Purpose};
use self::marks::RedisMarks;
use self::wire::{Encoder, GO_LOCK_MS, Keys, millis};
use super::{Claims, Marks};
use crate::message::Id;
use crate::name::Name;

pub use config::{RedisConfig, RedisConfigError, RedisKind};
pub use fault::RedisFault;
pub use wire::KeyForm;

/// A dedup store on Redis: one for each process. Cloning shares it.
#[derive(Clone)]
pub struct RedisStore(Arc<Shared>);

/// What the parts of a store share.
struct Shared {
    link: Arc<Link>,
    prefix: String,
    lease: Duration,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.link.end();
    }
}

/// What an end of the store is for.
#[derive(Clone, Debug)]
pub struct RedisScope {
    /// Ids are told apart within a scope: the tube, or the topic with its group.
    pub scope: String,
    /// How keys are made.
    pub form: KeyForm,
    /// How long what is done stays known.
    pub keep: Duration,
    /// Whether a message has replicas. If so they are kept from starting while its dead letter is written, until the engine
    /// says [`MarkWhat::Dead`](super::MarkWhat::Dead); if not, a claim that ends in the dead letters is simply gone.
    pub replicas: bool,
}

impl RedisStore {
    /// A store. It connects when it is first asked, and again whenever it must.
    ///
    /// # Errors
    /// Only what is wrong with the configuration itself. Whether Redis answers is what [`check`](Self::check) says.
    pub fn open(config: RedisConfig) -> Result<Self, RedisConfigError> {
        let dialer = config.dialer()?;
        Ok(Self(Arc::new(Shared {
            prefix: config.prefix.clone(),
            lease: config.lease,
            link: Link::new(config, dialer),
        })))
    }

    /// An end for one lane. An end that is dropped frees its claims; their starts stay counted.
    pub fn end(&self, scope: &RedisScope) -> Box<dyn Claims> {
        let least = match scope.form {
            KeyForm::Native => 0,
            KeyForm::GoQueue => GO_LOCK_MS,
        };
        // 62 of the bits are random; the rest is zero.
        let nonce: Arc<str> = format!("{:016x}", Id::unique().0 & u128::from(u64::MAX)).into();
        let keep = millis(scope.keep).max(least).max(1);
        let encoder = Encoder {
            keys: Keys::new(&self.0.prefix, &scope.scope, scope.form),
            nonce: Arc::clone(&nonce),
            lease: self.0.lease,
            keep,
            hold: keep.max(GO_LOCK_MS).max(4 * millis(self.0.lease)),
        };
        let purpose = Purpose {
            lease: self.0.lease,
            keep: Duration::from_millis(keep),
            names: scope.form == KeyForm::Native,
            replicas: scope.replicas,
        };
        let machine = Machine::new(purpose, nonce);
        Box::new(RedisEnd::new(Arc::clone(&self.0), encoder, machine))
    }

    /// The marks, for an engine. The tubes named here are those whose keys are made as the Go library makes them.
    pub fn marks(&self, go_tubes: impl IntoIterator<Item = Name>) -> Arc<dyn Marks> {
        let go_tubes: HashSet<String> = go_tubes
            .into_iter()
            .map(|name| name.as_str().to_owned())
            .collect();
        Arc::new(RedisMarks::new(Arc::clone(&self.0), go_tubes))
    }

    /// What is wrong with Redis now, if anything: for readiness and for a start that insists on it.
    ///
    /// # Errors
    /// What is in the way, in words for people. Neither user nor password is among them.
    pub async fn check(&self) -> Result<(), RedisFault> {
        self.0.link.check().await
    }

    /// Ends the store after what dropped ends still had to say was said, at most `within`. Answers whether all was said; what
    /// was not is settled by the end of leases. Whoever asks afterwards is told that the store is down.
    pub async fn close(&self, within: Duration) -> bool {
        self.0.link.close(within).await
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisStore").field(&self.0.link).finish()
    }
}
