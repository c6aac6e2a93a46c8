//! The bare lane: one queue for all partitions, drained in batches through the C interface; decode, order by key, a bit for each
//! finished record, and positions stored ten times a second. What a pump can be measured against.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::hash::{BuildHasher as _, RandomState};
use std::ptr;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use rdkafka_sys as sys;

use crate::{Told, Watch, config, decode};

/// So many messages are taken at a time.
const BATCH: usize = 1000;

/// Which records of a partition are done.
struct Done {
    /// The first that is not.
    base: i64,
    /// The next that is expected.
    next: i64,
    bits: VecDeque<u64>,
}

impl Done {
    fn new() -> Self {
        Self { base: 0, next: 0, bits: VecDeque::new() }
    }

    /// What lies between the last one and this one does not exist.
    fn begin(&mut self, offset: i64) {
        for gap in self.next..offset {
            self.end(gap);
        }
        self.next = offset + 1;
    }

    fn end(&mut self, offset: i64) {
        // The bits begin at a whole word.
        let at = (offset - (self.base & !63)) as usize;
        while self.bits.len() <= at / 64 {
            self.bits.push_back(0);
        }
        self.bits[at / 64] |= 1 << (at % 64);
        while let Some(word) = self.bits.front().copied() {
            let inside = (self.base & 63) as u32;
            let ready = (word >> inside).trailing_ones();
            self.base += i64::from(ready);
            if inside + ready < 64 {
                break;
            }
            self.bits.pop_front();
        }
    }
}

/// Reads so many messages; `whole` decodes them too, and keeps keys in order.
pub fn run(told: &Told, whole: bool) -> Result<String, String> {
    let messages = told.number("messages", 4_000_000)?;
    let topic = told.text("topic")?;
    let consumer: BaseConsumer = config(told, true)?.create().map_err(|error| error.to_string())?;
    let metadata = consumer
        .fetch_metadata(Some(topic), Duration::from_secs(10))
        .map_err(|error| error.to_string())?;
    let partitions = metadata.topics()[0].partitions().len();
    let client = consumer.client().native_ptr();
    let name = CString::new(topic).map_err(|error| error.to_string())?;
    // SAFETY: the client lives until the end of this function. The queue is destroyed before it, or it would wait for ever.
    let lane = unsafe { sys::rd_kafka_queue_new(client) };
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions as i32 {
        assignment
            .add_partition_offset(topic, partition, Offset::Beginning)
            .map_err(|error| error.to_string())?;
        // SAFETY: as above; forwarded before it is assigned, so that nothing goes another way.
        unsafe {
            let queue = sys::rd_kafka_queue_get_partition(client, name.as_ptr(), partition);
            sys::rd_kafka_queue_forward(queue, lane);
            sys::rd_kafka_queue_destroy(queue);
        }
    }
    consumer.assign(&assignment).map_err(|error| error.to_string())?;

    let mut done: Vec<Done> = (0..partitions).map(|_| Done::new()).collect();
    let mut busy: HashMap<u64, u32> = HashMap::new();
    let hasher = RandomState::new();
    let mut batch = vec![ptr::null_mut::<sys::rd_kafka_message_t>(); BATCH];
    let (mut ran, mut watch, mut stored) = (0, Watch::new(), Instant::now());
    while ran < messages {
        // Events of the group and errors.
        let _ = consumer.poll(Duration::ZERO);
        // SAFETY: the array has room for `BATCH` pointers.
        let count = unsafe {
            if sys::rd_kafka_queue_length(lane) == 0 {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            sys::rd_kafka_consume_batch_queue(lane, 0, batch.as_mut_ptr(), BATCH)
        };
        for message in &batch[..usize::try_from(count).unwrap_or(0)] {
            // SAFETY: the message is ours until it is destroyed.
            let one = unsafe { &**message };
            if one.err as i32 == 0 {
                watch.start();
                let partition = one.partition as usize;
                done[partition].begin(one.offset);
                if whole {
                    // SAFETY: key and payload are valid with these lengths while the message is.
                    let (key, payload) = unsafe {
                        (
                            std::slice::from_raw_parts(one.key.cast::<u8>(), one.key_len),
                            std::slice::from_raw_parts(one.payload.cast::<u8>(), one.len),
                        )
                    };
                    let order = hasher.hash_one(key);
                    // One of a key at a time: here each is done before the next begins.
                    *busy.entry(order).or_default() += 1;
                    decode(payload)?;
                    busy.remove(&order);
                }
                done[partition].end(one.offset);
                ran += 1;
            }
            // SAFETY: destroyed once, and not used afterwards.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
        if stored.elapsed() > Duration::from_millis(100) {
            stored = Instant::now();
            let mut positions = TopicPartitionList::new();
            for (partition, done) in (0..).zip(&done) {
                if done.base > 0 {
                    positions
                        .add_partition_offset(topic, partition, Offset::Offset(done.base))
                        .map_err(|error| error.to_string())?;
                }
            }
            consumer.store_offsets(&positions).map_err(|error| error.to_string())?;
        }
    }
    let figures = watch.figures(ran);
    // SAFETY: used no more; all messages of it are destroyed.
    unsafe { sys::rd_kafka_queue_destroy(lane) };
    Ok(figures)
}
