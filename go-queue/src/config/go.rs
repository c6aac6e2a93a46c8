//! YAML written for the Go library of the same name, read as it is.
//!
//! A mapping with `Brokers` and `Topic`, or with `Beanstalks`, is a section of that library, at the top level or under any one
//! name. It is taken out of the tree and translated into what the rest of the configuration means; what cannot be honoured is said,
//! never ignored in silence. Inside of such a section unknown keys are warnings, as its own loader ignores them.

use std::sync::Arc;
use std::time::Duration;

use super::fields::{Fields, Reader, join, not_empty, same_key};
use super::places::{TubeConfig, Wire};
use super::tasks::{RedisConfig, RedisKind};
use super::topics::{OFFSET, SecurityConfig};
use super::units::{endpoint, name};
use super::yaml::{Entry, Node, What};
use super::{
    At, Config, ConfigError, Given, HandlerConfig, MAX_CONCURRENCY, Origin, Remark, Setting, Shape,
};
use crate::engine::Start;
use crate::handler::Source;
use crate::name::{Name, Place, Side};

/// A section in the form of the Go library: options for the handlers that consume its tube, or its topic in its group.
#[derive(Clone, Debug)]
pub struct GoSection {
    /// Its tube or topic.
    pub place: Place,
    /// What it means for these handlers: `Processors` times `Conns` as concurrency, `Offset`, `Group`.
    pub handler: HandlerConfig,
    /// `MinBytes`: what a fetch should bring; it waits at most [`GO_FETCH_WAIT`] for it.
    pub min_bytes: Option<Given<u32>>,
    /// `MaxBytes`: what a fetch may bring.
    pub max_bytes: Option<Given<u32>>,
}

/// How long a fetch waits for `MinBytes`.
pub const GO_FETCH_WAIT: Duration = Duration::from_millis(10);

const DEFAULT_PROCESSORS: u32 = 8;

/// Keys of a section, and of the service around it.
const GO: &[&str] = &[
    "brokers",
    "group",
    "topic",
    "offset",
    "conns",
    "consumers",
    "processors",
    "min_bytes",
    "max_bytes",
    "username",
    "password",
    "ca_file",
    "force_commit",
    "commit_in_order",
    "beanstalks",
    "redis",
    "name",
    "log",
    "mode",
    "metrics_url",
    "prometheus",
    "telemetry",
    "dev_server",
    "shutdown",
    "profiling",
];
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
/// What the service around the sections knows and we have no place for.
const SERVICE: &[&str] = &[
    "mode",
    "metrics_url",
    "prometheus",
    "telemetry",
    "dev_server",
    "profiling",
];
/// Sections of this configuration that the Go library does not have: never part of a section at the top level.
const OURS: &[&str] = &["sqlite", "dq", "kq", "tubes", "topics", "handlers", "admin"];

/// What was found: taken out of the tree.
pub(super) struct Found {
    /// Each with its name; empty for one at the top level.
    sections: Vec<(String, Node)>,
}

/// Takes the sections of the Go library out of the tree.
pub(super) fn take(reader: &mut Reader, root: &mut Node) -> Found {
    let mut sections = Vec::new();
    let mark = root.mark;
    let What::Map(entries) = &mut root.what else {
        return Found { sections };
    };
    let (named, mut rest): (Vec<Entry>, Vec<Entry>) = std::mem::take(entries)
        .into_iter()
        .partition(|entry| is_section_under(&entry.key, &entry.value));
    for entry in named {
        sections.push((entry.key, entry.value));
    }
    if is_topic(&rest) || is_tube(&rest) {
        let (own, ours) = rest.into_iter().partition(|entry| !is_ours(entry));
        rest = ours;
        let what = What::Map(own);
        sections.push((String::new(), Node { mark, what }));
    } else if !sections.is_empty() {
        rest.retain(|entry| !is_service(reader, entry));
    }
    *entries = rest;
    Found { sections }
}

fn has(entries: &[Entry], key: &str) -> bool {
    entries.iter().any(|entry| same_key(&entry.key, key))
}

