//! One write transaction: the connection, the time it has, the numbers it gives out, and what follows from it.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::Config;
use super::schema::PAGE;
use super::writer::Sub;
use crate::name::Name;
use crate::time::WallTime;

/// Names whose numbers are known. Emptied when a transaction is rolled back, because it may have made them.
#[derive(Debug, Default)]
pub(super) struct Names {
    tubes: HashMap<Name, i64>,
    topics: HashMap<Name, Topic>,
}

impl Names {
    pub(super) fn clear(&mut self) {
        self.tubes.clear();
        self.topics.clear();
    }
}

/// A topic as the writer knows it.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) id: i64,
    /// The number of each partition in the tables, in order.
    pub(super) parts: Vec<i64>,
}

/// What follows from a transaction once it is committed.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Its answers must wait for the disk.
    pub(super) sync: bool,
    /// Places where something became deliverable or due: a tube, or minus a topic.
    pub(super) woken: Vec<i64>,
    /// Ends that begin.
    pub(super) joined: Vec<Sub>,
    /// Members or partitions of a group changed.
    pub(super) moved: bool,
}

impl Effects {
    pub(super) fn wake(&mut self, place: i64) {
        if self.woken.last() != Some(&place) && !self.woken.contains(&place) {
            self.woken.push(place);
        }
    }
}

/// The next offset of a partition and its bytes, read once and written once for each transaction.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) gid: i64,
    pub(super) next: i64,
    pub(super) bytes: i64,
}

/// One write transaction.
#[derive(Debug)]
pub(super) struct Tx<'a> {
    pub(super) conn: &'a Connection,
    pub(super) config: &'a Config,
    pub(super) instance: i64,
    pub(super) wall: WallTime,
    /// Boot time in milliseconds.
    pub(super) tick: i64,
    pub(super) effects: Effects,
    pub(super) tails: Vec<Tail>,
    /// Where keyless records of this transaction go.
    pub(super) turn: &'a mut u32,
    names: &'a mut Names,
    soft_pages: i64,
    room: Option<i64>,
    next_job: Option<i64>,
}

