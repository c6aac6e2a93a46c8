//! House-keeping: what is forgotten after its time, retention of topics, free pages back to the disk. In small steps on
//! the writer, so that nobody waits for long.

use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension, params};

use super::failure::Failure;
use super::tx::Tx;
use super::writer::{Kind, Writer};
use crate::engine::TopicConfig;
use crate::name::Name;

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// How soon again while there is more to do.
const SOON: Duration = Duration::from_millis(20);

/// Pages go back to the disk only when nobody has asked for anything for so long.
const IDLE: Duration = Duration::from_millis(200);

/// The most rows that one step removes.
const STEP: i64 = 1000;

/// A group that nobody has used for so long is forgotten.
const GROUP_FORGOTTEN: Duration = Duration::from_secs(30 * 86_400);

/// A warning so long before.
const GROUP_WARNING: Duration = Duration::from_secs(29 * 86_400);

/// A write-ahead log above this is worth a word.
const LARGE_LOG: u64 = 256 << 20;

/// So many written batches may be between two checkpoints, where SQLite must not make them by itself.
const BATCHES: u32 = 64;

/// When what is to be done.
#[derive(Debug)]
pub(super) struct Keeper {
    next: Instant,
    groups_at: Instant,
    warn_at: Instant,
    written: u32,
}

impl Keeper {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: now + EVERY,
            groups_at: now,
            warn_at: now,
            written: 0,
        }
    }

    /// A transaction has written something.
    pub(super) fn wrote(&mut self) {
        self.written += 1;
    }

    pub(super) fn due(&self) -> Instant {
        self.next
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next || self.written >= BATCHES
    }

    /// One round of small steps.
    pub(super) fn work(&mut self, writer: &mut Writer, now: Instant) {
        if std::mem::take(&mut self.written) > 0
            && let Err(error) = checkpoint(writer)
        {
            tracing::debug!(%error, "a checkpoint has to wait");
        }
        if now < self.next {
            return;
        }
        match self.round(writer, now) {
            Ok(more) => self.next = now + if more { SOON } else { EVERY },
            Err(failure) => {
                self.next = now + EVERY;
                tracing::debug!(why = %failure.why(), "house-keeping has to wait");
            }
        }
    }

    fn round(&mut self, writer: &mut Writer, now: Instant) -> Result<bool, Failure> {
        let mut more = forget(writer)?;
        more |= retain(writer)?;
        if now >= self.groups_at {
            self.groups_at = now + Duration::from_secs(60);
            let warn = now >= self.warn_at;
            if warn {
                self.warn_at = now + Duration::from_secs(3600);
            }
            groups(writer, warn)?;
            watch_log(writer);
        }
        if now.duration_since(writer.worked_at()) > IDLE {
            more |= vacuum(writer).map_err(|e| Failure::from(&e))?;
        }
        Ok(more)
    }
}

/// Where SQLite must not checkpoint by itself: does it while this thread holds the write lock, so that no commit can begin
/// the log anew meanwhile.
fn checkpoint(writer: &Writer) -> rusqlite::Result<()> {
    let Some(second) = writer.checkpointer() else {
        return Ok(());
    };
    writer.conn.execute_batch("BEGIN IMMEDIATE")?;
    let done = second.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    writer.conn.execute_batch("ROLLBACK")?;
    done
}

fn any(writer: &Writer, sql: &str, now: i64) -> Result<bool, Failure> {
    writer
        .conn
        .prepare_cached(sql)
        .and_then(|mut statement| statement.exists([now]))
        .map_err(|e| Failure::from(&e))
}

/// Names of tasks that are done, marks of revoked ones, expired claims.
fn forget(writer: &mut Writer) -> Result<bool, Failure> {
    let now = writer.shared.clock.now().as_millis();
    let done = any(writer, "SELECT 1 FROM done WHERE until<=?1", now)?;
    let revoked = any(writer, "SELECT 1 FROM revoked WHERE until<=?1", now)?;
    let claims = any(
        writer,
        "SELECT 1 FROM claim WHERE state<>1 AND until<=?1",
        now,
    )?;
    if !(done || revoked || claims) {
        return Ok(false);
    }
    writer.small(|tx, _| {
        let mut removed = tx
            .conn
            .prepare_cached(
                "DELETE FROM done WHERE (uid, tube) IN (SELECT uid, tube FROM done WHERE until<=?1 ORDER BY until LIMIT ?2)",
            )?
            .execute([now, STEP])?;
        removed += tx
            .conn
            .prepare_cached(
                "DELETE FROM claim WHERE (scope, uid) IN
                 (SELECT scope, uid FROM claim WHERE state<>1 AND until<=?1 ORDER BY until LIMIT ?2)",
            )?
            .execute([now, STEP])?;
        // Below this number an absent job may have been revoked: nobody knows any more.
        tx.conn
            .prepare_cached(
                "UPDATE meta SET value=max(value, coalesce((SELECT max(job) FROM revoked WHERE until<=?1), 0))
                 WHERE name='forgotten'",
            )?
            .execute([now])?;
        removed += tx.conn.prepare_cached("DELETE FROM revoked WHERE until<=?1")?.execute([now])?;
        Ok(i64::try_from(removed).unwrap_or(STEP) >= STEP)
    })
}

