//! Configuration: YAML as written, then resolved in one step with every problem collected.
//!
//! Owns the file, its keys and their checks, and what is in force for a handler ([`Settings`]). Must not know pipeline, app and
//! concrete engines: it says which engine serves a place, and the app makes it. Who builds the plan calls, in this order,
//! [`Config::load`], [`Config::match_handlers`], [`Config::settings`] and [`Config::engine_for`], and reports all problems at once.
//!
//! Every value that was written is a [`Given`], so that any later check can point at it.
#![doc = ""]
#![doc = include_str!("../../docs/configuration.md")]

mod at;
mod effective;
mod engines;
mod error;
mod fields;
mod go;
mod handlers;
mod places;
mod process;
mod redis;
mod schema;
mod set;
mod settings;
mod tasks;
#[cfg(test)]
mod tests;
mod topics;
mod units;
mod variables;
mod yaml;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::secret::Secret;
pub use at::{At, Given};
pub use engines::{EngineChoice, EngineKind};
pub use error::{ConfigError, ConfigErrors, Remark, Severity};
pub use go::{GO_FETCH_WAIT, GoSection};
pub use handlers::{
    HandlerConfig, HandlerMatches, MAX_BATCH, MAX_CONCURRENCY, MAX_LANES, MAX_WAITING, MIN_LEASE,
};
pub use places::{RetentionConfig, TopicSection, TubeConfig, Wire};
pub use process::{
    AdminConfig, DEFAULT_DRAIN, DEFAULT_SHUTDOWN_DEADLINE, Durability, LogConfig, LogFormat,
    LogLevel, ShutdownConfig, SqliteConfig,
};
pub use redis::{
    DEFAULT_REDIS_CONNECT_TIMEOUT, DEFAULT_REDIS_LEASE, DEFAULT_REDIS_PREFIX,
    DEFAULT_REDIS_TIMEOUT, RedisConfig, RedisKind,
};
pub use schema::json_schema;
pub use settings::{
    DEFAULT_BACKOFF, DEFAULT_BATCH, DEFAULT_DQ_CONCURRENCY, DEFAULT_KQ_CONCURRENCY,
    DEFAULT_KQ_WAITING, DEFAULT_LANES, DEFAULT_LEASE, DEFAULT_LINGER, DEFAULT_RETRY_MAX,
    DEFAULT_TIMEOUT, Inherited, Origin, Setting, Settings, Shape,
};
pub use tasks::{
    AtStart, DEFAULT_CONNECT_TIMEOUT, DEFAULT_DEADLINE, DEFAULT_DEDUP_KEEP, DEFAULT_JOB_LEASE,
    DEFAULT_REPLICAS, DEFAULT_WRITE_QUORUM, DedupConfig, DedupStore, DqConfig, OnOutage,
};
pub use topics::{
    Compression, DEFAULT_BATCH_LEN, DEFAULT_BROKER_TIMEOUT, DEFAULT_COMMIT_INTERVAL, DEFAULT_CONNS,
    DEFAULT_FETCH_MEMORY, DEFAULT_PRODUCE_TIMEOUT, DEFAULT_SESSION, GroupProtocol,
    KafkaProducerConfig, KqConfig, Property, SaslMechanism, SecurityConfig,
};

use crate::engine::TopicConfig;
use crate::name::{Name, Place};
use fields::{Fields, Reader};
use yaml::{Mark, Node, What};

/// The variable that names the file if the command line does not.
pub const FILE_VARIABLE: &str = "GO_QUEUE_CONFIG";
/// The file that is read if it is there and nothing names another.
pub const DEFAULT_FILE: &str = "config.yaml";
/// No configuration is larger; a wrong file often is.
const MAX_FILE_LEN: u64 = 4 << 20;

/// Where to load from.
#[derive(Clone, Debug, Default)]
pub struct LoadFrom {
    /// `-f`: this file and no other. `None`: the file that `GO_QUEUE_CONFIG` names, else `config.yaml` in the working directory,
    /// else none.
    pub file: Option<PathBuf>,
    /// `--set`: `key.path=value`, each over what the file says.
    pub set: Vec<String>,
}

impl LoadFrom {
    /// This file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            file: Some(path.into()),
            set: Vec::new(),
        }
    }
}

