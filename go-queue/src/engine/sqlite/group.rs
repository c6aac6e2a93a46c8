//! Consumer groups of a topic: who holds which partitions, what is committed.

use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension, params};

use super::mailbox::Word;
use super::queue::{Buried, TopicTurn};
use super::record::{OFFSET_BITS, REPLAYED};
use super::tx::Tx;
use super::writer::{Kind, Sub, Writer};
use crate::engine::Start;

/// One member of a group: an end of a subscription to a topic.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) group: i64,
    pub(super) topic: i64,
    pub(super) held: Vec<Held>,
    /// Which partition is read next.
    pub(super) turn: usize,
    /// How long a partition that is to be given back may wait for running handlers.
    pub(super) drain: Duration,
    /// Members or partitions may have changed.
    pub(super) check: bool,
}

/// One partition in the hands of a member.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) gid: i64,
    pub(super) part: u32,
    pub(super) epoch: u32,
    /// The next offset to read.
    pub(super) at: i64,
    /// What the group has committed; how far ahead of it is read has a bound.
    pub(super) committed: i64,
    /// What was done when the partition was taken, from that offset on, one bit for each record.
    pub(super) skip: (i64, Vec<u8>),
    /// Records to hand out once more.
    pub(super) again: Vec<u64>,
    /// The last replayed dead letter that was handed out.
    pub(super) replayed: i64,
    /// It is being given back, at the latest then.
    pub(super) left_by: Option<Instant>,
}

