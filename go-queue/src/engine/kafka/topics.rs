//! Topics at start: those that are missing are created, or said.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::ENGINE;
use super::config::{Config, CreateTopics};
use super::publish::{Client, log_line, unusable};
use crate::engine::EngineError;
use crate::name::Name;

/// What a subscription knows of its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// How many partitions it has.
    pub(super) partitions: u32,
    /// How many the topic of its dead letters has; not fewer, unless somebody changes that later.
    pub(super) dead_partitions: u32,
}

/// A topic that somebody has created just now is unknown to some brokers for so long: one that says that it is missing is asked again.
const SPREAD: Duration = Duration::from_secs(1);

/// How often is looked whether a new topic has reached the brokers.
const LOOK: Duration = Duration::from_millis(50);

/// Runs what blocks on a thread for it.
///
/// # Cancel safety
/// Dropping the future lets it go on to its end.
#[expect(
    clippy::disallowed_methods,
    reason = "librdkafka answers questions about topics by blocking; each has a bound, and they are asked at start and by people"
)]
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(EngineError::Unavailable {
            engine: ENGINE,
            what: "finish what it was asked".to_owned(),
            why: Arc::from(error.to_string()),
        })
    })
}

/// Waits a little, on a thread that may block.
fn rest() {
    Handle::current().block_on(tokio::time::sleep(LOOK));
}

/// Looks whether a subscription can be served: its topic and that of its dead letters are there, or are created.
///
/// # Errors
/// Everything that is missing, in one line.
///
/// # Cancel safety
/// Dropping the future lets a topic be created that was asked for.
pub(super) async fn ready(
    client: &Arc<Client>,
    config: &Arc<Config>,
    topic: &Name,
) -> Result<Layout, EngineError> {
    let dead = config.dead_topic(topic)?;
    let (client, config, topic) = (Arc::clone(client), Arc::clone(config), topic.clone());
    blocking(move || {
        let mut wrong: Vec<String> = Vec::new();
        let partitions = match present(&client, &config, &topic, Kind::Source)? {
            Found::There(partitions) => partitions,
            Found::Wrong(why) => {
                wrong.push(why);
                1
            }
        };
        let dead_partitions = match present(&client, &config, &dead, Kind::Dead(partitions))? {
            Found::There(partitions) => partitions,
            Found::Wrong(why) => {
                wrong.push(why);
                1
            }
        };
        if wrong.is_empty() {
            look_at_retention(&config, &dead, &mut wrong);
        }
        if wrong.is_empty() {
            return Ok(Layout {
                partitions,
                dead_partitions,
            });
        }
        Err(EngineError::Unusable {
            engine: ENGINE,
            what: format!("read topic `{topic}`"),
            why: Arc::from(wrong.join("; ")),
        })
    })
    .await
}

/// Creates a topic if it is not there, where topics are created at all.
///
/// # Errors
/// If it is not there in the end.
///
/// # Cancel safety
/// Dropping the future lets the topic be created.
pub(super) async fn ensure(
    client: &Arc<Client>,
    config: &Arc<Config>,
    topic: &Name,
) -> Result<u32, EngineError> {
    let (client, config, topic) = (Arc::clone(client), Arc::clone(config), topic.clone());
    blocking(
        move || match present(&client, &config, &topic, Kind::Source)? {
            Found::There(partitions) => Ok(partitions),
            Found::Wrong(why) => Err(EngineError::Unusable {
                engine: ENGINE,
                what: format!("write to topic `{topic}`"),
                why: Arc::from(why),
            }),
        },
    )
    .await
}

/// How many partitions a topic has; `None`: it does not exist. Blocks.
///
/// # Errors
/// If no broker tells.
pub(super) fn partitions(
    client: &Client,
    topic: &str,
    within: Duration,
) -> Result<Option<u32>, EngineError> {
    match ask(client, topic, within)? {
        Ok(count) => Ok(Some(count)),
        Err(code) if is_missing(code) => Ok(None),
        Err(code) => Err(away(topic, &code.to_string())),
    }
}

/// The topics that exist. Blocks.
///
/// # Errors
/// If no broker tells.
pub(super) fn all(client: &Client, within: Duration) -> Result<Vec<(String, u32)>, EngineError> {
    let metadata = client
        .native()
        .fetch_metadata(None, within)
        .map_err(|error| EngineError::Unavailable {
            engine: ENGINE,
            what: "list the topics".to_owned(),
            why: Arc::from(error.to_string()),
        })?;
    let good = metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none());
    Ok(good
        .map(|topic| (topic.name().to_owned(), count(topic.partitions().len())))
        .collect())
}

#[derive(Clone, Copy)]
enum Kind {
    Source,
    /// Dead letters of a topic with so many partitions.
    Dead(u32),
}