fn is_topic(entries: &[Entry]) -> bool {
    has(entries, "brokers") && has(entries, "topic")
}

fn is_tube(entries: &[Entry]) -> bool {
    has(entries, "beanstalks")
}

fn is_section_under(key: &str, value: &Node) -> bool {
    let What::Map(entries) = &value.what else {
        return false;
    };
    if same_key(key, "kq") {
        return is_topic(entries);
    }
    if same_key(key, "dq") {
        // Our own section has nodes without tubes.
        return entries.iter().any(|entry| {
            same_key(&entry.key, "beanstalks")
                && matches!(&entry.value.what, What::List(items) if items.iter().any(
                    |item| matches!(&item.what, What::Map(node) if has(node, "tube"))
                ))
        });
    }
    !super::SECTIONS.iter().any(|ours| same_key(ours, key))
        && (is_topic(entries) || is_tube(entries))
}

/// Says what is not honoured of the service around the sections. True: the entry is done with.
fn is_service(reader: &mut Reader, entry: &Entry) -> bool {
    let at = reader.at(entry.mark, &entry.key);
    if SERVICE.iter().any(|key| same_key(key, &entry.key)) {
        reader.remarks.push(Remark::note(
            Some(&at),
            "not honoured, nothing here corresponds to it",
        ));
        return true;
    }
    let Some(ours) = shared(&entry.key) else {
        return false;
    };
    let foreign = !holds_only(entry, ours);
    if foreign {
        let text = format!(
            "not honoured in the form of the Go library; here it holds {}",
            ours.join(", ")
        );
        reader.remarks.push(Remark::note(Some(&at), text));
    }
    foreign
}

/// `Log` and `Shutdown` exist on both sides; what ours hold.
fn shared(key: &str) -> Option<&'static [&'static str]> {
    if same_key(key, "log") {
        Some(super::process::LOG)
    } else if same_key(key, "shutdown") {
        Some(super::process::SHUTDOWN)
    } else {
        None
    }
}

fn holds_only(entry: &Entry, known: &[&str]) -> bool {
    match &entry.value.what {
        What::Map(keys) => keys
            .iter()
            .all(|key| known.iter().any(|known| same_key(known, &key.key))),
        _ => true,
    }
}

fn is_ours(entry: &Entry) -> bool {
    OURS.iter().any(|ours| same_key(ours, &entry.key))
        || shared(&entry.key).is_some_and(|ours| holds_only(entry, ours))
}

/// Translates what [`take`] has found.
pub(super) fn translate(reader: &mut Reader, config: &mut Config, found: &Found) {
    reader.lenient = true;
    for (path, node) in &found.sections {
        let fields = Fields::open(reader, node, path, GO);
        service(reader, config, &fields);
        if fields.raw("brokers").is_some() && fields.raw("topic").is_some() {
            topic(reader, config, &fields);
        }
        if fields.raw("beanstalks").is_some() {
            tube(reader, config, &fields);
        }
    }
    reader.lenient = false;
}

fn note(reader: &mut Reader, fields: &Fields<'_>, key: &'static str, text: impl Into<String>) {
    let at = fields.key_at(reader, key);
    let at = at.as_ref().unwrap_or(&fields.at);
    reader.remarks.push(Remark::note(Some(at), text));
}

fn service(reader: &mut Reader, config: &mut Config, fields: &Fields<'_>) {
    for key in SERVICE.iter().chain(&["log", "shutdown"]) {
        if fields.raw(key).is_some() {
            note(
                reader,
                fields,
                key,
                "not honoured, nothing here corresponds to it",
            );
        }
    }
    if config.name.origin != Origin::Default {
        return;
    }
    let Some(given) = fields.text(reader, "name") else {
        return;
    };
    match super::units::sanitised(&given.value) {
        Some(name) => {
            if *name != *given.value {
                note(
                    reader,
                    fields,
                    "name",
                    format!("as the name of this service it is `{name}`"),
                );
            }
            config.name = Setting {
                value: name,
                origin: Origin::of(&given.at),
            };
        }
        None => note(
            reader,
            fields,
            "name",
            "not usable as the name of this service",
        ),
    }
}