/// Joins a group, makes it if it is new. Answers group and session.
pub(super) fn join(
    tx: &mut Tx<'_>,
    topic: i64,
    name: &str,
    start: Start,
    lease: i64,
) -> rusqlite::Result<(i64, u32)> {
    let now = tx.now_ms();
    let made = tx
        .conn
        .prepare_cached(
            "INSERT INTO grp(topic, name, seen) VALUES(?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![topic, name, now])?;
    let group: i64 = tx
        .conn
        .prepare_cached("SELECT id FROM grp WHERE topic=?1 AND name=?2")?
        .query_row(params![topic, name], |row| row.get(0))?;
    if made == 1 {
        let from = match start {
            Start::First => "low",
            Start::Last => "next",
        };
        tx.conn.execute(
            &format!("INSERT INTO cursor(grp, gid, off, session) SELECT ?1, gid, {from}, 0 FROM part WHERE topic=?2"),
            [group, topic],
        )?;
    } else {
        tx.conn
            .prepare_cached("UPDATE grp SET seen=?2 WHERE id=?1")?
            .execute([group, now])?;
    }
    let session = tx.new_session(0, group, lease)?;
    tx.effects.moved = true;
    tx.effects.sync = true;
    Ok((group, session))
}

/// Does what an end of a topic says.
pub(super) fn settle(tx: &mut Tx<'_>, turn: &mut TopicTurn, sub: &mut Sub) -> rusqlite::Result<()> {
    let session = sub.session;
    sub.grant(
        std::mem::take(&mut turn.credit),
        std::mem::take(&mut turn.withdraw) || turn.quiet,
    );
    let Kind::Topic(member) = &mut sub.kind else {
        return Ok(());
    };
    turn.stale = 0;
    let holds = |gid: i64, epoch: u32| {
        member
            .held
            .iter()
            .any(|held| held.gid == gid && held.epoch == epoch)
    };
    for buried in &turn.dead {
        // Fenced twice: by what we hold, and by what the tables say.
        if holds(buried.gid, buried.epoch) && owns(tx, member.group, buried.gid, session)? {
            bury(tx, member.group, &sub.label, buried)?;
        } else {
            turn.stale += 1;
        }
    }
    for &(gid, epoch, token) in &turn.replayed {
        if holds(gid, epoch) && owns(tx, member.group, gid, session)? {
            take_replay(tx, member.group, gid, token, true)?;
        }
    }
    for commit in &turn.commits {
        if holds(commit.gid, commit.epoch) {
            let done = (!commit.done.is_empty()).then_some(&commit.done);
            tx.conn
                .prepare_cached(
                    "UPDATE cursor SET off=?3, done=?5 WHERE grp=?1 AND gid=?2 AND session=?4 AND off<=?3",
                )?
                .execute(params![member.group, commit.gid, commit.base, session, done])?;
        }
    }
    for epoch in &turn.left {
        if let Some(held) = member.held.iter().find(|held| held.epoch == *epoch) {
            free(tx, member.group, held.gid, session)?;
        }
    }
    if !(turn.commits.is_empty() && turn.dead.is_empty() && turn.replayed.is_empty()) {
        tx.effects.sync = true;
    }
    if turn.end {
        tx.end_session(i64::from(session))?;
    }
    Ok(())
}

fn owns(tx: &Tx<'_>, group: i64, gid: i64, session: u32) -> rusqlite::Result<bool> {
    tx.conn
        .prepare_cached("SELECT 1 FROM cursor WHERE grp=?1 AND gid=?2 AND session=?3")?
        .exists(params![group, gid, session])
}

fn free(tx: &mut Tx<'_>, group: i64, gid: i64, session: u32) -> rusqlite::Result<()> {
    tx.conn
        .prepare_cached("UPDATE cursor SET session=0 WHERE grp=?1 AND gid=?2 AND session=?3")?
        .execute(params![group, gid, session])?;
    tx.effects.moved = true;
    Ok(())
}

/// Applies to the member what is committed now.
pub(super) fn done(sub: &mut Sub, turn: &TopicTurn) {
    let Kind::Topic(member) = &mut sub.kind else {
        return;
    };
    for &(gid, epoch, token) in &turn.again {
        if let Some(held) = member
            .held
            .iter_mut()
            .find(|held| held.gid == gid && held.epoch == epoch)
        {
            held.again.push(token);
            sub.maybe = true;
        }
    }
    for commit in &turn.commits {
        if let Some(held) = member
            .held
            .iter_mut()
            .find(|held| held.epoch == commit.epoch)
        {
            // Reading had stopped at the bound.
            sub.maybe |= held.at >= held.committed.saturating_add(super::record::SPAN);
            held.committed = held.committed.max(commit.base);
        }
    }
    let mut over = Vec::new();
    member.held.retain(|held| {
        let left = turn.left.contains(&held.epoch);
        if left {
            over.push(held.epoch);
        }
        !left
    });
    member.check |= !over.is_empty();
    for epoch in over {
        sub.say(Word::Lost { epoch });
    }
}

/// Copies a record to the dead letters of its group, or puts a replayed one back there.
fn bury(tx: &mut Tx<'_>, group: i64, label: &str, buried: &Buried) -> rusqlite::Result<()> {
    let now = tx.now_ms();
    let (job, off, uid) = if buried.token & REPLAYED != 0 {
        match take_replay(tx, group, buried.gid, buried.token, false)? {
            Some(found) => found,
            None => return Ok(()),
        }
    } else {
        let off = buried.token.cast_signed();
        let pos = (buried.gid << OFFSET_BITS) | off;
        let job = tx.job()?;
        let copied = tx
            .conn
            .prepare_cached(
                "INSERT INTO job(id, tube, uid, pri, due, created, flags, content, key_len, head_len, body)
                 SELECT ?1, 0, NULL, 0, created*1000000, created, flags, content, key_len, head_len, body FROM log WHERE pos=?2",
            )?
            .execute([job, pos])?;
        if copied == 0 {
            tracing::warn!(
                offset = off,
                "a record was removed by retention before it could be kept as a dead letter"
            );
            return Ok(());
        }
        let uid: Vec<u8> = tx
            .conn
            .prepare_cached("SELECT uid FROM log WHERE pos=?1")?
            .query_row([pos], |row| row.get(0))?;
        (job, off, uid)
    };
    let cursor = tx.number("dead")?;
    tx.conn
        .prepare_cached(
            "INSERT INTO dead(id, job, tube, grp, gid, off, uid, pri, attempts, died, handler, reason)
             VALUES(?1, ?2, 0, ?3, ?4, ?5, ?6, 0, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            cursor,
            job,
            group,
            buried.gid,
            off,
            uid,
            buried.attempts,
            now,
            label,
            &*buried.reason
        ])?;
    Ok(())
}

/// Ends a replay: removes its row, and the body with it if it is done.
fn take_replay(
    tx: &Tx<'_>,
    group: i64,
    gid: i64,
    token: u64,
    done: bool,
) -> rusqlite::Result<Option<(i64, i64, Vec<u8>)>> {
    let id = (token & !REPLAYED).cast_signed();
    let found = tx
        .conn
        .prepare_cached(
            "DELETE FROM replay WHERE grp=?1 AND gid=?2 AND id=?3 RETURNING job, off, uid",
        )?
        .query_row([group, gid, id], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    if let (Some((job, _, _)), true) = (&found, done) {
        let job: i64 = *job;
        tx.conn
            .prepare_cached("DELETE FROM job WHERE id=?1")?
            .execute([job])?;
    }
    Ok(found)
}

/// A partition of a group in the tables.
struct Cursor {
    gid: i64,
    part: u32,
    session: u32,
}

/// Brings every member of this process to its share: ⌈partitions ÷ members⌉ for the first ones, one less for the rest.
pub(super) fn balance(writer: &mut Writer, now: Instant) {
    for at in 0..writer.subs.len() {
        let Kind::Topic(member) = &mut writer.subs[at].kind else {
            continue;
        };
        if !std::mem::take(&mut member.check) {
            continue;
        }
        if let Err(error) = balance_one(writer, at, now) {
            tracing::warn!(%error, "the partitions of a group could not be shared out, trying on");
            if let Kind::Topic(member) = &mut writer.subs[at].kind {
                member.check = true;
            }
        }
    }
}

fn balance_one(writer: &mut Writer, at: usize, now: Instant) -> rusqlite::Result<()> {
    let sub = &writer.subs[at];
    let Kind::Topic(member) = &sub.kind else {
        return Ok(());
    };
    let (group, session, drain) = (member.group, sub.session, member.drain);
    let members: Vec<u32> = writer
        .conn
        .prepare_cached("SELECT id FROM session WHERE grp=?1 ORDER BY id")?
        .query_map([group], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let cursors: Vec<Cursor> = writer
        .conn
        .prepare_cached(
            "SELECT c.gid, p.part, c.session FROM cursor c JOIN part p ON p.gid=c.gid WHERE c.grp=?1 ORDER BY p.part",
        )?
        .query_map([group], |row| {
            Ok(Cursor { gid: row.get(0)?, part: row.get(1)?, session: row.get(2)? })
        })?
        .collect::<Result<_, _>>()?;
    let Some(rank) = members.iter().position(|id| *id == session) else {
        // Our session is gone: found and said by the look for lost ones.
        return Ok(());
    };
    let share = cursors.len() / members.len() + usize::from(rank < cursors.len() % members.len());

    let mut lost = Vec::new();
    let Kind::Topic(member) = &mut writer.subs[at].kind else {
        return Ok(());
    };
    member.held.retain(|held| {
        let ours = cursors
            .iter()
            .any(|cursor| cursor.gid == held.gid && cursor.session == session);
        if !ours {
            lost.push(held.epoch);
        }
        ours
    });
    let staying = member
        .held
        .iter()
        .filter(|held| held.left_by.is_none())
        .count();
    let mut leaving = Vec::new();
    if staying > share {
        let by = now + drain;
        for held in member
            .held
            .iter_mut()
            .rev()
            .filter(|held| held.left_by.is_none())
            .take(staying - share)
        {
            held.left_by = Some(by);
            leaving.push(held.epoch);
        }
        writer.deadline = Some(writer.deadline.map_or(by, |at| at.min(by)));
    }
    let wanted: Vec<(i64, u32)> = if staying < share {
        cursors
            .iter()
            .filter(|cursor| cursor.session == 0 || !members.contains(&cursor.session))
            .take(share - staying)
            .map(|cursor| (cursor.gid, cursor.part))
            .collect()
    } else {
        Vec::new()
    };
    let sub = &mut writer.subs[at];
    for epoch in lost {
        sub.say(Word::Lost { epoch });
    }
    for epoch in leaving {
        sub.say(Word::Leaving { epoch });
    }
    if wanted.is_empty() {
        return Ok(());
    }
    take(writer, at, group, session, &wanted);
    Ok(())
}

/// Takes free partitions. Another member may be faster: then nothing happens, and the next look says who has it.
fn take(writer: &mut Writer, at: usize, group: i64, session: u32, wanted: &[(i64, u32)]) {
    let taken = writer.small(|tx, _| {
        let mut taken = Vec::new();
        let mut update = tx.conn.prepare_cached(
            "UPDATE cursor SET session=?3 WHERE grp=?1 AND gid=?2
             AND (session=0 OR session NOT IN (SELECT id FROM session)) RETURNING off, done",
        )?;
        for &(gid, part) in wanted {
            let found: Option<(i64, Option<Vec<u8>>)> = update
                .query_row(params![group, gid, session], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            if let Some((off, done)) = found {
                taken.push((gid, part, off, done.unwrap_or_default()));
            }
        }
        Ok(taken)
    });
    match taken {
        Ok(taken) => {
            for (gid, part, off, done) in taken {
                let epoch = writer.next_epoch;
                writer.next_epoch = writer.next_epoch.wrapping_add(1).max(1);
                let sub = &mut writer.subs[at];
                sub.say(Word::Took {
                    epoch,
                    gid,
                    part,
                    from: off,
                    done: done.clone(),
                });
                sub.maybe = true;
                if let Kind::Topic(member) = &mut sub.kind {
                    member.held.push(Held {
                        gid,
                        part,
                        epoch,
                        at: off,
                        committed: off,
                        skip: (off, done),
                        again: Vec::new(),
                        replayed: 0,
                        left_by: None,
                    });
                }
            }
        }
        Err(failure) => {
            tracing::warn!(why = %failure.why(), "free partitions could not be taken, trying on");
            if let Kind::Topic(member) = &mut writer.subs[at].kind {
                member.check = true;
            }
        }
    }
}

/// Gives up partitions whose handlers did not finish within the drain bound.
pub(super) fn give_up(writer: &mut Writer, now: Instant) {
    writer.deadline = None;
    for at in 0..writer.subs.len() {
        let sub = &writer.subs[at];
        let Kind::Topic(member) = &sub.kind else {
            continue;
        };
        let (group, session) = (member.group, sub.session);
        let over: Vec<(i64, u32)> = member
            .held
            .iter()
            .filter(|held| held.left_by.is_some_and(|by| now >= by))
            .map(|held| (held.gid, held.epoch))
            .collect();
        let next = member
            .held
            .iter()
            .filter_map(|held| held.left_by)
            .filter(|by| now < *by)
            .min();
        if let Some(next) = next {
            writer.deadline = Some(writer.deadline.map_or(next, |at| at.min(next)));
        }
        if over.is_empty() {
            continue;
        }
        let freed = writer.small(|tx, _| {
            for (gid, _) in &over {
                free(tx, group, *gid, session)?;
            }
            Ok(())
        });
        if let Err(failure) = freed {
            tracing::warn!(why = %failure.why(), "a partition could not be given up, trying on");
            writer.deadline = Some(now + Duration::from_millis(100));
            continue;
        }
        let sub = &mut writer.subs[at];
        if let Kind::Topic(member) = &mut sub.kind {
            member
                .held
                .retain(|held| !over.iter().any(|(_, epoch)| *epoch == held.epoch));
        }
        for (_, epoch) in over {
            sub.say(Word::Lost { epoch });
        }
    }
}
