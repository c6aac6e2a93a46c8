//! The producing side. A slice is handed to the client in chunks, and each chunk has one completion: when the last of its records
//! is confirmed, or has failed.

mod client;
mod failure;
mod ledger;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::OwnedHeaders;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::config::Config;
use super::{ENGINE, record, topics};
use crate::engine::{
    Answers, BoxFuture, EngineError, Outgoing, Publish, PublishError, Published, Taken,
};
use crate::name::{Name, Place};
use crate::time::{Clock, WallTime};

use client::Named;
pub(super) use client::{Client, unusable};

use ledger::Opened;
pub(super) use ledger::{Stored, log_line};

/// So many records share one completion.
const CHUNK: usize = 256;

/// A record that was confirmed without a place in the log: perhaps it is there, perhaps not.
const DOUBTED: RDKafkaErrorCode = RDKafkaErrorCode::DuplicateSequenceNumber;

/// So often a record is sent again that is in doubt. Stored twice is better than never.
const RESENDS: u32 = 8;

/// How long after a client has become useless the next one is made.
const RENEWAL: Duration = Duration::from_secs(1);

/// The producing side of the engine, shared by all callers.
pub(super) struct Publisher {
    config: Arc<Config>,
    clock: Clock,
    /// Made anew when it has failed for good.
    client: RwLock<(Arc<Client>, Instant)>,
    /// Topics that were looked for and created, if topics are created at all.
    known: RwLock<HashSet<Name>>,
    closed: AtomicBool,
}

/// One record, ready to be handed to the client.
pub(super) struct Ready<'a> {
    pub(super) topic: &'a str,
    /// `None`: by its key.
    pub(super) partition: Option<u32>,
    pub(super) key: Option<&'a [u8]>,
    pub(super) payload: Option<&'a [u8]>,
    pub(super) headers: OwnedHeaders,
    /// Milliseconds since 1970.
    pub(super) at: i64,
}

impl<'a> Ready<'a> {
    fn of(out: &'a Outgoing, at: i64) -> Self {
        let has = |null| !out.flags.contains(null);
        Self {
            topic: out.place.name(),
            partition: None,
            key: has(crate::message::Flags::NULL_KEY).then(|| out.body.key()),
            payload: has(crate::message::Flags::NULL_PAYLOAD).then(|| out.body.payload()),
            headers: record::outgoing(out),
            at,
        }
    }
}

/// What became of one record.
pub(super) type Answer = Result<Stored, RDKafkaErrorCode>;

