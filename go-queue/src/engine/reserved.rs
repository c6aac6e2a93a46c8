//! Settings of librdkafka that are not for users: with another value a promise would not hold, or a key of ours means it. They are known
//! without the Kafka engine too, so that a configuration is refused for the same reasons in every build.

/// Settings that no consumer may change, each with the reason or with what to use instead.
pub const CONSUMER_RESERVED: &[(&str, &str)] = &[
    ("acks", STORED),
    ("auto.commit.enable", COMMITS),
    ("auto.commit.interval.ms", "`commit_interval` means it"),
    (
        "auto.offset.reset",
        "`offset` of the configuration and of the handler means it",
    ),
    ("bootstrap.servers", BROKERS),
    ("enable.auto.commit", COMMITS),
    ("enable.auto.offset.store", COMMITS),
    ("enable.idempotence", STORED),
    ("enable.partition.eof", "the engine reads its own"),
    ("enable.ssl.certificate.verification", VERIFIED),
    ("group.id", "`group` means it"),
    (
        "group.instance.id",
        "every end needs one of its own; `instance_id` means it",
    ),
    ("group.protocol", "`protocol` means it"),
    ("group.protocol.type", "`protocol` means it"),
    ("heartbeat.interval.ms", "it follows from `session`"),
    ("log.queue", OURS),
    (
        "max.poll.interval.ms",
        "the engine shows that it lives; handlers have a `timeout` of their own",
    ),
    ("metadata.broker.list", BROKERS),
    ("offset.store.method", COMMITS),
    ("offset.store.path", COMMITS),
    ("offset.store.sync.interval.ms", COMMITS),
    ("partition.assignment.strategy", "`protocol` means it"),
    ("plugin.library.paths", OURS),
    ("request.required.acks", STORED),
    ("session.timeout.ms", "`session` means it"),
    ("test.mock.num.brokers", BROKERS),
];

/// Settings that no producer may change, each with the reason or with what to use instead.
pub const PRODUCER_RESERVED: &[(&str, &str)] = &[
    ("acks", STORED),
    ("bootstrap.servers", BROKERS),
    ("compression.codec", "`compression` means it"),
    ("compression.type", "`compression` means it"),
    (
        "delivery.report.only.error",
        "a caller would wait for ever for the word that its record is stored",
    ),
    ("delivery.timeout.ms", "`timeout` means it"),
    ("enable.idempotence", STORED),
    ("enable.ssl.certificate.verification", VERIFIED),
    ("linger.ms", "`linger` means it"),
    ("log.queue", OURS),
    ("max.in.flight", ORDER),
    ("max.in.flight.requests.per.connection", ORDER),
    (
        "message.max.bytes",
        "a record has the same limit on every engine",
    ),
    ("message.send.max.retries", STORED),
    ("message.timeout.ms", "`timeout` means it"),
    ("metadata.broker.list", BROKERS),
    (
        "partitioner",
        "keys would lie in other partitions than producers in Java and Go put them",
    ),
    ("plugin.library.paths", OURS),
    ("queue.buffering.max.ms", "`linger` means it"),
    ("queuing.strategy", ORDER),
    ("request.required.acks", STORED),
    ("retries", STORED),
    ("test.mock.num.brokers", BROKERS),
    (
        "transactional.id",
        "records are not sent in transactions, so none would be accepted",
    ),
];

const BROKERS: &str = "`brokers` means it";
const COMMITS: &str =
    "only what is finished may be committed, or records are lost; the engine sees to it";
const STORED: &str = "a record is accepted when all replicas in sync have it";
const ORDER: &str = "the order of a key depends on it";
const VERIFIED: &str =
    "certificates are always verified; name the authority to trust in `security.ca_file`";
const OURS: &str = "it belongs to the engine";
