//! Accepted tasks: their names, and how they are taken back or moved.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{BoxFuture, EngineError, Published};
use crate::message::{Id, go_queue};
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
///
/// The ids that `Delay` and `At` of the Go library return are read as well, so that what a Go program has stored can be revoked:
///
/// ```
/// # use go_queue::engine::TaskId;
/// let id: TaskId = "127.0.0.1:11300/reminders/17,127.0.0.1:11301/reminders/4".parse()?;
/// assert_eq!(id.tube().as_str(), "reminders");
/// # Ok::<_, go_queue::engine::TaskIdError>(())
/// ```
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

    /// Its id. The nil id if only the Go library's ids are known: they do not hold it.
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
        let Ok(id) = id.parse() else {
            return Self::of_go_queue(text);
        };
        Ok(Self {
            tube: Name::new(tube).map_err(|_| TaskIdError)?,
            id,
            token: parts.next().map(Arc::from),
            existed: false,
        })
    }
}

impl TaskId {
    /// From ids of the Go library: they are the token, and all of them name one tube.
    fn of_go_queue(joined: &str) -> Result<Self, TaskIdError> {
        let replicas = go_queue::split(joined).map_err(|_| TaskIdError)?;
        let tube = replicas.first().ok_or(TaskIdError)?.tube;
        if replicas.iter().any(|replica| replica.tube != tube) {
            return Err(TaskIdError);
        }
        Ok(Self {
            tube: Name::new(tube).map_err(|_| TaskIdError)?,
            id: Id::default(),
            token: Some(Arc::from(joined)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_is_read_as_it_is_written() {
        for text in [
            "orders:01890a5d-ac96-774b-bcce-b302099a8057",
            "orders:01890a5d-ac96-774b-bcce-b302099a8057:127.0.0.1:11300/7,127.0.0.1:11301/9",
        ] {
            assert_eq!(text.parse::<TaskId>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn ids_of_the_go_library_are_read() {
        let joined = "127.0.0.1:21303/tube/1,127.0.0.1:21301/tube/6";
        let task: TaskId = joined.parse().expect("ids of the Go library");
        assert_eq!((task.tube().as_str(), task.token()), ("tube", Some(joined)));
        assert_eq!(task.id(), Id::default());
        let written: TaskId = task.to_string().parse().expect("what was written");
        assert_eq!(written, task);
    }

    #[test]
    fn what_is_no_task_id_is_refused() {
        for text in [
            "",
            "orders",
            "orders:nonsense",
            "h:1/a/1,h:2/b/1",
            "h:1/a b/1",
            "h:1/a/b/1",
        ] {
            assert_eq!(text.parse::<TaskId>(), Err(TaskIdError), "{text}");
        }
    }
}
