//! YAML written for the Go library of the same name, read as it is.
//!
//! A mapping with `Brokers` and `Topic`, or with `Beanstalks`, is a section of that library, at the top level or under any one
//! name. It is taken out of the tree and translated into what the rest of the configuration means; what cannot be honoured is said,
//! never ignored in silence. Inside of such a section unknown keys are warnings, as its own loader ignores them.

mod topic;
mod tube;

use std::sync::Arc;
use std::time::Duration;

use super::fields::{Fields, Reader, same_key};
use super::yaml::{Entry, Node, What};
use super::{At, Config, ConfigError, Given, HandlerConfig, Origin, Remark, Setting, Shape};
use crate::handler::Source;
use crate::name::{Place, Side};

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
/// What the service around the sections knows and we have no place for.
const SERVICE: &[&str] = &[
    "mode",
    "metrics_url",
    "prometheus",
    "telemetry",
    "dev_server",
    "profiling",
];
/// What a web or RPC server of go-zero in the same program reads. Beside sections with names; inside of one at the top level each unknown
/// key is a warning.
const SERVER: &[&str] = &[
    "auth",
    "cert_file",
    "cpu_threshold",
    "etcd",
    "health",
    "host",
    "key_file",
    "listen_on",
    "max_conns",
    "middlewares",
    "port",
    "signature",
    "timeout",
    "trace_ignore_paths",
    "verbose",
];
/// Sections of this configuration that the Go library does not have: never part of a section at the top level.
const OURS: &[&str] = &["sqlite", "dq", "kq", "tubes", "topics", "handlers", "admin"];

/// What was found: taken out of the tree.
pub(in crate::config) struct Found {
    /// Each with its name; empty for one at the top level.
    sections: Vec<(String, Node)>,
}

/// Takes the sections of the Go library out of the tree.
pub(in crate::config) fn take(reader: &mut Reader, root: &mut Node) -> Found {
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
    let mut service = SERVICE.iter().chain(SERVER);
    if service.any(|key| same_key(key, &entry.key)) {
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
pub(in crate::config) fn translate(reader: &mut Reader, config: &mut Config, found: &Found) {
    reader.lenient = true;
    for (path, node) in &found.sections {
        let fields = Fields::open(reader, node, path, GO);
        service(reader, config, &fields);
        if fields.raw("brokers").is_some() && fields.raw("topic").is_some() {
            topic::translate(reader, config, &fields);
        }
        if fields.raw("beanstalks").is_some() {
            tube::translate(reader, config, &fields);
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

impl Config {
    /// The section in the form of the Go library that is for this handler.
    pub(in crate::config) fn go_section(&self, shape: &Shape<'_>) -> Option<&HandlerConfig> {
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
