//! The journal of one process: what it did, in a file that survives its death.
//!
//! One line for each event, each by a single write to a file opened for appending: what was written before a SIGKILL is
//! there afterwards, because it lies in the page cache of the system and not in the process.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The environment variable by which a [`Process`](crate::Process) tells its child where its journal is.
pub const JOURNAL_VARIABLE: &str = "GO_QUEUE_TEST_JOURNAL";

/// The extension of journals in a folder.
pub(crate) const EXTENSION: &str = "journal";

/// Writes the events of one process. Cloning shares the file; it may be used from any thread.
///
/// An id is any word without white space that names one message for the whole test.
#[derive(Clone, Debug)]
pub struct Journal {
    file: Arc<File>,
    path: PathBuf,
}

impl Journal {
    /// Appends to this file, which is created if it is not there.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            file: Arc::new(file),
            path: path.to_owned(),
        })
    }

    /// The journal that the driver prepared for this process.
    ///
    /// # Errors
    /// If the variable is not set or the file cannot be opened.
    pub fn of_this_process() -> io::Result<Self> {
        let path = std::env::var_os(JOURNAL_VARIABLE)
            .ok_or_else(|| io::Error::other(format!("{JOURNAL_VARIABLE} is not set")))?;
        Self::open(Path::new(&path))
    }

    /// A message is about to be sent: it may or may not be stored from now on.
    pub fn offer(&self, id: impl fmt::Display) {
        self.line(format_args!("offer {id}"));
    }

    /// The engine has confirmed the message. From now on it must not be lost.
    pub fn accept(&self, id: impl fmt::Display) {
        self.line(format_args!("accept {id}"));
    }

    /// A handler begins. Dropping what is returned without [`Running::finish`] says that the run was given back: an error,
    /// a panic, an abort.
    pub fn start(&self, id: impl fmt::Display, attempt: u32) -> Running {
        let id = id.to_string();
        self.line(format_args!("start {id} {attempt} {}", std::process::id()));
        self.running(id, attempt)
    }

    /// As [`Journal::start`], for a message with a place in the order of its key: `seq` counts from 0 without gaps.
    pub fn start_in_order(
        &self,
        id: impl fmt::Display,
        attempt: u32,
        key: impl fmt::Display,
        seq: u64,
    ) -> Running {
        let id = id.to_string();
        self.line(format_args!(
            "start {id} {attempt} {} {key} {seq}",
            std::process::id()
        ));
        self.running(id, attempt)
    }

    fn running(&self, id: String, attempt: u32) -> Running {
        Running {
            journal: self.clone(),
            id,
            attempt,
            ended: false,
        }
    }

    /// The message lies among the dead letters: it is not lost.
    pub fn dead(&self, id: impl fmt::Display) {
        self.line(format_args!("dead {id}"));
    }

    /// The message was taken back by its producer: it must not run.
    pub fn revoked(&self, id: impl fmt::Display) {
        self.line(format_args!("revoke {id}"));
    }

    /// The process itself has seen that a promise was broken, for example a task before its time. One line of text.
    pub fn broken(&self, id: impl fmt::Display, what: impl fmt::Display) {
        let what = what.to_string().replace('\n', " ");
        self.line(format_args!("broken {id} {what}"));
    }

    /// Something that others wait for, for example `ready`. Counted by name.
    pub fn mark(&self, name: &str) {
        self.line(format_args!("mark {name}"));
    }

    /// Appends one event with its time. A journal that cannot be written makes the whole test worthless, so the process
    /// stops.
    pub(crate) fn line(&self, event: fmt::Arguments<'_>) {
        let line = format!("{} {event}\n", now());
        (&*self.file)
            .write_all(line.as_bytes())
            .unwrap_or_else(|error| {
                unreachable!(
                    "the journal {} is not writable: {error}",
                    self.path.display()
                )
            });
    }
}

/// A run of a handler that has begun.
#[derive(Debug)]
#[must_use = "dropping it says that the run was given back"]
pub struct Running {
    journal: Journal,
    id: String,
    attempt: u32,
    ended: bool,
}

impl Running {
    /// The work is done: its effect is there. What is still to come is the settlement.
    pub fn finish(mut self) {
        self.end("finish");
    }

    /// The lease was lost while it ran.
    pub fn expire(mut self) {
        self.end("expire");
    }

    fn end(&mut self, how: &str) {
        self.ended = true;
        self.journal.line(format_args!(
            "{how} {} {} {}",
            self.id,
            self.attempt,
            std::process::id()
        ));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.end("return");
        }
    }
}

/// Nanoseconds of the clock that all processes of one machine share and nobody steps.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanos
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Folder;

    #[test]
    fn a_journal_has_one_line_for_each_event() {
        let folder = Folder::new("journal");
        let path = folder.join("a.journal");
        let journal = Journal::open(&path).expect("a new file");
        journal.offer("x");
        journal.accept("x");
        journal.start("x", 1).finish();
        drop(journal.start_in_order("x", 2, "key", 7));
        let text = std::fs::read_to_string(path).expect("the file");
        let pid = std::process::id();
        let events: Vec<_> = text
            .lines()
            .map(|line| line.split_once(' ').expect("a time and an event").1)
            .collect();
        let want = [
            "offer x".to_owned(),
            "accept x".to_owned(),
            format!("start x 1 {pid}"),
            format!("finish x 1 {pid}"),
            format!("start x 2 {pid} key 7"),
            format!("return x 2 {pid}"),
        ];
        assert_eq!(events, want);
    }

    #[test]
    fn threads_do_not_tear_each_others_lines() {
        let folder = Folder::new("journal-threads");
        let path = folder.join("a.journal");
        let journal = Journal::open(&path).expect("a new file");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let journal = journal.clone();
                scope.spawn(move || {
                    (0..500).for_each(|n| journal.accept(format_args!("{thread}-{n}")));
                });
            }
        });
        let text = std::fs::read_to_string(path).expect("the file");
        assert_eq!(text.lines().count(), 2000);
        assert!(
            text.lines().all(|line| line.split(' ').count() == 3),
            "{text}"
        );
    }
}
