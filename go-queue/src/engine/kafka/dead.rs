//! Dead letters: records of the topic `<topic>-dlt`.
//!
//! A broker cannot remove a single record, so what becomes of a letter is a *note*: a record of the same partition that names the
//! letter by its offset. The order of a partition decides between two people who press the same button at once: each writes that
//! they take the letter, and the first note wins. A note that somebody takes a letter is void after a minute, so that a letter is not
//! lost with the program that took it.
//!
//! ```text
//! offset   0        1        2              3               4              5
//!        letter   letter   letter    note: 1 taken    note: 1 taken    note: 1 done
//!          A        B        C           by x             by y
//!                                      x replays B      y was too late
//! ```
//!
//! What stands before the first open letter is removed from the partition, where the user has the right to.

mod fold;
mod letter;
mod outbox;
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::error::RDKafkaErrorCode;

use tokio::time::Instant;

use super::ENGINE;
use super::config::Config;
use super::publish::{Answer, Client, Publisher, Ready};
use super::topics::{self, Admin, answer, blocking};
use crate::engine::{BoxFuture, DeadLetter, DeadLetters, DeadQuery, EngineError};
use crate::message::Id;
use crate::name::Place;
use crate::time::WallTime;

use fold::{Fold, Note, TAKEN_FOR};
use letter::Found;
pub(super) use outbox::{Letter, Outbox};
use reader::Reader;

/// The most that one page holds.
const PAGE: usize = 1000;
/// A page ends behind so many bytes of bodies.
const PAGE_BYTES: usize = 32 << 20;
/// So many letters are taken at once to be replayed or purged.
const ROUND: usize = 1000;

/// The dead letters of the topics of one cluster.
pub(super) struct Dead {
    publisher: Arc<Publisher>,
}

/// One topic of dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DeadTopic {
    name: String,
    partitions: u32,
}

/// Where a letter lies. Packed into a cursor: 20 bits of the topic's hash, 11 of partition, 33 of offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    topic: u32,
    partition: u32,
    offset: u64,
}

impl Spot {
    const PARTITION_BITS: u32 = 11;
    const OFFSET_BITS: u32 = 33;

    /// `None`: beyond what a cursor can name.
    fn new(topic: &str, partition: u32, offset: i64) -> Option<Self> {
        let offset = u64::try_from(offset).ok()?;
        let fits = partition < 1 << Self::PARTITION_BITS && offset < 1 << Self::OFFSET_BITS;
        fits.then(|| Self {
            topic: hash(topic),
            partition,
            offset,
        })
    }

    fn cursor(self) -> u64 {
        (u64::from(self.topic) << (Self::PARTITION_BITS + Self::OFFSET_BITS))
            | (u64::from(self.partition) << Self::OFFSET_BITS)
            | self.offset
    }

    fn of(cursor: u64) -> Self {
        let bits = |value: u64, width: u32| value & ((1 << width) - 1);
        let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self {
            topic: low(cursor >> (Self::PARTITION_BITS + Self::OFFSET_BITS)),
            partition: low(bits(cursor >> Self::OFFSET_BITS, Self::PARTITION_BITS)),
            offset: bits(cursor, Self::OFFSET_BITS),
        }
    }
}

/// The 20 bits of a cursor that belong to a topic.
fn hash(topic: &str) -> u32 {
    crate::message::Id::topic_hash(topic) >> 12
}

impl Dead {
    pub(super) fn new(publisher: Arc<Publisher>) -> Self {
        Self { publisher }
    }

    fn reading(&self) -> Reading {
        Reading {
            config: Arc::clone(self.publisher.config()),
            client: self.publisher.client(),
            now: self.publisher.clock().now(),
        }
    }

    /// Takes letters that are open, ours alone for a minute. Answers those that were won.
    async fn take(
        &self,
        from: &DeadTopic,
        wanted: Vec<(u32, i64)>,
    ) -> Result<Vec<(u32, i64)>, EngineError> {
        let by = Id::unique().0;
        let (reading, topic) = (self.reading(), from.clone());
        let open = blocking(move || {
            let now = reading.now;
            reading.choose(&topic, wanted, |fold, offset| fold.is_open(offset, now))
        })
        .await?;
        let notes = open
            .iter()
            .map(|spot| (*spot, Note::Taken { by }))
            .collect();
        for answer in self.note(&from.name, notes).await {
            answer.map_err(|code| self.failed("take dead letters", code))?;
        }
        let (reading, topic) = (self.reading(), from.clone());
        blocking(move || reading.choose(&topic, open, |fold, offset| fold.is_taken_by(offset, by)))
            .await
    }

