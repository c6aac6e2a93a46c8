//! Where a new group begins, written down before it begins.
//!
//! "Behind the newest record" means: newest when the group was first started. If that were left to the client, it would mean newest at
//! each start until something is committed, and newest whenever a partition is added: what came meanwhile would be lost. So the ends
//! of the partitions are committed for the group when it has nothing there, and whatever has no commit after that is read from its
//! oldest record.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionList;

/// Commits the ends of the partitions for a group that has nothing committed there. True if every partition has a commit now, so that
/// one without is a new one. Blocks.
///
/// # Errors
/// What the brokers say.
pub(in super::super) fn pin_start(
    settings: &ClientConfig,
    topic: &str,
    partitions: u32,
    bound: Duration,
) -> KafkaResult<bool> {
    let client: BaseConsumer = settings.create()?;
    let mut asked = TopicPartitionList::with_capacity(partitions as usize);
    for partition in 0..partitions {
        asked.add_partition(topic, partition.cast_signed());
    }
    let missing = |client: &BaseConsumer| -> KafkaResult<Vec<i32>> {
        let known = client.committed_offsets(asked.clone(), bound)?;
        let known = known.elements_for_topic(topic);
        let without = known
            .iter()
            .filter(|element| !matches!(element.offset(), Offset::Offset(_)));
        Ok(without
            .map(rdkafka::topic_partition_list::TopicPartitionListElem::partition)
            .collect())
    };
    let without = missing(&client)?;
    if without.is_empty() {
        return Ok(true);
    }
    let mut ends = TopicPartitionList::with_capacity(without.len());
    for partition in without {
        let (_, end) = client.fetch_watermarks(topic, partition, bound)?;
        ends.add_partition_offset(topic, partition, Offset::Offset(end))?;
    }
    if let Err(error) = client.commit(&ends, CommitMode::Sync) {
        // Members are active, and only they may commit: they may have done so meanwhile.
        tracing::debug!(topic, %error, "where the group begins could not be committed");
    }
    Ok(missing(&client)?.is_empty())
}
