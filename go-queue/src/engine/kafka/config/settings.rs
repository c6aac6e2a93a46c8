//! From [`Config`] to the settings of librdkafka: pure functions.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use super::{Compression, Config, GroupProtocol, Strategy};
use crate::engine::{MAX_RECORD_LEN, Start};

/// What one end asks of its client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    /// Its group.
    pub(crate) group: &'a str,
    /// Its topic.
    pub(crate) topic: &'a str,
    /// Where a new group begins.
    pub(crate) start: Start,
    /// Which of the ends of this subscription in this process it is, from 0.
    pub(crate) index: usize,
    /// How many partitions the topic has: all of them may come to this end.
    pub(crate) partitions: usize,
}

/// The largest record that the client takes. Ours are smaller; a dead letter may be a foreign record of any size, and what is too
/// large is for the brokers to say.
const MAX_FOREIGN_LEN: usize = 256 << 20;

/// So many records may lie in all queues of a client before it stops asking: ahead far enough that its thread and ours rarely wait for
/// one another (a quarter faster than an eighth of it), and bounded where there are many partitions.
const QUEUED: usize = 800_000;

/// Room for one whole record in what a fetch brings.
const ROOM: usize = MAX_RECORD_LEN + 48_576;

impl Config {
    /// The settings of every client of this engine.
    fn common(&self) -> ClientConfig {
        let mut settings = ClientConfig::new();
        settings
            .set("bootstrap.servers", self.brokers.join(","))
            .set("client.id", &*self.client_id)
            .set("socket.keepalive.enable", "true")
            // A broker that comes back is found within a second; the default lets clients wait for ten.
            .set("reconnect.backoff.max.ms", "1000")
            // New partitions and new brokers are found within half a minute; the default is five.
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("allow.auto.create.topics", "false")
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        if let Some(security) = &self.security {
            settings.set("security.protocol", security.protocol());
            if let Some(tls) = &security.tls {
                for (name, file) in [
                    ("ssl.ca.location", &tls.ca_file),
                    ("ssl.certificate.location", &tls.cert_file),
                    ("ssl.key.location", &tls.key_file),
                ] {
                    if let Some(file) = file {
                        settings.set(name, &**file);
                    }
                }
                if let Some(password) = &tls.key_password {
                    settings.set("ssl.key.password", password.expose());
                }
            }
            if let Some(sasl) = &security.sasl {
                settings
                    .set("sasl.mechanism", sasl.mechanism.name())
                    .set("sasl.username", &*sasl.username)
                    .set("sasl.password", sasl.password.expose());
            }
        }
        settings
    }

    /// The settings of the client behind one end.
    pub(crate) fn consumer_settings(&self, member: &Member<'_>) -> ClientConfig {
        let fetch = self.fetch(member.topic);
        // The limit counts for each queue of the client, and every partition has one.
        let share = self.memory / member.partitions.max(1);
        let queue = (share / 1024).clamp(256, 2_097_151);
        // What is on its way beyond the queue is bounded too, but a batch always fits: the client asks again with more room.
        let partition = fetch.partition.min((share / 2).max(64 << 10));
        // The client wants room for one whole message here.
        let max = fetch.max.max(ROOM).max(partition);

        let mut settings = self.common();
        settings
            .set("client.id", format!("{}-{}", self.client_id, member.index))
            .set("group.id", member.group)
            .set("enable.auto.commit", "true")
            .set("enable.auto.offset.store", "false")
            .set("auto.commit.interval.ms", millis(self.commit_interval))
            .set("max.poll.interval.ms", millis(self.max_poll_interval))
            .set(
                "auto.offset.reset",
                match member.start {
                    Start::First => "earliest",
                    Start::Last => "latest",
                },
            )
            // The default of a second stops the client for that long each time its queue is full.
            .set("fetch.queue.backoff.ms", "2")
            .set("fetch.min.bytes", fetch.min.to_string())
            .set("fetch.wait.max.ms", millis(fetch.wait))
            .set("fetch.max.bytes", max.to_string())
            .set("max.partition.fetch.bytes", partition.to_string())
            // The client asks for more as soon as a queue has less.
            .set(
                "queued.min.messages",
                (QUEUED / member.partitions.max(1))
                    .clamp(1000, 100_000)
                    .to_string(),
            )
            .set("queued.max.messages.kbytes", queue.to_string())
            .set("statistics.interval.ms", "0");
        match self.protocol {
            GroupProtocol::Classic { strategy } => {
                settings
                    .set(
                        "partition.assignment.strategy",
                        match strategy {
                            Strategy::CooperativeSticky => "cooperative-sticky",
                            Strategy::Range => "range",
                        },
                    )
                    .set("session.timeout.ms", millis(self.session))
                    .set("heartbeat.interval.ms", millis(heartbeat(self.session)));
            }
            // The brokers say the rest; the client refuses settings for it.
            GroupProtocol::Consumer => {
                settings.set("group.protocol", "consumer");
            }
        }
        if let Some(instance) = &self.instance_id {
            // Several ends of one process, and several topics of one group, are members of their own.
            let id = format!("{instance}.{}.{}", member.topic, member.index);
            settings.set("group.instance.id", id);
        }
        for (name, value) in &self.properties {
            settings.set(&**name, value.expose());
        }
        settings
    }

