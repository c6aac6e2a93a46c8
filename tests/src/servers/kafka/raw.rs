//! What a test says to brokers itself, past the library: topics, records, positions.

use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::wait::{until, until_some};

/// How long brokers may take for anything that a test asks them.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A record as it lies in a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawRecord {
    /// Where; `None` before it is stored: by its key.
    pub partition: Option<i32>,
    /// Where in its partition; 0 before it is stored.
    pub offset: i64,
    /// Milliseconds since 1970; 0 before it is stored: the time of the producer.
    pub timestamp: i64,
    /// The key; `None` is null, which is not an empty one.
    pub key: Option<Vec<u8>>,
    /// The payload; `None` is null, a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Names and values; a value may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl RawRecord {
    /// With a key and a payload.
    pub fn new(key: impl Into<Vec<u8>>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            key: Some(key.into()),
            payload: Some(payload.into()),
            ..Self::default()
        }
    }

    /// To this partition, whatever the key.
    #[must_use]
    pub fn to(self, partition: i32) -> Self {
        let partition = Some(partition);
        Self { partition, ..self }
    }

    /// The first value of a header as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        let value = found.and_then(|(_, value)| value.as_deref())?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

/// A client of its own, which knows nothing of the library.
pub struct Raw {
    brokers: String,
    admin: AdminClient<DefaultClientContext>,
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raw")
            .field("brokers", &self.brokers)
            .finish_non_exhaustive()
    }
}

impl Raw {
    /// To these brokers, as a configuration names them.
    ///
    /// # Panics
    /// If the client cannot be made.
    pub fn to(brokers: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers);
        Self {
            brokers: brokers.to_owned(),
            admin: config.create().expect("a client with one setting"),
        }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    fn reader(&self, group: &str) -> BaseConsumer {
        self.config()
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .create()
            .expect("a client with known settings")
    }

    /// Creates a topic with one copy of each record, and waits until it can be used.
    ///
    /// # Panics
    /// If it does not come.
    pub fn create(&self, topic: &str, partitions: i32) {
        self.create_with(topic, partitions, 1, &[]);
    }

