//! beanstalkd and Redis, as the configuration says.

use std::sync::Arc;

use super::{Engines, keep, keeps};
use crate::app::plan::{ClaimsPlan, EngineKey, SubscriptionPlan};
use crate::app::report::{AppError, Problem};
use crate::config::{
    self, Config, DedupConfig, DedupStore, EngineKind, RedisConfig, RedisKind, TubeConfig, Wire,
};
use crate::dedup::redis::{self, KeyForm, RedisScope, RedisStore};
use crate::dedup::{Claims, Marks};
use crate::engine::Engine;
use crate::engine::beanstalkd::{self, Beanstalkd};
use crate::name::Name;

impl Engines {
    /// The engine on the nodes of `dq`.
    pub(super) async fn beanstalkd(
        &mut self,
        config: &Config,
    ) -> Result<Arc<dyn Engine>, AppError> {
        let marks = self.marks(config).await?;
        let engine = Beanstalkd::open(nodes(config), marks, self.clock.clone())
            .await
            .map_err(AppError::engine)?;
        Ok(Arc::new(engine))
    }

    /// What the engine keeps of single tasks beside its nodes, unless dedup is off.
    async fn marks(&mut self, config: &Config) -> Result<Option<Arc<dyn Marks>>, AppError> {
        let off = config.dq.dedup.as_ref().is_some_and(DedupConfig::is_off);
        let by_tube = config.tubes.iter().any(|tube| {
            let store = config.tube_dedup(&tube.name).and_then(|dedup| dedup.store);
            store.is_some_and(|given| given.value == DedupStore::Redis)
        });
        if config.dq.redis.is_none() || (off && !by_tube) {
            return Ok(None);
        }
        let go_tubes: Vec<Name> = config
            .tubes
            .iter()
            .filter(|tube| tube.wire() == Wire::GoQueue)
            .map(|tube| tube.name.clone())
            .collect();
        Ok(Some(self.redis(config).await?.marks(go_tubes)))
    }

    /// An end of the store on Redis for one lane.
    pub(super) async fn redis_claims(
        &mut self,
        subscription: &SubscriptionPlan,
        plan: ClaimsPlan,
        config: &Config,
    ) -> Result<Box<dyn Claims>, AppError> {
        let place = &subscription.place;
        let name = place.name();
        let on_nodes = subscription.engine == EngineKey::Kind(EngineKind::Beanstalkd);
        let wire = config.tube(name).map_or(Wire::Native, TubeConfig::wire);
        let mixed = config.tube(name).is_some_and(TubeConfig::mixed_fleet);
        // On the nodes the scope is the tube, as for the marks of the engine. Elsewhere it has a colon, which no tube has.
        let scope = match &subscription.group {
            // What a mixed fleet has claimed for us lies in a tube of its own.
            None if on_nodes && mixed => format!("{name}.taken"),
            None if on_nodes => name.to_string(),
            None => format!("{}:{name}", self.local_scope(subscription, config).await?),
            Some(group) => format!(
                "{}:{name}:{group}",
                self.local_scope(subscription, config).await?
            ),
        };
        let scope = RedisScope {
            scope,
            form: match wire {
                // In a mixed fleet the lock of the Go library decides first, under that key; the claim has one of its own.
                Wire::GoQueue if on_nodes && !mixed => KeyForm::GoQueue,
                _ => KeyForm::Native,
            },
            keep: plan.keep,
            replicas: on_nodes,
        };
        Ok(self.redis(config).await?.end(&scope))
    }

    /// What tells messages of a place apart from those of the same name that others keep: offsets of a file begin at zero in each
    /// file.
    async fn local_scope(
        &mut self,
        subscription: &SubscriptionPlan,
        config: &Config,
    ) -> Result<String, AppError> {
        Ok(match subscription.engine {
            #[cfg(feature = "sqlite")]
            EngineKey::Kind(EngineKind::Sqlite) => {
                format!("{:016x}", self.sqlite(config).await?.store_id())
            }
            EngineKey::Kind(EngineKind::Kafka) => "kafka".to_owned(),
            _ => config.name.value.to_string(),
        })
    }

