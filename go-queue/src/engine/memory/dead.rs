//! The dead letters of an engine, of all its places, in the order in which they died.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::{BoxFuture, DeadLetter, DeadLetters, DeadQuery, EngineError};
use crate::message::Message;
use crate::name::Place;

use super::Shared;
use super::timer::Ticket;
use super::topic::Topic;
use super::tube::Tube;

/// The most that one page of a list brings.
const MAX_PAGE: usize = 1000;

/// Where a dead letter goes when it is replayed.
#[derive(Clone, Debug)]
pub(super) enum Home {
    Tube(Arc<Tube>, Ticket),
    Topic(Arc<Topic>, Box<Message>),
}

#[derive(Debug)]
struct Kept {
    letter: DeadLetter,
    home: Home,
}

/// Locked after a place, never before one.
#[derive(Debug, Default)]
pub(super) struct Dead(Mutex<Letters>);

#[derive(Debug, Default)]
struct Letters {
    kept: BTreeMap<u64, Kept>,
    last: u64,
}

impl Dead {
    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps one; its cursor is given here.
    pub(super) fn keep(&self, mut letter: DeadLetter, home: Home) {
        let mut letters = self.lock();
        letters.last += 1;
        letter.cursor = letters.last;
        let cursor = letters.last;
        letters.kept.insert(cursor, Kept { letter, home });
    }

    fn remove(&self, cursors: &[u64]) -> Vec<Kept> {
        let mut letters = self.lock();
        cursors
            .iter()
            .filter_map(|cursor| letters.kept.remove(cursor))
            .collect()
    }
}

impl Shared {
    fn page(&self, query: &DeadQuery) -> Vec<DeadLetter> {
        let from = query.after.map_or(0, |after| after.saturating_add(1));
        let letters = self.dead.lock();
        letters
            .kept
            .range(from..)
            .map(|(_, kept)| &kept.letter)
            .filter(|letter| {
                query
                    .place
                    .as_ref()
                    .is_none_or(|place| *place == letter.place)
            })
            .filter(|letter| query.group.is_none() || query.group == letter.group)
            .take(query.limit.min(MAX_PAGE))
            .cloned()
            .collect()
    }

    fn replay(&self, cursors: &[u64]) -> usize {
        // Whoever removes a letter owns it, so that two replays at once bring it back once.
        let found = self.dead.remove(cursors);
        let count = found.len();
        let mut wakers = Vec::new();
        for Kept { letter, home } in found {
            match home {
                Home::Tube(tube, ticket) => {
                    let mut tasks = tube.lock();
                    tasks.revive(ticket, letter.body);
                    tasks.wake_idle(None, &mut wakers);
                }
                Home::Topic(topic, message) => topic.lock().replay(letter, *message, &mut wakers),
            }
        }
        super::wake(wakers);
        count
    }

    fn purge(&self, cursors: &[u64]) -> usize {
        let found = self.dead.remove(cursors);
        let count = found.len();
        for Kept { home, .. } in found {
            if let Home::Tube(tube, ticket) = home {
                tube.lock().purge(ticket, self.config.clock.now());
            }
        }
        count
    }
}

impl DeadLetters for Shared {
    fn list(&self, query: DeadQuery) -> BoxFuture<'_, Result<Vec<DeadLetter>, EngineError>> {
        Box::pin(async move { Ok(self.page(&query)) })
    }

    fn show(&self, cursor: u64) -> BoxFuture<'_, Result<Option<DeadLetter>, EngineError>> {
        Box::pin(async move {
            Ok(self
                .dead
                .lock()
                .kept
                .get(&cursor)
                .map(|kept| kept.letter.clone()))
        })
    }

    fn replay(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(async move { Ok(Self::replay(self, &cursors)) })
    }

    fn purge(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(async move { Ok(Self::purge(self, &cursors)) })
    }

    fn count(&self, place: Option<Place>) -> BoxFuture<'_, Result<u64, EngineError>> {
        Box::pin(async move {
            let letters = self.dead.lock();
            let count = match place {
                None => letters.kept.len(),
                Some(place) => letters
                    .kept
                    .values()
                    .filter(|kept| kept.letter.place == place)
                    .count(),
            };
            Ok(u64::try_from(count).unwrap_or(u64::MAX))
        })
    }
}
