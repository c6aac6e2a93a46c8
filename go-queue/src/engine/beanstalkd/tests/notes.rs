//! A store of marks in memory, as the contract says it, which can be away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::dedup::{DeadIndex, Mark, MarkWhat, Marked, Marks, StoreDown};
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
    pub(super) notes: Mutex<HashMap<Id, Note>>,
    pub(super) away: AtomicBool,
}

impl Notes {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn of(&self, id: Id) -> Option<Note> {
        self.notes.lock().unwrap().get(&id).cloned()
    }

    pub(super) fn set(&self, id: Id, note: Note) {
        self.notes.lock().unwrap().insert(id, note);
    }

    fn one(&self, mark: Mark) -> Marked {
        let mut notes = self.notes.lock().unwrap();
        let note = notes.get(&mark.id).cloned();
        let refusal = match &note {
            Some(Note::Stored(place)) => Marked::Stored(Some(place.clone())),
            Some(Note::Revoked) => Marked::Revoked,
            Some(Note::Running) => Marked::Running,
            Some(Note::Done) => Marked::Done,
            Some(Note::Announced(_) | Note::NotBefore(_)) | None => Marked::Stored(None),
        };
        let waits = !matches!(note, Some(Note::Revoked | Note::Running | Note::Done));
        let new = match (mark.what, &note) {
            (MarkWhat::Announce { token }, None | Some(Note::Announced(_) | Note::Revoked)) => {
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
            _ => return refusal,
        };
        match new {
            Some(new) => notes.insert(mark.id, new),
            None => notes.remove(&mark.id),
        };
        Marked::Set
    }
}

impl Marks for Notes {
    fn mark(&self, marks: Vec<Mark>) -> BoxFuture<'_, Vec<Result<Marked, StoreDown>>> {
        let away = self.away.load(Ordering::Relaxed);
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
