//! Kafka, as the configuration says.

use std::collections::HashMap;
use std::sync::Arc;

use super::Engines;
use crate::app::report::AppError;
use crate::config::{self, Config, GO_FETCH_WAIT, GoSection, SecurityConfig};
use crate::engine::kafka::{
    self, Compression, CreateTopics, Fetch, GroupProtocol, Kafka, ProducerConfig, Sasl,
    SaslMechanism, Secret, Security, Strategy, Tls,
};
use crate::engine::{Engine, TopicConfig};
use crate::name::Name;

impl Engines {
    /// The engine on the brokers of `kq`.
    pub(super) async fn kafka(&mut self, config: &Config) -> Result<Arc<dyn Engine>, AppError> {
        let engine = Kafka::open(settings(config), self.clock.clone())
            .await
            .map_err(AppError::engine)?;
        Ok(Arc::new(engine))
    }
}

fn settings(config: &Config) -> kafka::Config {
    let kq = &config.kq;
    let default = TopicConfig::default().partitions;
    let partitions: HashMap<Name, u32> = config
        .topics
        .iter()
        .map(|topic| (topic.name.clone(), topic.resolved().partitions))
        .collect();
    let create = kq.create_topics().then(|| CreateTopics {
        partitions: default,
        replication: kq
            .replication
            .as_ref()
            .map(|given| u16::try_from(given.value).unwrap_or(u16::MAX)),
    });
    kafka::Config {
        client_id: Arc::from(config.name.value.as_str()),
        protocol: match kq.protocol() {
            config::GroupProtocol::Cooperative => GroupProtocol::Classic {
                strategy: Strategy::CooperativeSticky,
            },
            config::GroupProtocol::Range => GroupProtocol::Classic {
                strategy: Strategy::Range,
            },
            config::GroupProtocol::Consumer => GroupProtocol::Consumer,
        },
        instance_id: kq
            .instance_id
            .as_ref()
            .map(|given| Arc::from(given.value.as_str())),
        session: kq.session(),
        commit_interval: kq.commit_interval(),
        connect_timeout: kq.connect_timeout(),
        memory: usize::try_from(kq.memory()).unwrap_or(usize::MAX),
        fetches: config.go_sections.iter().filter_map(fetch).collect(),
        security: kq.security.as_ref().and_then(security),
        properties: properties(&kq.properties),
        producer: ProducerConfig {
            linger: kq.producer.linger(),
            batch: usize::try_from(kq.producer.batch()).unwrap_or(usize::MAX),
            compression: compression(kq.producer.compression.as_ref().map(|given| given.value)),
            message_timeout: kq.producer.timeout(),
            properties: properties(&kq.producer.properties),
            ..ProducerConfig::default()
        },
        create_topics: create,
        partitions,
        ..kafka::Config::new(kq.brokers.iter().map(|broker| Arc::clone(&broker.value)))
    }
}

/// What a section of the Go library says about fetching its topic.
fn fetch(section: &GoSection) -> Option<(Name, Fetch)> {
    if section.min_bytes.is_none() && section.max_bytes.is_none() {
        return None;
    }
    let usual = Fetch::default();
    let bytes = |given: &Option<config::Given<u32>>, default: usize| {
        given.as_ref().map_or(default, |given| given.value as usize)
    };
    let min = bytes(&section.min_bytes, usual.min);
    let fetch = Fetch {
        min,
        // Waiting as long as for a single byte would hold up what is there already.
        wait: if min > 1 { GO_FETCH_WAIT } else { usual.wait },
        max: bytes(&section.max_bytes, usual.max),
        ..usual
    };
    Some((section.place.name().clone(), fetch))
}

