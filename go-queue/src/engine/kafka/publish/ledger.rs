//! Which records are with the client, and who waits for them: the client's context.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;
use tokio::sync::{Semaphore, oneshot};

use super::{Answer, CHUNK, DOUBTED};

/// Where a record is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) partition: u32,
    pub(crate) offset: i64,
}

// A record is named to the client by chunk and place in it, in one number.
const _: () = assert!(usize::BITS == 64 && CHUNK <= 1 << INDEX_BITS);
const INDEX_BITS: u32 = 16;

/// What the client tells us: what became of records, and what troubles it.
pub(crate) struct Ledger {
    chunks: Mutex<Chunks>,
    /// Bytes that may be with the client.
    room: Semaphore,
    trouble: Mutex<Option<Trouble>>,
    useless: AtomicBool,
}

/// The last error that concerns the client as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) text: Arc<str>,
}

#[derive(Default)]
struct Chunks {
    all: Vec<Option<Chunk>>,
    free: Vec<usize>,
}

struct Chunk {
    left: usize,
    cost: usize,
    answers: Vec<Answer>,
    done: Done,
}

/// Who waits for a chunk.
enum Done {
    Many(oneshot::Sender<Vec<Answer>>),
    /// For a single record, which needs no list.
    One(oneshot::Sender<Answer>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    pub(super) fn new(room: usize) -> Self {
        Self {
            chunks: Mutex::default(),
            room: Semaphore::new(room.min(Semaphore::MAX_PERMITS)),
            trouble: Mutex::default(),
            useless: AtomicBool::new(false),
        }
    }

    /// Waits until so many bytes may be handed over. False: it has ended.
    ///
    /// # Cancel safety
    /// Dropping the future takes nothing.
    pub(super) async fn room(&self, cost: usize) -> bool {
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        match self.room.acquire_many(cost).await {
            Ok(permit) => {
                // They come back when the chunk is answered.
                permit.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// Nothing may be handed over from now on.
    pub(super) fn close(&self) {
        self.room.close();
    }

    /// Opens a chunk of so many records.
    pub(super) fn begin(
        &self,
        count: usize,
        cost: usize,
    ) -> (Opened<'_>, oneshot::Receiver<Vec<Answer>>) {
        let (done, answer) = oneshot::channel();
        let chunk = Chunk {
            left: count,
            cost,
            answers: vec![Err(super::failure::CLOSED); count],
            done: Done::Many(done),
        };
        (self.open(chunk, count), answer)
    }

    /// Opens a chunk of a single record.
    pub(super) fn begin_one(&self, cost: usize) -> (Opened<'_>, oneshot::Receiver<Answer>) {
        let (done, answer) = oneshot::channel();
        let chunk = Chunk {
            left: 1,
            cost,
            answers: Vec::new(),
            done: Done::One(done),
        };
        (self.open(chunk, 1), answer)
    }

    fn open(&self, chunk: Chunk, count: usize) -> Opened<'_> {
        let mut chunks = lock(&self.chunks);
        let slot = chunks.free.pop().unwrap_or(chunks.all.len());
        if slot == chunks.all.len() {
            chunks.all.push(None);
        }
        chunks.all[slot] = Some(chunk);
        Opened {
            ledger: self,
            slot,
            next: 0,
            count,
        }
    }

    /// One record is answered; the last one completes its chunk.
    fn answered(&self, opaque: usize, answer: Answer) {
        let (slot, index) = (opaque >> INDEX_BITS, opaque & ((1 << INDEX_BITS) - 1));
        let mut chunks = lock(&self.chunks);
        let Some(chunk) = chunks.all.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        if let Some(place) = chunk.answers.get_mut(index) {
            *place = answer;
        }
        chunk.left = chunk.left.saturating_sub(1);
        if chunk.left > 0 {
            return;
        }
        let whole = chunks.all[slot].take();
        chunks.free.push(slot);
        drop(chunks);
        if let Some(whole) = whole {
            self.room.add_permits(whole.cost);
            // Who does not wait any more has dropped the other half.
            match whole.done {
                Done::Many(done) => drop(done.send(whole.answers)),
                Done::One(done) => drop(done.send(answer)),
            }
        }
    }

    /// What troubles the client, the last of it.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        lock(&self.trouble).clone()
    }

    /// Whether nothing will be accepted any more.
    pub(super) fn is_useless(&self) -> bool {
        self.useless.load(Ordering::Acquire)
    }
}

/// A chunk that is being handed over. What was not handed over when it is dropped is answered as refused.
pub(super) struct Opened<'a> {
    ledger: &'a Ledger,
    slot: usize,
    /// The first record that was neither handed over nor refused.
    next: usize,
    count: usize,
}

impl Opened<'_> {
    /// What the client calls a record by.
    pub(super) fn opaque(&self, index: usize) -> usize {
        (self.slot << INDEX_BITS) | index
    }

    /// The client has it and will answer.
    pub(super) fn handed(&mut self, index: usize) {
        self.next = index + 1;
    }

    /// The client did not take it.
    pub(super) fn refused(&mut self, index: usize, code: RDKafkaErrorCode) {
        self.next = index + 1;
        if code == RDKafkaErrorCode::Fatal {
            self.ledger.useless.store(true, Ordering::Release);
        }
        self.ledger.answered(self.opaque(index), Err(code));
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        for index in self.next..self.count {
            self.ledger
                .answered(self.opaque(index), Err(super::failure::CLOSED));
        }
    }
}

impl ProducerContext for Ledger {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let answer = match result {
            // The broker took the batch for one that it has, and librdkafka believes it. On a partition that has just become
            // somebody's it may have forgotten, or never had it.
            Ok(message) if message.offset() < 0 => Err(DOUBTED),
            Ok(message) => Ok(Stored {
                partition: u32::try_from(message.partition()).unwrap_or(0),
                offset: message.offset(),
            }),
            Err((error, _)) => {
                let code = error
                    .rdkafka_error_code()
                    .unwrap_or(RDKafkaErrorCode::Unknown);
                if code == RDKafkaErrorCode::Fatal {
                    self.useless.store(true, Ordering::Release);
                }
                Err(code)
            }
        };
        self.answered(opaque, answer);
    }
}

impl ClientContext for Ledger {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error
            .rdkafka_error_code()
            .unwrap_or(RDKafkaErrorCode::Unknown);
        if code == RDKafkaErrorCode::Fatal {
            self.useless.store(true, Ordering::Release);
        }
        let mut trouble = lock(&self.trouble);
        // That all brokers are away says less than why one of them is.
        let less = code == RDKafkaErrorCode::AllBrokersDown && trouble.is_some();
        if !less {
            *trouble = Some(Trouble {
                code,
                text: Arc::from(reason),
            });
        }
    }
}

/// A line of the client's own log. Its errors are answers to somebody, who says them better.
pub(crate) fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::warn!(facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
            tracing::debug!(facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::trace!(facility, "librdkafka: {message}");
        }
    }
}
