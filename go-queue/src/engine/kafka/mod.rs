//! Topics on Kafka, through librdkafka.

mod config;
mod dead;
mod publish;
mod raw;
mod receive;
mod record;
mod topics;
mod watermark;

pub use config::{
    CONSUMER_RESERVED, Compression, Config, CreateTopics, Fetch, GroupProtocol, PRODUCER_RESERVED,
    ProducerConfig, Sasl, SaslMechanism, Secret, Security, Strategy, Tls,
};

/// The name of the engine.
pub(crate) const ENGINE: &str = "kafka";
