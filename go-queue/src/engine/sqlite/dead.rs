//! The dead letters of tubes and of groups.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, params};

use super::Handle;
use super::mailbox::NAMED;
use super::tube::{id_of, make_ready};
use super::tx::Tx;
use crate::engine::{BoxFuture, DeadLetter, DeadLetters, DeadQuery, EngineError};
use crate::message::{Body, ContentType, Flags};
use crate::name::{Name, Place};
use crate::time::WallTime;

/// The most that one page holds.
const PAGE: usize = 1000;

/// A page ends behind so many bytes of bodies.
const PAGE_BYTES: usize = 32 << 20;

/// The dead letters of one file.
#[derive(Debug)]
pub(super) struct Dead(pub(super) Arc<Handle>);

const SELECT: &str = "
SELECT d.id, t.name, tp.name, g.name, d.uid, d.attempts, d.died, d.handler, d.reason,
       j.created, j.flags, j.content, j.key_len, j.head_len, j.body
FROM dead d JOIN job j ON j.id=d.job LEFT JOIN tube t ON t.id=d.tube AND d.grp=0
LEFT JOIN grp g ON g.id=d.grp LEFT JOIN topic tp ON tp.id=g.topic";

fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let name = |at: usize| -> rusqlite::Result<Option<Name>> {
        Ok(row
            .get::<_, Option<String>>(at)?
            .and_then(|text| Name::new(&text).ok()))
    };
    let (tube, topic) = (name(1)?, name(2)?);
    let place = match (tube, topic) {
        (Some(tube), _) => Place::Tube(tube),
        (None, Some(topic)) => Place::Topic(topic),
        // A name that our rule does not know, written by somebody else.
        (None, None) => Place::Tube(Name::literal("unknown")),
    };
    let flags: u32 = row.get(10)?;
    let body = Bytes::copy_from_slice(row.get_ref(14)?.as_blob()?);
    Ok(DeadLetter {
        cursor: row.get::<_, i64>(0)?.cast_unsigned(),
        place,
        group: name(3)?,
        handler: Arc::from(row.get_ref(7)?.as_str()?),
        id: id_of(row.get_ref(4)?.as_blob()?),
        body: Body::new(
            body,
            row.get::<_, u32>(12)? as usize,
            row.get::<_, u32>(13)? as usize,
        ),
        flags: Flags(u8::try_from(flags & (NAMED - 1)).unwrap_or(0)),
        content: ContentType::from_byte(row.get(11)?),
        attempts: row.get(5)?,
        reason: Arc::from(row.get_ref(8)?.as_str()?),
        at: WallTime::from_millis(row.get(9)?),
        died: WallTime::from_millis(row.get(6)?),
    })
}

/// The numbers that a place has in the tables: tube, or topic.
fn place_numbers(tx: &Tx<'_>, place: Option<&Place>) -> rusqlite::Result<Option<(i64, i64)>> {
    let find = |sql: &str, name: &Name| -> rusqlite::Result<Option<i64>> {
        tx.conn
            .prepare_cached(sql)?
            .query_row([name.as_str()], |row| row.get(0))
            .optional()
    };
    Ok(match place {
        None => Some((0, 0)),
        Some(Place::Tube(name)) => {
            find("SELECT id FROM tube WHERE name=?1", name)?.map(|id| (id, 0))
        }
        Some(Place::Topic(name)) => {
            find("SELECT id FROM topic WHERE name=?1", name)?.map(|id| (0, id))
        }
    })
}

fn list(tx: &Tx<'_>, query: &DeadQuery) -> rusqlite::Result<Vec<DeadLetter>> {
    let Some((tube, topic)) = place_numbers(tx, query.place.as_ref())? else {
        return Ok(Vec::new());
    };
    let limit = i64::try_from(query.limit.min(PAGE)).unwrap_or(0);
    let mut select = tx.conn.prepare_cached(&format!(
        "{SELECT} WHERE d.id>?1 AND (?2=0 OR (d.tube=?2 AND d.grp=0)) AND (?3=0 OR g.topic=?3)
         AND (?4 IS NULL OR g.name=?4) ORDER BY d.id LIMIT ?5"
    ))?;
    let after = query.after.unwrap_or(0).cast_signed();
    let group = query.group.as_ref().map(Name::as_str);
    let mut rows = select.query(params![after, tube, topic, group, limit])?;
    let (mut letters, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let letter = letter(row)?;
        bytes += letter.body.len();
        letters.push(letter);
        if bytes > PAGE_BYTES {
            break;
        }
    }
    Ok(letters)
}

