//! The only place that names concrete engines and dedup stores.

#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "testing")]
mod rehearsal;
#[cfg(feature = "beanstalkd")]
mod servers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, DEFAULT_DEDUP_KEEP, DedupConfig, DedupStore, EngineKind, Origin};
use crate::dedup::Claims;
use crate::dedup::memory::ClaimStore;
use crate::engine::memory::{Memory, MemoryConfig};
use crate::engine::{Engine, EngineError, Receive};
use crate::handler::options::Timeout;
use crate::name::{Name, Place, Side};
use crate::pipeline::plan::Batch;
use crate::pipeline::policy::RetryPolicy;
use crate::pipeline::{Control, Plan, Pump};
use crate::producer::{Producer, Route, Routes};
use crate::time::Clock;

use tokio::time::timeout;

use super::Planned;
use super::plan::{AppPlan, EngineKey, SubscriptionPlan};
use super::report::{AppError, Problem};

/// Whether this program can open such an engine.
pub(super) fn is_compiled_in(kind: EngineKind) -> bool {
    match kind {
        EngineKind::Memory => true,
        EngineKind::Sqlite => cfg!(feature = "sqlite"),
        EngineKind::Beanstalkd => cfg!(feature = "beanstalkd"),
        EngineKind::Kafka => cfg!(feature = "kafka"),
    }
}

/// The engines of an app, each opened once, when it is first needed.
pub(super) struct Engines {
    clock: Clock,
    given: Vec<(Side, Arc<dyn Engine>)>,
    opened: HashMap<EngineKind, Arc<dyn Engine>>,
    #[cfg(feature = "sqlite")]
    sqlite: Option<crate::engine::sqlite::Sqlite>,
    #[cfg(feature = "beanstalkd")]
    redis: Option<crate::dedup::redis::RedisStore>,
    /// By scope: two groups that read one record each have a claim of their own.
    claims: HashMap<String, ClaimStore>,
}

/// What has to be closed at the end.
pub(super) struct Opened {
    engines: Vec<Arc<dyn Engine>>,
    #[cfg(feature = "beanstalkd")]
    redis: Option<crate::dedup::redis::RedisStore>,
}

impl Opened {
    /// Closes all, each within this time, and answers the first failure.
    pub(super) async fn close(&self, within: Duration) -> Result<(), AppError> {
        let mut result = Ok(());
        for engine in &self.engines {
            let failure = match timeout(within, engine.close()).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => AppError::failed("an engine did not close", error),
                Err(_) => {
                    let error = format!(
                        "the {} engine did not close within {within:?}",
                        engine.name()
                    );
                    AppError::failed("an engine did not close", error)
                }
            };
            result = result.and(Err(failure));
        }
        // After the engines, which mark what they close with.
        #[cfg(feature = "beanstalkd")]
        if let Some(redis) = &self.redis
            && !redis.close(within).await
        {
            tracing::warn!(
                "Redis did not hear that this process ends: what it had claimed is free when the leases end"
            );
        }
        result
    }
}

/// One end of a subscription, ready to be pumped.
pub(super) struct End {
    plan: Arc<Plan>,
    receive: Box<dyn Receive>,
    claims: Option<Box<dyn Claims>>,
}

impl End {
    pub(super) fn pump(self, control: Arc<Control>) -> Pump {
        Pump::new(self.plan, self.receive, self.claims, control)
    }
}

impl Engines {
    pub(super) fn new(clock: Clock, given: Vec<(Side, Arc<dyn Engine>)>) -> Self {
        Self {
            clock,
            given,
            opened: HashMap::new(),
            #[cfg(feature = "sqlite")]
            sqlite: None,
            #[cfg(feature = "beanstalkd")]
            redis: None,
            claims: HashMap::new(),
        }
    }

    /// All that were opened or given.
    pub(super) fn opened(&self) -> Opened {
        let mut engines: Vec<Arc<dyn Engine>> = self.opened.values().cloned().collect();
        for (_, engine) in &self.given {
            if !engines.iter().any(|known| Arc::ptr_eq(known, engine)) {
                engines.push(engine.clone());
            }
        }
        Opened {
            engines,
            #[cfg(feature = "beanstalkd")]
            redis: self.redis.clone(),
        }
    }