fn topic(reader: &mut Reader, config: &mut Config, fields: &Fields<'_>) {
    let brokers = fields.list(reader, "brokers", endpoint);
    if let Some(brokers) = brokers
        && not_empty(reader, &brokers, "broker")
    {
        same_servers(reader, &mut config.kq.brokers, brokers, "cluster");
    }
    let topic = fields.read(reader, "topic", name);
    let group = fields.read(reader, "group", name);
    if fields.raw("group").is_none() {
        reader.problem(&fields.at, "the group is missing", "add `Group: ..`");
    }
    let mut handler = HandlerConfig::silent(Arc::from(&*fields.path), fields.at.clone());
    handler.group = group;

    let offset = fields.choice(reader, "offset", OFFSET);
    if fields.raw("offset").is_none() {
        note(
            reader,
            fields,
            "topic",
            "no `Offset` is given, so a new group begins at the end, as in the Go library; write `Offset: first` to read what is there",
        );
        handler.keep("offset", Some(Given::new((), fields.at.clone())));
        handler.options.offset = Some(Start::Last);
    } else {
        handler.options.offset = handler.keep("offset", offset);
    }
    concurrency(reader, fields, &mut handler);
    security(reader, config, fields);
    let said = [
        (
            "consumers",
            "not needed: one subscription fetches for all handlers",
        ),
        (
            "force_commit",
            "not honoured: a message that failed is retried, then goes to the dead letters, and is never passed over",
        ),
        (
            "commit_in_order",
            "not needed: offsets are always committed in order, at any concurrency",
        ),
    ];
    for (key, text) in said {
        if fields.raw(key).is_some() {
            note(reader, fields, key, text);
        }
    }
    let bytes = 1..=1_000_000_000;
    let min_bytes = fields.number(reader, "min_bytes", bytes.clone());
    let max_bytes = fields.number(reader, "max_bytes", bytes);
    if let Some(topic) = topic {
        config.go_sections.push(GoSection {
            place: Place::Topic(topic.value),
            handler,
            min_bytes,
            max_bytes,
        });
    }
}

fn concurrency(reader: &mut Reader, fields: &Fields<'_>, handler: &mut HandlerConfig) {
    let processors = fields.number(reader, "processors", 1..=MAX_CONCURRENCY);
    let conns = fields.number(reader, "conns", 0..=MAX_CONCURRENCY);
    let many =
        |given: &Option<Given<u32>>, default| given.as_ref().map_or(default, |g| g.value.max(1));
    let product = many(&processors, DEFAULT_PROCESSORS).saturating_mul(many(&conns, 1));
    let product = product.min(MAX_CONCURRENCY);
    let key = if processors.is_some() {
        "processors"
    } else {
        "conns"
    };
    if conns.is_some() {
        note(
            reader,
            fields,
            key,
            format!("concurrency is {product}: `Processors` times `Conns`"),
        );
    } else if processors.is_none() {
        note(
            reader,
            fields,
            "topic",
            format!("no `Processors` are given, so concurrency is {product}, as in the Go library"),
        );
    }
    let at = processors
        .map(|given| given.at)
        .or(conns.map(|given| given.at))
        .unwrap_or_else(|| fields.at.clone());
    handler.options.concurrency = handler.keep("concurrency", Some(Given::new(product, at)));
}

