//! Accepted tasks: their names, and how they are taken back or moved.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{BoxFuture, EngineError, Published};
use crate::message::Id;
use crate::name::Name;
use crate::time::WallTime;

/// Changes to tasks that have not started.
pub trait Tasks: Send + Sync {
    /// Takes tasks back. One truth for each, in order.
    fn revoke(&self, tasks: Vec<TaskId>) -> BoxFuture<'_, Vec<Result<Revoked, EngineError>>>;

    /// Moves tasks to another time. One truth for each, in order.
    fn reschedule(
        &self,
        tasks: Vec<(TaskId, WallTime)>,
    ) -> BoxFuture<'_, Vec<Result<Rescheduled, EngineError>>>;
}

/// What became of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It can no longer start anywhere.
    Revoked,
    /// It has been started and is not waiting for a retry: finished, or among the dead letters.
    AlreadyRun,
    /// It is in the hands of a worker now.
    Running,
    /// Not known here: never accepted, revoked before, or forgotten.
    Unknown,
}

/// What became of a change of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rescheduled {
    /// It is due at the new time.
    Rescheduled,
    /// It has been started and is not waiting for a retry.
    AlreadyRun,
    /// It is in the hands of a worker now.
    Running,
    /// Not known here.
    Unknown,
}

/// Names one accepted task: what `send` returned, to revoke or reschedule it. Opaque; one string in logs and databases.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TaskId {
    tube: Name,
    id: Id,
    token: Option<Arc<str>>,
    existed: bool,
}

impl TaskId {
    /// From what the engine confirmed.
    pub fn new(tube: Name, published: &Published) -> Self {
        Self {
            tube,
            id: published.id,
            token: published.token.clone(),
            existed: published.existed,
        }
    }

    /// The tube it was sent to.
    pub fn tube(&self) -> &Name {
        &self.tube
    }

    /// Its id.
    pub fn id(&self) -> Id {
        self.id
    }

    /// What the engine wrote into it.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Whether a task with this id was there already, so that nothing new was stored. Not part of the text form.
    pub fn existed(&self) -> bool {
        self.existed
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.tube, self.id)?;
        match &self.token {
            Some(token) => write!(f, ":{token}"),
            None => Ok(()),
        }
    }
}

/// A text that is not a [`TaskId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a task id: it should look like `tube:01890a5d-ac96-774b-bcce-b302099a8057`")]
pub struct TaskIdError;

impl FromStr for TaskId {
    type Err = TaskIdError;
    fn from_str(text: &str) -> Result<Self, TaskIdError> {
        let mut parts = text.splitn(3, ':');
        let (Some(tube), Some(id)) = (parts.next(), parts.next()) else {
            return Err(TaskIdError);
        };
        Ok(Self {
            tube: Name::new(tube).map_err(|_| TaskIdError)?,
            id: id.parse().map_err(|_| TaskIdError)?,
            token: parts.next().map(Arc::from),
            existed: false,
        })
    }
}

impl Serialize for TaskId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