fn security(given: &SecurityConfig) -> Option<Security> {
    let text =
        |given: &Option<config::Given<Arc<str>>>| given.as_ref().map(|one| Arc::clone(&one.value));
    let secret =
        |given: &Option<config::Given<Secret>>| given.as_ref().map(|one| one.value.clone());
    let tls = given.tls().then(|| Tls {
        ca_file: text(&given.ca_file),
        cert_file: text(&given.cert_file),
        key_file: text(&given.key_file),
        key_password: secret(&given.key_password),
    });
    let sasl = text(&given.username)
        .zip(secret(&given.password))
        .map(|(username, password)| Sasl {
            mechanism: match given.mechanism() {
                config::SaslMechanism::Plain => SaslMechanism::Plain,
                config::SaslMechanism::ScramSha256 => SaslMechanism::ScramSha256,
                config::SaslMechanism::ScramSha512 => SaslMechanism::ScramSha512,
            },
            username,
            password,
        });
    (tls.is_some() || sasl.is_some()).then_some(Security { tls, sasl })
}

fn compression(given: Option<config::Compression>) -> Compression {
    match given.unwrap_or_default() {
        config::Compression::None => Compression::None,
        config::Compression::Lz4 => Compression::Lz4,
        config::Compression::Zstd => Compression::Zstd,
        config::Compression::Snappy => Compression::Snappy,
        config::Compression::Gzip => Compression::Gzip,
    }
}

fn properties(given: &[config::Property]) -> Vec<(Arc<str>, Secret)> {
    given
        .iter()
        .map(|one| (Arc::clone(&one.name), one.value.value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::LoadFrom;

    fn read(text: &str) -> kafka::Config {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("app.yaml");
        std::fs::write(&file, text).expect("written");
        let config = Config::load(&LoadFrom::file(file)).expect("good");
        let settings = settings(&config);
        settings.check().expect("good");
        settings
    }

    #[test]
    fn defaults_are_those_of_the_engine() {
        let found = read("name: billing\nkq: { brokers: [\"a:1\", \"b:2\"] }\n");
        let wanted = kafka::Config {
            client_id: Arc::from("billing"),
            ..kafka::Config::new(["a:1", "b:2"])
        };
        assert_eq!(format!("{found:?}"), format!("{wanted:?}"));
    }

    #[test]
    fn every_key_reaches_the_engine() {
        let found = read(
            "kq:
  brokers: [\"a:1\"]
  create_topics: true
  replication: 3
  protocol: range
  instance_id: pod-3
  session: 6s
  commit_interval: 200ms
  memory: 8MiB
  connect_timeout: 2s
  security: { username: u, password: p }
  properties: { fetch.wait.max.ms: 7 }
  producer: { linger: 5ms, batch: 64KB, compression: lz4, timeout: 3s, properties: { socket.timeout.ms: 9 } }
topics: { orders: { partitions: 3 } }
",
        );
        assert_eq!(
            found.create_topics,
            Some(CreateTopics {
                partitions: 8,
                replication: Some(3)
            })
        );
        assert_eq!(found.partitions.get("orders"), Some(&3));
        assert_eq!(
            found.protocol,
            GroupProtocol::Classic {
                strategy: Strategy::Range
            }
        );
        assert_eq!(found.instance_id.as_deref(), Some("pod-3"));
        assert_eq!(
            (found.session, found.commit_interval, found.connect_timeout),
            (
                Duration::from_secs(6),
                Duration::from_millis(200),
                Duration::from_secs(2)
            )
        );
        assert_eq!(found.memory, 8 << 20);
        let sasl = found.security.and_then(|one| one.sasl).expect("a user");
        assert_eq!((&*sasl.username, sasl.password.expose()), ("u", "p"));
        assert_eq!(found.properties[0].1.expose(), "7");
        let producer = &found.producer;
        assert_eq!(
            (producer.linger, producer.batch, producer.message_timeout),
            (Duration::from_millis(5), 64_000, Duration::from_secs(3))
        );
        assert_eq!(producer.compression, Compression::Lz4);
        assert_eq!(&*producer.properties[0].0, "socket.timeout.ms");
    }

    #[test]
    fn sizes_of_the_go_library_are_those_of_its_topic() {
        let found = read(
            "Brokers: [\"a:1\"]\nGroup: g\nTopic: orders\nOffset: first\nMinBytes: 10240\nMaxBytes: 10485760\n",
        );
        let fetch = found.fetches.get("orders").expect("its own");
        assert_eq!(
            (fetch.min, fetch.wait, fetch.max),
            (10_240, Duration::from_millis(10), 10_485_760)
        );
    }
}
