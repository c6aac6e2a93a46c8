//! What became of the letters of one partition: pure, from its records in their order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::message::{Headers as _, Message, OwnedHeaders};

use super::super::record::with;
use super::letter::{Origin, origin};
use crate::name::Name;
use crate::time::WallTime;

/// How long a letter belongs to the one who took it.
pub(super) const TAKEN_FOR: Duration = Duration::from_secs(60);

const KIND: &str = "gq-note";
const LETTER: &str = "gq-note-offset";
const BY: &str = "gq-note-by";

/// What a record says about a letter of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// Somebody does something with it.
    Taken {
        /// Whoever it is, by a number of this one attempt.
        by: u128,
    },
    /// It was replayed or purged.
    Done,
    /// Whoever took it could not do it.
    Open,
}

impl Note {
    /// As it stands in the headers of a record; key and payload are null.
    pub(super) fn headers(self, letter: i64) -> OwnedHeaders {
        let (kind, by) = match self {
            Self::Taken { by } => (&b"taken"[..], Some(by)),
            Self::Done => (&b"done"[..], None),
            Self::Open => (&b"open"[..], None),
        };
        let all = with(OwnedHeaders::new_with_capacity(3), KIND, kind);
        let all = with(all, LETTER, &letter.to_be_bytes());
        match by {
            Some(by) => with(all, BY, &by.to_be_bytes()),
            None => all,
        }
    }

    /// The note in a record, with the offset of its letter. `None`: it is a letter.
    fn read(record: &impl Message) -> Option<(Option<Self>, i64)> {
        let headers = record.headers()?;
        let value = |name: &str| {
            headers
                .iter()
                .find(|header| header.key == name)
                .and_then(|header| header.value)
        };
        let kind = value(KIND)?;
        if record.payload().is_some() {
            // A letter whose own headers happen to have the name.
            return None;
        }
        let letter = value(LETTER).and_then(|bytes| bytes.try_into().ok());
        let by = value(BY).and_then(|bytes| bytes.try_into().ok());
        let note = match kind {
            b"taken" => by.map(|by| Self::Taken {
                by: u128::from_be_bytes(by),
            }),
            b"done" => Some(Self::Done),
            b"open" => Some(Self::Open),
            // Of a later version.
            _ => None,
        };
        Some((note, letter.map_or(-1, i64::from_be_bytes)))
    }
}

/// The letters of one partition that are not done.
#[derive(Debug, Default)]
pub(super) struct Fold {
    letters: BTreeMap<i64, State>,
    /// A letter that was written twice, because its record ran again after a crash, is one.
    origins: HashMap<Origin, i64>,
    /// Behind the last record.
    end: i64,
}

#[derive(Debug)]
struct State {
    origin: Option<Origin>,
    group: Option<Arc<str>>,
    taken: Option<(u128, WallTime)>,
}

impl Fold {
    /// The next record.
    pub(super) fn take(&mut self, record: &impl Message) {
        let at = WallTime::from_millis(record.timestamp().to_millis().unwrap_or(0));
        self.end = self.end.max(record.offset() + 1);
        match Note::read(record) {
            Some((Some(note), letter)) => self.note(letter, note, at),
            Some((None, _)) => {}
            None => {
                let (origin, group) = origin(record);
                self.letter(record.offset(), origin, group);
            }
        }
    }

    fn letter(&mut self, offset: i64, origin: Option<Origin>, group: Option<Arc<str>>) {
        if let Some(origin) = &origin {
            if self.origins.contains_key(origin) {
                return;
            }
            self.origins.insert(origin.clone(), offset);
        }
        let state = State {
            origin,
            group,
            taken: None,
        };
        self.letters.insert(offset, state);
    }

    fn note(&mut self, letter: i64, note: Note, at: WallTime) {
        let Some(state) = self.letters.get_mut(&letter) else {
            return;
        };
        match note {
            Note::Taken { by } => {
                if !is_taken(state, at) {
                    state.taken = Some((by, at));
                }
            }
            Note::Open => state.taken = None,
            Note::Done => {
                if let Some(origin) = self.letters.remove(&letter).and_then(|state| state.origin) {
                    self.origins.remove(&origin);
                }
            }
        }
    }

    /// Whether a letter is there for whoever wants it.
    pub(super) fn is_open(&self, offset: i64, now: WallTime) -> bool {
        let state = self.letters.get(&offset);
        state.is_some_and(|state| !is_taken(state, now))
    }

    /// Whether it belongs to this attempt.
    pub(super) fn is_taken_by(&self, offset: i64, by: u128) -> bool {
        let taken = self.letters.get(&offset).and_then(|state| state.taken);
        taken.is_some_and(|(other, _)| other == by)
    }

