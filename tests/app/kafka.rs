//! Topics of a real Kafka at start, and its dead letters as other programs see them.

use std::sync::Arc;
use std::time::Duration;

use go_queue::engine::kafka::{Config, CreateTopics, Kafka, Sasl, SaslMechanism, Secret, Security};
use go_queue::engine::{DeadQuery, Engine, EngineError, Subscribe};
use go_queue::name::{Name, Place};
use go_queue::time::Clock;
use go_queue_tests::servers::{
    KafkaCluster, KafkaOptions, Raw, RawRecord, SharedKafka, kafka_is_installed,
};

struct Site {
    raw: Raw,
    config: Config,
    topic: Name,
    dead: Name,
}

/// A broker, and a topic that is not there yet. `None`: there is no Kafka here, and it was said.
async fn site() -> Option<Site> {
    let installed = tokio::task::spawn_blocking(kafka_is_installed);
    if !installed.await.unwrap() {
        return None;
    }
    let kafka = tokio::task::spawn_blocking(SharedKafka::get).await.unwrap();
    let topic = Name::new(&SharedKafka::fresh_name("start")).unwrap();
    Some(Site {
        raw: kafka.raw(),
        config: Config::new([kafka.endpoints()]),
        dead: Name::new(&format!("{topic}-dlt")).unwrap(),
        topic,
    })
}

impl Site {
    fn creating(mut self, partitions: u32) -> Self {
        self.config.create_topics = Some(CreateTopics {
            partitions,
            replication: Some(1),
        });
        self
    }

    async fn engine(&self) -> Kafka {
        let opened = Kafka::open(self.config.clone(), Clock::system()).await;
        opened.expect("the broker is there")
    }

    fn subscribe(&self) -> Subscribe {
        Subscribe::topic(self.topic.clone(), Name::literal("readers"))
    }