    #[cfg_attr(
        not(any(feature = "sqlite", feature = "beanstalkd", feature = "kafka")),
        expect(
            clippy::unused_async,
            reason = "only what is outside of the process needs time to open"
        )
    )]
    async fn get(&mut self, key: EngineKey, config: &Config) -> Result<Arc<dyn Engine>, AppError> {
        let kind = match key {
            EngineKey::Given(side) => {
                let engine = self.given.iter().find(|(other, _)| *other == side);
                return engine.map(|(_, engine)| engine.clone()).ok_or_else(|| {
                    AppError::setup(Problem::new(format!("the app has no engine for {side}")))
                });
            }
            EngineKey::Kind(kind) => kind,
        };
        if let Some(engine) = self.opened.get(&kind) {
            return Ok(engine.clone());
        }
        let engine: Arc<dyn Engine> = match kind {
            EngineKind::Memory => Arc::new(Memory::with(MemoryConfig {
                topics: topics(config),
                keeps: keeps(config),
                keep: keep(config.dq.dedup.as_ref()),
                ..MemoryConfig::new(self.clock.clone())
            })),
            #[cfg(feature = "sqlite")]
            EngineKind::Sqlite => Arc::new(self.sqlite(config).await?),
            #[cfg(feature = "beanstalkd")]
            EngineKind::Beanstalkd => self.beanstalkd(config).await?,
            #[cfg(feature = "kafka")]
            EngineKind::Kafka => self.kafka(config).await?,
            #[cfg(not(all(feature = "sqlite", feature = "beanstalkd", feature = "kafka")))]
            _ => {
                let problem =
                    Problem::new(format!("the {kind} engine is not part of this program"));
                return Err(AppError::setup(problem));
            }
        };
        self.opened.insert(kind, engine.clone());
        Ok(engine)
    }

    #[cfg(feature = "sqlite")]
    async fn sqlite(&mut self, config: &Config) -> Result<crate::engine::sqlite::Sqlite, AppError> {
        use crate::engine::sqlite;
        if let Some(engine) = &self.sqlite {
            return Ok(engine.clone());
        }
        let durability = match config.sqlite.durability() {
            crate::config::Durability::Power => sqlite::Durability::Power,
            crate::config::Durability::Process => sqlite::Durability::Process,
        };
        let mut settings = sqlite::Config::new(config.sqlite_path());
        settings.durability = durability;
        settings.topics = topics(config);
        settings.keeps = keeps(config);
        settings.keep = keep(config.dq.dedup.as_ref());
        settings.quota = config.sqlite.quota();
        settings.unportable = config
            .tubes
            .iter()
            .filter(|tube| !tube.portable())
            .map(|tube| tube.name.clone())
            .collect();
        let engine = sqlite::Sqlite::open(settings, self.clock.clone())
            .await
            .map_err(AppError::engine)?;
        self.sqlite = Some(engine.clone());
        Ok(engine)
    }

    #[cfg_attr(
        not(any(feature = "sqlite", feature = "beanstalkd")),
        expect(
            clippy::unused_async,
            reason = "only what is outside of the process needs time to open"
        )
    )]
    async fn claims(
        &mut self,
        subscription: &SubscriptionPlan,
        config: &Config,
    ) -> Result<Option<Box<dyn Claims>>, AppError> {
        let Some(plan) = subscription.claims else {
            return Ok(None);
        };
        let scope = &match &subscription.group {
            Some(group) => format!("{} of group `{group}`", subscription.place),
            None => subscription.place.to_string(),
        };
        match plan.store {
            DedupStore::Memory => {
                let store = self
                    .claims
                    .entry(scope.to_owned())
                    .or_insert_with(|| ClaimStore::new(plan.keep));
                Ok(Some(store.end()))
            }
            #[cfg(feature = "sqlite")]
            DedupStore::Sqlite => {
                let engine = self.sqlite(config).await?;
                Ok(Some(engine.claims(scope, plan.keep)))
            }
            #[cfg(feature = "beanstalkd")]
            DedupStore::Redis => self
                .redis_claims(subscription, plan, config)
                .await
                .map(Some),
            _ => {
                let _ = config;
                Ok(None)
            }
        }
    }
}