/// The configuration, resolved and checked. What is not in it was not given; functions with the name of a field answer the value in
/// force.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from; `None`: there is none.
    pub file: Option<Arc<str>>,
    /// The name of the service: of its database file, and of its consumer group if nothing names one. Default: the name of the
    /// executable, with `-` for what a name cannot hold.
    pub name: Setting<Name>,
    /// The embedded engine.
    pub sqlite: SqliteConfig,
    /// Tasks.
    pub dq: DqConfig,
    /// Topics.
    pub kq: KqConfig,
    /// Single tubes.
    pub tubes: Vec<TubeConfig>,
    /// Single topics.
    pub topics: Vec<TopicSection>,
    /// Single handlers.
    pub handlers: Vec<HandlerConfig>,
    /// Sections in the form of the Go library, translated.
    pub go_sections: Vec<GoSection>,
    /// The port for people and their tools.
    pub admin: AdminConfig,
    /// How to stop.
    pub shutdown: ShutdownConfig,
    /// What is logged.
    pub log: LogConfig,
    /// What to say about it at start.
    pub remarks: Vec<Remark>,
}

const SECTIONS: &[&str] = &[
    "name", "sqlite", "dq", "kq", "tubes", "topics", "handlers", "admin", "shutdown", "log",
];

impl Default for Config {
    /// Nothing configured.
    fn default() -> Self {
        Self {
            file: None,
            name: default_name(),
            sqlite: SqliteConfig::default(),
            dq: DqConfig::default(),
            kq: KqConfig::default(),
            tubes: Vec::new(),
            topics: Vec::new(),
            handlers: Vec::new(),
            go_sections: Vec::new(),
            admin: AdminConfig::default(),
            shutdown: ShutdownConfig::default(),
            log: LogConfig::default(),
            remarks: Vec::new(),
        }
    }
}

impl Config {
    /// Reads the file that is named, or the one that is found, or none; fills in variables from the environment.
    ///
    /// # Errors
    /// Every problem of the file at once. A file that is named must exist.
    pub fn load(from: &LoadFrom) -> Result<Self, ConfigErrors> {
        let (config, problems) = Self::load_all(from);
        ConfigErrors::check(config, problems)
    }

    /// As [`Config::load`], with what can be read beside the problems: whoever knows the handlers has more to say of it.
    pub(crate) fn load_all(from: &LoadFrom) -> (Self, Vec<ConfigError>) {
        let env = |name: &str| std::env::var(name).ok();
        let named = std::env::var_os(FILE_VARIABLE);
        let Some((path, named_by)) = find(from, named, Path::new(DEFAULT_FILE)) else {
            return Self::read_all(None, "", &from.set, &env);
        };
        let name = path.display().to_string();
        match read_file(&path) {
            Ok(text) => Self::read_all(Some(&name), &text, &from.set, &env),
            Err(why) => {
                let text = format!("cannot read {}: {why}", fields::shown(&name));
                let error = ConfigError::of("", text);
                let error = if named_by.is_empty() {
                    error
                } else {
                    error.remedy(named_by)
                };
                (Self::default(), vec![error])
            }
        }
    }

    /// Reads a text as [`Config::load`] reads a file. `source_name` stands for the file in messages, `env` for the environment.
    ///
    /// # Errors
    /// Every problem of the text at once.
    pub fn from_yaml(
        text: &str,
        source_name: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        let (config, problems) = Self::read_all(Some(source_name), text, &[], env);
        ConfigErrors::check(config, problems)
    }

    fn read_all(
        file: Option<&str>,
        text: &str,
        set: &[String],
        env: variables::Env<'_>,
    ) -> (Self, Vec<ConfigError>) {
        let mut reader = Reader::new(file.unwrap_or(DEFAULT_FILE));
        let config = Self::read(&mut reader, file, text, set, env);
        (config, reader.problems)
    }

    fn read(
        reader: &mut Reader,
        file: Option<&str>,
        text: &str,
        set: &[String],
        env: variables::Env<'_>,
    ) -> Self {
        let nothing = Node {
            mark: Mark { line: 1, column: 1 },
            what: What::Null,
        };
        let mut root = tree(reader, text, env).unwrap_or(nothing);
        for one in set {
            set::apply(reader, &mut root, one, env);
        }
        let mut config = Self {
            file: file.map(Arc::from),
            ..Self::default()
        };
        let go = go::take(reader, &mut root);
        let top = Fields::open(reader, &root, "", SECTIONS);
        config.fill(reader, &top);
        go::translate(reader, &mut config, &go);
        config.dq.check(reader);
        config.check(reader);
        config.remarks.append(&mut reader.remarks);
        config
    }