/// Puts a dead letter back to where it came from, as if it had never been started.
fn replay(tx: &mut Tx<'_>, cursor: u64) -> rusqlite::Result<bool> {
    let found = tx
        .conn
        .prepare_cached(
            "DELETE FROM dead WHERE id=?1 RETURNING job, tube, grp, gid, off, uid, pri",
        )?
        .query_row([cursor.cast_signed()], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, i64>(3)?,
                row.get::<_, i64>(4)?,
                row.get::<_, Vec<u8>>(5)?,
                row.get::<_, i64>(6)?,
            ))
        })
        .optional()?;
    let Some((job, tube, group, gid, off, uid, pri)) = found else {
        return Ok(false);
    };
    if group == 0 {
        make_ready(tx, tube, pri, job, 0)?;
        tx.effects.wake(tube);
    } else {
        let id = tx.number("dead")?;
        tx.conn
            .prepare_cached(
                "INSERT INTO replay(grp, gid, id, job, off, uid) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![group, gid, id, job, off, uid])?;
        let topic: i64 = tx
            .conn
            .prepare_cached("SELECT topic FROM part WHERE gid=?1")?
            .query_row([gid], |row| row.get(0))?;
        tx.effects.wake(-topic);
    }
    tx.effects.sync = true;
    Ok(true)
}

fn purge(tx: &mut Tx<'_>, cursor: u64) -> rusqlite::Result<bool> {
    let job: Option<i64> = tx
        .conn
        .prepare_cached("DELETE FROM dead WHERE id=?1 RETURNING job")?
        .query_row([cursor.cast_signed()], |row| row.get(0))
        .optional()?;
    if let Some(job) = job {
        tx.conn
            .prepare_cached("DELETE FROM job WHERE id=?1")?
            .execute([job])?;
        tx.effects.sync = true;
    }
    Ok(job.is_some())
}

fn count(tx: &Tx<'_>, place: Option<&Place>) -> rusqlite::Result<u64> {
    let Some((tube, topic)) = place_numbers(tx, place)? else {
        return Ok(0);
    };
    let n: i64 = tx
        .conn
        .prepare_cached(
            "SELECT count(*) FROM dead d LEFT JOIN grp g ON g.id=d.grp
             WHERE (?1=0 OR (d.tube=?1 AND d.grp=0)) AND (?2=0 OR g.topic=?2)",
        )?
        .query_row([tube, topic], |row| row.get(0))?;
    Ok(n.cast_unsigned())
}

impl Dead {
    /// Does the same with each of them, in transactions that are not too long.
    async fn each(
        &self,
        what: &'static str,
        cursors: Vec<u64>,
        work: fn(&mut Tx<'_>, u64) -> rusqlite::Result<bool>,
    ) -> Result<usize, EngineError> {
        let mut done = 0;
        for chunk in cursors.chunks(PAGE) {
            let chunk = chunk.to_vec();
            done += self
                .0
                .ask(what, move |tx| {
                    let mut n = 0;
                    for cursor in &chunk {
                        n += usize::from(work(tx, *cursor)?);
                    }
                    Ok(n)
                })
                .await?;
        }
        Ok(done)
    }
}

impl DeadLetters for Dead {
    fn list(&self, query: DeadQuery) -> BoxFuture<'_, Result<Vec<DeadLetter>, EngineError>> {
        Box::pin(self.0.ask("list dead letters", move |tx| list(tx, &query)))
    }

    fn show(&self, cursor: u64) -> BoxFuture<'_, Result<Option<DeadLetter>, EngineError>> {
        Box::pin(self.0.ask("show a dead letter", move |tx| {
            tx.conn
                .prepare_cached(&format!("{SELECT} WHERE d.id=?1"))?
                .query_row([cursor.cast_signed()], letter)
                .optional()
        }))
    }

    fn replay(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(self.each("replay dead letters", cursors, replay))
    }

    fn purge(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(self.each("purge dead letters", cursors, purge))
    }

    fn count(&self, place: Option<Place>) -> BoxFuture<'_, Result<u64, EngineError>> {
        Box::pin(
            self.0
                .ask("count dead letters", move |tx| count(tx, place.as_ref())),
        )
    }
}