    /// As [`Raw::create`], with so many copies and with settings of the topic.
    ///
    /// # Panics
    /// If it does not come.
    pub fn create_with(
        &self,
        topic: &str,
        partitions: i32,
        copies: i32,
        settings: &[(&str, &str)],
    ) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(copies));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        // Brokers that have just started may not know each other yet.
        until_some("a new topic", PATIENCE, || {
            let made = wait_for(self.admin.create_topics([&new], &options()));
            match made.as_deref() {
                Ok([Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))]) => Some(()),
                _ => None,
            }
        });
        self.until_ready(topic, partitions, copies);
    }

    /// Waits until all partitions have a leader and all their copies.
    ///
    /// # Panics
    /// If that does not come.
    pub fn until_ready(&self, topic: &str, partitions: i32, copies: i32) {
        let (of, copies) = (usize::try_from(partitions), usize::try_from(copies));
        // Each broker hears of it in its own time, and any of them may be asked: so all of several answers have to be good.
        let (mut good, wanted) = (0, copies.map_or(1, |copies| 1 + 5 * (copies - 1)));
        until("leaders of a topic", PATIENCE, || {
            let isr = self.copies(topic);
            let ready = |(leader, have): &(i32, usize)| *leader > 0 && Ok(*have) == copies;
            let all = Ok(isr.len()) == of && isr.iter().all(ready);
            good = if all { good + 1 } else { 0 };
            good >= wanted
        });
    }

    /// Leader and number of copies in step, for each partition; nothing if the topic is not there.
    fn copies(&self, topic: &str) -> Vec<(i32, usize)> {
        let metadata = self
            .admin
            .inner()
            .fetch_metadata(Some(topic), ANSWER_WITHIN);
        let Ok(metadata) = metadata else {
            return Vec::new();
        };
        let found = metadata.topics().iter().find(|one| one.name() == topic);
        let Some(found) = found.filter(|one| one.error().is_none()) else {
            return Vec::new();
        };
        let mut partitions: Vec<_> = found.partitions().iter().collect();
        partitions.sort_unstable_by_key(|one| one.id());
        partitions
            .iter()
            .map(|one| (one.leader(), one.isr().len()))
            .collect()
    }

    /// The brokers that lead the partitions of a topic now; -1 where nobody does.
    pub fn leaders(&self, topic: &str) -> Vec<i32> {
        self.copies(topic)
            .into_iter()
            .map(|(leader, _)| leader)
            .collect()
    }

    /// Deletes a topic, and waits until it is gone.
    ///
    /// # Panics
    /// If it does not go.
    pub fn delete(&self, topic: &str) {
        let gone = wait_for(self.admin.delete_topics(&[topic], &options()));
        gone.expect("the broker answers")
            .pop()
            .expect("one answer for one topic")
            .expect("the topic can be deleted");
        until("the end of a topic", PATIENCE, || {
            self.copies(topic).is_empty()
        });
    }

    /// Gives a topic more partitions, and waits until they can be used.
    ///
    /// # Panics
    /// If they do not come.
    pub fn grow(&self, topic: &str, partitions: usize) {
        let new = NewPartitions::new(topic, partitions);
        let grown = wait_for(self.admin.create_partitions([&new], &options()));
        grown
            .expect("the broker answers")
            .pop()
            .expect("one answer for one topic")
            .expect("the topic can grow");
        until("more partitions", PATIENCE, || {
            let leaders = self.leaders(topic);
            leaders.len() == partitions && leaders.iter().all(|leader| *leader > 0)
        });
    }

    /// Changes settings of a topic.
    ///
    /// # Panics
    /// If the broker refuses them.
    pub fn alter(&self, topic: &str, settings: &[(&str, &str)]) {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in settings {
            change = change.set(name, value);
        }
        let changed = wait_for(self.admin.alter_configs([&change], &options()));
        changed
            .expect("the broker answers")
            .pop()
            .expect("one answer for one topic")
            .expect("the topic can be changed");
    }

    /// For each partition the offset of the oldest record and the one behind the newest.
    ///
    /// # Panics
    /// If the broker does not say.
    pub fn ends(&self, topic: &str) -> Vec<(i64, i64)> {
        let reader = self.reader("ends");
        let partitions = i32::try_from(self.leaders(topic).len()).expect("a few partitions");
        (0..partitions)
            .map(|partition| {
                until_some("the ends of a partition", PATIENCE, || {
                    reader
                        .fetch_watermarks(topic, partition, ANSWER_WITHIN)
                        .ok()
                })
            })
            .collect()
    }

    /// How many records a topic had, control records among them.
    pub fn len(&self, topic: &str) -> i64 {
        self.ends(topic).iter().map(|(low, high)| high - low).sum()
    }

    /// What a group has committed for each partition; `None`: nothing.
    ///
    /// # Panics
    /// If the broker does not say.
    pub fn committed(&self, group: &str, topic: &str) -> Vec<Option<i64>> {
        let reader = self.reader(group);
        let mut asked = TopicPartitionList::new();
        for partition in (0..).take(self.leaders(topic).len()) {
            asked.add_partition(topic, partition);
        }
        let said = until_some("the positions of a group", PATIENCE, || {
            reader.committed_offsets(asked.clone(), ANSWER_WITHIN).ok()
        });
        said.elements()
            .iter()
            .map(|one| match one.offset() {
                Offset::Offset(at) => Some(at),
                _ => None,
            })
            .collect()
    }

    /// How many records of a topic a group has not committed.
    pub fn lag(&self, group: &str, topic: &str) -> i64 {
        let committed = self.committed(group, topic);
        let ends = self.ends(topic);
        let lag = |((low, high), at): (&(i64, i64), &Option<i64>)| high - at.unwrap_or(*low);
        ends.iter().zip(&committed).map(lag).sum()
    }

    /// Stores records in their order; keys are placed as Java places them. Returns when all copies in step have them.
    ///
    /// # Panics
    /// If one is refused.
    pub fn produce(&self, topic: &str, records: impl IntoIterator<Item = RawRecord>) {
        let producer: BaseProducer = self.producer().create().expect("known settings");
        send(&producer, topic, records);
        producer.flush(PATIENCE).expect("the records are stored");
    }

    fn producer(&self) -> ClientConfig {
        let mut config = self.config();
        config
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", "60000")
            // What a topic takes is for the topic to say.
            .set("message.max.bytes", "10000000");
        config
    }

    /// A producer with a transaction of this name, which has begun none yet.
    ///
    /// # Panics
    /// If the broker does not let it.
    pub fn transactional(&self, id: &str) -> Transactional {
        let mut config = self.producer();
        config.set("transactional.id", id);
        let producer: BaseProducer = config.create().expect("known settings");
        producer.init_transactions(PATIENCE).expect("transactions");
        Transactional(producer)
    }

    /// All records that a topic has now, partition by partition, without those of aborted transactions.
    ///
    /// # Panics
    /// If they do not come.
    pub fn records(&self, topic: &str) -> Vec<RawRecord> {
        let reader = self
            .config()
            .set("group.id", "reads-everything")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .create::<BaseConsumer>()
            .expect("a client with known settings");
        let partitions = self.leaders(topic).len();
        let mut all = TopicPartitionList::new();
        for partition in (0..).take(partitions) {
            all.add_partition_offset(topic, partition, Offset::Beginning)
                .expect("an offset");
        }
        reader.assign(&all).expect("an assignment");
        let (mut records, mut ended, began) = (Vec::new(), 0, Instant::now());
        while ended < partitions {
            assert!(
                began.elapsed() < PATIENCE,
                "the end of {topic}: not within {PATIENCE:?}"
            );
            match reader.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => records.push(read(&message)),
                Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Err(_)) | None => {}
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }
}

