//! How a message is laid out as a record of Kafka: key, payload and headers.