impl<'a> Tx<'a> {
    #[expect(
        clippy::too_many_arguments,
        reason = "the writer hands over what it has, in one place"
    )]
    pub(super) fn new(
        conn: &'a Connection,
        config: &'a Config,
        instance: i64,
        wall: WallTime,
        tick: i64,
        soft_pages: i64,
        names: &'a mut Names,
        turn: &'a mut u32,
    ) -> Self {
        Self {
            conn,
            config,
            instance,
            wall,
            tick,
            effects: Effects::default(),
            tails: Vec::new(),
            turn,
            names,
            soft_pages,
            room: None,
            next_job: None,
        }
    }

    /// Wall time in whole milliseconds, rounded down: what is due at it is due.
    pub(super) fn now_ms(&self) -> i64 {
        self.wall.as_millis()
    }

    /// A number for a job, never given twice by this store.
    pub(super) fn job(&mut self) -> rusqlite::Result<i64> {
        let next = match self.next_job {
            Some(next) => next,
            None => self.meta("job")?,
        };
        self.next_job = Some(next + 1);
        Ok(next)
    }

    /// A number of another kind, never given twice by this store.
    pub(super) fn number(&self, kind: &str) -> rusqlite::Result<i64> {
        self.conn
            .prepare_cached("UPDATE meta SET value=value+1 WHERE name=?1 RETURNING value-1")?
            .query_row([kind], |row| row.get(0))
    }

    /// A number of the store.
    pub(super) fn meta(&self, name: &str) -> rusqlite::Result<i64> {
        self.conn
            .prepare_cached("SELECT value FROM meta WHERE name=?1")?
            .query_row([name], |row| row.get(0))
    }

    /// Takes room for a message of so many bytes. False at the quota.
    ///
    /// Producers are stopped before the file is full, so that consumers can still claim and settle.
    pub(super) fn take_room(&mut self, bytes: usize) -> rusqlite::Result<bool> {
        let room = if let Some(room) = self.room {
            room
        } else {
            let read = |pragma: &str| -> rusqlite::Result<i64> {
                self.conn
                    .prepare_cached(pragma)?
                    .query_row([], |row| row.get(0))
            };
            let used = read("PRAGMA page_count")? - read("PRAGMA freelist_count")?;
            (self.soft_pages - used).saturating_mul(i64::try_from(PAGE).unwrap_or(4096))
        };
        // The rows beside the body, and half of it again for pages that are not full.
        let needs = i64::try_from(bytes + bytes / 2 + 256).unwrap_or(i64::MAX);
        self.room = Some(room - needs);
        Ok(room >= needs)
    }

    /// The number of a tube, made at its first use.
    pub(super) fn tube(&mut self, name: &Name) -> rusqlite::Result<i64> {
        if let Some(id) = self.names.tubes.get(name.as_str()) {
            return Ok(*id);
        }
        self.conn
            .prepare_cached("INSERT INTO tube(name) VALUES(?1) ON CONFLICT DO NOTHING")?
            .execute([name.as_str()])?;
        let id = self
            .conn
            .prepare_cached("SELECT id FROM tube WHERE name=?1")?
            .query_row([name.as_str()], |row| row.get(0))?;
        self.names.tubes.insert(name.clone(), id);
        Ok(id)
    }

    /// A topic, made at its first use, with at least as many partitions as configured.
    pub(super) fn topic(&mut self, name: &Name) -> rusqlite::Result<&Topic> {
        if !self.names.topics.contains_key(name.as_str()) {
            let topic = self.make_topic(name)?;
            self.names.topics.insert(name.clone(), topic);
        }
        // Inserted above if it was not there.
        self.names
            .topics
            .get(name.as_str())
            .ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    fn make_topic(&mut self, name: &Name) -> rusqlite::Result<Topic> {
        self.conn
            .prepare_cached("INSERT INTO topic(name) VALUES(?1) ON CONFLICT DO NOTHING")?
            .execute([name.as_str()])?;
        let id: i64 = self
            .conn
            .prepare_cached("SELECT id FROM topic WHERE name=?1")?
            .query_row([name.as_str()], |row| row.get(0))?;
        let mut parts = self.parts(id)?;
        let wanted = self.config.topic(name).partitions.max(1) as usize;
        if parts.len() > wanted {
            tracing::warn!(topic = %name, has = parts.len(), configured = wanted, "a topic cannot shrink, it keeps its partitions");
        }
        let grows = parts.len() < wanted && !parts.is_empty();
        for part in parts.len()..wanted {
            let part = i64::try_from(part).unwrap_or(i64::MAX);
            self.conn
                .prepare_cached(
                    "INSERT INTO part(topic, part, next, low, bytes) VALUES(?1, ?2, 0, 0, 0)",
                )?
                .execute([id, part])?;
            let gid = self.conn.last_insert_rowid();
            // Groups that are there read a new partition from its beginning, so that nothing is missed.
            self.conn
                .prepare_cached("INSERT INTO cursor(grp, gid, off, session) SELECT id, ?2, 0, 0 FROM grp WHERE topic=?1")?
                .execute([id, gid])?;
            parts.push(gid);
        }
        if grows {
            self.effects.moved = true;
        }
        Ok(Topic { id, parts })
    }

    /// The partitions of a topic, in order.
    pub(super) fn parts(&self, topic: i64) -> rusqlite::Result<Vec<i64>> {
        self.conn
            .prepare_cached("SELECT gid FROM part WHERE topic=?1 ORDER BY part")?
            .query_map([topic], |row| row.get(0))?
            .collect()
    }

    /// Whether a session is still in the tables: others remove it when its lease runs out.
    pub(super) fn has_session(&self, session: u32) -> rusqlite::Result<bool> {
        Ok(self
            .conn
            .prepare_cached("SELECT 1 FROM session WHERE id=?1")?
            .query_row([session], |_| Ok(()))
            .optional()?
            .is_some())
    }

    /// Begins a session of this process.
    pub(super) fn new_session(&self, tube: i64, group: i64, lease: i64) -> rusqlite::Result<u32> {
        let id = u32::try_from(self.number("session")?).unwrap_or(u32::MAX);
        self.conn
            .prepare_cached(
                "INSERT INTO session(id, instance, tube, grp, lease) VALUES(?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![id, self.instance, tube, group, lease])?;
        Ok(id)
    }

    /// Ends a session: what it had leased waits again, its starts counted; its partitions are free.
    pub(super) fn end_session(&mut self, session: i64) -> rusqlite::Result<usize> {
        let tubes: Vec<i64> = self
            .conn
            .prepare_cached("SELECT DISTINCT tube FROM lease WHERE session=?1")?
            .query_map([session], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for tube in tubes {
            self.effects.wake(tube);
        }
        let returned = self
            .conn
            .prepare_cached("INSERT INTO ready(tube, pri, id, attempts) SELECT tube, pri, id, attempts FROM lease WHERE session=?1")?
            .execute([session])?;
        self.conn
            .prepare_cached("DELETE FROM lease WHERE session=?1")?
            .execute([session])?;
        self.conn
            .prepare_cached("UPDATE cursor SET session=0 WHERE session=?1")?
            .execute([session])?;
        let until = super::tube::millis_up(self.wall.saturating_add(self.config.keep));
        self.conn
            .prepare_cached(
                "UPDATE claim SET state=2, owner=0, until=?2 WHERE owner=?1 AND state=1",
            )?
            .execute([session, until])?;
        self.conn
            .prepare_cached("DELETE FROM session WHERE id=?1")?
            .execute([session])?;
        self.effects.moved = true;
        Ok(returned)
    }

    /// Until when it is known of a task of this tube that it is done or taken back.
    pub(super) fn known_until(&self, tube: i64) -> rusqlite::Result<i64> {
        let mut keep = self.config.keep;
        // Most programs keep all names equally long; then nobody asks for the name of the tube.
        if !self.config.keeps.is_empty() {
            let name: String = self
                .conn
                .prepare_cached("SELECT name FROM tube WHERE id=?1")?
                .query_row([tube], |row| row.get(0))?;
            keep = self.config.keeps.get(&*name).copied().unwrap_or(keep);
        }
        Ok(super::tube::millis_up(self.wall.saturating_add(keep)))
    }

    /// Writes the numbers that were given out. The last thing before the commit.
    pub(super) fn finish(&mut self) -> rusqlite::Result<()> {
        if let Some(next) = self.next_job {
            self.conn
                .prepare_cached("UPDATE meta SET value=?1 WHERE name='job'")?
                .execute([next])?;
        }
        if !self.tails.is_empty() {
            let mut write = self
                .conn
                .prepare_cached("UPDATE part SET next=?2, bytes=bytes+?3 WHERE gid=?1")?;
            for tail in &self.tails {
                write.execute([tail.gid, tail.next, tail.bytes])?;
            }
        }
        Ok(())
    }
}
