//! A section for a tube: `Beanstalks` and `Redis`.

use std::sync::Arc;

use super::{GoSection, note, same_servers};
use crate::config::fields::{Fields, Reader, join, not_empty};
use crate::config::places::{TubeConfig, Wire};
use crate::config::redis::{RedisConfig, RedisKind};
use crate::config::units::{endpoint, name};
use crate::config::yaml::What;
use crate::config::{Config, Given, HandlerConfig};
use crate::name::{Name, Place};

const GO_BEANSTALK: &[&str] = &["endpoint", "tube"];
const GO_REDIS: &[&str] = &[
    "host",
    "type",
    "user",
    "pass",
    "tls",
    "key",
    "non_block",
    "ping_timeout",
    "disable_identity",
    "protocol",
    "maint_notifications",
];

pub(super) fn translate(reader: &mut Reader, config: &mut Config, fields: &Fields<'_>) {
    let Some(node) = fields.raw("beanstalks") else {
        return;
    };
    let path = join(&fields.path, "beanstalks");
    let at = reader.at(node.mark, &path);
    let What::List(items) = &node.what else {
        let remedy = "write `[{ Endpoint: \"10.0.0.1:11300\", Tube: reminders }]`";
        reader.problem(&at, "a list of nodes is expected", remedy);
        return;
    };
    let mut nodes = Vec::new();
    let mut tube: Option<Given<Name>> = None;
    for (index, item) in items.iter().enumerate() {
        let item = Fields::open(reader, item, &format!("{path}[{index}]"), GO_BEANSTALK);
        if item.raw("endpoint").is_none() {
            reader.problem(
                &item.at,
                "the endpoint is missing",
                "add `Endpoint: \"10.0.0.1:11300\"`",
            );
        }
        nodes.extend(item.read(reader, "endpoint", endpoint));
        match (item.read(reader, "tube", name), &tube) {
            (Some(found), None) => tube = Some(found),
            (Some(found), Some(first)) if found.value != first.value => reader.problem(
                &found.at,
                format!(
                    "`{}` is another tube than `{}` above",
                    found.value, first.value
                ),
                "all nodes of a section hold the same tube; write a section for each tube",
            ),
            (None, _) if item.raw("tube").is_none() => {
                reader.problem(&item.at, "the tube is missing", "add `Tube: ..`");
            }
            _ => {}
        }
    }
    let nodes = Given::new(nodes, at);
    if not_empty(reader, &nodes, "node") {
        same_servers(reader, &mut config.dq.beanstalks, nodes, "set of nodes");
    }
    redis(reader, config, fields);
    let Some(tube) = tube else {
        return;
    };
    let known = config.tubes.iter().find(|known| known.name == tube.value);
    let advice = if known.is_some_and(|known| known.mixed_fleet.is_some()) {
        String::new()
    } else {
        format!(
            "; if its consumers run beside these handlers, write `tubes: {{ {}: {{ mixed_fleet: true }} }}`",
            tube.value
        )
    };
    note(
        reader,
        fields,
        "beanstalks",
        format!(
            "tasks of tube `{}` are written and read as the Go library does{advice}",
            tube.value
        ),
    );
    let wire = Given::new(Wire::GoQueue, tube.at.clone());
    match config
        .tubes
        .iter_mut()
        .find(|known| known.name == tube.value)
    {
        Some(known) => {
            known.wire.get_or_insert(wire);
        }
        None => config.tubes.push(TubeConfig {
            wire: Some(wire),
            ..TubeConfig::silent(tube.value.clone(), tube.at.clone())
        }),
    }
    let handler = HandlerConfig::silent(Arc::from(&*fields.path), fields.at.clone());
    config.go_sections.push(GoSection {
        place: Place::Tube(tube.value),
        handler,
        min_bytes: None,
        max_bytes: None,
    });
}

fn redis(reader: &mut Reader, config: &mut Config, fields: &Fields<'_>) {
    let Some(redis) = fields.section(reader, "redis", GO_REDIS) else {
        return;
    };
    let said = [
        (
            "tls",
            "the certificate of the server is verified; the Go library does not verify it",
        ),
        ("key", "not honoured, nothing here corresponds to it"),
        ("non_block", "not needed: nothing waits for Redis at start"),
        (
            "ping_timeout",
            "not honoured; `dq.redis.timeout` bounds each command",
        ),
        (
            "disable_identity",
            "not honoured, nothing here corresponds to it",
        ),
        ("protocol", "not honoured, nothing here corresponds to it"),
        (
            "maint_notifications",
            "not honoured, nothing here corresponds to it",
        ),
    ];
    for (key, text) in said {
        if redis.raw(key).is_some() {
            note(reader, &redis, key, text);
        }
    }
    let found = RedisConfig::read_go(reader, &redis);
    match (&config.dq.redis, found) {
        (None, found) => config.dq.redis = found,
        (Some(known), Some(found)) => {
            let hosts = |redis: &RedisConfig| -> Vec<Arc<str>> {
                redis
                    .host
                    .value
                    .iter()
                    .map(|host| Arc::clone(&host.value))
                    .collect()
            };
            if hosts(known) != hosts(&found) {
                reader.problem(
                    &found.host.at,
                    format!("names another Redis than line {} does", known.host.at.line),
                    "one process has one dedup store: name the same one, or run two",
                );
            }
        }
        (Some(_), None) => {}
    }
}

impl RedisConfig {
    /// Of the Go library: several hosts are a cluster by `Type`, and by their number.
    fn read_go(reader: &mut Reader, fields: &Fields<'_>) -> Option<Self> {
        let host = fields.list(reader, "host", endpoint);
        let words = [("node", RedisKind::Node), ("cluster", RedisKind::Cluster)];
        let kind = fields.choice(reader, "type", &words);
        let user = fields.text(reader, "user");
        let pass = fields.secret(reader, "pass");
        let tls = fields.flag(reader, "tls");
        if fields.raw("host").is_none() {
            reader.problem(
                &fields.at,
                "the host is missing",
                "add `Host: \"10.0.0.4:6379\"`",
            );
        }
        let host = host?;
        not_empty(reader, &host, "host").then_some(Self {
            kind,
            user,
            pass,
            tls,
            ..Self::at(host)
        })
    }
}
