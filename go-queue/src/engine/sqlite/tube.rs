//! The statements of tubes: store, claim, settle.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{OptionalExtension, params};

use super::failure::ENGINE;
use super::mailbox::{NAMED, Row, Slice};
use super::queue::TubeTurn;
use super::tx::Tx;
use crate::delivery::How;
use crate::engine::{Outgoing, PublishError};
use crate::message::Id;
use crate::name::Name;
use crate::time::WallTime;

/// What is known of a stored message before it becomes the caller's answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) existed: bool,
    /// Number of the job, or the offset of a record.
    pub(super) number: i64,
    pub(super) partition: u32,
}

/// The most due jobs that one transaction moves to the ready ones.
const PROMOTE: i64 = 2048;

/// A slice ends behind so many bytes of bodies.
const SLICE_BYTES: usize = 8 << 20;

/// Whole milliseconds, rounded up: what waits until then is never early.
pub(super) fn millis_up(time: WallTime) -> i64 {
    time.as_nanos().div_euclid(1_000_000) + i64::from(time.as_nanos().rem_euclid(1_000_000) != 0)
}

/// The error of a producer at the quota.
pub(super) fn full() -> PublishError {
    PublishError::Full {
        engine: ENGINE,
        why: std::sync::Arc::from(
            "the quota is reached; consume what waits, purge dead letters, keep the records of topics for less long (`topics.NAME.retention`), or raise `sqlite.quota`",
        ),
    }
}

/// Stores tasks of one tube.
pub(super) fn put(
    tx: &mut Tx<'_>,
    name: &Name,
    slice: &[Outgoing],
    answers: &mut Vec<Result<Stored, PublishError>>,
) -> rusqlite::Result<()> {
    let tube = tx.tube(name)?;
    let conn = tx.conn;
    let mut insert = conn.prepare_cached(
        "INSERT INTO job(id, tube, uid, pri, due, created, flags, content, key_len, head_len, body)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT(uid, tube) DO NOTHING",
    )?;
    let mut ready =
        conn.prepare_cached("INSERT INTO ready(tube, pri, id, attempts) VALUES(?1, ?2, ?3, 0)")?;
    let now_ms = tx.now_ms();
    let mut stored_any = false;
    for out in slice {
        if !tx.take_room(out.body.len())? {
            answers.push(Err(full()));
            continue;
        }
        let uid = out.id.0.to_be_bytes();
        if out.named
            && let Some(number) = known(tx, tube, &uid)?
        {
            answers.push(Ok(Stored {
                existed: true,
                number,
                partition: 0,
            }));
            continue;
        }
        let id = tx.job()?;
        let due = if out.due == WallTime::EPOCH {
            tx.wall
        } else {
            out.due
        };
        let flags = u32::from(out.flags.0) | if out.named { NAMED } else { 0 };
        insert.raw_bind_parameter(1, id)?;
        insert.raw_bind_parameter(2, tube)?;
        insert.raw_bind_parameter(3, &uid[..])?;
        insert.raw_bind_parameter(4, out.priority)?;
        insert.raw_bind_parameter(5, due.as_nanos())?;
        insert.raw_bind_parameter(6, now_ms)?;
        insert.raw_bind_parameter(7, flags)?;
        insert.raw_bind_parameter(8, out.content as u8)?;
        insert.raw_bind_parameter(9, len(out.body.key_len()))?;
        insert.raw_bind_parameter(10, len(out.body.head_len()))?;
        insert.raw_bind_parameter(11, &out.body.bytes()[..])?;
        if insert.raw_execute()? == 0 {
            let number = conn
                .prepare_cached("SELECT id FROM job WHERE uid=?1 AND tube=?2")?
                .query_row(params![&uid[..], tube], |row| row.get(0))?;
            answers.push(Ok(Stored {
                existed: true,
                number,
                partition: 0,
            }));
            continue;
        }
        if due <= tx.wall {
            ready.raw_bind_parameter(1, tube)?;
            ready.raw_bind_parameter(2, out.priority)?;
            ready.raw_bind_parameter(3, id)?;
            ready.raw_execute()?;
        } else {
            wait(tx, tube, due, id, i64::from(out.priority), 0)?;
        }
        stored_any = true;
        answers.push(Ok(Stored {
            existed: false,
            number: id,
            partition: 0,
        }));
    }
    if stored_any {
        tx.effects.sync = true;
        tx.effects.wake(tube);
    }
    Ok(())
}

