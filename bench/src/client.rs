//! librdkafka alone: records are drained in batches through its C interface and given back, nothing else. The floor under everything
//! that reads topics; nothing of ours is in it.
#![expect(
    unsafe_code,
    reason = "the crate has no batches; this is what a loop by hand would call"
)]

use std::ffi::CString;
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::figures::{Figures, Stopwatch};

/// So many records are taken at a time: as many as a turn of ours brings.
const BATCH: usize = 256;

/// A queue of a client, given back before the client goes.
struct Lane(*mut sys::rd_kafka_queue_t);

impl Drop for Lane {
    fn drop(&mut self) {
        // SAFETY: made by `lane`, given back once, and the client is still there: `drain` drops it later.
        unsafe { sys::rd_kafka_queue_destroy(self.0) }
    }
}

/// A queue to which all of these partitions go.
fn lane(consumer: &BaseConsumer, topic: &CString, partitions: i32) -> Lane {
    let client = consumer.client().native_ptr();
    // SAFETY: the client is live; references to queues are given back here and in `Lane`.
    unsafe {
        let lane = Lane(sys::rd_kafka_queue_new(client));
        for partition in 0..partitions {
            let queue = sys::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
            sys::rd_kafka_queue_forward(queue, lane.0);
            sys::rd_kafka_queue_destroy(queue);
        }
        lane
    }
}

/// Reads so many records of a topic from the start.
pub(crate) fn drain(brokers: &str, topic: &str, messages: u64) -> Result<Figures, String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "client")
        .set("fetch.queue.backoff.ms", "2")
        .set("fetch.max.bytes", "16777216")
        .set("queued.max.messages.kbytes", "65536")
        .create()
        .map_err(|error| error.to_string())?;
    let metadata = consumer
        .fetch_metadata(Some(topic), Duration::from_secs(10))
        .map_err(|error| error.to_string())?;
    let partitions = metadata
        .topics()
        .first()
        .map_or(0, |of| of.partitions().len());
    let partitions = i32::try_from(partitions).map_err(|error| error.to_string())?;
    let name = CString::new(topic).map_err(|error| error.to_string())?;
    let watch = Stopwatch::start();
    let lane = lane(&consumer, &name, partitions);
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment
            .add_partition_offset(topic, partition, Offset::Beginning)
            .map_err(|error| error.to_string())?;
    }
    consumer
        .assign(&assignment)
        .map_err(|error| error.to_string())?;
    let mut room = [ptr::null_mut::<sys::rd_kafka_message_t>(); BATCH];
    let mut read = 0;
    while read < messages {
        // SAFETY: the lane is live, and there is room for so many.
        let count =
            unsafe { sys::rd_kafka_consume_batch_queue(lane.0, 100, room.as_mut_ptr(), BATCH) };
        for record in &room[..usize::try_from(count).unwrap_or(0)] {
            // SAFETY: a live message that is ours; looked at, then given back once.
            unsafe {
                read += u64::from((**record).err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
                sys::rd_kafka_message_destroy(*record);
            }
        }
        // Errors and answers that are no records.
        let _ = consumer.poll(Duration::ZERO);
    }
    let figures = watch.figures(read);
    drop(lane);
    Ok(figures)
}
