//! One producing client of librdkafka, and the thread that hears its answers.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::client::Client as RdClient;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::time::Instant;

use super::super::ENGINE;
use super::super::config::Config;
use super::Ready;
use super::failure::{Why, explain};
use super::ledger::{Ledger, Trouble};
use crate::engine::EngineError;

/// How long the thread listens before it looks whether it should end.
const LISTEN: Duration = Duration::from_millis(100);

/// A record with what the ledger calls it by.
pub(super) type Named<'a> = BaseRecord<'a, [u8], [u8], usize>;

/// A producing client. Dropping it ends it without waiting; [`Client::end`] waits.
pub(crate) struct Client {
    producer: Arc<BaseProducer<Ledger>>,
    stop: Arc<AtomicBool>,
    listener: Mutex<Option<JoinHandle<()>>>,
    /// What a record costs at least, in bytes of the queue: so that bytes bound their number too.
    least_cost: usize,
    /// The whole queue.
    most_cost: usize,
    timeout: Duration,
}

const WANTS_TLS: &str =
    "look at whether this port speaks Kafka, and whether it wants TLS (`security: { tls: true }`)";

/// Whether TLS is in the way. What a broker says against a certificate of ours comes as an error of the connection.
fn is_tls(trouble: &Trouble) -> bool {
    trouble.code == RDKafkaErrorCode::SSL || trouble.text.contains("SSL alert")
}

/// What to do where brokers refuse us. The client speaks of its own settings; these are ours.
fn remedy(trouble: &Trouble) -> &'static str {
    if !is_tls(trouble) {
        return "look at user, password and mechanism of `security`";
    }
    let says = |words: &str| trouble.text.contains(words);
    if says("certificate verify failed") {
        "name the authority that has signed the certificate of the broker, in `security.ca_file`"
    } else if says("certificate required") || says("bad certificate") || says("alert") {
        "the broker wants a certificate of this client that it trusts: `security.cert_file` and `security.key_file`"
    } else {
        "look at the files of `security` and at whether this port speaks TLS"
    }
}

impl Client {
    /// Makes the client. It connects in the background.
    ///
    /// # Errors
    /// If the client refuses its settings.
    pub(super) fn open(config: &Config) -> Result<Arc<Self>, EngineError> {
        let settings = config.producer_settings();
        let room = config.producer.queue_bytes;
        let producer: BaseProducer<Ledger> = settings
            .create_with_context(Ledger::new(room))
            .map_err(|error| unusable(&error))?;
        let producer = Arc::new(producer);
        let stop = Arc::new(AtomicBool::new(false));
        let listener = std::thread::Builder::new()
            .name("kafka-producer".to_owned())
            .spawn({
                let (producer, stop) = (Arc::clone(&producer), Arc::clone(&stop));
                move || {
                    while !stop.load(Ordering::Acquire) {
                        producer.poll(LISTEN);
                    }
                }
            })
            .map_err(|error| EngineError::Unavailable {
                engine: ENGINE,
                what: "start the thread of its producer".to_owned(),
                why: Arc::from(error.to_string()),
            })?;
        Ok(Arc::new(Self {
            producer,
            stop,
            listener: Mutex::new(Some(listener)),
            least_cost: (room / config.producer.queue_messages.max(1) as usize).max(1),
            most_cost: room,
            timeout: config.producer.message_timeout,
        }))
    }

