//! The statements of topics: append and read. Records of a partition lie together, under partition × 2⁴⁰ + offset.

use std::collections::VecDeque;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};

use super::mailbox::{Row, Slice};
use super::tube::{Stored, full, id_of, narrow};
use super::tx::{Tail, Tx};
use super::writer::{Kind, Sub};
use crate::engine::{MAX_SLICE, Outgoing, PublishError};
use crate::message::{Flags, partition};
use crate::name::Name;

use super::group::Held;

/// Bits of a position that hold the offset.
pub(super) const OFFSET_BITS: u32 = 40;

/// Set in the token of a dead letter that was replayed.
pub(super) const REPLAYED: u64 = 1 << 63;

/// So many records without a key go to one partition before the next gets its turn: each partition is a page to write.
const STICKY: u32 = 32;

/// A slice ends behind so many bytes of bodies.
const SLICE_BYTES: usize = 4 << 20;

/// So far ahead of what is committed a partition is read: one record that does not end holds it there.
pub(super) const SPAN: i64 = 1 << 16;

/// What a record takes beside its body, for retention by size.
pub(super) const ROW_BYTES: i64 = 40;

/// Appends records to a topic.
pub(super) fn append(
    tx: &mut Tx<'_>,
    name: &Name,
    slice: &[Outgoing],
    answers: &mut Vec<Result<Stored, PublishError>>,
) -> rusqlite::Result<()> {
    let topic = tx.topic(name)?;
    let (id, parts) = (topic.id, topic.parts.clone());
    let count = u32::try_from(parts.len()).unwrap_or(1).max(1);
    let conn = tx.conn;
    let now_ms = tx.now_ms();
    let mut insert = conn.prepare_cached(
        "INSERT INTO log(pos, uid, created, flags, content, key_len, head_len, body) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    // Another batch, another partition.
    *tx.turn = (*tx.turn / STICKY).wrapping_add(1).wrapping_mul(STICKY);
    let mut stored_any = false;
    for out in slice {
        if !tx.take_room(out.body.len())? {
            answers.push(Err(full()));
            continue;
        }
        let part = if out.flags.contains(Flags::NULL_KEY) {
            let part = (*tx.turn / STICKY) % count;
            *tx.turn = tx.turn.wrapping_add(1);
            part
        } else {
            partition::of_key(out.body.key(), count)
        };
        let gid = parts[part as usize];
        let size = i64::try_from(out.body.len()).unwrap_or(i64::MAX) + ROW_BYTES;
        let offset = next_offset(tx, gid, size)?;
        let uid = out.id.0.to_be_bytes();
        insert.raw_bind_parameter(1, (gid << OFFSET_BITS) | offset)?;
        insert.raw_bind_parameter(2, &uid[..])?;
        insert.raw_bind_parameter(3, now_ms)?;
        insert.raw_bind_parameter(4, out.flags.0)?;
        insert.raw_bind_parameter(5, out.content as u8)?;
        insert.raw_bind_parameter(6, narrow(out.body.key_len()))?;
        insert.raw_bind_parameter(7, narrow(out.body.head_len()))?;
        insert.raw_bind_parameter(8, &out.body.bytes()[..])?;
        insert.raw_execute()?;
        stored_any = true;
        answers.push(Ok(Stored {
            existed: false,
            number: offset,
            partition: part,
        }));
    }
    if stored_any {
        tx.effects.sync = true;
        tx.effects.wake(-id);
    }
    Ok(())
}

/// Takes the next offset of a partition. Written back once, at the end of the transaction.
fn next_offset(tx: &mut Tx<'_>, gid: i64, size: i64) -> rusqlite::Result<i64> {
    let at = if let Some(at) = tx.tails.iter().position(|tail| tail.gid == gid) {
        at
    } else {
        let next = tx
            .conn
            .prepare_cached("SELECT next FROM part WHERE gid=?1")?
            .query_row([gid], |row| row.get(0))?;
        tx.tails.push(Tail {
            gid,
            next,
            bytes: 0,
        });
        tx.tails.len() - 1
    };
    let tail = &mut tx.tails[at];
    let offset = tail.next;
    tail.next += 1;
    tail.bytes += size;
    Ok(offset)
}

/// A slice in the making.
#[derive(Default)]
struct Reading {
    rows: VecDeque<Row>,
    bodies: Vec<u8>,
}

const COLUMNS: &str = "uid, created, flags, content, key_len, head_len, body";

impl Reading {
    fn add(
        &mut self,
        token: u64,
        offset: i64,
        uid: usize,
        row: &SqlRow<'_>,
    ) -> rusqlite::Result<()> {
        let body = row.get_ref(uid + 6)?.as_blob()?;
        let created: i64 = row.get(uid + 1)?;
        self.rows.push_back(Row {
            token,
            id: id_of(row.get_ref(uid)?.as_blob()?),
            start: narrow(self.bodies.len()),
            len: narrow(body.len()),
            key_len: row.get(uid + 4)?,
            head_len: row.get(uid + 5)?,
            attempt: 1,
            flags: row.get(uid + 2)?,
            content: row.get(uid + 3)?,
            created,
            due: created.saturating_mul(1_000_000),
            offset,
        });
        self.bodies.extend_from_slice(body);
        Ok(())
    }
}

/// Hands out what there is for one member: one partition after the other, from where it stopped the last time.
pub(super) fn fetch(conn: &Connection, sub: &mut Sub) -> rusqlite::Result<()> {
    let mut room = sub.credit.min(MAX_SLICE);
    let Kind::Topic(member) = &mut sub.kind else {
        return Ok(());
    };
    if room == 0 {
        // Without room it is only said whether something waits.
        let mut waits = false;
        for held in member.held.iter().filter(|held| held.left_by.is_none()) {
            waits |= has_more(conn, member.group, held)?;
        }
        sub.looked(!waits, None);
        sub.maybe = false;
        return Ok(());
    }
    let count = member.held.len();
    let mut slices = Vec::new();
    let mut rest = false;
    for visited in 0..count {
        if room == 0 {
            rest = visited < count;
            break;
        }
        let at = member.turn % count;
        member.turn = (at + 1) % count;
        let group = member.group;
        let held = &mut member.held[at];
        if held.left_by.is_some() {
            continue;
        }
        let asked = room;
        let slice = read(conn, group, held, asked)?;
        // A full slice: there may be more in this partition, it comes again after the others.
        rest |= slice.rows.len() == asked || slice.bytes.len() >= SLICE_BYTES;
        room -= slice.rows.len().min(room);
        if !slice.rows.is_empty() {
            slices.push(slice);
        }
    }
    for slice in slices {
        sub.give(slice);
    }
    sub.looked(!rest, None);
    Ok(())
}

impl Held {
    /// The offset before which it may be read.
    fn end(&self) -> i64 {
        self.committed
            .saturating_add(SPAN)
            .min((1 << OFFSET_BITS) - 1)
    }

    /// Whether a record was done before the partition was taken.
    fn skips(&self, offset: i64) -> bool {
        let (from, done) = &self.skip;
        usize::try_from(offset - from)
            .ok()
            .and_then(|at| done.get(at / 8).map(|byte| byte >> (at % 8) & 1 == 1))
            .unwrap_or(false)
    }
}

/// Whether a partition has something that was not handed out.
fn has_more(conn: &Connection, group: i64, held: &Held) -> rusqlite::Result<bool> {
    if !held.again.is_empty() {
        return Ok(true);
    }
    let first = held.gid << OFFSET_BITS;
    Ok(conn
        .prepare_cached("SELECT 1 FROM log WHERE pos>=?1 AND pos<?2 LIMIT 1")?
        .exists([first | held.at, first + held.end()])?
        || conn
            .prepare_cached("SELECT 1 FROM replay WHERE grp=?1 AND gid=?2 AND id>?3 LIMIT 1")?
            .exists([group, held.gid, held.replayed])?)
}

/// Reads a slice of one partition.
fn read(conn: &Connection, group: i64, held: &mut Held, n: usize) -> rusqlite::Result<Slice> {
    let mut reading = Reading::default();
    for token in held.again.drain(..held.again.len().min(n)) {
        read_again(conn, group, held.gid, token, &mut reading)?;
    }
    read_replays(conn, group, held, n, &mut reading)?;
    if reading.rows.len() < n {
        let mut select = conn.prepare_cached(&format!(
            "SELECT pos, {COLUMNS} FROM log WHERE pos>=?1 AND pos<?2 ORDER BY pos"
        ))?;
        let first = held.gid << OFFSET_BITS;
        let mut found = select.query([first | held.at, first + held.end()])?;
        while reading.rows.len() < n
            && reading.bodies.len() < SLICE_BYTES
            && let Some(row) = found.next()?
        {
            let offset = row.get::<_, i64>(0)? - first;
            held.at = offset + 1;
            if !held.skips(offset) {
                reading.add(offset.cast_unsigned(), offset, 1, row)?;
            }
        }
    }
    Ok(Slice {
        epoch: held.epoch,
        part: held.part,
        bytes: Bytes::from(reading.bodies),
        rows: reading.rows,
    })
}

/// A record that was handed out before and given back.
fn read_again(
    conn: &Connection,
    group: i64,
    gid: i64,
    token: u64,
    into: &mut Reading,
) -> rusqlite::Result<()> {
    let found = if token & REPLAYED == 0 {
        let offset = token.cast_signed();
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM log WHERE pos=?1"))?
            .query_row([(gid << OFFSET_BITS) | offset], |row| {
                into.add(token, offset, 0, row)
            })
    } else {
        let id = (token & !REPLAYED).cast_signed();
        conn.prepare_cached(
            "SELECT r.off, r.uid, j.created, j.flags, j.content, j.key_len, j.head_len, j.body
             FROM replay r JOIN job j ON j.id=r.job WHERE r.grp=?1 AND r.gid=?2 AND r.id=?3",
        )?
        .query_row([group, gid, id], |row| into.add(token, row.get(0)?, 1, row))
    };
    found.optional().map(|_| ())
}

/// Dead letters of this group that were replayed.
fn read_replays(
    conn: &Connection,
    group: i64,
    held: &mut Held,
    n: usize,
    into: &mut Reading,
) -> rusqlite::Result<()> {
    let left = n.saturating_sub(into.rows.len());
    let mut select = conn.prepare_cached(
        "SELECT r.id, r.off, r.uid, j.created, j.flags, j.content, j.key_len, j.head_len, j.body
         FROM replay r CROSS JOIN job j ON j.id=r.job WHERE r.grp=?1 AND r.gid=?2 AND r.id>?3 ORDER BY r.id LIMIT ?4",
    )?;
    let mut found = select.query(params![group, held.gid, held.replayed, narrow(left)])?;
    while let Some(row) = found.next()? {
        let id: i64 = row.get(0)?;
        into.add(id.cast_unsigned() | REPLAYED, row.get(1)?, 2, row)?;
        held.replayed = id;
    }
    Ok(())
}
