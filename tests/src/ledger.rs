//! Reads the journals of a folder, also while they are being written.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::journal::EXTENSION;
use crate::report::Report;

/// All events of all processes of a test, as far as they have been read.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    files: Vec<Source>,
    words: Words,
    events: Vec<Event>,
    finished: usize,
    accepted: usize,
}

/// One journal and how far it was read.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    process: u32,
    read: u64,
    /// What was read behind the last line end: a line that is being written, or a torn one.
    torn: Vec<u8>,
}

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Who wrote it, as a number of [`Ledger::word`].
    pub process: u32,
    /// When, in nanoseconds of the monotonic clock of the machine.
    pub time: u64,
    /// What happened.
    pub what: What,
}

/// What happened. Ids, keys and names are numbers of [`Ledger::word`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// About to be sent.
    Offer(u32),
    /// Confirmed by the engine.
    Accept(u32),
    /// A run began: id, attempt, key and place in its order.
    Start(u32, u32, Option<(u32, u64)>),
    /// A run ended well.
    Finish(u32, u32),
    /// A run was given back.
    Return(u32, u32),
    /// A run lost its lease.
    Expire(u32, u32),
    /// Among the dead letters.
    Dead(u32),
    /// Taken back by its producer.
    Revoke(u32),
    /// A promise broken, as the process saw it.
    Broken(u32, String),
    /// Something to wait for.
    Mark(u32),
    /// The driver killed this process (SIGKILL).
    Kill(u32),
    /// The driver stopped this process (SIGSTOP).
    Stop(u32),
    /// The driver let this process go on (SIGCONT).
    Cont(u32),
    /// The driver asked this process to end (SIGTERM).
    Term(u32),
}

/// Words as numbers, so that a million events stay small.
#[derive(Debug, Default)]
struct Words {
    numbers: HashMap<Box<str>, u32>,
    texts: Vec<Box<str>>,
}

impl Words {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.texts.len()).expect("a test has less than 4 billion words");
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }
}

impl Ledger {
    /// An empty ledger over this folder.
    pub fn of(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            files: Vec::new(),
            words: Words::default(),
            events: Vec::new(),
            finished: 0,
            accepted: 0,
        }
    }

    /// Reads what was written since the last time.
    ///
    /// # Errors
    /// If a journal cannot be read, or a complete line is not one of ours.
    pub fn update(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let known = self.files.iter().any(|file| file.path == path);
            if !known && path.extension().is_some_and(|ext| ext == EXTENSION) {
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                let process = self.words.number(&name);
                self.files.push(Source {
                    path,
                    process,
                    read: 0,
                    torn: Vec::new(),
                });
            }
        }
        let mut bytes = Vec::new();
        for source in &mut self.files {
            bytes.clear();
            bytes.append(&mut source.torn);
            let mut file = File::open(&source.path)?;
            file.seek(SeekFrom::Start(source.read))?;
            source.read += u64::try_from(file.read_to_end(&mut bytes)?).unwrap_or(0);
            let whole = bytes
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            source.torn = bytes.split_off(whole);
            let text = std::str::from_utf8(&bytes)
                .map_err(|error| bad_line(&source.path, &error.to_string()))?;
            for line in text.lines() {
                let event = parse(line, source.process, &mut self.words)
                    .ok_or_else(|| bad_line(&source.path, line))?;
                match event.what {
                    What::Finish(..) => self.finished += 1,
                    What::Accept(_) => self.accepted += 1,
                    _ => {}
                }
                self.events.push(event);
            }
        }
        Ok(())
    }

    /// How many runs have ended well so far, second runs included. For progress; the report counts exactly.
    pub fn finished_so_far(&self) -> usize {
        self.finished
    }

    /// How many messages have been accepted so far.
    pub fn accepted_so_far(&self) -> usize {
        self.accepted
    }

    /// How often a mark of this name was made.
    pub fn marks(&self, name: &str) -> usize {
        let Some(wanted) = self.words.numbers.get(name) else {
            return 0;
        };
        self.events
            .iter()
            .filter(|event| event.what == What::Mark(*wanted))
            .count()
    }

    /// The events in the order of time.
    pub fn events(&self) -> Vec<Event> {
        let mut events = self.events.clone();
        events.sort_by_key(|event| event.time);
        events
    }

    /// The text behind a number.
    pub fn word(&self, number: u32) -> &str {
        &self.words.texts[number as usize]
    }

    /// Lines that end in the middle: at most one for each killed process.
    pub fn torn_lines(&self) -> usize {
        self.files
            .iter()
            .filter(|file| !file.torn.is_empty())
            .count()
    }

    /// Reads the rest and says what happened.
    ///
    /// # Errors
    /// As [`Ledger::update`].
    pub fn report(&mut self) -> io::Result<Report> {
        self.update()?;
        Ok(Report::of(self))
    }
}