enum Found {
    There(u32),
    Wrong(String),
}

fn is_missing(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic
    )
}

fn count(partitions: usize) -> u32 {
    u32::try_from(partitions).unwrap_or(u32::MAX)
}

fn away(topic: &str, why: &str) -> EngineError {
    EngineError::Unavailable {
        engine: ENGINE,
        what: format!("ask about topic `{topic}`"),
        why: Arc::from(why),
    }
}

/// What the brokers say of a topic. That its leaders are not chosen yet is waited for.
fn ask(
    client: &Client,
    topic: &str,
    within: Duration,
) -> Result<Result<u32, RDKafkaErrorCode>, EngineError> {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let metadata = client
            .native()
            .fetch_metadata(Some(topic), left.max(LOOK))
            .map_err(|error| away(topic, &client.why_of(&error)))?;
        let found = metadata.topics().iter().find(|one| one.name() == topic);
        let Some(found) = found else {
            return Ok(Err(RDKafkaErrorCode::UnknownTopicOrPartition));
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => return Ok(Ok(count(found.partitions().len()))),
            Some(RDKafkaErrorCode::LeaderNotAvailable) if !left.is_zero() => {
                rest();
            }
            Some(code) => return Ok(Err(code)),
        }
    }
}

/// The same, asked again for so long while it is said to be missing.
fn ask_for_sure(
    client: &Client,
    topic: &str,
    within: Duration,
    again: Duration,
) -> Result<Result<u32, RDKafkaErrorCode>, EngineError> {
    let deadline = Instant::now() + again;
    loop {
        match ask(client, topic, within)? {
            Err(code) if is_missing(code) && Instant::now() < deadline => rest(),
            answer => return Ok(answer),
        }
    }
}

/// Looks for a topic, and creates or widens it where that is asked for.
fn present(
    client: &Client,
    config: &Config,
    topic: &Name,
    kind: Kind,
) -> Result<Found, EngineError> {
    let within = config.connect_timeout;
    let wait = if config.create_topics.is_some() {
        Duration::ZERO
    } else {
        SPREAD
    };
    let found = match ask_for_sure(client, topic, within, wait)? {
        Ok(found) => found,
        Err(code) if is_missing(code) => match config.create_topics {
            Some(how) => match create(client, config, topic, kind, how)? {
                Ok(found) => found,
                Err(why) => return Ok(Found::Wrong(why)),
            },
            None => return Ok(Found::Wrong(missing(topic, kind))),
        },
        Err(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            return Ok(Found::Wrong(format!(
                "this user may not see topic `{topic}`; ask for the right `Describe`"
            )));
        }
        Err(code) => return Err(away(topic, &code.to_string())),
    };
    match kind {
        Kind::Dead(source) if found < source => {
            let why = format!(
                "topic `{topic}` has {found} partitions, the topic whose dead letters it keeps has {source}; give it as many"
            );
            if config.create_topics.is_none() {
                return Ok(Found::Wrong(why));
            }
            match widen(client, config, topic, source) {
                Ok(()) => Ok(Found::There(source)),
                Err(error) => Ok(Found::Wrong(format!("{why} ({error})"))),
            }
        }
        Kind::Dead(_) | Kind::Source => Ok(Found::There(found)),
    }
}

fn missing(topic: &Name, kind: Kind) -> String {
    match kind {
        Kind::Source => {
            format!("topic `{topic}` does not exist; create it, or let `create_topics` do it")
        }
        Kind::Dead(partitions) => format!(
            "topic `{topic}` for its dead letters does not exist; create it with {partitions} partitions and `retention.ms=-1`, or let `create_topics` do it"
        ),
    }
}

/// Creates a topic and waits until the brokers know it. The inner error is what to tell the user.
fn create(
    client: &Client,
    config: &Config,
    topic: &Name,
    kind: Kind,
    how: CreateTopics,
) -> Result<Result<u32, String>, EngineError> {
    let given = config.partitions.get(topic).copied();
    let partitions = match kind {
        Kind::Source => given.unwrap_or(how.partitions),
        Kind::Dead(source) => given.unwrap_or(source).max(source),
    };
    // -1 is the default of the brokers.
    let replication = how.replication.map_or(-1, i32::from);
    let new = NewTopic::new(
        topic,
        i32::try_from(partitions).unwrap_or(i32::MAX),
        TopicReplication::Fixed(replication),
    );
    let new = match kind {
        Kind::Source => new,
        // People look at dead letters when they have time.
        Kind::Dead(_) => new
            .set("retention.ms", "-1")
            .set("cleanup.policy", "delete"),
    };
    let admin = Admin::open(config)?;
    let answered = answer(admin.client.create_topics([&new], &admin.options));
    match first(answered) {
        Ok(()) => {
            tracing::info!(topic = topic.as_str(), partitions, "the topic was created");
        }
        // Another process was faster.
        Err(AdminFailure::Code(RDKafkaErrorCode::TopicAlreadyExists)) => {}
        Err(error) => {
            return Ok(Err(format!(
                "topic `{topic}` does not exist and could not be created: {error}"
            )));
        }
    }
    let within = config.connect_timeout;
    ask_for_sure(client, topic, within, within)?
        .map(Ok)
        .map_err(|code| away(topic, &code.to_string()))
}

