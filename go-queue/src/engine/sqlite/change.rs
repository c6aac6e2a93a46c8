//! Revoke and reschedule, with the truth as the answer.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use super::Handle;
use super::tube::{make_ready, wait};
use super::tx::Tx;
use crate::engine::{BoxFuture, EngineError, Rescheduled, Revoked, TaskId, Tasks};
use crate::time::WallTime;

/// What goes into a task's id: this very store, and the number of the job.
pub(super) fn token(store: i64, job: i64) -> Arc<str> {
    Arc::from(format!("{store:x}.{job:x}"))
}

/// The number of the job, if the token is one of this store.
fn job_of(store: i64, token: Option<&str>) -> Option<i64> {
    let (of, job) = token?.split_once('.')?;
    (i64::from_str_radix(of, 16).ok()? == store).then_some(())?;
    i64::from_str_radix(job, 16).ok()
}

/// Where a task stands.
enum Place {
    /// It waits: its number, tube, priority, starts so far.
    Waiting {
        id: i64,
        tube: i64,
        pri: i64,
        attempts: i64,
    },
    Running,
    Over,
    Unknown,
}

/// Changes to tasks of this store.
#[derive(Debug)]
pub(super) struct Changes(pub(super) Arc<Handle>);

/// Finds a task and, if it waits, takes it out of where it waits.
fn pick(tx: &mut Tx<'_>, store: i64, task: &TaskId) -> rusqlite::Result<Place> {
    let tube: Option<i64> = tx
        .conn
        .prepare_cached("SELECT id FROM tube WHERE name=?1")?
        .query_row([task.tube().as_str()], |row| row.get(0))
        .optional()?;
    let Some(tube) = tube else {
        return Ok(Place::Unknown);
    };
    let uid = task.id().0.to_be_bytes();
    let number = job_of(store, task.token());
    let found: Option<(i64, i64, i64)> = match number {
        Some(number) => tx
            .conn
            .prepare_cached("SELECT id, pri, due FROM job WHERE id=?1 AND tube=?2 AND uid=?3")?
            .query_row(params![number, tube, &uid[..]], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?,
        None => tx
            .conn
            .prepare_cached("SELECT id, pri, due FROM job WHERE uid=?1 AND tube=?2")?
            .query_row(params![&uid[..], tube], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?,
    };
    let Some((id, pri, due)) = found else {
        return absent(tx, tube, &uid, number);
    };
    let leased = tx
        .conn
        .prepare_cached("SELECT 1 FROM session s CROSS JOIN lease l ON l.session=s.id AND l.id=?1")?
        .exists([id])?;
    if leased {
        return Ok(Place::Running);
    }
    let dead = tx
        .conn
        .prepare_cached("SELECT 1 FROM dead WHERE job=?1")?
        .exists([id])?;
    if dead {
        return Ok(Place::Over);
    }
    let mut attempts: Option<i64> = tx
        .conn
        .prepare_cached("DELETE FROM ready WHERE tube=?1 AND pri=?2 AND id=?3 RETURNING attempts")?
        .query_row([tube, pri, id], |row| row.get(0))
        .optional()?;
    if attempts.is_none() {
        attempts = tx
            .conn
            .prepare_cached(
                "DELETE FROM timer WHERE tube=?1 AND at=?2 AND id=?3 RETURNING attempts",
            )?
            .query_row([tube, due, id], |row| row.get(0))
            .optional()?;
    }
    if attempts.is_none() {
        // It waits for a retry, at a time that only the timer knows: rare, so it is looked for.
        attempts = tx
            .conn
            .prepare_cached("DELETE FROM timer WHERE tube=?1 AND id=?2 RETURNING attempts")?
            .query_row([tube, id], |row| row.get(0))
            .optional()?;
    }
    // A job that stands nowhere cannot be: it would have been lost.
    Ok(attempts.map_or(Place::Unknown, |attempts| Place::Waiting {
        id,
        tube,
        pri,
        attempts,
    }))
}

/// What became of a task that is not here: it ran, or was revoked, or nobody knows.
fn absent(tx: &Tx<'_>, tube: i64, uid: &[u8], number: Option<i64>) -> rusqlite::Result<Place> {
    let done = tx
        .conn
        .prepare_cached("SELECT 1 FROM done WHERE uid=?1 AND tube=?2")?
        .exists(params![uid, tube])?;
    let Some(number) = number else {
        return Ok(if done { Place::Over } else { Place::Unknown });
    };
    let revoked = tx
        .conn
        .prepare_cached("SELECT 1 FROM revoked WHERE job=?1")?
        .exists([number])?;
    let was_given = number < tx.meta("job")?;
    let forgotten = number <= tx.meta("forgotten")?;
    // A number that this store gave out, that is neither here nor marked as revoked, can only have run.
    Ok(if was_given && !revoked && (done || !forgotten) {
        Place::Over
    } else {
        Place::Unknown
    })
}

fn revoke(tx: &mut Tx<'_>, store: i64, task: &TaskId) -> rusqlite::Result<Revoked> {
    Ok(match pick(tx, store, task)? {
        Place::Waiting { id, tube, .. } => {
            let until = tx.known_until(tube)?;
            tx.conn
                .prepare_cached("DELETE FROM job WHERE id=?1")?
                .execute([id])?;
            tx.conn
                .prepare_cached("INSERT OR REPLACE INTO revoked(job, until) VALUES(?1, ?2)")?
                .execute([id, until])?;
            tx.effects.sync = true;
            // Who sleeps until it is due looks for the next.
            tx.effects.wake(tube);
            Revoked::Revoked
        }
        Place::Running => Revoked::Running,
        Place::Over => Revoked::AlreadyRun,
        Place::Unknown => Revoked::Unknown,
    })
}

fn reschedule(
    tx: &mut Tx<'_>,
    store: i64,
    task: &TaskId,
    to: WallTime,
) -> rusqlite::Result<Rescheduled> {
    Ok(match pick(tx, store, task)? {
        Place::Waiting {
            id,
            tube,
            pri,
            attempts,
        } => {
            let due = if to == WallTime::EPOCH { tx.wall } else { to };
            // The one change of a job row: it says when the message was due.
            tx.conn
                .prepare_cached("UPDATE job SET due=?2 WHERE id=?1")?
                .execute([id, due.as_nanos()])?;
            if due <= tx.wall {
                make_ready(tx, tube, pri, id, attempts)?;
            } else {
                wait(tx, tube, due, id, pri, attempts)?;
            }
            tx.effects.wake(tube);
            tx.effects.sync = true;
            Rescheduled::Rescheduled
        }
        Place::Running => Rescheduled::Running,
        Place::Over => Rescheduled::AlreadyRun,
        Place::Unknown => Rescheduled::Unknown,
    })
}

/// One answer for each, or the same error for all.
fn spread<T>(n: usize, result: Result<Vec<T>, EngineError>) -> Vec<Result<T, EngineError>> {
    match result {
        Ok(values) => values.into_iter().map(Ok).collect(),
        Err(error) => (0..n).map(|_| Err(error.clone())).collect(),
    }
}

impl Tasks for Changes {
    fn revoke(&self, tasks: Vec<TaskId>) -> BoxFuture<'_, Vec<Result<Revoked, EngineError>>> {
        Box::pin(async move {
            let (n, store) = (tasks.len(), self.0.shared.store);
            let answer = self
                .0
                .ask("revoke tasks", move |tx| {
                    tasks.iter().map(|task| revoke(tx, store, task)).collect()
                })
                .await;
            spread(n, answer)
        })
    }

    fn reschedule(
        &self,
        tasks: Vec<(TaskId, WallTime)>,
    ) -> BoxFuture<'_, Vec<Result<Rescheduled, EngineError>>> {
        Box::pin(async move {
            let (n, store) = (tasks.len(), self.0.shared.store);
            let answer = self
                .0
                .ask("reschedule tasks", move |tx| {
                    tasks
                        .iter()
                        .map(|(task, to)| reschedule(tx, store, task, *to))
                        .collect()
                })
                .await;
            spread(n, answer)
        })
    }
}