fn security(reader: &mut Reader, config: &mut Config, fields: &Fields<'_>) {
    let username = fields.text(reader, "username");
    let password = fields.secret(reader, "password");
    let ca_file = fields.text(reader, "ca_file");
    if username.is_none() && password.is_none() && ca_file.is_none() {
        return;
    }
    if username.is_some() != password.is_some() {
        let remedy = "give both `Username` and `Password`, or none";
        reader.problem(&fields.at, "user and password belong together", remedy);
    }
    if ca_file.is_some() {
        note(
            reader,
            fields,
            "ca_file",
            "the certificates of the servers are verified with it; the Go library does not verify them",
        );
    }
    if let Some(known) = &config.kq.security {
        let same = known.username.as_ref().map(|g| &g.value) == username.as_ref().map(|g| &g.value)
            && known.password.as_ref().map(|g| &g.value) == password.as_ref().map(|g| &g.value);
        if !same {
            reader.problem(
                &fields.at,
                "another part of the configuration names another user for the same cluster",
                "one process is one user; use `kq.security` alone",
            );
        }
        return;
    }
    config.kq.security = Some(SecurityConfig {
        username,
        password,
        ca_file,
        ..SecurityConfig::default()
    });
}

/// Servers of several sections must be the same: one process talks to one cluster.
fn same_servers(
    reader: &mut Reader,
    known: &mut Vec<Given<Arc<str>>>,
    found: Given<Vec<Given<Arc<str>>>>,
    what: &str,
) {
    if known.is_empty() {
        *known = found.value;
        return;
    }
    let same = known.len() == found.value.len()
        && found
            .value
            .iter()
            .all(|one| known.iter().any(|other| other.value == one.value));
    if !same {
        let first = &known[0].at;
        reader.problem(
            &found.at,
            format!("names other servers than line {} does", first.line),
            format!("one process talks to one {what}: name the same servers, or run two"),
        );
    }
}

fn tube(reader: &mut Reader, config: &mut Config, fields: &Fields<'_>) {
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
    note(
        reader,
        fields,
        "beanstalks",
        format!(
            "tasks of tube `{0}` are written and read as the Go library does; if its consumers run beside these handlers, write \
             `tubes: {{ {0}: {{ mixed_fleet: true }} }}`",
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
            host,
            kind,
            user,
            pass,
            db: None,
            tls,
            ca_file: None,
            timeout: None,
        })
    }
}

impl Config {
    /// The section in the form of the Go library that is for this handler.
    pub(super) fn go_section(&self, shape: &Shape<'_>) -> Option<&HandlerConfig> {
        self.go_sections
            .iter()
            .find(|section| section.is_for(&shape.source))
            .map(|section| &section.handler)
    }

    /// Sections in the form of the Go library that no handler serves: each is a problem. `sources` are those of all handlers.
    pub fn unserved_sections(&self, sources: &[Source]) -> Vec<ConfigError> {
        self.go_sections
            .iter()
            .filter(|section| !sources.iter().any(|source| section.is_for(source)))
            .map(|section| section.unserved(sources))
            .collect()
    }
}

impl GoSection {
    fn is_for(&self, source: &Source) -> bool {
        let own = self
            .handler
            .group
            .as_ref()
            .map(|given| given.value.as_str());
        let same_group = match source {
            Source::Tube(_) => true,
            Source::Topics { group, .. } => group.is_none_or(|group| own == Some(group)),
        };
        source.side() == self.place.side()
            && same_group
            && source.names().contains(&self.place.name().as_str())
    }

    fn unserved(&self, sources: &[Source]) -> ConfigError {
        let at: &At = &self.handler.at;
        let place = &self.place;
        let what = match &self.handler.group {
            Some(group) => format!("no handler consumes {place} in group `{}`", group.value),
            None => format!("no handler consumes {place}"),
        };
        let known: Vec<String> = sources
            .iter()
            .filter(|source| source.side() == place.side())
            .map(|source| match source {
                Source::Topics {
                    group: Some(group), ..
                } => {
                    format!("{} in group {group}", source.names().join(" and "))
                }
                _ => source.names().join(" and "),
            })
            .collect();
        let kind = match place.side() {
            Side::Tasks => "tubes",
            Side::Topics => "topics",
        };
        ConfigError::at(at, what).remedy(if known.is_empty() {
            format!("there are no handlers of {kind}; a crate that no source line names is not linked: add `use my_handlers as _;` to main.rs")
        } else {
            format!("handlers consume: {}", known.join(", "))
        })
    }
}
