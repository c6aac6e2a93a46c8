//! The tables, and how a file becomes one of ours.
//!
//! A job row is inserted once and deleted once, so that bodies are never rewritten; where a job stands is said by the
//! small tables `ready`, `timer`, `lease` and `dead`. Due times are wall time in nanoseconds, leases hang on boot time; what
//! people read is in milliseconds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::failure::ENGINE;
use super::host;
use crate::engine::EngineError;

/// Written into every file of ours: "goqu".
const APPLICATION_ID: i64 = 0x676f_7175;

/// The version of the tables below.
pub(super) const VERSION: i64 = 1;

/// From this version on SQLite may checkpoint by itself. Before, a checkpoint that races with a commit which starts the
/// log anew can corrupt the file.
const SAFE_CHECKPOINTS: i32 = 3_051_003;

/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;

/// Pages in the log before a checkpoint.
pub(super) const CHECKPOINT_PAGES: u64 = 1000;

/// Files up to so many bytes are checked for damage when they are opened.
const QUICK_CHECK_LIMIT: u64 = 16 << 20;

const TABLES: &str = "
CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE tube(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE job(id INTEGER PRIMARY KEY, tube INTEGER NOT NULL, uid BLOB, pri INTEGER NOT NULL, due INTEGER NOT NULL,
  created INTEGER NOT NULL, flags INTEGER NOT NULL, content INTEGER NOT NULL, key_len INTEGER NOT NULL,
  head_len INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE UNIQUE INDEX job_uid ON job(uid, tube);
CREATE TABLE ready(tube INTEGER NOT NULL, pri INTEGER NOT NULL, id INTEGER NOT NULL, attempts INTEGER NOT NULL,
  PRIMARY KEY(tube, pri, id)) STRICT, WITHOUT ROWID;
CREATE TABLE timer(tube INTEGER NOT NULL, at INTEGER NOT NULL, id INTEGER NOT NULL, pri INTEGER NOT NULL,
  attempts INTEGER NOT NULL, PRIMARY KEY(tube, at, id)) STRICT, WITHOUT ROWID;
CREATE TABLE lease(session INTEGER NOT NULL, id INTEGER NOT NULL, tube INTEGER NOT NULL, pri INTEGER NOT NULL,
  attempts INTEGER NOT NULL, PRIMARY KEY(session, id)) STRICT, WITHOUT ROWID;
CREATE TABLE done(uid BLOB NOT NULL, tube INTEGER NOT NULL, job INTEGER NOT NULL, until INTEGER NOT NULL,
  PRIMARY KEY(uid, tube)) STRICT, WITHOUT ROWID;
CREATE INDEX done_until ON done(until);
CREATE TABLE revoked(job INTEGER PRIMARY KEY, until INTEGER NOT NULL) STRICT;
CREATE TABLE dead(id INTEGER PRIMARY KEY, job INTEGER NOT NULL, tube INTEGER NOT NULL, grp INTEGER NOT NULL,
  gid INTEGER NOT NULL, off INTEGER NOT NULL, uid BLOB NOT NULL, pri INTEGER NOT NULL, attempts INTEGER NOT NULL,
  died INTEGER NOT NULL, handler TEXT NOT NULL, reason TEXT NOT NULL) STRICT;
CREATE INDEX dead_job ON dead(job);
CREATE TABLE instance(id INTEGER PRIMARY KEY, pid INTEGER NOT NULL, boot TEXT NOT NULL, lock TEXT NOT NULL, sock TEXT,
  seen INTEGER NOT NULL) STRICT;
CREATE TABLE session(id INTEGER PRIMARY KEY, instance INTEGER NOT NULL, tube INTEGER NOT NULL, grp INTEGER NOT NULL,
  lease INTEGER NOT NULL) STRICT;
CREATE TABLE topic(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE part(gid INTEGER PRIMARY KEY, topic INTEGER NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL,
  low INTEGER NOT NULL, bytes INTEGER NOT NULL, UNIQUE(topic, part)) STRICT;
CREATE TABLE log(pos INTEGER PRIMARY KEY, uid BLOB NOT NULL, created INTEGER NOT NULL, flags INTEGER NOT NULL,
  content INTEGER NOT NULL, key_len INTEGER NOT NULL, head_len INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE grp(id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, name TEXT NOT NULL, seen INTEGER NOT NULL,
  UNIQUE(topic, name)) STRICT;
CREATE TABLE cursor(grp INTEGER NOT NULL, gid INTEGER NOT NULL, off INTEGER NOT NULL, session INTEGER NOT NULL, done BLOB,
  PRIMARY KEY(grp, gid)) STRICT, WITHOUT ROWID;
CREATE TABLE replay(grp INTEGER NOT NULL, gid INTEGER NOT NULL, id INTEGER NOT NULL, job INTEGER NOT NULL,
  off INTEGER NOT NULL, uid BLOB NOT NULL, PRIMARY KEY(grp, gid, id)) STRICT, WITHOUT ROWID;
CREATE TABLE claim(scope TEXT NOT NULL, uid BLOB NOT NULL, state INTEGER NOT NULL, owner INTEGER NOT NULL,
  attempts INTEGER NOT NULL, until INTEGER NOT NULL, PRIMARY KEY(scope, uid)) STRICT, WITHOUT ROWID;
CREATE INDEX claim_until ON claim(until) WHERE state<>1;
CREATE INDEX claim_owner ON claim(owner) WHERE state=1;
";

/// What is wrong with a file, for people.
fn unusable(path: &Path, why: impl Into<String>) -> EngineError {
    EngineError::Unusable {
        engine: ENGINE,
        what: format!("open {}", path.display()),
        why: Arc::from(why.into()),
    }
}

/// What an error of SQLite at open means, and what to do.
fn at_open(path: &Path, error: &rusqlite::Error) -> EngineError {
    use rusqlite::ErrorCode as Code;
    let advice = match error.sqlite_error_code() {
        Some(Code::NotADatabase) => {
            "this is not a SQLite database, or it is encrypted; choose another `sqlite.path`"
        }
        Some(Code::DatabaseCorrupt) => {
            "the file is damaged or cut off; restore it from a backup, or move it away to begin with an empty one"
        }
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => {
            "another program holds the file locked; end it, or close its transaction"
        }
        Some(Code::ReadOnly | Code::PermissionDenied) => {
            "this user may not write the file; change its owner or mode, or choose another `sqlite.path`"
        }
        Some(Code::CannotOpen) => {
            "the file cannot be opened or made; look at the folder and at the rights of this user"
        }
        Some(Code::DiskFull) => "the disk is full; free some space",
        _ => "look at the disk and at the system's log",
    };
    unusable(path, format!("{error}; {advice}"))
}

/// The wait for a lock: short at first, because the one who has it commits in microseconds, and with an end.
#[expect(
    clippy::disallowed_methods,
    reason = "called by SQLite, on the writer's own thread"
)]
pub(super) fn wait_for_lock(tries: i32) -> bool {
    let pause = match tries {
        0..4 => Duration::from_micros(50),
        4..50 => Duration::from_micros(250),
        50..5000 => Duration::from_millis(1),
        _ => return false,
    };
    std::thread::sleep(pause);
    true
}

/// An open file of ours.
pub(super) struct Opened {
    /// The only connection that writes.
    pub(super) conn: Connection,
    /// For checkpoints under the write lock, where SQLite must not do them by itself.
    pub(super) checkpointer: Option<Connection>,
    /// Names this very store; goes into the ids of tasks.
    pub(super) store: i64,
    /// Bytes that the file may have.
    pub(super) quota: u64,
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    #[allow(
        unused_mut,
        clippy::allow_attributes,
        reason = "the older versions in the range take `&self` below"
    )]
    let mut conn = Connection::open_with_flags(path, flags)?;
    conn.busy_handler(Some(wait_for_lock as fn(i32) -> bool))?;
    conn.set_prepared_statement_cache_capacity(128);
    // The bundled library is built with STAT4, and then looks at the values of parameters when it plans: every bind of one that stands in a
    // WHERE has its statement prepared anew, which took a quarter of a worker's time. Our plans do not depend on values.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(conn)
}