fn len(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// The job of a named task that is done and not yet forgotten.
fn known(tx: &Tx<'_>, tube: i64, uid: &[u8]) -> rusqlite::Result<Option<i64>> {
    tx.conn
        .prepare_cached("SELECT job FROM done WHERE uid=?1 AND tube=?2 AND until>?3")?
        .query_row(params![uid, tube, tx.now_ms()], |row| row.get(0))
        .optional()
}

/// Puts a job into the timer.
pub(super) fn wait(
    tx: &Tx<'_>,
    tube: i64,
    at: WallTime,
    id: i64,
    pri: i64,
    attempts: i64,
) -> rusqlite::Result<()> {
    tx.conn
        .prepare_cached(
            "INSERT INTO timer(tube, at, id, pri, attempts) VALUES(?1, ?2, ?3, ?4, ?5)",
        )?
        .execute([tube, at.as_nanos(), id, pri, attempts])?;
    Ok(())
}

/// Makes a job ready.
pub(super) fn make_ready(
    tx: &Tx<'_>,
    tube: i64,
    pri: i64,
    id: i64,
    attempts: i64,
) -> rusqlite::Result<()> {
    tx.conn
        .prepare_cached("INSERT INTO ready(tube, pri, id, attempts) VALUES(?1, ?2, ?3, ?4)")?
        .execute([tube, pri, id, attempts])?;
    Ok(())
}

/// The first due time of a tube that is in its timer.
pub(super) fn next_due(
    conn: &rusqlite::Connection,
    tube: i64,
) -> rusqlite::Result<Option<WallTime>> {
    conn.prepare_cached("SELECT at FROM timer WHERE tube=?1 ORDER BY at LIMIT 1")?
        .query_row([tube], |row| row.get(0).map(WallTime::from_nanos))
        .optional()
}

/// Whether a claim would bring something; read without the write lock.
pub(super) fn has_ready(conn: &rusqlite::Connection, tube: i64) -> rusqlite::Result<bool> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM ready WHERE tube=?1 LIMIT 1")?
        .query_row([tube], |_| Ok(()))
        .optional()?
        .is_some())
}

/// Moves due jobs to the ready ones. Answers the next due time.
fn promote(tx: &Tx<'_>, tube: i64) -> rusqlite::Result<Option<WallTime>> {
    let now = tx.wall;
    let first = next_due(tx.conn, tube)?;
    if first.is_none_or(|at| at > now) {
        return Ok(first);
    }
    let last: Option<(i64, i64)> = tx
        .conn
        .prepare_cached(
            "SELECT at, id FROM timer WHERE tube=?1 AND at<=?2 ORDER BY at, id LIMIT 1 OFFSET ?3",
        )?
        .query_row([tube, now.as_nanos(), PROMOTE - 1], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let (at, id) = last.unwrap_or((now.as_nanos(), i64::MAX));
    tx.conn
        .prepare_cached(
            "INSERT INTO ready(tube, pri, id, attempts)
             SELECT tube, pri, id, attempts FROM timer WHERE tube=?1 AND (at, id)<=(?2, ?3)",
        )?
        .execute([tube, at, id])?;
    tx.conn
        .prepare_cached("DELETE FROM timer WHERE tube=?1 AND (at, id)<=(?2, ?3)")?
        .execute([tube, at, id])?;
    next_due(tx.conn, tube)
}

/// What a claim brought.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) slice: Slice,
    /// Nothing more is ready.
    pub(super) exhausted: bool,
    pub(super) next_due: Option<WallTime>,
}