    /// The one store of this process.
    async fn redis(&mut self, config: &Config) -> Result<RedisStore, AppError> {
        if let Some(store) = &self.redis {
            return Ok(store.clone());
        }
        let Some(redis) = &config.dq.redis else {
            let problem =
                Problem::new("a dedup store in Redis is asked for, and no Redis is named");
            return Err(AppError::setup(
                problem.remedy("add `dq: { redis: { host: \"10.0.0.4:6379\" } }`"),
            ));
        };
        let at = &redis.host.at;
        let wrong =
            |error: &dyn std::fmt::Display| AppError::setup(Problem::new(format!("{at}: {error}")));
        let store = RedisStore::open(store_config(redis)?).map_err(|error| wrong(&error))?;
        match store.check().await {
            Ok(()) => {}
            // Waiting does not help.
            Err(fault) if fault.is_of_the_set_up() => return Err(wrong(&fault)),
            Err(fault) => {
                tracing::warn!(%fault, "Redis is away: until it answers, no task starts, but those with `dedup.on_outage: run`");
            }
        }
        self.redis = Some(store.clone());
        Ok(store)
    }
}

fn nodes(config: &Config) -> beanstalkd::Config {
    let dq = &config.dq;
    let endpoints = dq.beanstalks.iter().map(|node| Arc::clone(&node.value));
    let keeps = keeps(config);
    let tubes = config.tubes.iter().map(|tube| {
        let wire = match tube.wire() {
            Wire::Native => beanstalkd::Wire::Native,
            // What comes too late is for `max_late` of the handler to say, on every engine.
            Wire::GoQueue => beanstalkd::Wire::GoQueue { late: None },
        };
        let options = beanstalkd::TubeConfig {
            wire,
            mixed_fleet: tube.mixed_fleet(),
            keep: keeps.get(&tube.name).copied(),
        };
        (tube.name.clone(), options)
    });
    beanstalkd::Config {
        replicas: dq.replicas() as usize,
        write_quorum: dq.write_quorum() as usize,
        deadline: dq.deadline(),
        connect_timeout: dq.connect_timeout(),
        lease: dq.lease(),
        keep: keep(dq.dedup.as_ref()),
        tubes: tubes.collect(),
        at_start: match dq.at_start() {
            config::AtStart::Fail => beanstalkd::AtStart::Fail,
            config::AtStart::Wait => beanstalkd::AtStart::Wait,
        },
        ..beanstalkd::Config::new(endpoints)
    }
}

fn store_config(given: &RedisConfig) -> Result<redis::RedisConfig, AppError> {
    let text = |given: &Option<config::Given<Arc<str>>>| {
        given.as_ref().map(|given| given.value.to_string())
    };
    let secret = |given: &Option<config::Given<config::Secret>>| {
        given.as_ref().map(|given| given.value.expose().to_owned())
    };
    let mut store = redis::RedisConfig::node(String::new());
    store.hosts = given
        .host
        .value
        .iter()
        .map(|host| host.value.to_string())
        .collect();
    store.kind = match given.kind() {
        RedisKind::Node => redis::RedisKind::Node,
        RedisKind::Cluster => redis::RedisKind::Cluster,
        RedisKind::Sentinel => redis::RedisKind::Sentinel {
            master: text(&given.master).unwrap_or_default(),
            user: text(&given.sentinel_user),
            pass: secret(&given.sentinel_pass),
        },
    };
    store.user = text(&given.user);
    store.pass = secret(&given.pass);
    store.db = given.db.as_ref().map_or(0, |given| given.value);
    store.tls = given.tls();
    store.timeout = given.timeout();
    store.connect_timeout = given.connect_timeout();
    given.prefix().clone_into(&mut store.prefix);
    store.lease = given.lease();
    if let Some(file) = &given.ca_file {
        let pem = std::fs::read(&*file.value).map_err(|error| {
            let what = format!("{}: {} cannot be read: {error}", file.at, file.value);
            AppError::setup(Problem::new(what))
        })?;
        store.ca = Some(pem);
    }
    Ok(store)
}