fn topics(config: &Config) -> HashMap<Name, crate::engine::TopicConfig> {
    config
        .topics
        .iter()
        .map(|topic| (topic.name.clone(), topic.resolved()))
        .collect()
}

/// How long it is known that a message is done.
fn keep(dedup: Option<&DedupConfig>) -> Duration {
    dedup.map_or(DEFAULT_DEDUP_KEEP, DedupConfig::keep)
}

/// Of the tubes that say it themselves.
fn keeps(config: &Config) -> HashMap<Name, Duration> {
    config
        .tubes
        .iter()
        .filter(|tube| tube.dedup.is_some())
        .map(|tube| {
            let dedup = config.tube_dedup(&tube.name);
            (tube.name.clone(), keep(dedup.as_ref()))
        })
        .collect()
}

/// Opens what the plan needs: the ends of every subscription, in the plan's order, and the producer's routes.
pub(super) async fn open(
    engines: &mut Engines,
    plan: &AppPlan,
    producer: &Producer,
) -> Result<Vec<Vec<End>>, AppError> {
    let mut all = Vec::new();
    let mut routes = Routes::default();
    for subscription in &plan.subscriptions {
        let engine = engines.get(subscription.engine, &plan.config).await?;
        routes.places.insert(
            subscription.place.clone(),
            route_to(subscription, engine.clone()),
        );
        all.push(ends(engines, plan, subscription, engine.as_ref()).await?);
    }
    route(engines, &plan.config, &mut routes).await?;
    producer.connect(routes);
    Ok(all)
}

async fn ends(
    engines: &mut Engines,
    plan: &AppPlan,
    subscription: &SubscriptionPlan,
    engine: &dyn Engine,
) -> Result<Vec<End>, AppError> {
    let capabilities = engine.capabilities(subscription.place.side());
    if !capabilities.supported {
        let what = format!(
            "the {} engine cannot serve {}",
            engine.name(),
            subscription.place
        );
        return Err(AppError::setup(Problem::new(what)));
    }
    let settings = &subscription.settings;
    // Each lane of each connection is a member of the group of its own.
    let conns = match subscription.place.side() {
        Side::Topics => plan.config.kq.conns(),
        Side::Tasks => 1,
    };
    let lanes = settings.lanes.value.max(1).saturating_mul(conns);
    let share = |whole: u32| whole.div_ceil(lanes) as usize;
    let lane = Arc::new(Plan {
        about: subscription.about.clone(),
        handle: subscription.handle.clone(),
        concurrency: share(settings.concurrency.value).max(1),
        waiting: share(settings.waiting.value),
        timeout: match settings.timeout.value {
            Timeout::After(time) => Some(time),
            Timeout::None => None,
        },
        grace: Duration::from_secs(5),
        retry: RetryPolicy {
            max: settings.retry_max.value,
            first: settings.backoff.value.first,
            cap: settings.backoff.value.max,
        },
        on_retry: settings.on_retry.value,
        undecodable: settings.undecodable.value,
        batch: subscription.is_batch().then_some(Batch {
            size: settings.batch.value as usize,
            linger: settings.linger.value,
        }),
        max_late: settings.max_late.value,
        rate: settings
            .rate
            .value
            .map(|rate| crate::handler::options::Rate {
                // Each lane has its share of the time rather than of the count, so that small counts stay exact.
                per: rate.per.saturating_mul(lanes),
                ..rate
            }),
        capabilities,
        run_on_outage: subscription
            .claims
            .is_some_and(|claims| claims.run_on_outage),
        detour: None,
        clock: engines.clock.clone(),
    });
    let subscribe = subscription.subscribe(plan.config.shutdown.drain());
    let mut ends = Vec::new();
    for _ in 0..lanes {
        let claims = engines.claims(subscription, &plan.config).await?;
        let receive = engine
            .subscribe(&subscribe)
            .await
            .map_err(AppError::engine)?;
        ends.push(End {
            plan: lane.clone(),
            receive,
            claims,
        });
    }
    Ok(ends)
}

