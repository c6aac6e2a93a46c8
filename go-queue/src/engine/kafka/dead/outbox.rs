//! Dead letters on their way: what one end hands over, until it is stored.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::super::publish::{Answer, Publisher, Ready};
use super::super::topics;
use super::letter;
use crate::message::{Flags, Message};
use crate::name::Name;

/// So many letters are written at once.
const SLICE: usize = 256;
/// The waits between attempts.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A record that a group gave up.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    /// What the one who hands it over calls it.
    pub(crate) ticket: u64,
    /// Where it came from.
    pub(crate) topic: Name,
    /// The group that gave it up.
    pub(crate) group: Name,
    /// The handler that did.
    pub(crate) handler: Arc<str>,
    /// The record: key, headers, payload, partition, offset, time.
    pub(crate) message: Message,
    /// Why, at most 1 KB, control characters escaped.
    pub(crate) reason: Arc<str>,
    /// How often it was started.
    pub(crate) attempts: u32,
}

type Attempt = Pin<Box<dyn Future<Output = (Vec<Letter>, Vec<Answer>, u32)> + Send>>;

/// Writes the dead letters of one end, and does not give up: a letter that cannot be stored is tried again until it is. It is polled by
/// the end; it has no task and no thread.
///
/// The partition of a letter is that of its record, so that letters of one partition keep their order.
pub(crate) struct Outbox {
    publisher: Arc<Publisher>,
    topic: Name,
    partitions: u32,
    waiting: VecDeque<Letter>,
    under_way: Option<Attempt>,
    wait: Duration,
    trouble: Option<Arc<str>>,
    /// Handed over and not stored.
    out: usize,
}

impl Outbox {
    /// For the letters that go to this topic, which has so many partitions.
    pub(crate) fn new(publisher: Arc<Publisher>, topic: Name, partitions: u32) -> Self {
        Self {
            publisher,
            topic,
            partitions: partitions.max(1),
            waiting: VecDeque::new(),
            under_way: None,
            wait: Duration::ZERO,
            trouble: None,
            out: 0,
        }
    }

    /// Takes a letter. Poll it afterwards: nothing happens by itself.
    pub(crate) fn take(&mut self, letter: Letter) {
        self.out += 1;
        self.waiting.push_back(letter);
    }

    /// Why letters cannot be stored at present, with the name of their topic; `None` if they can. While it is something, take in no
    /// more of the partitions that have letters here.
    pub(crate) fn trouble(&self) -> Option<&Arc<str>> {
        self.trouble.as_ref()
    }