    /// Writes notes, each into the partition of its letter.
    async fn note(&self, topic: &str, notes: Vec<((u32, i64), Note)>) -> Vec<Answer> {
        let at = self.publisher.clock().now().as_millis();
        let ready = notes
            .into_iter()
            .map(|((partition, offset), note)| Ready {
                topic,
                partition: Some(partition),
                key: None,
                payload: None,
                headers: note.headers(offset),
                at,
            })
            .collect();
        self.publisher
            .produce(&self.publisher.client(), ready)
            .await
    }

    fn failed(&self, what: &str, code: RDKafkaErrorCode) -> EngineError {
        EngineError::Unavailable {
            engine: ENGINE,
            what: what.to_owned(),
            why: Arc::from(self.publisher.client().why(code).to_string()),
        }
    }

    /// Does something with letters, each by one of all who try, and forgets them.
    async fn finish(&self, cursors: Vec<u64>, replay: bool) -> Result<usize, EngineError> {
        let spots: BTreeSet<Spot> = cursors.into_iter().map(Spot::of).collect();
        let mut by_topic: BTreeMap<u32, Vec<(u32, i64)>> = BTreeMap::new();
        for spot in spots {
            by_topic
                .entry(spot.topic)
                .or_default()
                .push((spot.partition, spot.offset.cast_signed()));
        }
        let mut finished = 0;
        for (topic, offsets) in by_topic {
            let reading = self.reading();
            let Some(from) = blocking(move || reading.dead_topic(topic)).await? else {
                continue;
            };
            for round in offsets.chunks(ROUND) {
                let began = Instant::now();
                let won = self.take(&from, round.to_vec()).await?;
                if !replay {
                    finished += self.forget(&from, won).await?;
                    continue;
                }
                let mut left = &won[..];
                while !left.is_empty() {
                    if began.elapsed() > TAKEN_FOR / 2 {
                        // Soon others may take them, and would replay them a second time.
                        return Err(self.failed(
                            "replay all of the dead letters in time",
                            RDKafkaErrorCode::OperationTimedOut,
                        ));
                    }
                    let (reading, topic, some) = (self.reading(), from.clone(), left.to_vec());
                    let bodies =
                        blocking(move || reading.bodies(&topic, &some, PAGE_BYTES)).await?;
                    let Some(last) = bodies.last().map(Found::spot) else {
                        break;
                    };
                    left = &left[left.partition_point(|spot| *spot <= last)..];
                    let (done, failure) = self.bring_back(&from, bodies).await;
                    finished += self.forget(&from, done).await?;
                    if let Some(failure) = failure {
                        return Err(failure);
                    }
                }
            }
            let reading = self.reading();
            // Whoever lacks the right to remove records has more of them to read; that is all.
            let trimmed = blocking(move || reading.trim(&from)).await;
            if let Err(error) = trimmed {
                tracing::debug!(%error, "finished dead letters were not removed from their topic");
            }
        }
        Ok(finished)
    }

    /// Says of letters that they are done.
    async fn forget(&self, from: &DeadTopic, done: Vec<(u32, i64)>) -> Result<usize, EngineError> {
        let count = done.len();
        let notes = done.into_iter().map(|spot| (spot, Note::Done)).collect();
        for answer in self.note(&from.name, notes).await {
            answer.map_err(|code| self.failed("forget a dead letter", code))?;
        }
        Ok(count)
    }

    /// Writes letters to where they came from. Those that were stored, and why the others were not.
    async fn bring_back(
        &self,
        from: &DeadTopic,
        taken: Vec<Found>,
    ) -> (Vec<(u32, i64)>, Option<EngineError>) {
        let client = self.publisher.client();
        let at = self.publisher.clock().now().as_millis();
        let suffix = self.publisher.config();
        let mut answers = self
            .publisher
            .produce(
                &client,
                taken
                    .iter()
                    .map(|found| found.again(suffix, at, true))
                    .collect(),
            )
            .await;
        // A topic that was made anew may have fewer partitions; then the key decides.
        for (found, answer) in taken.iter().zip(&mut answers) {
            if matches!(answer, Err(RDKafkaErrorCode::UnknownPartition)) {
                let again = vec![found.again(suffix, at, false)];
                if let Some(second) = self.publisher.produce(&client, again).await.pop() {
                    *answer = second;
                }
            }
        }
        let (mut done, mut failure, mut back) = (Vec::new(), None, Vec::new());
        for (found, answer) in taken.iter().zip(answers) {
            match answer {
                Ok(_) => done.push(found.spot()),
                Err(code) => {
                    failure.get_or_insert_with(|| self.failed("replay a dead letter", code));
                    back.push((found.spot(), Note::Open));
                }
            }
        }
        // If this fails too, the note that it is taken is void after a minute.
        self.note(&from.name, back).await;
        (done, failure)
    }
}