    /// The letters that are there, of one group or of all.
    pub(super) fn open(&self, now: WallTime, group: Option<&Name>) -> impl Iterator<Item = i64> {
        self.letters
            .iter()
            .filter(move |(_, state)| {
                let of_group =
                    group.is_none_or(|group| state.group.as_deref() == Some(group.as_str()));
                of_group && !is_taken(state, now)
            })
            .map(|(offset, _)| *offset)
    }

    /// Everything before this offset is finished; `None` if there is nothing.
    pub(super) fn finished(&self) -> Option<i64> {
        let end = self.letters.keys().next().copied().unwrap_or(self.end);
        (end > 0).then_some(end)
    }
}

fn is_taken(state: &State, now: WallTime) -> bool {
    state
        .taken
        .is_some_and(|(_, since)| now.since(since) < TAKEN_FOR)
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{OwnedMessage, Timestamp};

    use super::*;

    const START: i64 = 1_700_000_000_000;

    fn after(seconds: i64) -> WallTime {
        WallTime::from_millis(START + seconds * 1000)
    }

    fn record(
        offset: i64,
        seconds: i64,
        payload: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> OwnedMessage {
        OwnedMessage::new(
            payload.map(<[u8]>::to_vec),
            None,
            "orders-dlt".to_owned(),
            Timestamp::CreateTime(START + seconds * 1000),
            0,
            offset,
            Some(headers),
        )
    }

    fn letter(offset: i64, source: i64, group: &str) -> OwnedMessage {
        let headers = super::super::letter::spring("orders", 3, source, 7, group, "why");
        record(offset, 0, Some(b"x"), headers)
    }

    fn note(offset: i64, seconds: i64, letter: i64, note: Note) -> OwnedMessage {
        record(offset, seconds, None, note.headers(letter))
    }

    fn fold(records: &[OwnedMessage]) -> Fold {
        let mut fold = Fold::default();
        for record in records {
            fold.take(record);
        }
        fold
    }

    fn open(fold: &Fold, now: WallTime) -> Vec<i64> {
        fold.open(now, None).collect()
    }

    #[test]
    fn the_first_who_takes_a_letter_has_it() {
        let (one, two) = (Note::Taken { by: 1 }, Note::Taken { by: 2 });
        let fold = fold(&[letter(0, 10, "g"), note(1, 0, 0, one), note(2, 1, 0, two)]);
        assert!(fold.is_taken_by(0, 1) && !fold.is_taken_by(0, 2));
        assert!(!fold.is_open(0, after(2)) && open(&fold, after(2)).is_empty());
    }

    #[test]
    fn a_letter_that_was_taken_and_not_finished_comes_back() {
        let (one, two) = (Note::Taken { by: 1 }, Note::Taken { by: 2 });
        let records = [letter(0, 10, "g"), note(1, 0, 0, one), note(2, 61, 0, two)];
        assert_eq!(open(&fold(&records[..2]), after(61)), [0]);
        assert!(fold(&records).is_taken_by(0, 2));
    }

    #[test]
    fn what_could_not_be_done_is_open_again() {
        let records = [
            letter(0, 10, "g"),
            note(1, 0, 0, Note::Taken { by: 1 }),
            note(2, 1, 0, Note::Open),
        ];
        assert_eq!(open(&fold(&records), after(2)), [0]);
    }

    #[test]
    fn what_is_done_is_gone_and_may_be_removed() {
        let mut records = vec![
            letter(0, 10, "g"),
            letter(1, 11, "g"),
            note(2, 0, 0, Note::Done),
        ];
        let one = fold(&records);
        assert_eq!((open(&one, after(0)), one.finished()), (vec![1], Some(1)));
        records.push(note(3, 0, 1, Note::Done));
        let none = fold(&records);
        assert_eq!((open(&none, after(0)), none.finished()), (vec![], Some(4)));
        assert_eq!(fold(&[]).finished(), None);
    }

    #[test]
    fn a_letter_that_was_written_twice_is_one() {
        let mut records = vec![letter(0, 10, "g"), letter(1, 10, "g"), letter(2, 10, "h")];
        assert_eq!(open(&fold(&records), after(0)), [0, 2]);
        records.push(note(3, 0, 0, Note::Done));
        assert_eq!(open(&fold(&records), after(0)), [2]);
        // It died again, after a replay to another offset or the same of a new topic.
        records.push(letter(4, 10, "g"));
        assert_eq!(open(&fold(&records), after(0)), [2, 4]);
    }

    #[test]
    fn letters_of_one_group_are_asked_for_alone() {
        let fold = fold(&[letter(0, 10, "g"), letter(1, 10, "h")]);
        let group = Name::literal("h");
        assert_eq!(fold.open(after(0), Some(&group)).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_note_of_a_later_version_and_one_about_nothing_change_nothing() {
        let later = with(OwnedHeaders::new(), KIND, b"embalmed");
        let fold = fold(&[
            letter(0, 10, "g"),
            record(1, 0, None, later),
            note(2, 0, 99, Note::Done),
        ]);
        assert_eq!(open(&fold, after(0)), [0]);
    }
}
