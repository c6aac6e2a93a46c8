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