/// A producer whose records count when their transaction is committed.
pub struct Transactional(BaseProducer);

impl fmt::Debug for Transactional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transactional").finish_non_exhaustive()
    }
}

impl Transactional {
    /// Stores records in one transaction, which is committed or aborted then.
    ///
    /// # Panics
    /// If the broker refuses it.
    pub fn produce(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = RawRecord>,
        committed: bool,
    ) {
        self.0.begin_transaction().expect("no other one is open");
        send(&self.0, topic, records);
        // Also what is aborted is to lie in the log.
        self.0.flush(PATIENCE).expect("the records are stored");
        let ended = if committed {
            self.0.commit_transaction(PATIENCE)
        } else {
            self.0.abort_transaction(PATIENCE)
        };
        ended.expect("the transaction ends");
    }
}

fn send(producer: &BaseProducer, topic: &str, records: impl IntoIterator<Item = RawRecord>) {
    for record in records {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            let value = value.as_deref();
            headers = headers.insert(Header { key, value });
        }
        let mut next = BaseRecord::<[u8], [u8]>::to(topic);
        next.partition = record.partition;
        next.key = record.key.as_deref();
        next.payload = record.payload.as_deref();
        next.timestamp = (record.timestamp > 0).then_some(record.timestamp);
        if !record.headers.is_empty() {
            next.headers = Some(headers);
        }
        while let Err((error, again)) = producer.send(next) {
            let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            assert!(full, "a record is refused: {error}");
            producer.poll(Timeout::After(Duration::from_millis(10)));
            next = again;
        }
    }
}

fn read(message: &rdkafka::message::BorrowedMessage<'_>) -> RawRecord {
    let headers = message.headers().map(|headers| {
        let owned =
            |header: Header<'_, &[u8]>| (header.key.to_owned(), header.value.map(<[u8]>::to_vec));
        headers.iter().map(owned).collect()
    });
    RawRecord {
        partition: Some(message.partition()),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWER_WITHIN))
        .operation_timeout(Some(ANSWER_WITHIN))
}

/// Waits on a thread of its own: the caller may be inside a runtime.
fn wait_for<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.expect("a runtime of one thread").block_on(future)
        });
        waiting.join().expect("no panic in a client")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::{SharedKafka, kafka_is_installed};

    #[test]
    fn records_come_back_as_they_were_stored() {
        if !kafka_is_installed() {
            return;
        }
        let raw = SharedKafka::get().raw();
        let topic = SharedKafka::fresh_name("raw");
        raw.create(&topic, 2);
        let full = RawRecord {
            headers: vec![
                ("a".to_owned(), Some(b"1".to_vec())),
                ("b".to_owned(), None),
            ],
            ..RawRecord::new("key", "payload").to(1)
        };
        let null = RawRecord::default().to(0);
        raw.produce(&topic, [full.clone(), null]);
        let got = raw.records(&topic);
        assert_eq!(got.len(), 2);
        assert_eq!((&got[0].key, &got[0].payload), (&None, &None));
        assert_eq!((&got[1].key, &got[1].headers), (&full.key, &full.headers));
        assert_eq!(got[1].header("a").as_deref(), Some("1"));
        assert_eq!(raw.ends(&topic), [(0, 1), (0, 1)]);
        assert_eq!(raw.committed("nobody", &topic), [None, None]);
        assert_eq!(raw.lag("nobody", &topic), 2);
    }

    #[test]
    fn aborted_records_are_not_read_and_leave_a_gap() {
        if !kafka_is_installed() {
            return;
        }
        let raw = SharedKafka::get().raw();
        let topic = SharedKafka::fresh_name("aborted");
        raw.create(&topic, 1);
        let producer = raw.transactional(&SharedKafka::fresh_name("transaction"));
        producer.produce(&topic, [RawRecord::new("k", "aborted")], false);
        producer.produce(&topic, [RawRecord::new("k", "committed")], true);
        let got = raw.records(&topic);
        let payloads: Vec<_> = got
            .iter()
            .filter_map(|record| record.payload.as_deref())
            .collect();
        assert_eq!(payloads, [b"committed"]);
        // Two records, and a marker behind each.
        assert_eq!(raw.len(&topic), 4);
    }

    #[test]
    fn a_topic_grows_goes_and_comes_again() {
        if !kafka_is_installed() {
            return;
        }
        let raw = SharedKafka::get().raw();
        let topic = SharedKafka::fresh_name("grows");
        raw.create(&topic, 1);
        raw.grow(&topic, 3);
        assert_eq!(raw.leaders(&topic), [1, 1, 1]);
        raw.delete(&topic);
        assert!(raw.leaders(&topic).is_empty());
        raw.create(&topic, 2);
        assert_eq!(raw.len(&topic), 0);
    }
}