    /// The settings of the client that produces.
    pub(crate) fn producer_settings(&self) -> ClientConfig {
        let producer = &self.producer;
        let mut settings = self.common();
        settings
            .set("acks", "all")
            .set("enable.idempotence", flag(producer.idempotent))
            .set("partitioner", "murmur2_random")
            .set("linger.ms", fractional_millis(producer.linger))
            .set("batch.size", producer.batch.to_string())
            .set("compression.type", compression(producer.compression))
            .set("message.timeout.ms", millis(producer.message_timeout))
            .set("message.max.bytes", MAX_FOREIGN_LEN.to_string())
            // The engine counts what waits. The client's own count stays high until a whole batch is answered, so it has more room.
            .set(
                "queue.buffering.max.messages",
                producer
                    .queue_messages
                    .saturating_mul(2)
                    .max(10_000)
                    .to_string(),
            )
            .set(
                "queue.buffering.max.kbytes",
                ((producer.queue_bytes + MAX_FOREIGN_LEN) / 512).to_string(),
            )
            // Records without a key use every partition at once, as on the other engines.
            .set("sticky.partitioning.linger.ms", millis(producer.linger * 2))
            // How long a topic that nobody knows may still be on its way to the brokers.
            .set(
                "topic.metadata.propagation.max.ms",
                millis((producer.message_timeout / 2).min(Duration::from_secs(5))),
            );
        if !producer.idempotent {
            // Without numbers on batches only one at a time keeps the order of a key when one is repeated.
            settings.set("max.in.flight.requests.per.connection", "1");
        }
        for (name, value) in &producer.properties {
            settings.set(&**name, value.expose());
        }
        settings
    }

    /// The settings of a client that changes topics.
    pub(crate) fn admin_settings(&self) -> ClientConfig {
        let mut settings = self.common();
        settings.set("client.id", format!("{}-admin", self.client_id));
        for (name, value) in &self.producer.properties {
            // What belongs to every client: how the brokers are reached.
            if [
                "ssl.",
                "sasl.",
                "security.",
                "socket.",
                "broker.",
                "client.",
                "api.",
            ]
            .iter()
            .any(|part| name.starts_with(part))
            {
                settings.set(&**name, value.expose());
            }
        }
        settings
    }

    /// The settings of a client that only looks: it belongs to no group and commits nothing.
    pub(crate) fn reader_settings(&self) -> ClientConfig {
        let mut settings = self.admin_settings();
        settings
            .set("client.id", format!("{}-reader", self.client_id))
            // The client wants a group for its queue. Nothing joins it.
            .set("group.id", "go-queue-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "50")
            .set("queued.max.messages.kbytes", "16384");
        settings
    }
}

/// Three signs of life in a session, and one every three seconds where it is long.
fn heartbeat(session: Duration) -> Duration {
    (session / 3).min(Duration::from_secs(3))
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

fn fractional_millis(time: Duration) -> String {
    format!("{}.{:03}", time.as_millis(), time.subsec_micros() % 1000)
}

fn flag(on: bool) -> &'static str {
    if on { "true" } else { "false" }
}

fn compression(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
        Compression::Snappy => "snappy",
        Compression::Gzip => "gzip",
    }
}