/// A partition as retention sees it.
struct Part {
    gid: i64,
    next: i64,
    low: i64,
    bytes: i64,
    /// What every known group has committed; `None` without groups.
    floor: Option<i64>,
}

/// Removes records by age and size, from the oldest on.
fn retain(writer: &mut Writer) -> Result<bool, Failure> {
    let sql = |e: rusqlite::Error| Failure::from(&e);
    let topics: Vec<(i64, String)> = writer
        .conn
        .prepare_cached("SELECT id, name FROM topic")
        .and_then(|mut s| {
            s.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .map_err(sql)?;
    let mut more = false;
    for (topic, name) in topics {
        let Ok(name) = Name::new(&name) else { continue };
        let config = writer.shared.config.topic(&name).clone();
        if config.age.is_none() && config.size.is_none() {
            continue;
        }
        let parts: Vec<Part> = writer
            .conn
            .prepare_cached(
                "SELECT gid, next, low, bytes, (SELECT min(off) FROM cursor c WHERE c.gid=part.gid) FROM part WHERE topic=?1",
            )
            .and_then(|mut s| {
                s.query_map([topic], |row| {
                    Ok(Part {
                        gid: row.get(0)?,
                        next: row.get(1)?,
                        low: row.get(2)?,
                        bytes: row.get(3)?,
                        floor: row.get(4)?,
                    })
                })?
                .collect()
            })
            .map_err(sql)?;
        more |= retain_topic(writer, &config, &parts)?;
    }
    Ok(more)
}

fn retain_topic(
    writer: &mut Writer,
    config: &TopicConfig,
    parts: &[Part],
) -> Result<bool, Failure> {
    let now = writer.shared.clock.now();
    let before = config.age.map(|age| now.saturating_sub(age).as_millis());
    let total: i64 = parts.iter().map(|part| part.bytes).sum();
    let excess = config
        .size
        .map_or(0, |size| {
            total.saturating_sub(i64::try_from(size).unwrap_or(i64::MAX))
        })
        .max(0);
    let mut more = false;
    for part in parts {
        let end = match part.floor {
            Some(floor) if !config.drop_unread => floor.min(part.next),
            _ => part.next,
        };
        if part.low >= end {
            continue;
        }
        // Each partition gives its share of what is too much, so that none is emptied for the others.
        let share = i128::from(excess) * i128::from(part.bytes) / i128::from(total.max(1));
        let mut share = i64::try_from(share).unwrap_or(i64::MAX);
        let cut = cut(writer, part, end, before, &mut share).map_err(|e| Failure::from(&e))?;
        let Some((upto, bytes, rows)) = cut else {
            continue;
        };
        more |= rows >= STEP;
        let (gid, low) = (part.gid, part.low);
        writer.small(|tx, _| remove(tx, gid, low, upto, bytes))?;
    }
    Ok(more)
}

/// How far a step may cut a partition: the first offset that stays, and bytes and rows before it.
fn cut(
    writer: &Writer,
    part: &Part,
    end: i64,
    before: Option<i64>,
    excess: &mut i64,
) -> rusqlite::Result<Option<(i64, i64, i64)>> {
    let first = part.gid << super::record::OFFSET_BITS;
    let mut select = writer.conn.prepare_cached(
        "SELECT pos, created, length(body) FROM log WHERE pos>=?1 AND pos<?2 ORDER BY pos LIMIT ?3",
    )?;
    let mut found = select.query([first | part.low, first | end, STEP])?;
    let (mut upto, mut bytes, mut rows) = (part.low, 0, 0);
    while let Some(row) = found.next()? {
        let created: i64 = row.get(1)?;
        if !(before.is_some_and(|before| created < before) || *excess > 0) {
            break;
        }
        let size = row.get::<_, i64>(2)? + super::record::ROW_BYTES;
        upto = row.get::<_, i64>(0)? - first + 1;
        bytes += size;
        rows += 1;
        *excess -= size;
    }
    Ok((rows > 0).then_some((upto, bytes, rows)))
}

fn remove(tx: &mut Tx<'_>, gid: i64, low: i64, upto: i64, bytes: i64) -> rusqlite::Result<()> {
    let first = gid << super::record::OFFSET_BITS;
    // Another process may have been here since we looked: then its cut stands.
    let same: Option<i64> = tx
        .conn
        .prepare_cached("SELECT low FROM part WHERE gid=?1")?
        .query_row([gid], |row| row.get(0))
        .optional()?;
    if same != Some(low) {
        return Ok(());
    }
    tx.conn
        .prepare_cached("DELETE FROM log WHERE pos>=?1 AND pos<?2")?
        .execute([first | low, first | upto])?;
    tx.conn
        .prepare_cached("UPDATE part SET low=?2, bytes=max(0, bytes-?3) WHERE gid=?1")?
        .execute([gid, upto, bytes])?;
    Ok(())
}

/// Marks the groups that are in use, and forgets those that nobody has used for a month and that hold nothing.
fn groups(writer: &mut Writer, warn: bool) -> Result<(), Failure> {
    let now = writer.shared.clock.now();
    let here: Vec<i64> = writer
        .subs
        .iter()
        .filter_map(|sub| match &sub.kind {
            Kind::Topic(member) => Some(member.group),
            Kind::Tube(_) => None,
        })
        .collect();
    if !here.is_empty() {
        writer.small(|tx, _| {
            for group in &here {
                tx.conn
                    .prepare_cached("UPDATE grp SET seen=?2 WHERE id=?1")?
                    .execute([*group, now.as_millis()])?;
            }
            Ok(())
        })?;
    }
    let unseen: Vec<(i64, String, i64)> = writer
        .conn
        .prepare_cached(
            "SELECT g.id, t.name || '/' || g.name, g.seen FROM grp g JOIN topic t ON t.id=g.topic WHERE g.seen<?1
             AND NOT EXISTS (SELECT 1 FROM session s WHERE s.grp=g.id)
             AND NOT EXISTS (SELECT 1 FROM dead d WHERE d.grp=g.id)
             AND NOT EXISTS (SELECT 1 FROM replay r WHERE r.grp=g.id)",
        )
        .and_then(|mut s| {
            s.query_map([now.saturating_sub(GROUP_WARNING).as_millis()], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect()
        })
        .map_err(|e| Failure::from(&e))?;
    let forget_before = now.saturating_sub(GROUP_FORGOTTEN).as_millis();
    for (group, name, seen) in unseen {
        if seen >= forget_before {
            if warn {
                tracing::warn!(group = %name, "nobody has read for 29 days as this group; tomorrow it is forgotten, and what it has not read may be removed");
            }
            continue;
        }
        writer.small(|tx, _| {
            // Only if nobody has come back since.
            let gone = tx
                .conn
                .prepare_cached("DELETE FROM grp WHERE id=?1 AND seen=?2")?
                .execute(params![group, seen])?;
            if gone == 1 {
                tx.conn
                    .prepare_cached("DELETE FROM cursor WHERE grp=?1")?
                    .execute([group])?;
            }
            Ok(())
        })?;
        tracing::warn!(group = %name, "a group that nobody has used for 30 days was forgotten");
    }
    Ok(())
}

/// Says when the log cannot begin anew, because somebody reads an old state of the file.
fn watch_log(writer: &Writer) {
    let log = super::schema::beside(&writer.shared.config.path, "-wal");
    let size = std::fs::metadata(log).map_or(0, |m| m.len());
    if size > LARGE_LOG {
        tracing::warn!(
            bytes = size,
            "the write-ahead log is large: some program keeps a read transaction open on the database, for example a shell or a backup"
        );
    }
}

/// Gives free pages back to the disk, a few at a time, when there are many.
fn vacuum(writer: &Writer) -> rusqlite::Result<bool> {
    let read = |pragma: &str| -> rusqlite::Result<i64> {
        writer
            .conn
            .prepare_cached(pragma)?
            .query_row([], |row| row.get(0))
    };
    let (free, all) = (read("PRAGMA freelist_count")?, read("PRAGMA page_count")?);
    if free < 4096 || free < all / 4 {
        return Ok(false);
    }
    let mut step = writer
        .conn
        .prepare_cached("PRAGMA incremental_vacuum(500)")?;
    let mut rows = step.query([])?;
    while rows.next()?.is_some() {}
    Ok(true)
}