/// Opens a file, makes it if it is not there, and brings its tables to our version.
///
/// Blocks: the caller is on a thread of its own.
pub(super) fn open(path: &Path, quota: Option<u64>) -> Result<Opened, EngineError> {
    let io = |what: &str, error: std::io::Error| {
        unusable(
            path,
            format!("{what}: {error}; look at the folder and at the rights of this user"),
        )
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Err(unusable(path, "this is a folder; name a file in it"));
    }
    host::private_folder(folder).map_err(|e| io("its folder cannot be made", e))?;
    let system = host::file_system(folder).map_err(|e| io("its file system cannot be read", e))?;
    if let Some(kind) = system.shared {
        return Err(unusable(
            path,
            format!(
                "it is on {kind}, and SQLite needs the shared memory of one machine; choose a local disk by `sqlite.path`"
            ),
        ));
    }

    // Whoever opens a new file at the same time waits here; SQLite's own lock does not cover the change to the log mode.
    let gate = host::private_file(&beside(path, "-open"))
        .map_err(|e| io("its lock file cannot be made", e))?;
    gate.lock()
        .map_err(|e| io("its lock file cannot be locked", e))?;

    let mut size = std::fs::metadata(path).map_or(0, |m| m.len());
    if size == 0 {
        not_over_a_log(path)?;
        // The mode before the first byte.
        drop(host::private_file(path).map_err(|e| io("the file cannot be made", e))?);
        size = 0;
    } else if std::fs::metadata(path).is_ok_and(|m| m.permissions().readonly()) {
        return Err(unusable(
            path,
            "the file is read-only; give this user the right to write, or choose another `sqlite.path`",
        ));
    }
    let sql = |error: rusqlite::Error| at_open(path, &error);
    let conn = connect(path).map_err(sql)?;
    let version = if size == 0 {
        create(&conn).map_err(sql)?
    } else {
        check(path, &conn)?
    };
    if version < VERSION {
        return Err(unusable(path, "its tables are of an unknown older version"));
    }
    conn.execute_batch(
        "PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16000; PRAGMA mmap_size=0;
         PRAGMA foreign_keys=OFF; PRAGMA trusted_schema=OFF; PRAGMA journal_size_limit=33554432;",
    )
    .map_err(sql)?;
    let checkpointer = if rusqlite::version_number() < SAFE_CHECKPOINTS {
        tracing::warn!(
            version = rusqlite::version(),
            "this SQLite has a defect in its checkpoints, which the engine works around; some dependency holds `rusqlite` back, look with `cargo tree -i libsqlite3-sys`"
        );
        conn.execute_batch("PRAGMA wal_autocheckpoint=0")
            .map_err(sql)?;
        let second = connect(path).map_err(sql)?;
        second
            .execute_batch("PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0")
            .map_err(sql)?;
        Some(second)
    } else {
        conn.execute_batch(&format!("PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}"))
            .map_err(sql)?;
        None
    };
    let store = conn
        .query_row("SELECT value FROM meta WHERE name='store'", [], |row| {
            row.get(0)
        })
        .map_err(sql)?;

    let quota = quota.unwrap_or_else(|| {
        (u64::midpoint(size, system.free))
            .clamp(1 << 20, 1 << 30)
            .max(size * 2)
    });
    let pages = i64::try_from((quota / PAGE).max(256)).unwrap_or(i64::MAX);
    conn.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(()))
        .map_err(sql)?;
    if host::sync_folder(folder).is_err() {
        tracing::debug!(
            "the folder of the database cannot be synced by itself on this file system"
        );
    }
    drop(gate);
    Ok(Opened {
        conn,
        checkpointer,
        store,
        quota,
    })
}