/// The way to a place that is served here, with the priority that attribute or configuration give.
fn route_to(subscription: &SubscriptionPlan, engine: Arc<dyn Engine>) -> Route {
    let priority = &subscription.settings.priority;
    let said = priority.origin != Origin::Default;
    Route::new(engine).with_priority(said.then_some(priority.value))
}

/// The producer's engines: those of the configuration, by side and for single places. A side whose engine is not named stays
/// without one; sending to it is a typed error.
async fn route(
    engines: &mut Engines,
    config: &Config,
    routes: &mut Routes,
) -> Result<(), AppError> {
    let mut of_side = HashMap::new();
    for side in [Side::Tasks, Side::Topics] {
        let any = match side {
            Side::Tasks => Place::Tube(Name::literal("any")),
            Side::Topics => Place::Topic(Name::literal("any")),
        };
        if engines.given.iter().any(|(other, _)| *other == side) {
            of_side.insert(side, engines.get(EngineKey::Given(side), config).await?);
        } else if let Ok(choice) = config.engine_for(&any)
            && is_compiled_in(choice.kind)
            && (engines.given.is_empty()
                || choice.at.is_some()
                || routes.places.keys().any(|place| place.side() == side))
        {
            // An app that was given an engine for one side, as in tests, gets a file for the other only if it uses it.
            of_side.insert(
                side,
                engines.get(EngineKey::Kind(choice.kind), config).await?,
            );
        }
    }
    routes.tasks = of_side.remove(&Side::Tasks).map(Route::new);
    routes.topics = of_side.remove(&Side::Topics).map(Route::new);
    let named = config
        .tubes
        .iter()
        .map(|tube| Place::Tube(tube.name.clone()))
        .chain(
            config
                .topics
                .iter()
                .map(|topic| Place::Topic(topic.name.clone())),
        );
    for place in named {
        if routes.places.contains_key(&place)
            || engines.given.iter().any(|(side, _)| *side == place.side())
        {
            continue;
        }
        if let Ok(choice) = config.engine_for(&place)
            && is_compiled_in(choice.kind)
        {
            let engine = engines.get(EngineKey::Kind(choice.kind), config).await?;
            routes.places.insert(place, Route::new(engine));
        }
    }
    Ok(())
}

/// Connects the producer of an app without serving anything.
pub(super) async fn connect(planned: Planned) -> Result<(Producer, Opened), AppError> {
    let Planned {
        plan,
        app,
        producer,
    } = planned;
    let mut engines = Engines::new(app.clock.clone(), app.engines);
    let mut routes = Routes::default();
    for subscription in &plan.subscriptions {
        let engine = engines.get(subscription.engine, &plan.config).await?;
        routes
            .places
            .insert(subscription.place.clone(), route_to(subscription, engine));
    }
    route(&mut engines, &plan.config, &mut routes).await?;
    producer.connect(routes);
    Ok((producer, engines.opened()))
}

/// A producer without an app.
pub(super) async fn producer(config: Config, clock: Clock) -> Result<Producer, AppError> {
    for place in [
        Place::Tube(Name::literal("any")),
        Place::Topic(Name::literal("any")),
    ] {
        if let Ok(choice) = config.engine_for(&place)
            && !is_compiled_in(choice.kind)
        {
            return Err(AppError::setup(Problem::new(
                choice.not_compiled_in().to_string(),
            )));
        }
    }
    let mut engines = Engines::new(clock.clone(), Vec::new());
    let mut routes = Routes::default();
    route(&mut engines, &config, &mut routes).await?;
    Ok(Producer::new(clock, routes))
}

impl From<EngineError> for AppError {
    fn from(error: EngineError) -> Self {
        Self::engine(error)
    }
}
