//! The only module that talks to librdkafka past the rdkafka crate.
