//! What is in force, as one list of keys and values: for people who ask, and for the test that holds the reference file to the
//! defaults of the code.

use std::fmt::Display;

use super::settings::word;
use super::units::format_size;
use super::{
    Compression, Config, DEFAULT_REPLICAS, DEFAULT_WRITE_QUORUM, DedupConfig, DedupStore,
    EngineKind, Given, Property, RedisConfig, SecurityConfig,
};
use crate::name::Place;
use crate::time::format_duration;

type Rows = Vec<(String, String)>;

fn row(rows: &mut Rows, key: impl Into<String>, value: impl Display) {
    rows.push((key.into(), value.to_string()));
}

/// A row for what has no default.
fn given<T: ToString>(rows: &mut Rows, key: impl Into<String>, value: Option<&Given<T>>) {
    if let Some(given) = value {
        row(rows, key, given.value.to_string());
    }
}

impl Config {
    /// Every key in force with its value, given or default, in the form of the file. Keys without a default are there if they were
    /// given. Secrets are `***`. What holds for a single handler is in [`Settings::describe`](super::Settings::describe).
    pub fn effective(&self) -> Vec<(String, String)> {
        let mut rows = Rows::new();
        row(&mut rows, "name", &self.name.value);
        row(&mut rows, "sqlite.path", self.sqlite_path().display());
        let durability = self.sqlite.durability();
        row(
            &mut rows,
            "sqlite.durability",
            word(super::process::DURABILITY, &durability),
        );
        let quota = self.sqlite.quota().map_or("auto".to_owned(), format_size);
        row(&mut rows, "sqlite.quota", quota);
        self.dq_rows(&mut rows);
        self.kq_rows(&mut rows);
        self.place_rows(&mut rows);
        given(&mut rows, "admin.listen", self.admin.listen.as_ref());
        given(&mut rows, "admin.token", self.admin.token.as_ref());
        let deadline = format_duration(self.shutdown.deadline());
        row(&mut rows, "shutdown.deadline", deadline);
        row(
            &mut rows,
            "shutdown.drain",
            format_duration(self.shutdown.drain()),
        );
        row(
            &mut rows,
            "log.level",
            word(super::process::LEVELS, &self.log.level()),
        );
        row(
            &mut rows,
            "log.format",
            word(super::process::FORMATS, &self.log.format()),
        );
        rows
    }

    fn dq_rows(&self, rows: &mut Rows) {
        let dq = &self.dq;
        let served = if dq.beanstalks.is_empty() {
            EngineKind::Sqlite
        } else {
            EngineKind::Beanstalkd
        };
        row(
            rows,
            "dq.engine",
            dq.engine.as_ref().map_or(served, |given| given.value),
        );
        for (index, node) in dq.beanstalks.iter().enumerate() {
            row(
                rows,
                format!("dq.beanstalks[{index}].endpoint"),
                &node.value,
            );
        }
        let number =
            |given: &Option<Given<u32>>, default| given.as_ref().map_or(default, |g| g.value);
        row(rows, "dq.replicas", number(&dq.replicas, DEFAULT_REPLICAS));
        row(
            rows,
            "dq.write_quorum",
            number(&dq.write_quorum, DEFAULT_WRITE_QUORUM),
        );
        row(rows, "dq.deadline", format_duration(dq.deadline()));
        row(
            rows,
            "dq.connect_timeout",
            format_duration(dq.connect_timeout()),
        );
        row(rows, "dq.lease", format_duration(dq.lease()));
        row(
            rows,
            "dq.at_start",
            word(super::tasks::AT_START, &dq.at_start()),
        );
        if let Some(redis) = &dq.redis {
            redis_rows(rows, redis);
        }
        let store = if served == EngineKind::Beanstalkd {
            "redis"
        } else {
            "off"
        };
        dedup_rows(rows, "dq.dedup", dq.dedup.as_ref(), store);
    }

    fn kq_rows(&self, rows: &mut Rows) {
        let kq = &self.kq;
        let served = if kq.brokers.is_empty() {
            EngineKind::Sqlite
        } else {
            EngineKind::Kafka
        };
        row(
            rows,
            "kq.engine",
            kq.engine.as_ref().map_or(served, |given| given.value),
        );
        for (index, broker) in kq.brokers.iter().enumerate() {
            row(rows, format!("kq.brokers[{index}]"), &broker.value);
        }
        let group = kq
            .group
            .as_ref()
            .map_or(&self.name.value, |given| &given.value);
        row(rows, "kq.group", group);
        let offset = kq
            .offset
            .as_ref()
            .map(|given| given.value)
            .unwrap_or_default();
        row(rows, "kq.offset", word(super::topics::OFFSET, &offset));
        row(rows, "kq.conns", kq.conns());
        row(rows, "kq.create_topics", kq.create_topics());
        given(rows, "kq.replication", kq.replication.as_ref());
        let protocol = word(super::topics::PROTOCOL, &kq.protocol());
        row(rows, "kq.protocol", protocol);
        given(rows, "kq.instance_id", kq.instance_id.as_ref());
        for (key, time) in [
            ("kq.session", kq.session()),
            ("kq.commit_interval", kq.commit_interval()),
            ("kq.connect_timeout", kq.connect_timeout()),
        ] {
            row(rows, key, format_duration(time));
        }
        row(rows, "kq.memory", format_size(kq.memory()));
        if let Some(security) = &kq.security {
            security_rows(rows, security);
        }
        property_rows(rows, "kq.properties", &kq.properties);
        row(
            rows,
            "kq.producer.linger",
            format_duration(kq.producer.linger()),
        );
        row(rows, "kq.producer.batch", format_size(kq.producer.batch()));
        let compression = kq.producer.compression.as_ref();
        let compression = compression.map_or(Compression::None, |given| given.value);
        let compression = word(super::topics::COMPRESSION, &compression);
        row(rows, "kq.producer.compression", compression);
        row(
            rows,
            "kq.producer.timeout",
            format_duration(kq.producer.timeout()),
        );
        property_rows(rows, "kq.producer.properties", &kq.producer.properties);
    }