    fn fill(&mut self, reader: &mut Reader, top: &Fields<'_>) {
        if let Some(given) = top.read(reader, "name", units::name) {
            self.name = Setting {
                origin: Origin::of(&given.at),
                value: given.value,
            };
        }
        if let Some(fields) = top.section(reader, "sqlite", process::SQLITE) {
            self.sqlite = SqliteConfig::read(reader, &fields);
        }
        if let Some(fields) = top.section(reader, "dq", tasks::DQ) {
            self.dq = DqConfig::read(reader, &fields);
        }
        if let Some(fields) = top.section(reader, "kq", topics::KQ) {
            self.kq = KqConfig::read(reader, &fields);
        }
        if let Some(node) = top.raw("tubes") {
            self.tubes = places::tubes(reader, node);
        }
        if let Some(node) = top.raw("topics") {
            self.topics = places::topics(reader, node);
        }
        if let Some(node) = top.raw("handlers") {
            self.handlers = handlers::handlers(reader, node);
        }
        if let Some(fields) = top.section(reader, "admin", process::ADMIN) {
            self.admin = AdminConfig::read(reader, &fields);
        }
        if let Some(fields) = top.section(reader, "shutdown", process::SHUTDOWN) {
            self.shutdown = ShutdownConfig::read(reader, &fields);
        }
        if let Some(fields) = top.section(reader, "log", process::LOG) {
            self.log = LogConfig::read(reader, &fields);
        }
    }

    /// What no section can know alone.
    fn check(&self, reader: &mut Reader) {
        for tube in &self.tubes {
            // A section of the Go library may have set the wire.
            if let Some(given) = &tube.mixed_fleet
                && given.value
                && tube.wire() == Wire::Native
                && !reader.has_problem_below(&format!("tubes.{}.wire", tube.name))
            {
                reader.problem(
                    &given.at,
                    "consumers of the Go library cannot read the native wire",
                    "add `wire: go-queue`",
                );
            }
        }
        for tube in &self.tubes {
            let place = Place::Tube(tube.name.clone());
            if let Some(given) = &tube.wire
                && given.value == Wire::GoQueue
                && let Ok(choice) = self.engine_for(&place)
                && choice.kind != EngineKind::Beanstalkd
            {
                reader.problem(
                    &given.at,
                    format!(
                        "the wire of the Go library is for beanstalkd, and this tube is on {}",
                        choice.kind
                    ),
                    "name `dq.beanstalks`, or use the native wire",
                );
            }
        }
        for tube in &self.tubes {
            let place = Place::Tube(tube.name.clone());
            if let Some(given) = &tube.portable
                && !given.value
                && let Ok(choice) = self.engine_for(&place)
                && choice.kind == EngineKind::Beanstalkd
            {
                let text = "has no effect on beanstalkd: its jobs are held to 65,535 bytes whatever is written here";
                reader.remarks.push(Remark::warning(Some(&given.at), text));
            }
        }
        self.check_redis(reader);
        if let Some(given) = &self.shutdown.drain
            && given.value > self.shutdown.deadline()
        {
            reader.problem(
                &given.at,
                format!(
                    "{} is longer than the whole stop may take ({})",
                    crate::time::format_duration(given.value),
                    crate::time::format_duration(self.shutdown.deadline())
                ),
                "shorten it, or give `shutdown.deadline` more",
            );
        }
    }

    /// Redis is named where it is used, and used where it is named.
    fn check_redis(&self, reader: &mut Reader) {
        let tubes = self.tubes.iter().map(|tube| &tube.dedup);
        let topics = self.topics.iter().map(|topic| &topic.dedup);
        let mut used = !self.dq.beanstalks.is_empty();
        for dedup in tubes.chain(topics).chain([&self.dq.dedup]).flatten() {
            used |= (dedup.store.as_ref()).is_some_and(|given| given.value == DedupStore::Redis);
            if let Some(given) = &dedup.store
                && given.value == DedupStore::Redis
                && self.dq.redis.is_none()
                && !reader.has_problem_below("dq.redis")
            {
                let remedy = "add `dq: { redis: { host: \"10.0.0.4:6379\" } }`";
                reader.problem(&given.at, "no Redis is named", remedy);
            }
        }
        if let Some(redis) = &self.dq.redis
            && !used
        {
            let text = "has no effect: nothing keeps there what has run; write `dedup: { store: redis }` where it should";
            reader
                .remarks
                .push(Remark::warning(Some(&redis.host.at), text));
        }
    }

    /// What is said of a tube.
    pub fn tube(&self, name: &Name) -> Option<&TubeConfig> {
        self.tubes.iter().find(|tube| tube.name == *name)
    }

