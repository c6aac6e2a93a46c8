//! Reads a topic of dead letters: no group, no commits, from the beginning or at single places. Blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::super::ENGINE;
use super::super::config::Config;
use super::super::publish::unusable;
use super::super::topics::Quiet;
use crate::engine::EngineError;

impl ConsumerContext for Quiet {}

/// How long a broker may be silent in the middle of a topic.
const SILENCE: Duration = Duration::from_secs(10);

pub(super) struct Reader<'a> {
    consumer: BaseConsumer<Quiet>,
    topic: &'a str,
    within: Duration,
}

impl<'a> Reader<'a> {
    /// # Errors
    /// If the client refuses its settings.
    pub(super) fn open(config: &Config, topic: &'a str) -> Result<Self, EngineError> {
        let consumer = config
            .reader_settings()
            .create_with_context(Quiet)
            .map_err(|error| unusable(&error))?;
        Ok(Self {
            consumer,
            topic,
            within: config.connect_timeout.max(SILENCE),
        })
    }

    /// Every record of these partitions, in the order of each, to the end that they have now or later.
    ///
    /// # Errors
    /// If a broker does not answer.
    pub(super) fn whole(
        &self,
        partitions: &BTreeSet<u32>,
        mut each: impl FnMut(u32, &BorrowedMessage<'_>),
    ) -> Result<(), EngineError> {
        let starts = partitions
            .iter()
            .map(|partition| (*partition, Offset::Beginning))
            .collect();
        self.assign(&starts)?;
        let mut open = partitions.clone();
        self.read(&mut open, |partition, record| {
            each(partition, record);
            Next::More
        })
    }

    /// The records at these places, in their order, until `each` says that it is enough. What is not there is left out.
    ///
    /// # Errors
    /// If a broker does not answer.
    pub(super) fn at(
        &self,
        places: &BTreeSet<(u32, i64)>,
        mut each: impl FnMut(u32, &BorrowedMessage<'_>) -> bool,
    ) -> Result<(), EngineError> {
        let mut by_partition: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
        for (partition, offset) in places {
            by_partition.entry(*partition).or_default().push(*offset);
        }
        // One after the other, so that the order is that of the places.
        for (partition, offsets) in by_partition {
            let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else {
                continue;
            };
            self.assign(&BTreeMap::from([(partition, Offset::Offset(*first))]))?;
            let mut enough = false;
            self.read(&mut BTreeSet::from([partition]), |partition, record| {
                if offsets.binary_search(&record.offset()).is_ok() && !each(partition, record) {
                    enough = true;
                }
                if enough || record.offset() >= *last {
                    Next::Done
                } else {
                    Next::More
                }
            })?;
            if enough {
                return Ok(());
            }
        }
        Ok(())
    }

    fn assign(&self, starts: &BTreeMap<u32, Offset>) -> Result<(), EngineError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in starts {
            let partition = i32::try_from(*partition).unwrap_or(i32::MAX);
            list.add_partition_offset(self.topic, partition, *offset)
                .map_err(|error| self.failed(&error.to_string()))?;
        }
        self.consumer
            .assign(&list)
            .map_err(|error| self.failed(&error.to_string()))
    }

    /// Reads until every partition is at its end or done.
    fn read(
        &self,
        open: &mut BTreeSet<u32>,
        mut each: impl FnMut(u32, &BorrowedMessage<'_>) -> Next,
    ) -> Result<(), EngineError> {
        let mut heard = Instant::now();
        while !open.is_empty() {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => {
                    heard = Instant::now();
                    let partition = u32::try_from(record.partition()).unwrap_or(u32::MAX);
                    if open.contains(&partition)
                        && let Next::Done = each(partition, &record)
                    {
                        open.remove(&partition);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = Instant::now();
                    open.remove(&u32::try_from(partition).unwrap_or(u32::MAX));
                }
                // What passes is tried again by the client.
                Some(Err(error)) if heard.elapsed() > self.within => {
                    return Err(self.failed(&error.to_string()));
                }
                None if heard.elapsed() > self.within => {
                    return Err(self.failed("no broker answers"));
                }
                Some(Err(_)) | None => {}
            }
        }
        Ok(())
    }

    fn failed(&self, why: &str) -> EngineError {
        EngineError::Unavailable {
            engine: ENGINE,
            what: format!("read topic `{}`", self.topic),
            why: Arc::from(why),
        }
    }
}

enum Next {
    More,
    Done,
}
