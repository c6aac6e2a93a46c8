//! A store of marks in memory, as the contract says it, which can be away.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::atomic::{self, AtomicBool};
use std::sync::{Arc, Mutex};

use crate::dedup::{DeadIndex, Mark, MarkWhat, Marked, Marks, StoreDown, Told};
use crate::engine::BoxFuture;
use crate::message::Id;
use crate::time::WallTime;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    Announced(u64),
    Stored(Arc<str>),
    NotBefore(WallTime),
    Revoked,
    Running,
    Done,
}

#[derive(Debug, Default)]
pub(super) struct Notes {
    /// By name: which generation, and what is noted of it.
    pub(super) notes: Mutex<HashMap<Id, (u16, Note)>>,
    pub(super) away: AtomicBool,
}

impl Notes {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn of(&self, id: Id) -> Option<Note> {
        let notes = self.notes.lock().unwrap();
        let (generation, note) = notes.get(&id.in_generation(0))?;
        (*generation == id.generation()).then(|| note.clone())
    }

    pub(super) fn set(&self, id: Id, note: Note) {
        let mut notes = self.notes.lock().unwrap();
        notes.insert(id.in_generation(0), (id.generation(), note));
    }

    fn one(&self, mark: Mark) -> Told {
        let mut notes = self.notes.lock().unwrap();
        let name = mark.id.in_generation(0);
        let mut generation = mark.id.generation();
        let (there, note) = notes.get(&name).cloned().unzip();
        if let (MarkWhat::Announce { .. }, Some(there)) = (&mark.what, there) {
            generation = there + u16::from(note == Some(Note::Revoked));
        }
        let note = match there.map(|there| there.cmp(&generation)) {
            Some(Ordering::Greater) => Some(Note::Revoked),
            Some(Ordering::Less) => None,
            _ => note,
        };
        let id = name.in_generation(generation);
        let marked = match Self::decide(mark.what, note.as_ref()) {
            Err(refusal) => refusal,
            Ok(becomes) => {
                match becomes {
                    Some(new) => notes.insert(name, (generation, new)),
                    None => notes.remove(&name),
                };
                Marked::Set
            }
        };
        Told { marked, id }
    }

    /// What the note becomes, or why not.
    fn decide(what: MarkWhat, note: Option<&Note>) -> Result<Option<Note>, Marked> {
        let refusal = match note {
            Some(Note::Stored(place)) => Marked::Stored(Some(place.clone())),
            Some(Note::Revoked) => Marked::Revoked,
            Some(Note::Running) => Marked::Running,
            Some(Note::Done) => Marked::Done,
            Some(Note::Announced(_) | Note::NotBefore(_)) | None => Marked::Stored(None),
        };
        let waits = !matches!(note, Some(Note::Revoked | Note::Running | Note::Done));
        Ok(match (what, note) {
            (MarkWhat::Announce { token }, None | Some(Note::Announced(_))) => {
                Some(Note::Announced(token))
            }
            (MarkWhat::Stored { place }, None | Some(Note::Announced(_) | Note::Stored(_))) => {
                Some(Note::Stored(place))
            }
            (MarkWhat::Withdraw { token }, Some(Note::Announced(known))) if token == *known => None,
            (MarkWhat::Withdraw { .. } | MarkWhat::Forget | MarkWhat::Replay, None)
            | (MarkWhat::Forget, Some(Note::Revoked | Note::NotBefore(_))) => None,
            (MarkWhat::Revoke, _) if waits => Some(Note::Revoked),
            (MarkWhat::NotBefore { due }, _) if waits => Some(Note::NotBefore(due)),
            _ => return Err(refusal),
        })
    }
}

impl Marks for Notes {
    fn mark(&self, marks: Vec<Mark>) -> BoxFuture<'_, Vec<Result<Told, StoreDown>>> {
        let away = self.away.load(atomic::Ordering::Relaxed);
        let marked = marks.into_iter().map(|mark| {
            if away {
                Err(StoreDown { why: "away".into() })
            } else {
                Ok(self.one(mark))
            }
        });
        Box::pin(std::future::ready(marked.collect()))
    }

    fn dead_index(&self) -> Arc<dyn DeadIndex> {
        unreachable!("no dead letters here")
    }
}
