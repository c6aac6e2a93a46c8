//! What is said of single tubes and topics: `tubes` and `topics`.

use std::sync::Arc;
use std::time::Duration;

use super::fields::{Fields, Reader, join, shown};
use super::tasks::DedupConfig;
use super::units::{name, or_none, size, some_time};
use super::yaml::{Node, What};
use super::{At, EngineKind, Given};
use crate::engine::TopicConfig;
use crate::name::Name;

/// The bytes of a task on a tube.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// Our envelope, with id, headers and content type.
    #[default]
    Native,
    /// Exactly what the Go library writes and reads.
    GoQueue,
}

/// `tubes.NAME`.
#[derive(Clone, Debug)]
pub struct TubeConfig {
    /// Its name.
    pub name: Name,
    /// Where it stands.
    pub at: At,
    /// Default: that of `dq`.
    pub engine: Option<Given<EngineKind>>,
    /// Default: native.
    pub wire: Option<Given<Wire>>,
    /// Whether running consumers of the Go library share it. Default: no.
    pub mixed_fleet: Option<Given<bool>>,
    /// Default: that of `dq`.
    pub dedup: Option<DedupConfig>,
    /// Whether tasks must fit every engine (65,535 bytes with envelope, key and headers). Default: yes.
    pub portable: Option<Given<bool>>,
}

pub(super) const TUBE: &[&str] = &["engine", "wire", "mixed_fleet", "dedup", "portable"];
pub(super) const WIRE: &[(&str, Wire)] = &[("native", Wire::Native), ("go-queue", Wire::GoQueue)];

impl TubeConfig {
    /// Nothing said of this tube.
    pub(super) fn silent(name: Name, at: At) -> Self {
        Self {
            name,
            at,
            engine: None,
            wire: None,
            mixed_fleet: None,
            dedup: None,
            portable: None,
        }
    }

    fn read(reader: &mut Reader, name: Name, fields: &Fields<'_>) -> Self {
        Self {
            engine: fields.read(reader, "engine", super::engines::task_engine),
            wire: fields.choice(reader, "wire", WIRE),
            mixed_fleet: fields.flag(reader, "mixed_fleet"),
            dedup: DedupConfig::read(reader, fields),
            portable: fields.flag(reader, "portable"),
            ..Self::silent(name, fields.at.clone())
        }
    }

    /// The wire in force.
    pub fn wire(&self) -> Wire {
        self.wire
            .as_ref()
            .map_or_else(Wire::default, |given| given.value)
    }

    /// Whether running consumers of the Go library share it.
    pub fn mixed_fleet(&self) -> bool {
        self.mixed_fleet.as_ref().is_some_and(|given| given.value)
    }

    /// Whether tasks must fit every engine.
    pub fn portable(&self) -> bool {
        self.portable.as_ref().is_none_or(|given| given.value)
    }
}

/// `topics.NAME.retention`.
#[derive(Clone, Debug, Default)]
pub struct RetentionConfig {
    /// Records older than this may go; `None` inside is `none`: never. Default: 7 days.
    pub age: Option<Given<Option<Duration>>>,
    /// Beyond so many bytes the oldest may go; `None` inside is `none`: no limit. Default: none.
    pub size: Option<Given<Option<u64>>>,
    /// Whether retention may remove what a known group has not committed. Default: no.
    pub drop_unread: Option<Given<bool>>,
}

pub(super) const RETENTION: &[&str] = &["age", "size", "drop_unread"];

/// `topics.NAME`.
#[derive(Clone, Debug)]
pub struct TopicSection {
    /// Its name.
    pub name: Name,
    /// Where it stands.
    pub at: At,
    /// Default: that of `kq`.
    pub engine: Option<Given<EngineKind>>,
    /// How many partitions; may grow, not shrink. Default: 8.
    pub partitions: Option<Given<u32>>,
    /// How long records are kept.
    pub retention: RetentionConfig,
    /// Default: off.
    pub dedup: Option<DedupConfig>,
}