    async fn refused(&self) -> String {
        let engine = self.engine().await;
        let Err(error) = engine.subscribe(&self.subscribe()).await else {
            panic!("it cannot be served");
        };
        assert!(matches!(error, EngineError::Unusable { .. }), "{error:?}");
        engine.close().await.expect("nothing was handed over");
        error.to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_missing_are_one_line() {
    let Some(site) = site().await else { return };
    let (topic, dead) = (&site.topic, &site.dead);
    let text = site.refused().await;
    assert!(
        text.contains(&format!("topic `{topic}` does not exist"))
            && text.contains(&format!(
                "topic `{dead}` for its dead letters does not exist"
            ))
            && text.contains("create_topics")
            && !text.contains('\n'),
        "{text}"
    );
    site.raw.create(topic, 3);
    let text = site.refused().await;
    assert!(
        !text.contains(&format!("`{topic}` does not exist"))
            && text.contains("create it with 3 partitions and `retention.ms=-1`"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_dead_letters_must_have_room_and_keep_everything() {
    let Some(site) = site().await else { return };
    site.raw.create(&site.topic, 4);
    site.raw.create(&site.dead, 2);
    let text = site.refused().await;
    assert!(
        text.contains("has 2 partitions") && text.contains("has 4"),
        "{text}"
    );
    // Where topics are created they are widened too.
    let site = site.creating(1);
    let engine = site.engine().await;
    drop(engine.subscribe(&site.subscribe()).await.expect("served"));
    assert_eq!(site.raw.ends(&site.dead).len(), 4);
    engine.close().await.expect("closed");

    site.raw.alter(&site.dead, &[("cleanup.policy", "compact")]);
    let text = site.refused().await;
    assert!(text.contains("compacted"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_as_configured() {
    let Some(site) = site().await else { return };
    let mut site = site.creating(3);
    let engine = site.engine().await;
    drop(engine.subscribe(&site.subscribe()).await.expect("served"));
    assert_eq!(site.raw.ends(&site.topic).len(), 3);
    assert_eq!(site.raw.ends(&site.dead).len(), 3);
    engine.close().await.expect("closed");

    // One entry of the configuration beats the rest, also for a topic that is only written to.
    let other = Name::new(&SharedKafka::fresh_name("written")).unwrap();
    site.config.partitions.insert(other.clone(), 5);
    let engine = site.engine().await;
    let out = go_queue::testing::conformance::record(&other, "k", "x");
    let answers = engine.publisher().publish(vec![out]).await;
    assert!(answers[0].is_ok(), "{answers:?}");
    assert_eq!(site.raw.ends(&other).len(), 5);
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_other_programs_are_replayed_and_removed() {
    let Some(site) = site().await else { return };
    site.raw.create(&site.topic, 2);
    site.raw.create(&site.dead, 2);
    // As Spring writes them; the last one says nothing of itself.
    let spring = |payload: &str, offset: i64| {
        let header = |name: &str, value: &[u8]| (name.to_owned(), Some(value.to_vec()));
        RawRecord {
            headers: vec![
                header("mine", b"kept"),
                header("kafka_dlt-original-topic", site.topic.as_bytes()),
                header("kafka_dlt-original-partition", &1_i32.to_be_bytes()),
                header("kafka_dlt-original-offset", &offset.to_be_bytes()),
                header("kafka_dlt-original-consumer-group", b"billing"),
                header("kafka_dlt-exception-message", b"it broke"),
            ],
            ..RawRecord::new("k", payload).to(1)
        }
    };
    let bare = RawRecord::new("k", "bare").to(0);
    site.raw
        .produce(&site.dead, [spring("one", 7), spring("two", 8), bare]);

    let engine: Arc<dyn Engine> = Arc::new(site.engine().await);
    let dead = engine.dead_letters().expect("kept");
    let query = || DeadQuery {
        place: Some(Place::Topic(site.topic.clone())),
        ..DeadQuery::default()
    };
    let list = dead.list(query()).await.expect("listed");
    let payloads: Vec<&[u8]> = list.iter().map(|one| one.body.payload()).collect();
    assert_eq!(payloads, [&b"bare"[..], b"one", b"two"]);
    assert_eq!(
        (&*list[1].reason, list[0].group.as_ref()),
        ("it broke", None)
    );
    assert_eq!(list[1].group, Some(Name::literal("billing")));

    assert_eq!(
        dead.replay(vec![list[1].cursor]).await.expect("replayed"),
        1
    );
    let back = site.raw.records(&site.topic);
    assert_eq!(back.len(), 1);
    assert_eq!(
        (back[0].partition, back[0].payload.as_deref()),
        (Some(1), Some(&b"one"[..]))
    );
    assert_eq!(
        back[0].header("gq-replay-group").as_deref(),
        Some("billing")
    );
    assert_eq!(back[0].header("mine").as_deref(), Some("kept"));
    assert_eq!(back[0].header("kafka_dlt-exception-message"), None);

    // What stands before the first open letter is removed.
    let (low, _) = site.raw.ends(&site.dead)[1];
    assert_eq!(low, 1);
    let cursors = dead.list(query()).await.expect("listed");
    let cursors = cursors.iter().map(|one| one.cursor).collect();
    assert_eq!(dead.purge(cursors).await.expect("purged"), 2);
    assert_eq!(dead.count(None).await.expect("counted"), 0);
    for (low, high) in site.raw.ends(&site.dead) {
        assert_eq!(low, high, "nothing is kept of what is done");
    }
    tokio::time::timeout(Duration::from_secs(30), engine.close())
        .await
        .expect("it ends")
        .expect("closed");
}

/// A broker that asks for user and password.
fn guarded(folder: &std::path::Path) -> KafkaCluster {
    const USERS: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" password=\"x\" \
                         user_admin=\"x\" user_worker=\"right\";";
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let options = KafkaOptions {
        properties: vec![
            property(
                "listener.security.protocol.map",
                "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            ),
            property("inter.broker.listener.name", "PLAINTEXT"),
            property("sasl.enabled.mechanisms", "PLAIN"),
            property("sasl.mechanism.inter.broker.protocol", "PLAIN"),
            property("listener.name.plaintext.plain.sasl.jaas.config", USERS),
        ],
        ..KafkaOptions::default()
    };
    KafkaCluster::start(folder, 1, &options)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_said_within_seconds() {
    let installed = tokio::task::spawn_blocking(kafka_is_installed);
    if !installed.await.unwrap() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let kafka = tokio::task::spawn_blocking(move || guarded(&path));
    let kafka = kafka.await.expect("the broker starts");
    let user = |password: &str| {
        let sasl = Sasl {
            mechanism: SaslMechanism::Plain,
            username: "worker".into(),
            password: Secret::new(password),
        };
        Config {
            // Long, to see that nobody waits for it.
            connect_timeout: Duration::from_secs(600),
            security: Some(Security {
                tls: None,
                sasl: Some(sasl),
            }),
            ..Config::new([kafka.endpoints()])
        }
    };
    let open = async |config| {
        tokio::time::timeout(
            Duration::from_secs(60),
            Kafka::open(config, Clock::system()),
        )
        .await
        .expect("it is said at once")
    };
    let error = open(user("wrong-password")).await.expect_err("refused");
    let text = error.to_string();
    assert!(matches!(error, EngineError::Unusable { .. }), "{error:?}");
    assert!(
        text.contains("uthentication") && text.contains("`security`"),
        "{text}"
    );
    assert!(!text.contains("wrong-password"), "{text}");

    let engine = open(user("right")).await.expect("let in");
    engine.close().await.expect("closed");
}
