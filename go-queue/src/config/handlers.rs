//! `handlers`: options of single handlers, and which handler a key means.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::fields::{Fields, Not, Reader, join, nearest};
use super::places::free_entries;
use super::units::{backoff, between, name, or_none, rate, some_time, timeout};
use super::yaml::{Node, What};
use super::{At, ConfigError, Given};
use crate::engine::{Order, Start};
use crate::handler::options::{OnRetry, Options, Undecodable, Unmatched};
use crate::name::Name;

/// The most handlers that may run at a time in one subscription.
pub const MAX_CONCURRENCY: u32 = 1_000_000;
/// The most messages that may wait in hand.
pub const MAX_WAITING: u32 = 10_000_000;
/// The most tasks that serve one subscription.
pub const MAX_LANES: u32 = 256;
/// The largest batch.
pub const MAX_BATCH: u32 = 65_536;
/// The shortest lease: what an engine renews needs time to travel.
pub const MIN_LEASE: Duration = Duration::from_secs(1);

/// `handlers.KEY`: what the configuration says of one handler.
#[derive(Clone, Debug)]
pub struct HandlerConfig {
    /// The name of the function, or a longer suffix of its path.
    pub key: Arc<str>,
    /// Where it stands.
    pub at: At,
    /// The options as given.
    pub options: Options,
    /// The consumer group, instead of the one in the attribute (topics only).
    pub group: Option<Given<Name>>,
    given: Vec<(&'static str, At)>,
}

pub(super) const HANDLER: &[&str] = &[
    "concurrency",
    "waiting",
    "lanes",
    "order",
    "timeout",
    "retry",
    "on_retry",
    "undecodable",
    "unmatched",
    "batch",
    "linger",
    "enabled",
    "max_late",
    "lease",
    "priority",
    "rate",
    "offset",
    "group",
];
pub(super) const RETRY: &[&str] = &["max", "backoff"];
pub(super) const ORDER: &[(&str, Order)] = &[
    ("none", Order::None),
    ("key", Order::Key),
    ("partition", Order::Partition),
];
pub(super) const ON_RETRY: &[(&str, OnRetry)] = &[
    ("block", OnRetry::Block),
    ("dead_letter", OnRetry::DeadLetter),
];
pub(super) const UNDECODABLE: &[(&str, Undecodable)] = &[
    ("dead_letter", Undecodable::DeadLetter),
    ("skip", Undecodable::Skip),
    ("retry", Undecodable::Retry),
];
pub(super) const UNMATCHED: &[(&str, Unmatched)] = &[
    ("dead_letter", Unmatched::DeadLetter),
    ("skip", Unmatched::Skip),
];
const START: &[(&str, Start)] = super::topics::OFFSET;

impl HandlerConfig {
    /// Nothing said yet; for sections in the form of the Go library.
    pub(super) fn silent(key: Arc<str>, at: At) -> Self {
        Self {
            key,
            at,
            options: Options::NONE,
            group: None,
            given: Vec::new(),
        }
    }

    /// Where an option stands, by its name in the file (`concurrency`, `retry.max`); the handler's own place if it is not given.
    pub fn place_of(&self, option: &str) -> &At {
        self.given
            .iter()
            .find(|(name, _)| *name == option)
            .map_or(&self.at, |(_, at)| at)
    }

    /// The options that are given, by their names in the file.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &At)> {
        self.given.iter().map(|(name, at)| (*name, at))
    }

    /// Takes a value and keeps where it stood.
    pub(super) fn keep<T>(&mut self, option: &'static str, given: Option<Given<T>>) -> Option<T> {
        let given = given?;
        self.given.push((option, given.at));
        Some(given.value)
    }

    fn read(reader: &mut Reader, key: Arc<str>, fields: &Fields<'_>) -> Self {
        let mut handler = Self::silent(key, fields.at.clone());
        let it = &mut handler;
        let mut options = Options::NONE;
        options.concurrency = it.keep(
            "concurrency",
            fields.number(reader, "concurrency", 1..=MAX_CONCURRENCY),
        );
        options.waiting = it.keep("waiting", fields.number(reader, "waiting", 0..=MAX_WAITING));
        options.lanes = it.keep("lanes", fields.number(reader, "lanes", 1..=MAX_LANES));
        options.order = it.keep("order", fields.choice(reader, "order", ORDER));
        options.timeout = it.keep("timeout", fields.read(reader, "timeout", timeout));
        if let Some(What::Scalar(_)) = fields.raw("retry").map(|node| &node.what) {
            let none = fields.read(reader, "retry", |text| {
                if text.eq_ignore_ascii_case("none") {
                    return Ok(0);
                }
                Err(Not::new(
                    "is not known here",
                    "write `none`, or `{ max: 5, backoff: 1s..1m }`",
                ))
            });
            options.retry_max = it.keep("retry.max", none);
        } else if let Some(retry) = fields.section(reader, "retry", RETRY) {
            options.retry_max = it.keep("retry.max", retry.number(reader, "max", 0..=u32::MAX));
            options.backoff = it.keep("retry.backoff", retry.read(reader, "backoff", backoff));
        }
        options.on_retry = it.keep("on_retry", fields.choice(reader, "on_retry", ON_RETRY));
        options.undecodable = it.keep(
            "undecodable",
            fields.choice(reader, "undecodable", UNDECODABLE),
        );
        options.unmatched = it.keep("unmatched", fields.choice(reader, "unmatched", UNMATCHED));
        options.batch = it.keep("batch", fields.number(reader, "batch", 1..=MAX_BATCH));
        let long = Duration::from_secs(3600);
        options.linger = it.keep(
            "linger",
            fields.read(reader, "linger", |text| between(text, Duration::ZERO, long)),
        );
        options.enabled = it.keep("enabled", fields.flag(reader, "enabled"));
        let max_late = fields.read(reader, "max_late", |text| or_none(text, some_time));
        options.max_late = it.keep("max_late", max_late).flatten();
        let day = Duration::from_secs(86_400);
        options.lease = it.keep(
            "lease",
            fields.read(reader, "lease", |text| between(text, MIN_LEASE, day)),
        );
        options.priority = it.keep("priority", fields.number(reader, "priority", 0..=u32::MAX));
        let limit = fields.read(reader, "rate", |text| or_none(text, rate));
        options.rate = it.keep("rate", limit).flatten();
        options.offset = it.keep("offset", fields.choice(reader, "offset", START));
        handler.options = options;
        handler.group = fields.read(reader, "group", name);
        handler
    }
}