    fn place_rows(&self, rows: &mut Rows) {
        let engine = |place: &Place| {
            self.engine_for(place)
                .map_or("none".to_owned(), |choice| choice.kind.to_string())
        };
        for tube in &self.tubes {
            let key = format!("tubes.{}", tube.name);
            row(
                rows,
                format!("{key}.engine"),
                engine(&Place::Tube(tube.name.clone())),
            );
            row(
                rows,
                format!("{key}.wire"),
                word(super::places::WIRE, &tube.wire()),
            );
            row(rows, format!("{key}.mixed_fleet"), tube.mixed_fleet());
            row(rows, format!("{key}.portable"), tube.portable());
            let store = if self.dq.beanstalks.is_empty() {
                "off"
            } else {
                "redis"
            };
            dedup_rows(
                rows,
                &format!("{key}.dedup"),
                self.tube_dedup(&tube.name).as_ref(),
                store,
            );
        }
        for topic in &self.topics {
            let key = format!("topics.{}", topic.name);
            let resolved = topic.resolved();
            row(
                rows,
                format!("{key}.engine"),
                engine(&Place::Topic(topic.name.clone())),
            );
            row(rows, format!("{key}.partitions"), resolved.partitions);
            let age = resolved.age.map_or("none".to_owned(), format_duration);
            row(rows, format!("{key}.retention.age"), age);
            let size = resolved.size.map_or("none".to_owned(), format_size);
            row(rows, format!("{key}.retention.size"), size);
            row(
                rows,
                format!("{key}.retention.drop_unread"),
                resolved.drop_unread,
            );
            dedup_rows(rows, &format!("{key}.dedup"), topic.dedup.as_ref(), "off");
        }
    }
}

fn dedup_rows(rows: &mut Rows, key: &str, dedup: Option<&DedupConfig>, default: &str) {
    let plain = DedupConfig::default();
    let dedup = dedup.unwrap_or(&plain);
    let store = dedup
        .store
        .as_ref()
        .map_or(default, |given| match given.value {
            DedupStore::Off => "off",
            DedupStore::Memory => "memory",
            DedupStore::Sqlite => "sqlite",
            DedupStore::Redis => "redis",
        });
    row(rows, format!("{key}.store"), store);
    row(rows, format!("{key}.keep"), format_duration(dedup.keep()));
    let on_outage = word(super::tasks::ON_OUTAGE, &dedup.on_outage());
    row(rows, format!("{key}.on_outage"), on_outage);
}

fn redis_rows(rows: &mut Rows, redis: &RedisConfig) {
    let hosts: Vec<_> = redis.host.value.iter().map(|host| &*host.value).collect();
    row(rows, "dq.redis.host", hosts.join(","));
    row(
        rows,
        "dq.redis.type",
        word(super::redis::REDIS_KINDS, &redis.kind()),
    );
    given(rows, "dq.redis.master", redis.master.as_ref());
    given(rows, "dq.redis.sentinel_user", redis.sentinel_user.as_ref());
    given(rows, "dq.redis.sentinel_pass", redis.sentinel_pass.as_ref());
    given(rows, "dq.redis.user", redis.user.as_ref());
    given(rows, "dq.redis.pass", redis.pass.as_ref());
    row(
        rows,
        "dq.redis.db",
        redis.db.as_ref().map_or(0, |given| given.value),
    );
    row(rows, "dq.redis.tls", redis.tls());
    given(rows, "dq.redis.ca_file", redis.ca_file.as_ref());
    row(rows, "dq.redis.timeout", format_duration(redis.timeout()));
    row(
        rows,
        "dq.redis.connect_timeout",
        format_duration(redis.connect_timeout()),
    );
    row(rows, "dq.redis.prefix", redis.prefix());
    row(rows, "dq.redis.lease", format_duration(redis.lease()));
}

fn security_rows(rows: &mut Rows, security: &SecurityConfig) {
    given(rows, "kq.security.username", security.username.as_ref());
    given(rows, "kq.security.password", security.password.as_ref());
    let mechanism = security.mechanism();
    row(
        rows,
        "kq.security.mechanism",
        word(super::topics::MECHANISMS, &mechanism),
    );
    row(rows, "kq.security.tls", security.tls());
    given(rows, "kq.security.ca_file", security.ca_file.as_ref());
    given(rows, "kq.security.cert_file", security.cert_file.as_ref());
    given(rows, "kq.security.key_file", security.key_file.as_ref());
    given(
        rows,
        "kq.security.key_password",
        security.key_password.as_ref(),
    );
}

fn property_rows(rows: &mut Rows, key: &str, properties: &[Property]) {
    for property in properties {
        row(
            rows,
            format!("{key}.{}", property.name),
            &property.value.value,
        );
    }
}
