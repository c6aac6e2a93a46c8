//! Topics on Kafka, through librdkafka.

mod config;
mod dead;
mod publish;
mod raw;
mod receive;
mod record;
mod topics;
mod watermark;

/// The name of the engine.
#[expect(dead_code, reason = "the engine follows")]
pub(crate) const ENGINE: &str = "kafka";