/// Leases up to `n` ready jobs of a tube to a session.
pub(super) fn claim(
    tx: &mut Tx<'_>,
    session: u32,
    tube: i64,
    n: usize,
) -> rusqlite::Result<Claimed> {
    let next_due = promote(tx, tube)?;
    let conn = tx.conn;
    let mut rows = VecDeque::with_capacity(n.min(64));
    let mut bodies: Vec<u8> = Vec::with_capacity(n.min(64) * 256);
    let mut last = None;
    {
        let mut select = conn.prepare_cached(
            "SELECT r.pri, r.id, r.attempts, j.uid, j.due, j.created, j.flags, j.content, j.key_len, j.head_len, j.body
             FROM ready r CROSS JOIN job j ON j.id=r.id WHERE r.tube=?1 ORDER BY r.pri, r.id LIMIT ?2",
        )?;
        let mut found = select.query(params![tube, len(n)])?;
        while let Some(row) = found.next()? {
            let body = row.get_ref(10)?.as_blob()?;
            if !rows.is_empty() && bodies.len() + body.len() > SLICE_BYTES {
                break;
            }
            last = Some((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
            let start = bodies.len();
            bodies.extend_from_slice(body);
            rows.push_back(Row {
                token: row.get::<_, i64>(1)?.cast_unsigned(),
                id: id_of(row.get_ref(3)?.as_blob()?),
                start: narrow(start),
                len: narrow(body.len()),
                key_len: row.get(8)?,
                head_len: row.get(9)?,
                attempt: row.get::<_, u32>(2)?.saturating_add(1),
                flags: row.get(6)?,
                content: row.get(7)?,
                created: row.get(5)?,
                due: row.get(4)?,
                offset: 0,
            });
        }
    }
    if let Some((pri, id)) = last {
        conn.prepare_cached(
            "INSERT INTO lease(session, id, tube, pri, attempts)
             SELECT ?1, id, tube, pri, attempts+1 FROM ready WHERE tube=?2 AND (pri, id)<=(?3, ?4)",
        )?
        .execute(params![session, tube, pri, id])?;
        conn.prepare_cached("DELETE FROM ready WHERE tube=?1 AND (pri, id)<=(?2, ?3)")?
            .execute([tube, pri, id])?;
    }
    let exhausted = rows.len() < n && bodies.len() < SLICE_BYTES;
    let slice = Slice {
        epoch: session,
        part: 0,
        bytes: Bytes::from(bodies),
        rows,
    };
    Ok(Claimed {
        slice,
        exhausted,
        next_due,
    })
}

/// A length that is below the limit of a slice.
pub(super) fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// An id as it is stored.
pub(super) fn id_of(blob: &[u8]) -> Id {
    Id(blob.try_into().map_or(0, u128::from_be_bytes))
}

/// Acknowledged jobs, kept between transactions.
pub(super) type Acks = Vec<u64>;

/// Does what an end of a tube says of its deliveries.
pub(super) fn settle(
    tx: &mut Tx<'_>,
    turn: &mut TubeTurn,
    session: u32,
    tube: i64,
    label: &str,
    acks: &mut Acks,
) -> rusqlite::Result<()> {
    turn.stale = 0;
    acks.clear();
    for settlement in &turn.settle {
        let receipt = settlement.receipt;
        if receipt.epoch != session {
            turn.stale += 1;
            continue;
        }
        let id = receipt.token.cast_signed();
        let done = match &settlement.how {
            How::Ack if receipt.group & NAMED == 0 => {
                acks.push(receipt.token);
                true
            }
            How::Ack => ack_named(tx, session, tube, id)?,
            How::Release { after } => back(tx, session, id, *after, false)?,
            How::Retry { after } => back(tx, session, id, *after, true)?,
            How::Dead { reason, attempts } => {
                bury(tx, session, tube, id, label, reason, *attempts)?
            }
        };
        turn.stale += u64::from(!done);
    }
    for receipt in &turn.back {
        if receipt.epoch == session {
            back(
                tx,
                session,
                receipt.token.cast_signed(),
                Duration::ZERO,
                false,
            )?;
        }
    }
    turn.stale += ack_all(tx, session, acks)?;
    if !turn.settle.is_empty() {
        tx.effects.sync = true;
    }
    Ok(())
}

/// Removes acknowledged jobs: where their numbers follow each other, with one statement for the whole run. Answers how
/// many were not leased to this session any more.
fn ack_all(tx: &Tx<'_>, session: u32, acks: &mut Acks) -> rusqlite::Result<u64> {
    if acks.is_empty() {
        return Ok(0);
    }
    acks.sort_unstable();
    let session = i64::from(session);
    let conn = tx.conn;
    let mut stale = 0;
    let mut one = conn.prepare_cached("DELETE FROM lease WHERE session=?1 AND id=?2")?;
    let mut one_job = conn.prepare_cached("DELETE FROM job WHERE id=?1")?;
    for run in acks.chunk_by(|a, b| a + 1 == *b) {
        let (first, last) = (run[0].cast_signed(), run[run.len() - 1].cast_signed());
        if run.len() > 2 {
            let held: i64 = conn
                .prepare_cached(
                    "SELECT count(*) FROM lease WHERE session=?1 AND id BETWEEN ?2 AND ?3",
                )?
                .query_row([session, first, last], |row| row.get(0))?;
            if held == len(run.len()) {
                conn.prepare_cached("DELETE FROM lease WHERE session=?1 AND id BETWEEN ?2 AND ?3")?
                    .execute([session, first, last])?;
                conn.prepare_cached("DELETE FROM job WHERE id BETWEEN ?1 AND ?2")?
                    .execute([first, last])?;
                continue;
            }
        }
        for id in run {
            if one.execute([session, id.cast_signed()])? == 1 {
                one_job.execute([id.cast_signed()])?;
            } else {
                stale += 1;
            }
        }
    }
    Ok(stale)
}

/// Removes a job whose id stays known for a while.
fn ack_named(tx: &Tx<'_>, session: u32, tube: i64, id: i64) -> rusqlite::Result<bool> {
    if take_lease(tx, session, id)?.is_none() {
        return Ok(false);
    }
    let until = tx.known_until(tube)?;
    tx.conn
        .prepare_cached("INSERT OR REPLACE INTO done(uid, tube, job, until) SELECT uid, ?2, id, ?3 FROM job WHERE id=?1")?
        .execute([id, tube, until])?;
    tx.conn
        .prepare_cached("DELETE FROM job WHERE id=?1")?
        .execute([id])?;
    Ok(true)
}

struct Lease {
    tube: i64,
    pri: i64,
    attempts: i64,
}

/// Ends a lease of this session, if it has it.
fn take_lease(tx: &Tx<'_>, session: u32, id: i64) -> rusqlite::Result<Option<Lease>> {
    tx.conn
        .prepare_cached(
            "DELETE FROM lease WHERE session=?1 AND id=?2 RETURNING tube, pri, attempts",
        )?
        .query_row(params![session, id], |row| {
            Ok(Lease {
                tube: row.get(0)?,
                pri: row.get(1)?,
                attempts: row.get(2)?,
            })
        })
        .optional()
}

/// Gives a job back, now or later.
fn back(
    tx: &mut Tx<'_>,
    session: u32,
    id: i64,
    after: Duration,
    counted: bool,
) -> rusqlite::Result<bool> {
    let Some(lease) = take_lease(tx, session, id)? else {
        return Ok(false);
    };
    let attempts = if counted {
        lease.attempts
    } else {
        (lease.attempts - 1).max(0)
    };
    if after.is_zero() {
        make_ready(tx, lease.tube, lease.pri, id, attempts)?;
    } else {
        wait(
            tx,
            lease.tube,
            tx.wall.saturating_add(after),
            id,
            lease.pri,
            attempts,
        )?;
    }
    tx.effects.wake(lease.tube);
    Ok(true)
}

/// Sets a job aside. Its row stays, so that its id stays known.
fn bury(
    tx: &Tx<'_>,
    session: u32,
    tube: i64,
    id: i64,
    label: &str,
    reason: &str,
    attempts: u32,
) -> rusqlite::Result<bool> {
    let Some(lease) = take_lease(tx, session, id)? else {
        return Ok(false);
    };
    let cursor = tx.number("dead")?;
    let attempts = if attempts == 0 {
        lease.attempts
    } else {
        i64::from(attempts)
    };
    tx.conn
        .prepare_cached(
            "INSERT INTO dead(id, job, tube, grp, gid, off, uid, pri, attempts, died, handler, reason)
             SELECT ?1, id, ?3, 0, 0, 0, uid, ?4, ?5, ?6, ?7, ?8 FROM job WHERE id=?2",
        )?
        .execute(params![cursor, id, tube, lease.pri, attempts, tx.now_ms(), label, reason])?;
    Ok(true)
}
