//! This process among those that share the file: a lock that the kernel releases when it dies, and a socket by which it
//! is woken.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::host;
use super::schema::beside;
use super::tx::Tx;

/// This process in the tables.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: i64,
    pub(super) boot: String,
    folder: PathBuf,
    name: String,
    /// Held until the end of the process; others see by it that we live.
    lock: File,
    /// Where others wake us; `None` where the path is too long for a socket.
    pub(super) ear: Option<UnixDatagram>,
    mouth: UnixDatagram,
    peers: Vec<PathBuf>,
}

/// Another process that shares the file.
struct Other {
    id: i64,
    boot: String,
    name: String,
    seen: i64,
}

/// What a sweep found: instances that are gone, and single sessions whose lease is over.
#[derive(Debug, Default)]
pub(super) struct Gone {
    instances: Vec<(i64, String)>,
    sessions: Vec<i64>,
}

impl Gone {
    pub(super) fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.sessions.is_empty()
    }
}

fn hold(folder: &Path, name: &str) -> io::Result<File> {
    let lock = host::private_file(&folder.join(format!("{name}.lock")))?;
    lock.lock()?;
    Ok(lock)
}

fn listen(folder: &Path, name: &str) -> Option<UnixDatagram> {
    let path = folder.join(format!("{name}.sock"));
    // Left behind if only the lock was removed.
    let _ = std::fs::remove_file(&path);
    let ear =
        UnixDatagram::bind(path).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    ear.inspect_err(|error| {
        tracing::debug!(%error, "no socket beside the database: other processes are noticed by polling alone");
    })
    .ok()
}

impl Instance {
    /// Takes a lock and a socket, before anybody can read of us in the tables.
    pub(super) fn prepare(path: &Path) -> io::Result<Self> {
        let folder = beside(path, "-peers");
        host::private_folder(&folder)?;
        let name = format!("{:032x}", crate::message::Id::unique().0);
        let lock = hold(&folder, &name)?;
        let ear = listen(&folder, &name);
        let mouth = UnixDatagram::unbound()?;
        mouth.set_nonblocking(true)?;
        Ok(Self {
            id: 0,
            boot: host::boot_name(),
            folder,
            name,
            lock,
            ear,
            mouth,
            peers: Vec::new(),
        })
    }

    /// Writes us into the tables.
    pub(super) fn enter(&mut self, tx: &Tx<'_>) -> rusqlite::Result<()> {
        self.id = tx.number("session")?;
        self.write(tx)
    }

    /// Makes our files anew if somebody has removed them: without them the others take us for dead.
    pub(super) fn hold_again(&mut self) -> io::Result<()> {
        host::private_folder(&self.folder)?;
        if !self.folder.join(format!("{}.lock", self.name)).exists() {
            self.lock = hold(&self.folder, &self.name)?;
            self.ear = listen(&self.folder, &self.name);
        }
        Ok(())
    }

    /// Says that we live; writes us anew if somebody has taken us for dead.
    pub(super) fn beat(&self, tx: &Tx<'_>) -> rusqlite::Result<()> {
        let there = tx
            .conn
            .prepare_cached("UPDATE instance SET seen=?2 WHERE id=?1")?
            .execute([self.id, tx.tick])?;
        if there == 0 { self.write(tx) } else { Ok(()) }
    }