/// What is needed to read, on a thread that may block.
struct Reading {
    config: Arc<Config>,
    client: Arc<Client>,
    now: WallTime,
}

impl Reading {
    fn within(&self) -> Duration {
        self.config.connect_timeout
    }

    /// The topics of dead letters, of one topic or of all, in the order of their cursors.
    fn dead_topics(&self, place: Option<&Place>) -> Result<Vec<DeadTopic>, EngineError> {
        let mut all = match place {
            Some(Place::Tube(_)) => Vec::new(),
            Some(Place::Topic(name)) => {
                let name = self.config.dead_topic(name)?.to_string();
                let partitions = topics::partitions(&self.client, &name, self.within())?;
                let found = partitions.map(|partitions| DeadTopic { name, partitions });
                found.into_iter().collect()
            }
            None => topics::all(&self.client, self.within())?
                .into_iter()
                .filter(|(topic, _)| self.config.source_of(topic).is_some())
                .map(|(name, partitions)| DeadTopic { name, partitions })
                .collect(),
        };
        all.sort_by_key(|one| hash(&one.name));
        for pair in all.windows(2) {
            if hash(&pair[0].name) == hash(&pair[1].name) {
                return Err(EngineError::Unusable {
                    engine: ENGINE,
                    what: "name the dead letters of this cluster".to_owned(),
                    why: Arc::from(format!(
                        "those of `{}` and `{}` have the same numbers by chance; ask for one topic",
                        pair[0].name, pair[1].name
                    )),
                });
            }
        }
        Ok(all)
    }

    /// The topic that a cursor names.
    fn dead_topic(&self, topic: u32) -> Result<Option<DeadTopic>, EngineError> {
        let all = self.dead_topics(None)?;
        Ok(all.into_iter().find(|one| hash(&one.name) == topic))
    }

    /// Those of the letters that pass.
    fn choose(
        &self,
        from: &DeadTopic,
        mut wanted: Vec<(u32, i64)>,
        passes: impl Fn(&Fold, i64) -> bool,
    ) -> Result<Vec<(u32, i64)>, EngineError> {
        let folds = self.fold(from, &wanted)?;
        wanted.retain(|(partition, offset)| {
            let fold = folds.get(partition);
            fold.is_some_and(|fold| passes(fold, *offset))
        });
        Ok(wanted)
    }

    /// What became of the letters of these partitions.
    fn fold(
        &self,
        from: &DeadTopic,
        spots: &[(u32, i64)],
    ) -> Result<BTreeMap<u32, Fold>, EngineError> {
        let partitions: BTreeSet<u32> = spots
            .iter()
            .map(|(partition, _)| *partition)
            .filter(|partition| *partition < from.partitions)
            .collect();
        self.fold_of(from, &partitions)
    }

    fn fold_of(
        &self,
        from: &DeadTopic,
        partitions: &BTreeSet<u32>,
    ) -> Result<BTreeMap<u32, Fold>, EngineError> {
        let mut folds: BTreeMap<u32, Fold> = partitions
            .iter()
            .map(|partition| (*partition, Fold::default()))
            .collect();
        if folds.is_empty() {
            return Ok(folds);
        }
        let reader = Reader::open(&self.config, &from.name)?;
        reader.whole(partitions, |partition, record| {
            if let Some(fold) = folds.get_mut(&partition) {
                fold.take(record);
            }
        })?;
        Ok(folds)
    }

    /// The letters at these places, in order, up to so many bytes but at least one.
    fn bodies(
        &self,
        from: &DeadTopic,
        spots: &[(u32, i64)],
        bytes: usize,
    ) -> Result<Vec<Found>, EngineError> {
        let mut found = Vec::new();
        if spots.is_empty() {
            return Ok(found);
        }
        let reader = Reader::open(&self.config, &from.name)?;
        let mut taken = 0;
        let wanted: BTreeSet<(u32, i64)> = spots.iter().copied().collect();
        reader.at(&wanted, |partition, record| {
            let letter = Found::read(&self.config, &from.name, partition, record);
            taken += letter.len();
            found.push(letter);
            taken < bytes
        })?;
        Ok(found)
    }

