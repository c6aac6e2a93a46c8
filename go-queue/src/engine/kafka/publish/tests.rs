//! Against librdkafka's mock cluster, which speaks the protocol and fails as it is told.

use std::future::Future;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::message::{Body, ContentType, Flags, Id, partition};

type Mock = MockCluster<'static, DefaultProducerContext>;

const TOPIC: Name = Name::literal("orders");
const PARTITIONS: i32 = 4;

fn mock() -> Mock {
    let mock = MockCluster::new(1).expect("a mock cluster needs loopback only");
    mock.create_topic(&TOPIC, PARTITIONS, 1).expect("created");
    mock
}

fn config(mock: &Mock) -> Config {
    let mut config = Config::new([mock.bootstrap_servers()]);
    config.producer.message_timeout = Duration::from_secs(20);
    config
}

async fn open(config: Config) -> Publisher {
    let opened = Publisher::open(Arc::new(config), Clock::system()).await;
    opened.expect("the mock answers")
}

fn record(key: &str, payload: &str) -> Outgoing {
    Outgoing {
        place: Place::Topic(TOPIC),
        id: Id::unique(),
        named: false,
        body: Body::pack(key.as_bytes(), b"", payload.as_bytes()),
        flags: Flags::default(),
        content: ContentType::Raw,
        due: crate::time::WallTime::EPOCH,
        priority: 0,
    }
}

async fn one(publisher: &Publisher, out: Outgoing) -> Result<Published, PublishError> {
    let mut answers = publisher.publish(vec![out]).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// The text of a failure, and whether the record may be stored.
fn unavailable(answer: Result<Published, PublishError>) -> (String, bool) {
    match answer {
        Err(PublishError::Unavailable {
            why, maybe_stored, ..
        }) => (why.to_string(), maybe_stored),
        other => panic!("not that: {other:?}"),
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(60), future).await;
    done.unwrap_or_else(|_| panic!("{what} does not end"))
}

#[tokio::test]
async fn a_slice_is_answered_in_order_and_keys_go_where_java_puts_them() {
    let mock = mock();
    let publisher = open(config(&mock)).await;
    // More than one chunk.
    let slice: Vec<Outgoing> = (0..CHUNK * 3 + 7)
        .map(|n| record(&format!("key-{}", n % 100), &format!("{n}")))
        .collect();
    let answers = within("a slice", publisher.publish(slice.clone())).await;
    assert_eq!(answers.len(), slice.len());
    let mut next = [0_i64; PARTITIONS as usize];
    for (out, answer) in slice.iter().zip(answers) {
        let stored = answer.expect("stored");
        let wanted = partition::of_key(out.body.key(), PARTITIONS.unsigned_abs());
        assert_eq!((stored.id, stored.partition), (out.id, wanted));
        assert!(!stored.existed && stored.token.is_none());
        // Records of one caller keep their order.
        assert_eq!(stored.offset, next[wanted as usize]);
        next[wanted as usize] += 1;
    }
    assert!(publisher.publish(Vec::new()).await.is_empty());
    publisher.close().await.expect("all is confirmed");
}

#[tokio::test]
async fn what_a_topic_cannot_take_is_refused_and_the_rest_is_stored() {
    let mock = mock();
    let publisher = open(config(&mock)).await;
    let tube = Outgoing {
        place: Place::Tube(Name::literal("work")),
        ..record("k", "x")
    };
    let later = Outgoing {
        due: crate::time::WallTime::from_millis(i64::MAX / 2_000_000),
        ..record("k", "x")
    };
    let large = record("k", &"x".repeat(crate::engine::MAX_RECORD_LEN));
    let slice = vec![record("k", "1"), tube, later, large, record("k", "2")];
    let answers = within("a slice", publisher.publish(slice)).await;
    assert!(
        matches!(
            &answers[..],
            [
                Ok(Published { offset: 0, .. }),
                Err(PublishError::Unsupported { .. }),
                Err(PublishError::Unsupported { .. }),
                Err(PublishError::TooLarge { .. }),
                Ok(Published { offset: 1, .. }),
            ]
        ),
        "{answers:?}"
    );
}

#[tokio::test]
async fn a_topic_that_does_not_exist_is_said_with_the_remedy() {
    let mock = mock();
    let publisher = open(config(&mock)).await;
    let out = Outgoing {
        place: Place::Topic(Name::literal("nowhere")),
        ..record("k", "x")
    };
    let (why, maybe) = unavailable(within("an answer", one(&publisher, out)).await);
    assert!(
        why.contains("topic `nowhere`: the topic does not exist") && why.contains("create_topics"),
        "{why}"
    );
    assert!(!maybe, "nothing was stored");
}

#[tokio::test]
async fn errors_that_pass_are_not_seen_and_nothing_is_stored_twice() {
    let mock = mock();
    let publisher = open(config(&mock)).await;
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        ],
    );
    let slice = (0..50).map(|n| record("k", &format!("{n}"))).collect();
    let answers = within("a slice", publisher.publish(slice)).await;
    for (n, answer) in (0..).zip(answers) {
        assert_eq!(answer.expect("stored").offset, n);
    }
}