    /// What is said of a topic.
    pub fn topic(&self, name: &Name) -> Option<&TopicSection> {
        self.topics.iter().find(|topic| topic.name == *name)
    }

    /// How a topic is kept, with defaults.
    pub fn topic_config(&self, name: &Name) -> TopicConfig {
        self.topic(name)
            .map_or_else(TopicConfig::default, TopicSection::resolved)
    }

    /// Dedup of a tube: its own, else that of `dq`. `None`: nothing was said.
    pub fn tube_dedup(&self, name: &Name) -> Option<DedupConfig> {
        let of_all = self.dq.dedup.as_ref();
        match self.tube(name).and_then(|tube| tube.dedup.as_ref()) {
            Some(own) => Some(own.over(of_all)),
            None => of_all.cloned(),
        }
    }

    /// The database file of the embedded engine, relative to the working directory unless it was given absolute.
    pub fn sqlite_path(&self) -> PathBuf {
        match &self.sqlite.path {
            Some(given) => PathBuf::from(&*given.value),
            None => Path::new("data").join(format!("{}.db", self.name.value)),
        }
    }

    /// What is said of tubes and topics that no handler consumes. A producer may use them, so each is a note and no problem. `used` are
    /// the places of all handlers.
    pub fn unused_places(&self, used: &[Place]) -> Vec<Remark> {
        let tubes = self
            .tubes
            .iter()
            .map(|tube| (Place::Tube(tube.name.clone()), &tube.at));
        let topics = self
            .topics
            .iter()
            .map(|topic| (Place::Topic(topic.name.clone()), &topic.at));
        tubes
            .chain(topics)
            .filter(|(place, _)| !used.contains(place))
            .map(|(place, at)| {
                let same_side = used.iter().filter(|other| other.side() == place.side());
                let near = fields::nearest(place.name(), same_side.map(|other| &**other.name()));
                let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                Remark::note(Some(at), format!("no handler here consumes {place}{hint}"))
            })
            .collect()
    }

    /// Finds for each handler what the configuration says of it. `handlers` are their full paths (`module::name`) and where each
    /// stands in the source, all that are registered.
    pub fn match_handlers<L: Display>(&self, handlers: &[(String, L)]) -> HandlerMatches<'_> {
        handlers::match_handlers(&self.handlers, handlers)
    }
}

/// Which file to read, and who names it.
fn find(
    from: &LoadFrom,
    variable: Option<OsString>,
    default: &Path,
) -> Option<(PathBuf, &'static str)> {
    if let Some(path) = &from.file {
        return Some((
            path.clone(),
            "it was asked for by this name, in the program or on the command line",
        ));
    }
    if let Some(path) = variable.filter(|path| !path.is_empty()) {
        return Some((PathBuf::from(path), "it is named by GO_QUEUE_CONFIG"));
    }
    // A link that leads nowhere is there too, and must not read as "nothing configured".
    let is_there = default.symlink_metadata().is_ok();
    is_there.then(|| (default.to_path_buf(), ""))
}

/// The text as a tree with its variables filled in; `None` if it is empty or broken.
fn tree(reader: &mut Reader, text: &str, env: variables::Env<'_>) -> Option<Node> {
    let text = variables::shield(text);
    match yaml::parse(&text.text) {
        Ok(root) => {
            let mut root = root?;
            let mut problems = Vec::new();
            variables::expand(&mut root, &text, env, &mut problems);
            for problem in problems {
                let at = reader.at(problem.mark, &problem.path);
                reader.problem(&at, problem.what, problem.remedy.unwrap_or_default());
            }
            Some(root)
        }
        Err(error) => {
            let at = reader.at(error.mark, "");
            reader.problem(&at, error.what, error.remedy.unwrap_or_default());
            None
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|why| why.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_LEN + 1)
        .read_to_end(&mut bytes)
        .map_err(|why| why.to_string())?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err("it is larger than 4 MiB, so it is hardly a configuration".to_owned());
    }
    String::from_utf8(bytes).map_err(|why| {
        let good = &why.as_bytes()[..why.utf8_error().valid_up_to()];
        let line = good.split(|byte| *byte == b'\n').count();
        format!("line {line} is not UTF-8")
    })
}

fn default_name() -> Setting<Name> {
    let executable = std::env::current_exe().ok();
    let stem = executable
        .as_deref()
        .and_then(Path::file_stem)
        .and_then(|stem| units::sanitised(&stem.to_string_lossy()));
    Setting {
        value: stem.unwrap_or(Name::literal("app")),
        origin: Origin::Default,
    }
}