    fn write(&self, tx: &Tx<'_>) -> rusqlite::Result<()> {
        let sock = self.ear.as_ref().map(|_| "sock");
        tx.conn.execute(
            "INSERT INTO instance(id, pid, boot, lock, sock, seen) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                self.id,
                std::process::id(),
                self.boot,
                self.name,
                sock,
                tx.tick
            ],
        )?;
        Ok(())
    }

    /// Reads who else is to be woken.
    pub(super) fn find_peers(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let mut found =
            conn.prepare_cached("SELECT lock FROM instance WHERE id<>?1 AND sock IS NOT NULL")?;
        let mut rows = found.query([self.id])?;
        self.peers.clear();
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            self.peers.push(self.folder.join(format!("{name}.sock")));
        }
        Ok(())
    }

    /// Whether other processes share the file.
    pub(super) fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Tells the others where something became deliverable.
    pub(super) fn nudge(&mut self, places: &[i64]) {
        if self.peers.is_empty() || places.is_empty() {
            return;
        }
        let mut message = [0; 256];
        let mut used = 0;
        for (slot, place) in message.chunks_exact_mut(8).zip(places) {
            slot.copy_from_slice(&place.to_le_bytes());
            used += 8;
        }
        // What does not fit: zero wakes all.
        if places.len() * 8 > used {
            message[..8].fill(0);
        }
        self.peers
            .retain(|peer| match self.mouth.send_to(&message[..used], peer) {
                // A full buffer means that it has much to read already.
                Ok(_) => true,
                Err(error) => !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                ),
            });
    }

    /// Reads what the others said: places, zero for all.
    pub(super) fn hear(&self, mut each: impl FnMut(i64)) {
        let Some(ear) = &self.ear else { return };
        let mut message = [0; 256];
        // A bound, so that a loud neighbour cannot keep us here.
        for _ in 0..64 {
            let Ok(n) = ear.recv(&mut message) else {
                return;
            };
            for place in message[..n].chunks_exact(8) {
                each(place.try_into().map_or(0, i64::from_le_bytes));
            }
        }
    }

    /// Looks which of the others are gone: another boot, a lock that nobody holds, or a lease that was not renewed.
    pub(super) fn sweep(
        &self,
        conn: &Connection,
        tick: i64,
        expire: bool,
    ) -> rusqlite::Result<Gone> {
        let others: Vec<Other> = conn
            .prepare_cached("SELECT id, boot, lock, seen FROM instance WHERE id<>?1")?
            .query_map([self.id], |row| {
                Ok(Other {
                    id: row.get(0)?,
                    boot: row.get(1)?,
                    name: row.get(2)?,
                    seen: row.get(3)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        let mut gone = Gone::default();
        for other in others {
            if other.boot != self.boot || other.seen > tick + 60_000 || self.is_dead(&other.name) {
                gone.instances.push((other.id, other.name));
                continue;
            }
            if !expire {
                continue;
            }
            let late: Vec<i64> = conn
                .prepare_cached(
                    "SELECT s.id FROM session s WHERE s.instance=?1 AND s.lease<?2
                     AND (s.grp<>0 OR EXISTS (SELECT 1 FROM lease l WHERE l.session=s.id)
                       OR EXISTS (SELECT 1 FROM claim c WHERE c.owner=s.id AND c.state=1))",
                )?
                .query_map([other.id, tick - other.seen], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            gone.sessions.extend(late);
        }
        // Of an instance that was taken for dead, and died before it had noticed.
        let orphans: Vec<i64> = conn
            .prepare_cached(
                "SELECT id FROM session WHERE instance NOT IN (SELECT id FROM instance)",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        gone.sessions.extend(orphans);
        Ok(gone)
    }

    fn is_dead(&self, name: &str) -> bool {
        match File::options()
            .read(true)
            .write(true)
            .open(self.folder.join(format!("{name}.lock")))
        {
            Ok(file) => match file.try_lock() {
                Ok(()) => true,
                // Held, or not known: then the lease decides.
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
            },
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Gives back what the dead had.
    pub(super) fn bury(tx: &mut Tx<'_>, gone: &Gone) -> rusqlite::Result<usize> {
        let mut returned = 0;
        for (instance, _) in &gone.instances {
            let sessions: Vec<i64> = tx
                .conn
                .prepare_cached("SELECT id FROM session WHERE instance=?1")?
                .query_map([instance], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            for session in sessions {
                returned += tx.end_session(session)?;
            }
            tx.conn
                .prepare_cached("DELETE FROM instance WHERE id=?1")?
                .execute([instance])?;
        }
        for session in &gone.sessions {
            returned += tx.end_session(*session)?;
        }
        tx.effects.sync = true;
        Ok(returned)
    }

    /// Removes the files of the dead.
    pub(super) fn remove_files(&self, gone: &Gone) {
        for (_, name) in &gone.instances {
            self.remove(name);
        }
    }

    fn remove(&self, name: &str) {
        for ending in ["sock", "lock"] {
            // Another sweeper may have been first.
            let _ = std::fs::remove_file(self.folder.join(format!("{name}.{ending}")));
        }
    }

    /// Ends us: the last thing before the lock goes.
    pub(super) fn leave(&self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        let me = Gone {
            instances: vec![(self.id, self.name.clone())],
            sessions: Vec::new(),
        };
        Self::bury(tx, &me).map(|_| ())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.remove(&self.name);
    }
}