pub(super) const TOPIC: &[&str] = &["engine", "partitions", "retention", "dedup"];

impl TopicSection {
    fn read(reader: &mut Reader, name: Name, fields: &Fields<'_>) -> Self {
        let retention = fields.section(reader, "retention", RETENTION);
        Self {
            engine: fields.read(reader, "engine", super::engines::topic_engine),
            partitions: fields.number(reader, "partitions", 1..=10_000),
            retention: retention
                .map(|fields| RetentionConfig {
                    age: fields.read(reader, "age", |text| or_none(text, some_time)),
                    size: fields.read(reader, "size", |text| or_none(text, size)),
                    drop_unread: fields.flag(reader, "drop_unread"),
                })
                .unwrap_or_default(),
            dedup: DedupConfig::read(reader, fields),
            name,
            at: fields.at.clone(),
        }
    }

    /// What the engine gets, with defaults.
    pub fn resolved(&self) -> TopicConfig {
        let plain = TopicConfig::default();
        TopicConfig {
            partitions: self
                .partitions
                .as_ref()
                .map_or(plain.partitions, |given| given.value),
            age: self
                .retention
                .age
                .as_ref()
                .map_or(plain.age, |given| given.value),
            size: self
                .retention
                .size
                .as_ref()
                .map_or(plain.size, |given| given.value),
            drop_unread: self
                .retention
                .drop_unread
                .as_ref()
                .map_or(plain.drop_unread, |given| given.value),
        }
    }
}

/// `tubes`.
pub(super) fn tubes(reader: &mut Reader, node: &Node) -> Vec<TubeConfig> {
    named(reader, node, "tubes", TUBE)
        .into_iter()
        .map(|(name, fields)| TubeConfig::read(reader, name, &fields))
        .collect()
}

/// `topics`.
pub(super) fn topics(reader: &mut Reader, node: &Node) -> Vec<TopicSection> {
    named(reader, node, "topics", TOPIC)
        .into_iter()
        .map(|(name, fields)| TopicSection::read(reader, name, &fields))
        .collect()
}

/// The entries of a mapping whose keys are names that the user chose.
fn named<'n>(
    reader: &mut Reader,
    node: &'n Node,
    path: &'static str,
    known: &'static [&'static str],
) -> Vec<(Name, Fields<'n>)> {
    let mut out: Vec<(Name, Fields<'n>)> = Vec::new();
    for (key, at, value) in free_entries(reader, node, path) {
        let Ok(name) = name(&key) else {
            reader.problem(
                &at,
                format!("`{}` is not a name", shown(&key)),
                "1 to 200 letters, digits, `.`, `_` and `-`, not beginning with `-`",
            );
            continue;
        };
        let mut fields = Fields::open(reader, value, &join(path, &key), known);
        fields.at = at;
        out.push((name, fields));
    }
    out
}

/// The entries of a mapping whose keys are not ours; doubled ones are a problem.
pub(super) fn free_entries<'n>(
    reader: &mut Reader,
    node: &'n Node,
    path: &str,
) -> Vec<(Arc<str>, At, &'n Node)> {
    let entries = match &node.what {
        What::Map(entries) => entries,
        What::Null | What::Broken => return Vec::new(),
        What::Scalar(_) | What::List(_) => {
            let at = reader.at(node.mark, path);
            let remedy = format!("write for example `{path}: {{ name: {{ .. }} }}`");
            reader.problem(
                &at,
                "names are expected here, each with its settings",
                remedy,
            );
            return Vec::new();
        }
    };
    let mut out: Vec<(Arc<str>, At, &'n Node)> = Vec::new();
    for entry in entries {
        let at = reader.at(entry.mark, &join(path, &entry.key));
        if let Some((_, first, _)) = out.iter().find(|(key, ..)| **key == *entry.key) {
            let what = format!("given twice, first in line {}", first.line);
            reader.problem(&at, what, "remove one of them");
            continue;
        }
        out.push((Arc::from(&*entry.key), at, &entry.value));
    }
    out
}