    fn list(&self, query: &DeadQuery) -> Result<Vec<DeadLetter>, EngineError> {
        let limit = query.limit.min(PAGE);
        let after = query.after.map(Spot::of);
        let (mut letters, mut bytes) = (Vec::new(), 0);
        for from in self.dead_topics(query.place.as_ref())? {
            if after.is_some_and(|after| hash(&from.name) < after.topic) {
                continue;
            }
            let folds = self.fold_of(&from, &(0..from.partitions).collect())?;
            let mut open: Vec<(u32, i64)> = Vec::new();
            for (partition, fold) in &folds {
                let of_group = fold.open(self.now, query.group.as_ref());
                open.extend(of_group.map(|offset| (*partition, offset)));
            }
            open.retain(|(partition, offset)| {
                let spot = Spot::new(&from.name, *partition, *offset);
                spot.is_some_and(|spot| after.is_none_or(|after| spot > after))
            });
            open.truncate(limit - letters.len());
            let page = self.bodies(&from, &open, PAGE_BYTES - bytes)?;
            let whole = page.len() == open.len();
            bytes += page.iter().map(Found::len).sum::<usize>();
            letters.extend(page.into_iter().filter_map(Found::letter));
            if letters.len() >= limit || bytes >= PAGE_BYTES || !whole {
                break;
            }
        }
        Ok(letters)
    }

    fn show(&self, cursor: u64) -> Result<Option<DeadLetter>, EngineError> {
        let spot = Spot::of(cursor);
        let Some(from) = self.dead_topic(spot.topic)? else {
            return Ok(None);
        };
        let at = [(spot.partition, spot.offset.cast_signed())];
        let folds = self.fold(&from, &at)?;
        let open = folds
            .get(&spot.partition)
            .is_some_and(|fold| fold.is_open(at[0].1, self.now));
        if !open {
            return Ok(None);
        }
        let found = self.bodies(&from, &at, PAGE_BYTES)?;
        Ok(found.into_iter().next().and_then(Found::letter))
    }

    fn count(&self, place: Option<&Place>) -> Result<u64, EngineError> {
        let mut count = 0;
        for from in self.dead_topics(place)? {
            let folds = self.fold_of(&from, &(0..from.partitions).collect())?;
            count += folds
                .values()
                .map(|fold| fold.open(self.now, None).count() as u64)
                .sum::<u64>();
        }
        Ok(count)
    }

    /// Removes what stands before the first open letter of each partition.
    fn trim(&self, from: &DeadTopic) -> Result<(), EngineError> {
        let folds = self.fold_of(from, &(0..from.partitions).collect())?;
        let mut list = TopicPartitionList::new();
        for (partition, fold) in folds {
            if let Some(end) = fold.finished()
                && let Ok(partition) = i32::try_from(partition)
            {
                // A list refuses only what is no offset.
                let _ =
                    list.add_partition_offset(&from.name, partition, rdkafka::Offset::Offset(end));
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        let admin = Admin::open(&self.config)?;
        answer(admin.client.delete_records(&list, &admin.options))
            .map(drop)
            .map_err(|error| EngineError::Unavailable {
                engine: ENGINE,
                what: format!("remove finished dead letters from `{}`", from.name),
                why: Arc::from(error.to_string()),
            })
    }
}

impl DeadLetters for Dead {
    fn list(&self, query: DeadQuery) -> BoxFuture<'_, Result<Vec<DeadLetter>, EngineError>> {
        let reading = self.reading();
        Box::pin(blocking(move || reading.list(&query)))
    }

    fn show(&self, cursor: u64) -> BoxFuture<'_, Result<Option<DeadLetter>, EngineError>> {
        let reading = self.reading();
        Box::pin(blocking(move || reading.show(cursor)))
    }

    fn replay(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(self.finish(cursors, true))
    }

    fn purge(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>> {
        Box::pin(self.finish(cursors, false))
    }

    fn count(&self, place: Option<Place>) -> BoxFuture<'_, Result<u64, EngineError>> {
        let reading = self.reading();
        Box::pin(blocking(move || reading.count(place.as_ref())))
    }
}

impl std::fmt::Debug for Dead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dead").finish_non_exhaustive()
    }
}