impl Publisher {
    /// Connects.
    ///
    /// # Errors
    /// If the settings cannot be used, or no broker answers within `connect_timeout`; wrong credentials are said at once.
    ///
    /// # Cancel safety
    /// Dropping the future opens nothing.
    pub(super) async fn open(config: Arc<Config>, clock: Clock) -> Result<Self, EngineError> {
        let client = {
            let config = Arc::clone(&config);
            topics::blocking(move || {
                let client = Client::open(&config)?;
                client.wait_for_a_broker(config.connect_timeout, &config.brokers)?;
                Ok(client)
            })
            .await?
        };
        Ok(Self {
            config,
            clock,
            client: RwLock::new((client, Instant::now())),
            known: RwLock::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// How the engine was configured.
    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The wall clock of the engine.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The client to use now.
    pub(super) fn client(&self) -> Arc<Client> {
        let (client, made) = {
            let held = self.client.read().unwrap_or_else(PoisonError::into_inner);
            (Arc::clone(&held.0), held.1)
        };
        if !client.is_useless() || made.elapsed() < RENEWAL {
            return client;
        }
        let mut held = self.client.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&held.0, &client) {
            held.1 = Instant::now();
            match Client::open(&self.config) {
                Ok(new) => {
                    tracing::warn!("the Kafka producer had failed for good and was made anew");
                    held.0 = new;
                }
                Err(error) => {
                    tracing::error!(%error, "the Kafka producer has failed for good, and no new one can be made");
                }
            }
        }
        Arc::clone(&held.0)
    }

    /// Confirms what was handed over, and ends.
    ///
    /// # Errors
    /// If records were not confirmed in time; their callers hear it too.
    ///
    /// # Cancel safety
    /// Dropping the future lets it go on in the background.
    pub(super) async fn close(&self) -> Result<(), EngineError> {
        self.closed.store(true, Ordering::Release);
        let client = {
            let held = self.client.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&held.0)
        };
        // Everything is confirmed or failed by then, by the client's own rule.
        let within = self.config.producer.message_timeout + Duration::from_secs(1);
        topics::blocking(move || client.end(within)).await
    }

    /// Hands records to the client and answers each, in order. The one place through which every record of this engine leaves.
    ///
    /// # Cancel safety
    /// Dropping the future leaves what was already handed over.
    pub(super) async fn produce(&self, client: &Client, ready: Vec<Ready<'_>>) -> Vec<Answer> {
        answers(self.hand_over_all(client, ready).await).await
    }

    /// Hands over chunk by chunk, each as soon as there is room.
    async fn hand_over_all(&self, client: &Client, ready: Vec<Ready<'_>>) -> Vec<Pending> {
        let mut pending: Vec<Pending> = Vec::new();
        let chunk_len = CHUNK.min(self.config.producer.queue_messages as usize);
        let mut rest = ready.into_iter().peekable();
        while rest.peek().is_some() {
            let chunk: Vec<Ready<'_>> = rest.by_ref().take(chunk_len).collect();
            pending.push(self.hand_over(client, chunk).await);
        }
        pending
    }

    /// The same for a single record, as nearly every caller has it.
    async fn produce_one(&self, client: &Client, ready: Ready<'_>) -> Answer {
        let cost = client.cost(&ready);
        if self.closed.load(Ordering::Acquire) || !client.ledger().room(cost).await {
            return Err(failure::CLOSED);
        }
        let (mut opened, done) = client.ledger().begin_one(cost);
        self.hand(client, &mut opened, 0, ready, &mut None).await;
        done.await.unwrap_or(Err(failure::CLOSED))
    }

    /// Waits for room and hands over a chunk.
    async fn hand_over(&self, client: &Client, chunk: Vec<Ready<'_>>) -> Pending {
        let count = chunk.len();
        let cost = chunk.iter().map(|ready| client.cost(ready)).sum();
        if self.closed.load(Ordering::Acquire) || !client.ledger().room(cost).await {
            return Pending::Closed(count);
        }
        let (mut opened, done) = client.ledger().begin(count, cost);
        let mut deadline = None;
        for (index, ready) in chunk.into_iter().enumerate() {
            self.hand(client, &mut opened, index, ready, &mut deadline)
                .await;
        }
        Pending::Asked(done, count)
    }

    /// Hands over one record of what was opened. Its queue may be full until the deadline, which begins then.
    async fn hand(
        &self,
        client: &Client,
        opened: &mut Opened<'_>,
        index: usize,
        ready: Ready<'_>,
        deadline: &mut Option<Instant>,
    ) {
        let mut record = Named::with_opaque_to(ready.topic, opened.opaque(index))
            .headers(ready.headers)
            .timestamp(ready.at);
        record.partition = ready.partition.and_then(|one| i32::try_from(one).ok());
        record.key = ready.key;
        record.payload = ready.payload;
        loop {
            let (code, back) = match client.send(record) {
                Ok(()) => return opened.handed(index),
                Err(refused) => refused,
            };
            let until = || Instant::now() + self.config.producer.message_timeout;
            // Our own count is a little ahead of the client's, which frees a batch when all of it is answered.
            if code != RDKafkaErrorCode::QueueFull
                || Instant::now() >= *deadline.get_or_insert_with(until)
            {
                return opened.refused(index, code);
            }
            record = back;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What is refused before any byte leaves.
    fn check(&self, out: &Outgoing) -> Result<(), PublishError> {
        if let Place::Tube(_) = out.place {
            return Err(PublishError::Unsupported {
                engine: ENGINE,
                what: "store tasks; name beanstalkd or sqlite for `dq`".to_owned(),
            });
        }
        out.check_size(true)?;
        if out.due != WallTime::EPOCH && out.due > self.clock.now() {
            return Err(PublishError::Unsupported {
                engine: ENGINE,
                what: "delay a record of a topic; send a task for later".to_owned(),
            });
        }
        Ok(())
    }

    /// Creates the topics of a slice that nobody has used here before, where topics are created at all.
    async fn create(&self, slice: &[Outgoing]) -> Result<(), EngineError> {
        if self.config.create_topics.is_none() {
            return Ok(());
        }
        let mut last: Option<&Name> = None;
        for out in slice {
            let name = out.place.name();
            if last == Some(name) {
                continue;
            }
            last = Some(name);
            if self.is_known(name) {
                continue;
            }
            topics::ensure(&self.client(), &self.config, name).await?;
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.insert(name.clone());
        }
        Ok(())
    }

    fn is_known(&self, topic: &Name) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.contains(topic)
    }

    /// Hands over a slice.
    async fn take_slice(&self, slice: Vec<Outgoing>) -> HandedOver {
        let mut taken = HandedOver {
            refused: slice.iter().map(|out| self.check(out).err()).collect(),
            slice,
            client: self.client(),
            at: self.clock.now().as_millis(),
            pending: Vec::new(),
        };
        if self.closed.load(Ordering::Acquire) {
            taken.refuse(&PublishError::Closed { engine: ENGINE });
        } else if taken.refused.iter().any(Option::is_none)
            && let Err(error) = self.create(&taken.slice).await
        {
            taken.refuse(&no_topic(&error));
        }
        let fit = taken.fit();
        let ready = fit.map(|out| Ready::of(out, taken.at)).collect();
        taken.pending = self.hand_over_all(&taken.client, ready).await;
        taken
    }

    /// Waits for the answers of a slice.
    async fn confirmed(&self, mut taken: HandedOver) -> Answers {
        let mut answers = answers(std::mem::take(&mut taken.pending)).await;
        for _ in 0..RESENDS {
            let doubted = |at: &usize| answers[*at] == Err(DOUBTED);
            let again: Vec<usize> = (0..answers.len()).filter(doubted).collect();
            if again.is_empty() {
                break;
            }
            let fit: Vec<&Outgoing> = taken.fit().collect();
            let ready = again.iter().map(|&n| Ready::of(fit[n], taken.at));
            let ready = ready.collect();
            for (n, answer) in again.iter().zip(self.produce(&taken.client, ready).await) {
                answers[*n] = answer;
            }
        }
        let mut answers = answers.into_iter();
        let HandedOver {
            slice,
            refused,
            client,
            ..
        } = taken;
        refused
            .into_iter()
            .zip(&slice)
            .map(|(refused, out)| {
                if let Some(error) = refused {
                    return Err(error);
                }
                let answer = answers.next().unwrap_or(Err(failure::CLOSED));
                published(&client, out, answer)
            })
            .collect()
    }

    /// The same for a slice of one, without its lists.
    async fn accept_one(&self, out: Outgoing) -> Result<Published, PublishError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(PublishError::Closed { engine: ENGINE });
        }
        self.check(&out)?;
        if let Err(error) = self.create(std::slice::from_ref(&out)).await {
            return Err(no_topic(&error));
        }
        let client = self.client();
        let at = self.clock.now().as_millis();
        let mut answer = Err(DOUBTED);
        for _ in 0..=RESENDS {
            answer = self.produce_one(&client, Ready::of(&out, at)).await;
            if answer != Err(DOUBTED) {
                break;
            }
        }
        published(&client, &out, answer)
    }
}