/// Gives a topic of dead letters as many partitions as its source has.
fn widen(client: &Client, config: &Config, topic: &Name, to: u32) -> Result<(), AdminFailure> {
    let admin = Admin::open(config).map_err(AdminFailure::Engine)?;
    let more = NewPartitions::new(topic, to as usize);
    first(answer(
        admin.client.create_partitions([&more], &admin.options),
    ))?;
    let deadline = Instant::now() + config.connect_timeout;
    while Instant::now() < deadline {
        match ask(client, topic, config.connect_timeout).map_err(AdminFailure::Engine)? {
            Ok(found) if found >= to => return Ok(()),
            _ => rest(),
        }
    }
    Err(AdminFailure::Code(RDKafkaErrorCode::OperationTimedOut))
}

/// Dead letters must not go away by themselves. What may not be looked at is left as it is.
fn look_at_retention(config: &Config, dead: &Name, wrong: &mut Vec<String>) {
    let Ok(admin) = Admin::open(config) else {
        return;
    };
    let asked = [ResourceSpecifier::Topic(dead)];
    let answered = answer(admin.client.describe_configs(&asked, &admin.options));
    let Some(Ok(found)) = answered.ok().and_then(|all| all.into_iter().next()) else {
        return;
    };
    let value = |name| found.get(name).and_then(|entry| entry.value.as_deref());
    if value("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        wrong.push(format!(
            "topic `{dead}` is compacted, so that a dead letter would replace another one of its key; set `cleanup.policy=delete`"
        ));
    }
    let retention = value("retention.ms").and_then(|text| text.parse::<i64>().ok());
    if let Some(millis) = retention
        && let Ok(millis) = u64::try_from(millis)
    {
        let kept = crate::time::format_duration(Duration::from_millis(millis));
        tracing::warn!(
            topic = dead.as_str(),
            "dead letters are forgotten after {kept}: set `retention.ms=-1` for this topic to keep them until they are replayed or purged"
        );
    }
}

/// A client that changes topics.
pub(super) struct Admin {
    pub(super) client: AdminClient<Quiet>,
    pub(super) options: AdminOptions,
}

impl Admin {
    /// Connects in the background. Dropping it blocks for a moment.
    ///
    /// # Errors
    /// If the client refuses its settings.
    pub(super) fn open(config: &Config) -> Result<Self, EngineError> {
        let settings = config.admin_settings();
        let client = AdminClient::from_config_and_context(&settings, Quiet)
            .map_err(|error| unusable(&error))?;
        let options = AdminOptions::new()
            .request_timeout(Some(config.connect_timeout))
            .operation_timeout(Some(config.connect_timeout));
        Ok(Self { client, options })
    }
}

/// Waits for the answer to a question, on a thread that may block.
pub(super) fn answer<T>(question: impl Future<Output = T>) -> T {
    Handle::current().block_on(question)
}

/// Writes the client's log to ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, "librdkafka: {reason}");
    }
}

/// Why a topic was not changed.
#[derive(Debug, thiserror::Error)]
enum AdminFailure {
    #[error("{}", explained(*.0))]
    Code(RDKafkaErrorCode),
    #[error("{0}")]
    Client(KafkaError),
    #[error("{0}")]
    Engine(EngineError),
}

fn explained(code: RDKafkaErrorCode) -> String {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed => {
            "this user may not do it; ask for the rights `Create` and `Alter`".to_owned()
        }
        RDKafkaErrorCode::InvalidReplicationFactor => {
            "there are fewer brokers than `replication` asks for".to_owned()
        }
        code => code.to_string(),
    }
}

/// What became of one topic; the name comes with it.
type TopicResult = Result<String, (String, RDKafkaErrorCode)>;

/// The answer about the one topic that was asked for.
fn first(answer: Result<Vec<TopicResult>, KafkaError>) -> Result<(), AdminFailure> {
    match answer.map_err(AdminFailure::Client)?.into_iter().next() {
        Some(Err((_, code))) => Err(AdminFailure::Code(code)),
        Some(Ok(_)) => Ok(()),
        None => Err(AdminFailure::Code(RDKafkaErrorCode::Unknown)),
    }
}