    /// Goes on, and appends the tickets of letters that all replicas have since: their records
    /// may be committed. `Ready`: nothing is on its way. `Pending`: the waker is registered for the rest.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, done: &mut Vec<u64>) -> Poll<()> {
        loop {
            if self.under_way.is_none() {
                if self.waiting.is_empty() {
                    return Poll::Ready(());
                }
                let many = self.waiting.len().min(SLICE);
                let letters: Vec<Letter> = self.waiting.drain(..many).collect();
                self.under_way = Some(self.attempt(letters));
            }
            let Some(attempt) = &mut self.under_way else {
                continue;
            };
            let Poll::Ready((letters, answers, partitions)) = attempt.as_mut().poll(cx) else {
                return Poll::Pending;
            };
            self.under_way = None;
            self.partitions = partitions.max(1);
            self.answered(letters, answers, done);
        }
    }

    fn answered(&mut self, letters: Vec<Letter>, answers: Vec<Answer>, done: &mut Vec<u64>) {
        let mut failed: Option<RDKafkaErrorCode> = None;
        // In front of those that came later, in their order.
        let mut again = Vec::new();
        for (letter, answer) in letters.into_iter().zip(answers) {
            match answer {
                Ok(_) => {
                    self.out -= 1;
                    done.push(letter.ticket);
                }
                Err(code) => {
                    failed = Some(code);
                    again.push(letter);
                }
            }
        }
        for letter in again.into_iter().rev() {
            self.waiting.push_front(letter);
        }
        let Some(code) = failed else {
            if self.trouble.take().is_some() {
                tracing::info!(topic = self.topic.as_str(), "dead letters are stored again");
            }
            self.wait = Duration::ZERO;
            return;
        };
        let why = self.publisher.client().why(code);
        if self.trouble.is_none() {
            tracing::error!(topic = self.topic.as_str(), %why, "a dead letter cannot be stored; it is tried until it is, and its partition waits");
        }
        self.trouble = Some(Arc::from(format!(
            "dead letters cannot be stored in topic `{}`: {why}",
            self.topic
        )));
        self.wait = (self.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
    }

    /// One attempt. After a failed one it waits first, and looks how many partitions there are.
    fn attempt(&self, letters: Vec<Letter>) -> Attempt {
        let (publisher, topic) = (Arc::clone(&self.publisher), self.topic.clone());
        let (wait, mut partitions) = (self.wait, self.partitions);
        Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
                let (client, topic) = (publisher.client(), topic.clone());
                let within = wait.max(Duration::from_secs(1));
                let asked = topics::blocking(move || topics::partitions(&client, &topic, within));
                if let Ok(Some(found)) = asked.await {
                    partitions = found.max(1);
                }
            }
            let at = publisher.clock().now().as_millis();
            let ready = letters
                .iter()
                .map(|letter| {
                    let message = &letter.message;
                    let has = |flag| !message.flags.contains(flag);
                    Ready {
                        topic: &topic,
                        partition: Some(message.place % partitions),
                        key: has(Flags::NULL_KEY).then(|| message.body.key()),
                        payload: has(Flags::NULL_PAYLOAD).then(|| message.body.payload()),
                        headers: letter::headers(letter),
                        at,
                    }
                })
                .collect();
            let answers = publisher.produce(&publisher.client(), ready).await;
            (letters, answers, partitions)
        })
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("topic", &self.topic)
            .field("out", &self.out)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::super::super::config::Config;
    use super::*;
    use crate::engine::{DeadLetters as _, DeadQuery};
    use crate::message::{Body, ContentType, Id};
    use crate::name::Place;
    use crate::time::{Clock, WallTime};

    fn letter(ticket: u64) -> Letter {
        Letter {
            ticket,
            topic: Name::literal("orders"),
            group: Name::literal("billing"),
            handler: Arc::from("charge"),
            message: Message {
                id: Id(u128::from(ticket)),
                body: Body::pack(b"key", b"\x01h\x00\x01v", format!("{ticket}").as_bytes()),
                attempt: 3,
                place: u32::try_from(ticket % 5).expect("small"),
                offset: i64::try_from(ticket).expect("small"),
                at: WallTime::from_millis(1_700_000_000_000),
                content: ContentType::Json,
                ..Message::default()
            },
            reason: Arc::from("no such user"),
            attempts: 3,
        }
    }

    async fn publisher(brokers: String) -> Arc<Publisher> {
        let mut config = Config::new([brokers]);
        config.producer.message_timeout = Duration::from_secs(2);
        let opened = Publisher::open(Arc::new(config), Clock::system()).await;
        Arc::new(opened.expect("the mock answers"))
    }

    fn outbox(publisher: &Arc<Publisher>) -> Outbox {
        Outbox::new(Arc::clone(publisher), Name::literal("orders-dlt"), 5)
    }

    /// Until nothing is on its way, or there is trouble where that is waited for.
    async fn stored(outbox: &mut Outbox, until_trouble: bool) -> Vec<u64> {
        let mut tickets = Vec::new();
        let wait = poll_fn(|cx| {
            let ready = outbox.poll(cx, &mut tickets);
            if until_trouble && outbox.trouble().is_some() {
                return Poll::Ready(());
            }
            ready
        });
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .expect("it ends");
        tickets
    }

    #[tokio::test]
    async fn letters_are_stored_with_all_that_is_known_and_found_again() {
        let mock = MockCluster::new(1).expect("a mock cluster");
        mock.create_topic("orders-dlt", 5, 1).expect("created");
        let publisher = publisher(mock.bootstrap_servers()).await;
        let mut outbox = outbox(&publisher);
        for ticket in 0..600 {
            outbox.take(letter(ticket));
        }
        let tickets = stored(&mut outbox, false).await;
        assert_eq!(tickets, (0..600).collect::<Vec<_>>());
        assert_eq!(outbox.trouble(), None);

        let dead = super::super::Dead::new(Arc::clone(&publisher));
        let query = DeadQuery {
            place: Some(Place::Topic(Name::literal("orders"))),
            ..DeadQuery::default()
        };
        let list = dead.list(query).await.expect("listed");
        assert_eq!(list.len(), 600);
        let seventh = list
            .iter()
            .find(|one| one.id == Id(7))
            .expect("it is there");
        assert_eq!(
            (seventh.body.key(), seventh.body.payload()),
            (&b"key"[..], &b"7"[..])
        );
        assert_eq!(seventh.body.raw_headers(), b"\x01h\x00\x01v");
        assert_eq!(
            (&*seventh.handler, &*seventh.reason, seventh.attempts),
            ("charge", "no such user", 3)
        );
        assert_eq!(seventh.at, WallTime::from_millis(1_700_000_000_000));
        assert_eq!(seventh.content, ContentType::Json);
    }

    #[tokio::test]
    async fn a_letter_that_cannot_be_stored_is_tried_until_it_is() {
        let mock = MockCluster::new(1).expect("a mock cluster");
        let publisher = publisher(mock.bootstrap_servers()).await;
        let mut outbox = outbox(&publisher);
        outbox.take(letter(1));
        assert!(stored(&mut outbox, true).await.is_empty());
        let why = outbox
            .trouble()
            .expect("its topic is not there")
            .to_string();
        assert!(
            why.contains("`orders-dlt`") && why.contains("does not exist"),
            "{why}"
        );
        outbox.take(letter(2));
        // With fewer partitions than the source has: found out by itself.
        mock.create_topic("orders-dlt", 1, 1).expect("created");
        assert_eq!(stored(&mut outbox, false).await, [1, 2]);
        assert_eq!(outbox.trouble(), None);
    }

    #[tokio::test]
    async fn a_letter_that_is_refused_once_is_stored_behind_no_other_of_its_partition() {
        let mock = MockCluster::new(1).expect("a mock cluster");
        mock.create_topic("orders-dlt", 5, 1).expect("created");
        let publisher = publisher(mock.bootstrap_servers()).await;
        mock.request_errors(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION],
        );
        let mut outbox = outbox(&publisher);
        outbox.take(letter(5));
        assert!(stored(&mut outbox, true).await.is_empty());
        outbox.take(letter(10));
        assert_eq!(stored(&mut outbox, false).await, [5, 10]);
    }
}