/// What the caller hears where a topic could not be created: nothing was sent.
fn no_topic(error: &EngineError) -> PublishError {
    PublishError::Unavailable {
        engine: ENGINE,
        why: Arc::from(error.to_string()),
        maybe_stored: false,
    }
}

/// What the caller hears of a record.
fn published(client: &Client, out: &Outgoing, answer: Answer) -> Result<Published, PublishError> {
    match answer {
        Ok(stored) => Ok(Published {
            id: out.id,
            existed: false,
            token: None,
            partition: stored.partition,
            offset: stored.offset,
        }),
        Err(code) => Err(client.why(code).publish(out)),
    }
}

/// A slice that was handed over, as far as it was not refused.
struct HandedOver {
    slice: Vec<Outgoing>,
    refused: Vec<Option<PublishError>>,
    client: Arc<Client>,
    /// When, in milliseconds since 1970.
    at: i64,
    pending: Vec<Pending>,
}

impl HandedOver {
    /// What was not refused.
    fn fit(&self) -> impl Iterator<Item = &Outgoing> {
        let all = self.slice.iter().zip(&self.refused);
        all.filter(|(_, refused)| refused.is_none())
            .map(|(out, _)| out)
    }

    /// Refuses what was not refused yet.
    fn refuse(&mut self, error: &PublishError) {
        for refused in &mut self.refused {
            refused.get_or_insert_with(|| error.clone());
        }
    }
}

/// Waits until every chunk is answered.
async fn answers(pending: Vec<Pending>) -> Vec<Answer> {
    let count = pending.iter().map(Pending::len).sum();
    let mut answers = Vec::with_capacity(count);
    for one in pending {
        match one {
            // The client answers every record, also when it ends.
            Pending::Asked(done, count) => match done.await {
                Ok(chunk) => answers.extend(chunk),
                Err(_) => answers.extend((0..count).map(|_| Err(failure::CLOSED))),
            },
            Pending::Closed(count) => {
                answers.extend((0..count).map(|_| Err(failure::CLOSED)));
            }
        }
    }
    answers
}

enum Pending {
    Asked(oneshot::Receiver<Vec<Answer>>, usize),
    Closed(usize),
}

impl Pending {
    fn len(&self) -> usize {
        match self {
            Self::Asked(_, count) | Self::Closed(count) => *count,
        }
    }
}

impl Publish for Publisher {
    fn publish(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Answers> {
        match <[Outgoing; 1]>::try_from(slice) {
            Ok([out]) => Box::pin(async { vec![self.accept_one(out).await] }),
            Err(slice) => {
                Box::pin(async move { self.confirmed(self.take_slice(slice).await).await })
            }
        }
    }

    fn take(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Taken<'_>> {
        Box::pin(async move {
            let taken = self.take_slice(slice).await;
            Taken::new(Box::pin(self.confirmed(taken)))
        })
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("brokers", &self.config.brokers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