#[tokio::test]
async fn what_a_broker_refuses_for_good_is_typed() {
    let mock = mock();
    let publisher = open(config(&mock)).await;
    let refuse = |code| mock.request_errors(RDKafkaApiKey::Produce, &[code]);

    refuse(RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
    let answer = within("an answer", one(&publisher, record("k", "xxx"))).await;
    assert!(
        matches!(answer, Err(PublishError::TooLarge { size: 4, .. })),
        "{answer:?}"
    );

    refuse(RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION);
    let answer = within("an answer", one(&publisher, record("k", "x"))).await;
    assert!(!unavailable(answer).1, "nothing was stored");

    refuse(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    let answer = within("an answer", one(&publisher, record("k", "x"))).await;
    let (why, maybe) = unavailable(answer);
    assert!(why.contains("the right `Write`") && !maybe, "{why}");

    // The client remembers it of that topic until it asks about topics again.
    mock.create_topic("clicks", 1, 1).expect("created");
    let other = Outgoing {
        place: Place::Topic(Name::literal("clicks")),
        ..record("k", "x")
    };
    let answer = within("an answer", one(&publisher, other)).await;
    answer.expect("other topics are not concerned");
}

#[tokio::test]
async fn a_client_that_has_failed_for_good_is_made_anew() {
    let mock = mock();
    let publisher = open(config(&mock)).await;
    one(&publisher, record("k", "x")).await.expect("stored");
    let first = publisher.client();
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER],
    );
    let (_, maybe) = unavailable(within("an answer", one(&publisher, record("k", "x"))).await);
    assert!(maybe, "nobody knows");
    within("a new client", async {
        while one(&publisher, record("k", "y")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(!Arc::ptr_eq(&first, &publisher.client()));
}

#[tokio::test]
async fn a_broker_that_goes_away_is_an_error_within_the_timeout() {
    let mock = mock();
    let mut config = config(&mock);
    config.producer.message_timeout = Duration::from_secs(2);
    let publisher = open(config).await;
    one(&publisher, record("k", "x")).await.expect("stored");
    mock.broker_down(1).expect("down");
    let began = Instant::now();
    let (why, maybe) = unavailable(within("an answer", one(&publisher, record("k", "x"))).await);
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(
        why.contains("no broker confirmed it within 2s") && maybe,
        "{why}"
    );
    mock.broker_up(1).expect("up");
    within("the way back", async {
        while one(&publisher, record("k", "y")).await.is_err() {}
    })
    .await;
}

#[tokio::test]
async fn brokers_that_are_not_there_are_said_at_once() {
    // Nobody listens on the port of a listener that is gone.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let broker = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let mut config = Config::new([broker.clone()]);
    config.connect_timeout = Duration::from_millis(500);
    let opened = within(
        "opening",
        Publisher::open(Arc::new(config), Clock::system()),
    )
    .await;
    let error = opened.expect_err("nobody is there");
    assert!(error.is_transient(), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&broker) && text.contains("Connection refused"),
        "{text}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_said() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback");
    let broker = listener.local_addr().expect("bound").to_string();
    let mut config = Config::new([broker]);
    config.connect_timeout = Duration::from_millis(500);
    let opened = within(
        "opening",
        Publisher::open(Arc::new(config), Clock::system()),
    )
    .await;
    let text = opened.expect_err("it is silent").to_string();
    assert!(text.contains("speaks Kafka"), "{text}");
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait_and_loses_nothing() {
    let mock = mock();
    mock.broker_round_trip_time(1, Duration::from_millis(5))
        .expect("slow");
    let mut config = config(&mock);
    config.producer.queue_messages = 10;
    let publisher = Arc::new(open(config).await);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..40 {
        let publisher = Arc::clone(&publisher);
        callers.spawn(async move {
            let slice = (0..15)
                .map(|n| record(&format!("{caller}"), &format!("{n}")))
                .collect();
            publisher.publish(slice).await
        });
    }
    let answers = within("all callers", callers.join_all()).await;
    let mut places: Vec<(u32, i64)> = answers
        .into_iter()
        .flatten()
        .map(|answer| answer.expect("stored"))
        .map(|stored| (stored.partition, stored.offset))
        .collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 40 * 15);
}

#[tokio::test]
async fn slices_that_are_under_way_together_keep_their_order_where_room_is_scarce() {
    let mock = mock();
    mock.broker_round_trip_time(1, Duration::from_millis(5))
        .expect("slow");
    let mut config = config(&mock);
    config.producer.queue_messages = 1000;
    let publisher = open(config).await;
    let slice = |count| (0..count).map(|n| record("k", &format!("{n}"))).collect();
    let answers = within("all slices", async {
        // As `send_all` and `enqueue` have them: each is begun before the one before is confirmed.
        let mut under_way = Vec::new();
        for count in [1500, 1, 1500, 1, 1, 600] {
            under_way.push(publisher.take(slice(count)).await);
        }
        let mut answers = Vec::new();
        for taken in under_way {
            answers.extend(taken.answers().await);
        }
        answers
    })
    .await;
    let offsets: Vec<i64> = answers
        .into_iter()
        .map(|answer| answer.expect("stored").offset)
        .collect();
    assert_eq!(offsets, (0..3603).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_caller_that_nobody_polls_any_more_disturbs_nobody() {
    let mock = mock();
    let mut config = config(&mock);
    config.producer.queue_messages = 1000;
    let publisher = open(config).await;
    let slice = |count| (0..count).map(|n| record("k", &format!("{n}"))).collect();
    let mut standing: Vec<_> = (0..2).map(|_| publisher.publish(slice(1500))).collect();
    for one in &mut standing {
        let first = std::future::poll_fn(|cx| std::task::Poll::Ready(one.as_mut().poll(cx)));
        assert!(first.await.is_pending());
    }
    let answers = within("another caller", publisher.publish(slice(5))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    within("one record", one(&publisher, record("k", "x")))
        .await
        .expect("stored");
}

#[tokio::test]
async fn a_caller_that_goes_away_disturbs_nobody() {
    let mock = mock();
    let mut config = config(&mock);
    config.producer.queue_messages = 8;
    let publisher = open(config).await;
    mock.broker_round_trip_time(1, Duration::from_millis(100))
        .expect("slow");
    for _ in 0..5 {
        let slice = (0..50).map(|n| record("gone", &format!("{n}"))).collect();
        let gave_up =
            tokio::time::timeout(Duration::from_millis(20), publisher.publish(slice)).await;
        assert!(gave_up.is_err(), "it was given up");
    }
    mock.broker_round_trip_time(1, Duration::ZERO)
        .expect("fast");
    let slice = (0..50).map(|n| record("k", &format!("{n}"))).collect();
    let answers = within("another caller", publisher.publish(slice)).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    within("closing", publisher.close()).await.expect("closed");
}

#[tokio::test]
async fn closing_confirms_what_was_handed_over_and_takes_no_more() {
    let mock = mock();
    let publisher = Arc::new(open(config(&mock)).await);
    one(&publisher, record("k", "x")).await.expect("stored");
    mock.broker_round_trip_time(1, Duration::from_millis(300))
        .expect("slow");
    let mut pending = tokio::task::JoinSet::new();
    pending.spawn({
        let publisher = Arc::clone(&publisher);
        async move { one(&publisher, record("k", "y")).await }
    });
    within("handing over", async {
        while publisher.client().under_way() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    within("closing", publisher.close())
        .await
        .expect("confirmed");
    let answers = within("the caller", pending.join_all()).await;
    assert!(answers[0].is_ok(), "it was confirmed before the end");
    let refused = one(&publisher, record("k", "z")).await;
    assert!(
        matches!(refused, Err(PublishError::Closed { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn key_and_payload_may_be_null_and_may_be_empty() {
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::message::{Headers as _, Message as _};

    let mock = mock();
    let config = config(&mock);
    let reader: BaseConsumer = config.reader_settings().create().expect("a reader");
    let publisher = open(config).await;
    let null = Outgoing {
        body: Body::default(),
        flags: Flags::NULL_KEY.with(Flags::NULL_PAYLOAD),
        ..record("", "")
    };
    let empty = record("", "");
    for (out, is_null) in [(null, true), (empty, false)] {
        let stored = one(&publisher, out.clone()).await.expect("stored");
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(
            &TOPIC,
            stored.partition.cast_signed(),
            rdkafka::Offset::Offset(stored.offset),
        )
        .expect("an offset");
        reader.assign(&list).expect("assigned");
        let record = std::iter::repeat_with(|| reader.poll(Duration::from_secs(1)))
            .take(60)
            .flatten()
            .find_map(Result::ok)
            .expect("it is there");
        assert_eq!(
            (record.key().is_none(), record.payload().is_none()),
            (is_null, is_null)
        );
        let headers = record.headers().expect("the id at least");
        assert_eq!(headers.get(0).value, Some(&out.id.0.to_be_bytes()[..]));
        assert_eq!(headers.count(), 1);
    }
}

#[tokio::test]
async fn a_record_that_the_broker_only_thinks_it_has_is_sent_again() {
    let mock = mock();
    let publisher = open(config(&mock)).await;
    // librdkafka takes this answer for a success without a place in the log; the mock has stored nothing.
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER; 2],
    );
    let stored = within("a record", one(&publisher, record("k", "1"))).await;
    assert_eq!(stored.expect("stored").offset, 0, "it is in the log");
    publisher.close().await.expect("all is confirmed");
}