/// SQLite empties the log that lies beside a database that begins. What was accepted last by whoever had the file that was here may stand
/// in it alone.
fn not_over_a_log(path: &Path) -> Result<(), EngineError> {
    let log = beside(path, "-wal");
    if !log.exists() {
        return Ok(());
    }
    let (log, index) = (log.display(), beside(path, "-shm"));
    Err(unusable(
        path,
        format!(
            "its log {log} is there without it: the file was moved or deleted while it was in use, and the log has what was accepted last; put the file back, or, if that is to be lost, end all programs that use it and delete {log} and {}",
            index.display()
        ),
    ))
}

/// A path that begins as another: `x.db` → `x.db-open`.
pub(super) fn beside(path: &Path, ending: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn create(conn: &Connection) -> rusqlite::Result<i64> {
    conn.execute_batch(&format!(
        "PRAGMA page_size={PAGE}; PRAGMA auto_vacuum=INCREMENTAL;"
    ))?;
    conn.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    // A random number that is positive, so that it reads well in an id.
    let store = i64::from_be_bytes(
        *crate::message::Id::unique()
            .0
            .to_be_bytes()
            .last_chunk()
            .unwrap_or(&[1; 8]),
    ) & i64::MAX;
    conn.execute_batch(&format!(
        "BEGIN IMMEDIATE; {TABLES}
         INSERT INTO meta VALUES('store', {store}), ('job', 1), ('dead', 1), ('session', 1), ('forgotten', 0);
         PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={VERSION}; COMMIT;"
    ))?;
    Ok(VERSION)
}

/// Whether a file that has bytes is one of ours. Answers the version of its tables.
fn check(path: &Path, conn: &Connection) -> Result<i64, EngineError> {
    let sql = |error: rusqlite::Error| at_open(path, &error);
    let read = |pragma: &str| -> rusqlite::Result<i64> {
        conn.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
    };
    let (application, version, tables) = (
        read("application_id").map_err(sql)?,
        read("user_version").map_err(sql)?,
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })
        .map_err(sql)?,
    );
    if application != APPLICATION_ID {
        if tables == 0 && version == 0 {
            // Left by a process that was killed between the first byte and the tables.
            return create(conn).map_err(sql);
        }
        return Err(unusable(
            path,
            "this is the database of another program; choose another `sqlite.path`",
        ));
    }
    if version > VERSION {
        return Err(unusable(
            path,
            format!(
                "its tables have version {version}, this build knows {VERSION}: it was written by a newer go-queue; update this program, or choose another `sqlite.path`"
            ),
        ));
    }
    // A file that was cut off is refused by SQLite at the first read; damage inside is looked for while that is quick.
    if std::fs::metadata(path).map_or(0, |m| m.len()) > QUICK_CHECK_LIMIT {
        return Ok(version);
    }
    let found: String = conn
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(sql)?;
    if found != "ok" {
        return Err(unusable(
            path,
            format!(
                "the file is damaged ({found}); restore it from a backup, or move it away to begin with an empty one"
            ),
        ));
    }
    Ok(version)
}