    /// Waits until a broker has told which cluster it is in.
    ///
    /// # Errors
    /// At once if the brokers refuse us; else after `within`, with what was in the way.
    pub(super) fn wait_for_a_broker(
        &self,
        within: Duration,
        brokers: &[Arc<str>],
    ) -> Result<(), EngineError> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let step = left.min(LISTEN);
            if self.native().fetch_cluster_id(step).is_some() {
                return Ok(());
            }
            let trouble = self.ledger().trouble();
            let refused = trouble.as_ref().is_some_and(|trouble| {
                trouble.code == RDKafkaErrorCode::Authentication || is_tls(trouble)
            });
            if left.is_zero() || refused {
                return Err(self.unreachable(brokers, refused, within));
            }
        }
    }

    fn unreachable(&self, brokers: &[Arc<str>], refused: bool, within: Duration) -> EngineError {
        let what = format!("connect to {}", brokers.join(", "));
        let trouble = self.ledger().trouble();
        if let (true, Some(trouble)) = (refused, &trouble) {
            return EngineError::Unusable {
                engine: ENGINE,
                what,
                why: Arc::from(format!("{}; {}", trouble.text, remedy(trouble))),
            };
        }
        let why = match trouble {
            // A broker that hangs up has said nothing; the client may guess why, in words of its own settings.
            Some(trouble)
                if trouble.code == RDKafkaErrorCode::AllBrokersDown
                    || trouble.text.contains("security.protocol") =>
            {
                format!("{}; {WANTS_TLS}", trouble.text)
            }
            Some(trouble) => trouble.text.to_string(),
            None => format!("nothing was answered; {WANTS_TLS}"),
        };
        EngineError::Unavailable {
            engine: ENGINE,
            what,
            why: Arc::from(format!("no broker answered within {within:?}: {why}")),
        }
    }

    /// The client of librdkafka, for questions about topics.
    pub(crate) fn native(&self) -> &RdClient<Ledger> {
        self.producer.client()
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        self.producer.client().context()
    }

    /// What a record takes of the queue.
    pub(super) fn cost(&self, ready: &Ready<'_>) -> usize {
        let len = ready.key.map_or(0, <[u8]>::len) + ready.payload.map_or(0, <[u8]>::len);
        // A chunk of the largest records must fit, or it would wait for ever.
        let most = (self.most_cost / super::CHUNK).max(1);
        len.max(self.least_cost).min(most)
    }

    /// Hands over one record. Never blocks.
    pub(super) fn send<'a>(&self, record: Named<'a>) -> Result<(), (RDKafkaErrorCode, Named<'a>)> {
        self.producer.send(record).map_err(|(error, record)| {
            let code = error.rdkafka_error_code();
            (code.unwrap_or(RDKafkaErrorCode::InvalidArgument), record)
        })
    }

    /// What a failure means.
    pub(crate) fn why(&self, code: RDKafkaErrorCode) -> Why {
        explain(code, self.ledger().trouble().as_ref(), self.timeout)
    }

    /// What a failed question means.
    pub(crate) fn why_of(&self, error: &KafkaError) -> String {
        match (error.rdkafka_error_code(), self.ledger().trouble()) {
            (
                Some(
                    RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut,
                ),
                Some(trouble),
            ) => trouble.text.to_string(),
            _ => error.to_string(),
        }
    }

    /// How many records are with the client.
    #[cfg(test)]
    pub(super) fn under_way(&self) -> i32 {
        self.producer.in_flight_count()
    }

    /// Whether nothing will be accepted any more.
    pub(super) fn is_useless(&self) -> bool {
        self.ledger().is_useless()
    }

    /// Waits until all is answered, at most so long, and ends. Blocks.
    ///
    /// # Errors
    /// If something was not answered.
    pub(super) fn end(&self, within: Duration) -> Result<(), EngineError> {
        self.ledger().close();
        let flushed = self.producer.flush(within);
        self.stop.store(true, Ordering::Release);
        let listener = self
            .listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(listener) = listener
            && listener.join().is_err()
        {
            tracing::error!("the thread of the Kafka producer has panicked");
        }
        flushed.map_err(|error| EngineError::Unavailable {
            engine: ENGINE,
            what: "confirm what was handed over before it closes".to_owned(),
            why: Arc::from(error.to_string()),
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The thread holds the client of librdkafka and drops it, which takes a while.
        self.stop.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// A client that cannot be made. The value of a setting is never shown: it may be a password.
pub(crate) fn unusable(error: &KafkaError) -> EngineError {
    let why = match error {
        KafkaError::ClientConfig(_, text, name, _) => {
            format!("librdkafka refuses the property `{name}`: {text}")
        }
        other => other.to_string(),
    };
    let hint = if cfg!(not(feature = "kafka-tls")) && (why.contains("SSL") || why.contains("ssl")) {
        "; this program was built without the feature `kafka-tls`"
    } else {
        ""
    };
    EngineError::Unusable {
        engine: ENGINE,
        what: "be opened as configured".to_owned(),
        why: Arc::from(format!("{why}{hint}")),
    }
}