fn bad_line(path: &Path, line: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{}: not an event: {line}", path.display()),
    )
}

/// `TIME EVENT ..`, as the journal writes it.
fn parse(line: &str, process: u32, words: &mut Words) -> Option<Event> {
    let mut parts = line.split(' ');
    let time = parts.next()?.parse().ok()?;
    let event = parts.next()?;
    let subject = words.number(parts.next()?);
    let rest: Vec<&str> = parts.collect();
    let attempt = || rest.first()?.parse::<u32>().ok();
    let what = match (event, rest.len()) {
        ("offer", 0) => What::Offer(subject),
        ("accept", 0) => What::Accept(subject),
        ("start", 2) => What::Start(subject, attempt()?, None),
        ("start", 4) => What::Start(
            subject,
            attempt()?,
            Some((words.number(rest[2]), rest[3].parse().ok()?)),
        ),
        ("finish", 2) => What::Finish(subject, attempt()?),
        ("return", 2) => What::Return(subject, attempt()?),
        ("expire", 2) => What::Expire(subject, attempt()?),
        ("dead", 0) => What::Dead(subject),
        ("revoke", 0) => What::Revoke(subject),
        ("broken", _) => What::Broken(subject, rest.join(" ")),
        ("mark", 0) => What::Mark(subject),
        ("kill", 0) => What::Kill(subject),
        ("stop", 0) => What::Stop(subject),
        ("cont", 0) => What::Cont(subject),
        ("term", 0) => What::Term(subject),
        _ => return None,
    };
    Some(Event {
        process,
        time,
        what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Folder;

    #[test]
    fn a_torn_last_line_is_not_an_event_and_becomes_one_when_it_is_whole() {
        let folder = Folder::new("torn");
        folder.write("a.journal", "1 offer x\n2 acc");
        let mut ledger = Ledger::of(folder.path());
        ledger.update().expect("a torn line is no error");
        assert_eq!((ledger.events.len(), ledger.torn_lines()), (1, 1));
        folder.write("a.journal", "1 offer x\n2 accept x\n");
        ledger.update().expect("whole lines");
        assert_eq!((ledger.events.len(), ledger.torn_lines()), (2, 0));
        assert_eq!(ledger.accepted_so_far(), 1);
    }

    #[test]
    fn a_whole_line_that_is_no_event_is_an_error_with_its_file() {
        let folder = Folder::new("bad-line");
        folder.write("a.journal", "1 start x\n");
        let error = Ledger::of(folder.path()).update().expect_err("no attempt");
        let text = error.to_string();
        assert!(
            text.contains("a.journal") && text.contains("1 start x"),
            "{text}"
        );
    }

    #[test]
    fn journals_that_come_later_are_found() {
        let folder = Folder::new("later");
        let mut ledger = Ledger::of(folder.path());
        folder.write("notes.txt", "not a journal");
        ledger.update().expect("an empty folder");
        folder.write("a.journal", "1 mark ready\n");
        ledger.update().expect("one journal");
        assert_eq!((ledger.marks("ready"), ledger.marks("other")), (1, 0));
    }
}
