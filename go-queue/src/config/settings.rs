//! What is in force for one handler, and where each value comes from: command line > file > attribute > default.

use std::fmt;
use std::time::Duration;

use super::units::{format_backoff, format_rate, format_timeout};
use super::{At, Config, ConfigError, ConfigErrors, Given, HandlerConfig, Remark};
use crate::engine::{DEFAULT_PRIORITY, Order, Start};
use crate::handler::Source;
use crate::handler::options::{Backoff, OnRetry, Options, Rate, Timeout, Undecodable, Unmatched};
use crate::name::{Name, Side};
use crate::time::format_duration;

/// Handlers of topics that run at a time.
pub const DEFAULT_KQ_CONCURRENCY: u32 = 1000;
/// Handlers of tubes that run at a time.
pub const DEFAULT_DQ_CONCURRENCY: u32 = 64;
/// Messages of a topic that may wait in hand, at least.
pub const DEFAULT_KQ_WAITING: u32 = 1024;
/// Tasks that serve a subscription.
pub const DEFAULT_LANES: u32 = 1;
/// How long one run may take.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a failed message runs again.
pub const DEFAULT_RETRY_MAX: u32 = 8;
/// The wait before a failed message runs again.
pub const DEFAULT_BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    max: Duration::from_secs(600),
};
/// The lease; renewed while the message is in hand.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(60);
/// The largest batch.
pub const DEFAULT_BATCH: u32 = 100;
/// How long a batch that is not full waits.
pub const DEFAULT_LINGER: Duration = Duration::from_millis(10);
/// Full batches need many messages in hand; beyond this the default does not go, whoever wants more says so.
const WIDEST_DEFAULT_WAITING: u32 = 16_384;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--set` on the command line.
    CommandLine,
    /// The configuration file.
    File(At),
    /// The attribute of the handler.
    Attribute,
    /// Nobody said anything.
    Default,
}

impl Origin {
    pub(super) fn of(at: &At) -> Self {
        if at.line == 0 {
            Self::CommandLine
        } else {
            Self::File(at.clone())
        }
    }

    /// Where in the configuration, if it comes from there.
    pub fn place(&self) -> Option<&At> {
        match self {
            Self::File(at) => Some(at),
            _ => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::File(at) => write!(f, "{}:{}", at.file, at.line),
            Self::Attribute => f.write_str("attribute"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value in force, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl<T> Setting<T> {
    fn default(value: T) -> Self {
        Self {
            value,
            origin: Origin::Default,
        }
    }
}

/// What a handler is, as far as its settings depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// `module::name`, for messages.
    pub path: &'a str,
    /// What it consumes.
    pub source: Source,
    /// Whether it takes a batch (`Vec<T>`).
    pub batch: bool,
    /// Whether a dedup store is asked before each run.
    pub claims: bool,
    /// The options that its attribute gives.
    pub attribute: &'a Options,
}

impl Shape<'_> {
    /// Tubes or topics.
    pub fn side(&self) -> Side {
        self.source.side()
    }

    /// The group that its attribute names.
    pub fn group(&self) -> Option<&'static str> {
        match self.source {
            Source::Topics { group, .. } => group,
            Source::Tube(_) => None,
        }
    }
}

/// Everything that is in force for one handler.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many runs at a time.
    pub concurrency: Setting<u32>,
    /// How many messages may wait in hand beyond the running ones.
    pub waiting: Setting<u32>,
    /// How many tasks serve the subscription.
    pub lanes: Setting<u32>,
    /// What is kept in order.
    pub order: Setting<Order>,
    /// How long one run may take.
    pub timeout: Setting<Timeout>,
    /// How often a failed message runs again: the first run is not counted.
    pub retry_max: Setting<u32>,
    /// The wait before a failed message runs again.
    pub backoff: Setting<Backoff>,
    /// What a failed record does to its key.
    pub on_retry: Setting<OnRetry>,
    /// What becomes of a payload that does not decode.
    pub undecodable: Setting<Undecodable>,
    /// What becomes of a record that no `when` matches.
    pub unmatched: Setting<Unmatched>,
    /// The largest batch; 1 where the handler takes single messages.
    pub batch: Setting<u32>,
    /// How long a batch that is not full waits.
    pub linger: Setting<Duration>,
    /// A task met later than this goes to the dead letters. `None`: it runs.
    pub max_late: Setting<Option<Duration>>,
    /// The lease; renewed while the message is in hand.
    pub lease: Setting<Duration>,
    /// Priority of tasks that the typed producer sends.
    pub priority: Setting<u32>,
    /// Where a new group begins.
    pub offset: Setting<Start>,
    /// At most so many starts in a time. `None`: no limit.
    pub rate: Setting<Option<Rate>>,
    /// Whether it runs at all.
    pub enabled: Setting<bool>,
    /// The consumer group; `None` on tubes.
    pub group: Setting<Option<Name>>,
    /// What to say about them at start.
    pub remarks: Vec<Remark>,
}

/// What sections above the handler say for all handlers that do not say it themselves.
#[derive(Clone, Debug)]
pub struct Inherited<'c> {
    /// `kq.offset`.
    pub offset: Option<&'c Given<Start>>,
    /// `kq.group`.
    pub group: Option<&'c Given<Name>>,
    /// The name of the service, which is the group if nothing names one.
    pub name: &'c Name,
}

impl Config {
    /// What is in force for a handler. `file` is what [`Config::match_handlers`] found for it.
    ///
    /// # Errors
    /// Options that make no sense for this handler, or not with each other; all of them.
    pub fn settings(
        &self,
        shape: &Shape<'_>,
        file: Option<&HandlerConfig>,
    ) -> Result<Settings, ConfigErrors> {
        let inherited = Inherited {
            offset: self.kq.offset.as_ref(),
            group: self.kq.group.as_ref(),
            name: &self.name.value,
        };
        let files: Vec<_> = file.into_iter().chain(self.go_section(shape)).collect();
        Settings::merge(shape, &files, &inherited)
    }
}

/// Picks from the configuration, the attribute and the default.
struct Pick<'a> {
    /// The most specific first.
    files: &'a [&'a HandlerConfig],
    attribute: &'a Options,
}

impl Pick<'_> {
    fn one<T>(
        &self,
        option: &'static str,
        get: impl Fn(&Options) -> Option<T>,
        default: T,
    ) -> Setting<T> {
        for config in self.files {
            if let Some(value) = get(&config.options) {
                return Setting {
                    value,
                    origin: Origin::of(config.place_of(option)),
                };
            }
        }
        match get(self.attribute) {
            Some(value) => Setting {
                value,
                origin: Origin::Attribute,
            },
            None => Setting::default(default),
        }
    }

    /// For options where the configuration can say `none`.
    fn maybe<T>(
        &self,
        option: &'static str,
        get: impl Fn(&Options) -> Option<T>,
    ) -> Setting<Option<T>> {
        for config in self.files {
            if let Some((_, at)) = config.given().find(|(name, _)| *name == option) {
                return Setting {
                    value: get(&config.options),
                    origin: Origin::of(at),
                };
            }
        }
        self.one(option, |options| get(options).map(Some), None)
    }
}

impl Settings {
    /// Puts together what the configuration (the most specific part first), the attribute and the defaults say, with the origin of
    /// each value, and checks the result.
    ///
    /// # Errors
    /// Options that make no sense for this handler, or not with each other; all of them.
    pub fn merge(
        shape: &Shape<'_>,
        files: &[&HandlerConfig],
        inherited: &Inherited<'_>,
    ) -> Result<Self, ConfigErrors> {
        let topics = shape.side() == Side::Topics;
        let pick = Pick {
            files,
            attribute: shape.attribute,
        };
        let (plain_concurrency, plain_order) = if topics {
            (DEFAULT_KQ_CONCURRENCY, Order::Key)
        } else {
            (DEFAULT_DQ_CONCURRENCY, Order::None)
        };
        let concurrency = pick.one("concurrency", |o| o.concurrency, plain_concurrency);
        let order = pick.one("order", |o| o.order, plain_order);
        let batch = if shape.batch {
            pick.one("batch", |o| o.batch, DEFAULT_BATCH)
        } else {
            Setting::default(1)
        };
        let waiting = default_waiting(shape, order.value, concurrency.value, batch.value);
        let timeout = Timeout::After(DEFAULT_TIMEOUT);
        let mut settings = Self {
            waiting: pick.one("waiting", |o| o.waiting, waiting),
            lanes: pick.one("lanes", |o| o.lanes, DEFAULT_LANES),
            timeout: pick.one("timeout", |o| o.timeout, timeout),
            retry_max: pick.one("retry.max", |o| o.retry_max, DEFAULT_RETRY_MAX),
            backoff: pick.one("retry.backoff", |o| o.backoff, DEFAULT_BACKOFF),
            on_retry: pick.one("on_retry", |o| o.on_retry, OnRetry::Block),
            undecodable: pick.one("undecodable", |o| o.undecodable, Undecodable::DeadLetter),
            unmatched: pick.one("unmatched", |o| o.unmatched, Unmatched::DeadLetter),
            linger: pick.one("linger", |o| o.linger, DEFAULT_LINGER),
            max_late: pick.maybe("max_late", |o| o.max_late),
            lease: pick.one("lease", |o| o.lease, DEFAULT_LEASE),
            priority: pick.one("priority", |o| o.priority, DEFAULT_PRIORITY),
            rate: pick.maybe("rate", |o| o.rate),
            enabled: pick.one("enabled", |o| o.enabled, true),
            offset: pick.one("offset", |o| o.offset, Start::First),
            group: Setting::default(None),
            concurrency,
            order,
            batch,
            remarks: Vec::new(),
        };
        if let (Origin::Default, Some(given)) = (&settings.offset.origin, inherited.offset) {
            settings.offset = Setting {
                value: given.value,
                origin: Origin::of(&given.at),
            };
        }
        let mut problems = Vec::new();
        settings.group = group(shape, files, inherited, &mut problems);
        for file in files {
            misplaced(shape, file, &mut problems);
        }
        settings.check(shape, &mut problems);
        settings.remark(shape);
        ConfigErrors::check(settings, problems)
    }

    /// What no single option can know. The attributes check what the file readers check, so only combinations are left, and zeros
    /// that were given in code.
    fn check(&self, shape: &Shape<'_>, problems: &mut Vec<ConfigError>) {
        let mut wrong = |option: &str, origin: &Origin, what: String, remedy: &str| {
            let error = match origin {
                Origin::File(at) => ConfigError::at(at, what),
                Origin::CommandLine | Origin::Attribute | Origin::Default => {
                    ConfigError::of(format!("{option} of {} ({origin})", shape.path), what)
                }
            };
            problems.push(error.remedy(remedy));
        };
        for (option, setting) in [
            ("concurrency", &self.concurrency),
            ("lanes", &self.lanes),
            ("batch", &self.batch),
        ] {
            if setting.value == 0 {
                let remedy = "write at least 1, or `enabled: false`";
                wrong(option, &setting.origin, "must not be 0".to_owned(), remedy);
            }
        }
        if self.lanes.value > self.concurrency.value.max(1) {
            let what = format!(
                "{} lanes share a concurrency of {}, so some could never run anything",
                self.lanes.value, self.concurrency.value
            );
            let (option, origin) = match self.lanes.origin {
                Origin::Default => ("concurrency", &self.concurrency.origin),
                _ => ("lanes", &self.lanes.origin),
            };
            wrong(
                option,
                origin,
                what,
                "at most as many lanes as handlers that run",
            );
        }
        if self.backoff.value.first > self.backoff.value.max {
            let remedy = "write the shorter wait first, for example `1s..10m`";
            wrong(
                "retry.backoff",
                &self.backoff.origin,
                "ends before it begins".to_owned(),
                remedy,
            );
        }
        if self.lease.value < super::MIN_LEASE {
            let what = format!("{} is too short", format_duration(self.lease.value));
            wrong("lease", &self.lease.origin, what, "write at least `1s`");
        }
        if matches!(self.timeout.value, Timeout::After(time) if time.is_zero()) {
            let remedy = "write a time such as `30s`, or `none` to let it run as long as it likes";
            wrong(
                "timeout",
                &self.timeout.origin,
                "must not be zero".to_owned(),
                remedy,
            );
        }
        if let Some(rate) = self.rate.value
            && (rate.count == 0 || rate.per.is_zero())
        {
            let remedy = "write at least one in some time";
            wrong(
                "rate",
                &self.rate.origin,
                "lets nothing through".to_owned(),
                remedy,
            );
        }
    }

    fn remark(&mut self, shape: &Shape<'_>) {
        if !shape.batch {
            return;
        }
        let (concurrency, batch) = (self.concurrency.value, self.batch.value);
        let in_hand = u64::from(concurrency) + u64::from(self.waiting.value);
        let full = in_hand / u64::from(batch.max(1));
        if full < u64::from(concurrency) && self.waiting.origin != Origin::Default {
            let need = u64::from(concurrency) * u64::from(batch.saturating_sub(1));
            self.remarks.push(Remark::warning(
                self.waiting.origin.place(),
                format!(
                    "{}: with {in_hand} messages in hand only {full} of {concurrency} batches of {batch} can be full; for all of them \
                     `waiting` is {need}",
                    shape.path
                ),
            ));
        }
        if shape.side() == Side::Topics && self.order.value == Order::Key && batch > 1 {
            self.remarks.push(Remark::note(
                self.order.origin.place(),
                format!(
                    "{}: a batch holds messages of one key; with many keys batches stay small, `order = partition` or `none` makes them larger",
                    shape.path
                ),
            ));
        }
    }

    /// Each option as people write it, with its origin: for tables. Options that mean nothing for this handler are left out.
    pub fn describe(&self, shape: &Shape<'_>) -> Vec<(&'static str, String, Origin)> {
        fn row<T>(
            name: &'static str,
            setting: &Setting<T>,
            write: impl FnOnce(&T) -> String,
        ) -> (&'static str, String, Origin) {
            (name, write(&setting.value), setting.origin.clone())
        }
        let topics = shape.side() == Side::Topics;
        let mut rows = vec![
            row("enabled", &self.enabled, ToString::to_string),
            row("concurrency", &self.concurrency, ToString::to_string),
            row("waiting", &self.waiting, ToString::to_string),
            row("lanes", &self.lanes, ToString::to_string),
        ];
        if topics {
            let group = |group: &Option<Name>| group.as_deref().unwrap_or("none").to_owned();
            rows.push(row("group", &self.group, group));
            rows.push(row("order", &self.order, |v| {
                word(super::handlers::ORDER, v)
            }));
            rows.push(row("offset", &self.offset, |v| {
                word(super::topics::OFFSET, v)
            }));
            rows.push(row("on_retry", &self.on_retry, |v| {
                word(super::handlers::ON_RETRY, v)
            }));
            rows.push(row("unmatched", &self.unmatched, |v| {
                word(super::handlers::UNMATCHED, v)
            }));
        } else {
            rows.push(row("priority", &self.priority, ToString::to_string));
            rows.push(row("max_late", &self.max_late, |v| {
                v.map_or("none".to_owned(), format_duration)
            }));
        }
        rows.push(row("timeout", &self.timeout, |v| format_timeout(*v)));
        rows.push(row("retry.max", &self.retry_max, ToString::to_string));
        rows.push(row("retry.backoff", &self.backoff, |v| format_backoff(*v)));
        rows.push(row("undecodable", &self.undecodable, |v| {
            word(super::handlers::UNDECODABLE, v)
        }));
        rows.push(row("lease", &self.lease, |v| format_duration(*v)));
        rows.push(row("rate", &self.rate, |v| {
            v.map_or("none".to_owned(), format_rate)
        }));
        if shape.batch {
            rows.push(row("batch", &self.batch, ToString::to_string));
            rows.push(row("linger", &self.linger, |v| format_duration(*v)));
        }
        rows
    }
}

/// The word that means this value.
pub(super) fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> String {
    words
        .iter()
        .find(|(_, known)| known == value)
        .map_or("?", |(word, _)| *word)
        .to_owned()
}

/// Room for what waits: behind a key and for a batch that fills.
fn default_waiting(shape: &Shape<'_>, order: Order, concurrency: u32, batch: u32) -> u32 {
    let plain = match shape.side() {
        Side::Topics => concurrency.saturating_mul(2).max(DEFAULT_KQ_WAITING),
        Side::Tasks if shape.claims || order != Order::None => concurrency,
        Side::Tasks => 0,
    };
    let full = concurrency.saturating_mul(batch.saturating_sub(1));
    plain.max(full.min(WIDEST_DEFAULT_WAITING))
}

fn group(
    shape: &Shape<'_>,
    files: &[&HandlerConfig],
    inherited: &Inherited<'_>,
    problems: &mut Vec<ConfigError>,
) -> Setting<Option<Name>> {
    if shape.side() == Side::Tasks {
        return Setting::default(None);
    }
    let given = |given: &Given<Name>| Setting {
        value: Some(given.value.clone()),
        origin: Origin::of(&given.at),
    };
    if let Some(found) = files.iter().find_map(|config| config.group.as_ref()) {
        return given(found);
    }
    match (shape.group(), inherited.group) {
        (Some(group), _) => match Name::new(group) {
            Ok(name) => Setting {
                value: Some(name),
                origin: Origin::Attribute,
            },
            Err(why) => {
                problems.push(ConfigError::of(
                    format!("group of {}", shape.path),
                    why.to_string(),
                ));
                Setting::default(None)
            }
        },
        (None, Some(found)) => given(found),
        (None, None) => Setting::default(Some(inherited.name.clone())),
    }
}

/// Options of the file that mean nothing for this handler.
fn misplaced(shape: &Shape<'_>, file: &HandlerConfig, problems: &mut Vec<ConfigError>) {
    for (option, at) in file.given() {
        let why = match (option, shape.side()) {
            ("order", Side::Tasks) => "tasks have no order, use a topic",
            ("on_retry" | "unmatched" | "offset", Side::Tasks) => "is an option of topics",
            ("max_late" | "priority", Side::Topics) => "is an option of tubes",
            ("batch" | "linger", _) if !shape.batch => {
                "is an option of handlers that take a `Vec`, and this one takes single messages"
            }
            _ => continue,
        };
        let what = format!("{why} (`{}`)", shape.path);
        problems.push(ConfigError::at(at, what).remedy("remove it"));
    }
    if let (Some(group), Side::Tasks) = (&file.group, shape.side()) {
        let what = format!("tubes have no groups (`{}`)", shape.path);
        problems.push(ConfigError::at(&group.at, what).remedy("remove it"));
    }
}