/// `handlers`.
pub(super) fn handlers(reader: &mut Reader, node: &Node) -> Vec<HandlerConfig> {
    let mut out = Vec::new();
    for (key, at, value) in free_entries(reader, node, "handlers") {
        let path = join("handlers", &key);
        let mut fields = Fields::open(reader, value, &path, HANDLER);
        fields.at = at;
        out.push(HandlerConfig::read(reader, key, &fields));
    }
    out
}

/// Which part of the configuration belongs to which handler.
#[derive(Clone, Debug)]
pub struct HandlerMatches<'c> {
    /// For each handler in the order asked, what the configuration says of it.
    pub of: Vec<Option<&'c HandlerConfig>>,
    /// Keys that mean no handler, or several, and handlers that are meant twice.
    pub problems: Vec<ConfigError>,
}

/// Finds for each key the handler that it means: its name, or any longer suffix of its path at a `::`. `handlers` are the full paths
/// (`module::name`) and where each stands in the source.
pub(super) fn match_handlers<'c, L: Display>(
    configured: &'c [HandlerConfig],
    handlers: &[(String, L)],
) -> HandlerMatches<'c> {
    let mut out = HandlerMatches {
        of: vec![None; handlers.len()],
        problems: Vec::new(),
    };
    for config in configured {
        let meant: Vec<usize> = (0..handlers.len())
            .filter(|index| is_suffix(&handlers[*index].0, &config.key))
            .collect();
        match meant[..] {
            [] => out.problems.push(no_match(config, handlers)),
            [index] => match out.of[index] {
                None => out.of[index] = Some(config),
                Some(first) => {
                    let (path, _) = &handlers[index];
                    let what = format!(
                        "means `{path}`, as `{}` in line {} does",
                        first.key, first.at.line
                    );
                    out.problems
                        .push(ConfigError::at(&config.at, what).remedy("keep one of them"));
                }
            },
            [..] => {
                let all = meant
                    .iter()
                    .map(|index| format!("`{}` ({})", handlers[*index].0, handlers[*index].1))
                    .collect::<Vec<_>>()
                    .join(" and ");
                let longer = longer_suffix(&handlers[meant[0]].0, &config.key);
                out.problems.push(
                    ConfigError::at(&config.at, format!("means {} handlers: {all}", meant.len()))
                        .remedy(format!("write more of the path, for example `{longer}`")),
                );
            }
        }
    }
    out
}

/// Whether this is a path, or an end of it that begins with a whole name.
pub(super) fn is_suffix(path: &str, key: &str) -> bool {
    path.strip_suffix(key)
        .is_some_and(|before| !key.is_empty() && (before.is_empty() || before.ends_with("::")))
}

fn longer_suffix<'p>(path: &'p str, key: &str) -> &'p str {
    let before = path
        .strip_suffix(key)
        .unwrap_or(path)
        .trim_end_matches("::");
    let begin = before.rfind("::").map_or(0, |at| at + 2);
    &path[begin..]
}

fn no_match<L: Display>(config: &HandlerConfig, handlers: &[(String, L)]) -> ConfigError {
    // The program's own crate is always linked, so a hint for another crate is a placeholder of the same form.
    const LINK: &str = "a crate that no source line names is not linked: if the handler is in one, add `use my_handlers as _;` to main.rs";
    let what = "no handler has this name";
    let error = ConfigError::at(&config.at, what);
    if handlers.is_empty() {
        return error.remedy(format!("there are no handlers at all; {LINK}"));
    }
    let depth = config.key.split("::").count();
    let suffixes = handlers.iter().map(|(path, _)| {
        let parts: Vec<_> = path.match_indices("::").map(|(at, _)| at + 2).collect();
        let begin = parts.len().checked_sub(depth).map_or(0, |from| parts[from]);
        &path[begin..]
    });
    let suggestion = match nearest(&config.key, suffixes) {
        Some(near) => format!("did you mean `{near}`? "),
        None => String::new(),
    };
    let mut known: Vec<&str> = handlers.iter().map(|(path, _)| &**path).collect();
    known.sort_unstable();
    let more = known.len().saturating_sub(20);
    known.truncate(20);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let list = known.join(", ") + &more;
    error.remedy(format!("{suggestion}handlers are: {list}; {LINK}"))
}
