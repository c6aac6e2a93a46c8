//! The plan: configuration × handlers × state, with every problem at once, and nothing connected.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{
    Config, ConfigError, DedupConfig, DedupStore, EngineKind, OnOutage, Origin, Remark, Settings,
    Severity, Shape, TubeConfig,
};
use crate::engine::{Engine, Subscribe};
use crate::handler::context::About;
use crate::handler::{Env, Handle, HandlerDef, Location, Registry, Source};
use crate::middleware::{self, Middleware};
use crate::name::{Name, Place, Side};
use crate::time::format_duration;

use super::report::Problem;
use super::switch::{self, Case};

/// What to do about a handler that is not there.
const LINK: &str = "a crate that no source line names is not linked: if your handlers are in a library, add `use my_handlers as _;` to main.rs";

/// A set-up that is right.
pub(super) struct AppPlan {
    pub(super) config: Config,
    pub(super) subscriptions: Vec<SubscriptionPlan>,
    /// Handlers that the configuration switched off.
    pub(super) disabled: Vec<&'static HandlerDef>,
    remarks: Vec<Remark>,
}

/// One subscription, and who serves it.
pub(super) struct SubscriptionPlan {
    /// One, or several that share the topic by `when`.
    pub(super) handlers: Vec<&'static HandlerDef>,
    pub(super) about: Arc<About>,
    pub(super) handle: Arc<dyn Handle>,
    pub(super) place: Place,
    pub(super) group: Option<Name>,
    pub(super) settings: Settings,
    pub(super) engine: EngineKey,
    pub(super) claims: Option<ClaimsPlan>,
}

/// Which engine serves a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum EngineKey {
    /// One of ours.
    Kind(EngineKind),
    /// The one that the app was given for this side.
    Given(Side),
}

/// A dedup store that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimsPlan {
    pub(super) store: DedupStore,
    pub(super) keep: Duration,
    pub(super) run_on_outage: bool,
}

impl SubscriptionPlan {
    pub(super) fn subscribe(&self, drain: Duration) -> Subscribe {
        Subscribe {
            place: self.place.clone(),
            group: self.group.clone(),
            order: self.settings.order.value,
            lease: self.settings.lease.value,
            drain,
            start: self.settings.offset.value,
            label: self.about.handler.clone(),
            claimed: self.claims.is_some(),
        }
    }

    pub(super) fn is_batch(&self) -> bool {
        self.handlers.iter().any(|def| def.batch)
    }
}

struct Draft {
    def: &'static HandlerDef,
    settings: Settings,
    claims: Option<ClaimsPlan>,
    engine: EngineKey,
}

/// The places that handlers name, as far as the names are right; the others are told apart.
fn served_places(registry: &Registry) -> Vec<Place> {
    let named = registry
        .iter()
        .flat_map(|def| def.source.names().iter().map(move |name| (def, name)));
    named
        .filter_map(|(def, name)| {
            let name = Name::new(name).ok()?;
            Some(match def.source {
                Source::Tube(_) => Place::Tube(name),
                Source::Topics { .. } => Place::Topic(name),
            })
        })
        .collect()
}

impl AppPlan {
    /// `None` only if there are problems.
    pub(super) fn new(
        config: Config,
        registry: &Registry,
        env: &Env,
        layers: &[Arc<dyn Middleware>],
        given: &[(Side, Arc<dyn Engine>)],
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        if registry.is_empty() {
            problems.push(Problem::new("there are no handlers").remedy(LINK));
        }
        let paths = paths(registry);
        let matches = config.match_handlers(&paths);
        problems.extend(
            of_this_app(&matches.problems, registry).map(|error| Problem::new(error.to_string())),
        );
        let sources: Vec<_> = registry.iter().map(|def| def.source).collect();
        problems.extend(
            config
                .unserved_sections(&sources)
                .iter()
                .map(|error| Problem::new(error.to_string())),
        );
        let mut remarks = config.remarks.clone();
        if let Some(listen) = &config.admin.listen {
            let text = "the admin port is not part of this version: nothing listens there";
            remarks.push(Remark::warning(Some(&listen.at), text));
        }
        remarks.extend(config.unused_places(&served_places(registry)));
        let mut disabled = Vec::new();
        let mut groups: BTreeMap<(Place, Option<Name>), Vec<Draft>> = BTreeMap::new();
        for (def, file) in registry.iter().zip(&matches.of) {
            for name in def.source.names() {
                let Some(place) = place_of(def, name, problems) else {
                    continue;
                };
                let claims = match claims_of(&config, &place, kind_of(&config, &place, given)) {
                    Ok(claims) => claims,
                    Err(problem) => {
                        // One problem for all handlers of it.
                        if !problems.iter().any(|known| known.what == problem.what) {
                            problems.push(problem);
                        }
                        None
                    }
                };
                let path = def.path();
                let shape = shape_of(def, &path, claims.is_some());
                let settings = match config.settings(&shape, *file) {
                    Ok(settings) => settings,
                    Err(errors) => {
                        let all = errors
                            .iter()
                            .map(|error| Problem::new(error.to_string()).at(def.location));
                        problems.extend(all);
                        continue;
                    }
                };
                remarks.extend(settings.remarks.iter().cloned());
                if !settings.enabled.value {
                    disabled.push(def);
                    continue;
                }
                if kind_of(&config, &place, given) == Some(EngineKind::Beanstalkd) {
                    remarks.extend(lease_remark(&config, &path, &settings));
                }
                let Some(engine) = engine_of(&config, &place, given, def, problems) else {
                    continue;
                };
                let group = settings.group.value.clone();
                let draft = Draft {
                    def,
                    settings,
                    claims,
                    engine,
                };
                groups.entry((place, group)).or_default().push(draft);
            }
        }
        let mut subscriptions = Vec::new();
        for ((place, group), drafts) in groups {
            subscriptions.extend(subscription(place, group, drafts, env, layers, problems));
        }
        if subscriptions.is_empty() && problems.is_empty() && !disabled.is_empty() {
            problems.push(
                Problem::new("every handler is switched off")
                    .remedy("remove `enabled: false` from one of them"),
            );
        }
        problems.is_empty().then(|| Self {
            config,
            subscriptions,
            disabled,
            remarks,
        })
    }

    /// All handlers, those that are switched off too.
    pub(super) fn handlers(&self) -> impl Iterator<Item = &'static HandlerDef> + '_ {
        let mut seen: Vec<*const HandlerDef> = Vec::new();
        let served = self
            .subscriptions
            .iter()
            .flat_map(|subscription| subscription.handlers.iter().copied());
        served
            .chain(self.disabled.iter().copied())
            .filter(move |def| {
                let pointer: *const HandlerDef = *def;
                let first = !seen.contains(&pointer);
                seen.push(pointer);
                first
            })
    }

    pub(super) fn shutdown_deadline(&self) -> Duration {
        self.config.shutdown.deadline()
    }

    /// What the configuration wants to have said, a line each.
    pub(super) fn remark_lines(&self) -> impl Iterator<Item = String> + '_ {
        self.remarks.iter().map(|remark| match remark.severity {
            Severity::Note => format!("note: {remark}"),
            Severity::Warning => format!("warning: {remark}"),
        })
    }

    /// Says what the configuration wants to have said at start.
    pub(super) fn say_remarks(&self) {
        for remark in &self.remarks {
            match remark.severity {
                Severity::Note => tracing::info!("{remark}"),
                Severity::Warning => tracing::warn!("{remark}"),
            }
        }
    }
}

pub(super) fn shape_of<'a>(def: &'a HandlerDef, path: &'a str, claims: bool) -> Shape<'a> {
    Shape {
        path,
        source: def.source,
        batch: def.batch,
        claims,
        attribute: &def.options,
    }
}

fn paths(registry: &Registry) -> Vec<(String, Location)> {
    registry
        .iter()
        .map(|def| (def.path(), def.location))
        .collect()
}

/// Entries of `handlers` that mean none of these, or several.
pub(super) fn unknown_handlers(config: &Config, registry: &Registry) -> Vec<ConfigError> {
    let problems = config.match_handlers(&paths(registry)).problems;
    of_this_app(&problems, registry).cloned().collect()
}

fn of_this_app<'p>(
    problems: &'p [ConfigError],
    registry: &'p Registry,
) -> impl Iterator<Item = &'p ConfigError> {
    let is_ours = |error: &&ConfigError| !is_for_others(error.key(), registry);
    problems.iter().filter(is_ours)
}

/// Whether an entry means only handlers that are linked and that this app did not choose: one file may serve several
/// programs, or several apps of one.
fn is_for_others(key: &str, registry: &Registry) -> bool {
    let Some(words) = key.strip_prefix("handlers.") else {
        return false;
    };
    registry.is_explicit()
        && !registry.iter().any(|def| def.is_meant_by(words))
        && Registry::global().iter().any(|def| def.is_meant_by(words))
}

fn place_of(def: &HandlerDef, name: &str, problems: &mut Vec<Problem>) -> Option<Place> {
    match Name::new(name) {
        Ok(name) => Some(match def.source {
            Source::Tube(_) => Place::Tube(name),
            Source::Topics { .. } => Place::Topic(name),
        }),
        // The attributes check names at compile time; hand-written definitions come here.
        Err(error) => {
            problems.push(
                Problem::new(format!("`{}` is not a name: {error}", name.escape_debug()))
                    .at(def.location),
            );
            None
        }
    }
}

fn dedup_of(config: &Config, place: &Place) -> Option<DedupConfig> {
    match place {
        Place::Tube(name) => config.tube_dedup(name),
        Place::Topic(name) => config.topic(name).and_then(|topic| topic.dedup.clone()),
    }
}

/// The engine of ours that serves a place; `None` if the app was given one, or if nothing can.
fn kind_of(
    config: &Config,
    place: &Place,
    given: &[(Side, Arc<dyn Engine>)],
) -> Option<EngineKind> {
    if given.iter().any(|(side, _)| *side == place.side()) {
        return None;
    }
    config.engine_for(place).ok().map(|choice| choice.kind)
}

/// The dedup store that is asked before each run: what was said, or what the engine needs.
fn claims_of(
    config: &Config,
    place: &Place,
    engine: Option<EngineKind>,
) -> Result<Option<ClaimsPlan>, Problem> {
    let dedup = dedup_of(config, place);
    let said = dedup.as_ref().and_then(|dedup| dedup.store.clone());
    let on_nodes = engine == Some(EngineKind::Beanstalkd);
    let replicated = on_nodes && config.dq.replicas() > 1;
    let store = match &said {
        Some(given) => given.value,
        None if on_nodes && config.dq.redis.is_some() => DedupStore::Redis,
        None if replicated => {
            return Err(Problem::new(format!(
                "{place} has {} replicas of each task, and only Redis can tell that one of them has run",
                config.dq.replicas()
            ))
            .remedy("add `dq.redis`, or write `dedup: off` under `dq` and expect a task to run once for each replica"));
        }
        None => DedupStore::Off,
    };
    let wrong = |what: &str, remedy: &str| {
        let place = said.as_ref().map_or_else(
            || place.to_string(),
            |given| format!("{}: {place}", given.at),
        );
        Err(Problem::new(format!("{place} {what}")).remedy(remedy))
    };
    if let Place::Tube(name) = place
        && config.tube(name).is_some_and(TubeConfig::mixed_fleet)
        && store != DedupStore::Redis
    {
        return wrong(
            "is shared with workers of the Go library, which decide by a lock in Redis who runs a task",
            "add `dq.redis` with the Redis of those workers",
        );
    }
    match (store, engine) {
        (DedupStore::Off, _) => return Ok(None),
        (DedupStore::Memory | DedupStore::Sqlite, _) if replicated => {
            return wrong(
                "has replicas on several nodes, and workers of other processes and machines meet them: only Redis can tell them that one has run",
                "write `store: redis`, or `dedup: off` and expect a task to run once for each replica",
            );
        }
        (DedupStore::Sqlite | DedupStore::Redis, Some(EngineKind::Memory)) => {
            return wrong(
                "is kept in memory and begins anew with each process: a store that lasts would take new messages for old ones",
                "write `store: memory`",
            );
        }
        (DedupStore::Redis, _) if !cfg!(feature = "beanstalkd") => {
            return wrong(
                "asks for a dedup store in Redis, which is not part of this program",
                "build go-queue with its feature `beanstalkd`, or write `store: sqlite` or `store: memory`",
            );
        }
        (DedupStore::Sqlite, _) if !cfg!(feature = "sqlite") => {
            return wrong(
                "asks for a dedup store on SQLite, which is not part of this program",
                "build go-queue with its feature `sqlite`",
            );
        }
        _ => {}
    }
    let dedup = dedup.unwrap_or_default();
    Ok(Some(ClaimsPlan {
        store,
        keep: dedup.keep(),
        run_on_outage: dedup.on_outage() == OnOutage::Run,
    }))
}

/// A job on beanstalkd has the lease that its producer gave it, so that of a handler changes nothing there.
fn lease_remark(config: &Config, path: &str, settings: &Settings) -> Option<Remark> {
    let lease = &settings.lease;
    let other = lease.origin != Origin::Default && lease.value != config.dq.lease();
    other.then(|| {
        Remark::note(
            lease.origin.place(),
            format!(
                "{path}: a lease of {} has no effect on beanstalkd: tasks are stored with that of `dq.lease` ({}), and it is renewed while a task is \
                 in hand",
                format_duration(lease.value),
                format_duration(config.dq.lease())
            ),
        )
    })
}

fn engine_of(
    config: &Config,
    place: &Place,
    given: &[(Side, Arc<dyn Engine>)],
    def: &HandlerDef,
    problems: &mut Vec<Problem>,
) -> Option<EngineKey> {
    if given.iter().any(|(side, _)| *side == place.side()) {
        return Some(EngineKey::Given(place.side()));
    }
    let error = match config.engine_for(place) {
        Ok(choice) if super::wiring::is_compiled_in(choice.kind) => {
            return Some(EngineKey::Kind(choice.kind));
        }
        Ok(choice) => choice.not_compiled_in(),
        Err(error) => error,
    };
    let problem = Problem::new(error.to_string()).at(format!("{}  {}", def.location, def.path()));
    if !problems.iter().any(|known| known.what == problem.what) {
        problems.push(problem);
    }
    None
}

/// Joins those that share a place and a group.
fn subscription(
    place: Place,
    group: Option<Name>,
    drafts: Vec<Draft>,
    env: &Env,
    layers: &[Arc<dyn Middleware>],
    problems: &mut Vec<Problem>,
) -> Option<SubscriptionPlan> {
    let names: Vec<&str> = drafts.iter().map(|draft| draft.def.name).collect();
    let about = Arc::new(About {
        handler: names.join("|").into(),
        source: place.name().as_str().into(),
        group: group.as_ref().map(|group| group.as_str().into()),
    });
    // Both are looked at whatever the other says: one report has all problems.
    let mut refused = drafts.len() > 1 && !may_share(&place, group.as_ref(), &drafts, problems);
    let mut cases = Vec::new();
    for draft in &drafts {
        let def = draft.def;
        match (def.bind)(env, about.clone()) {
            Ok(handle) => {
                let all = layers
                    .iter()
                    .cloned()
                    .chain(def.middleware.iter().map(|make| make()))
                    .collect();
                let handle = middleware::chain(handle, all, about.clone(), def.blocking);
                cases.push(Case {
                    when: def.when,
                    handle,
                });
            }
            Err(lacks) => {
                refused = true;
                for lack in lacks {
                    problems.push(
                        Problem::new(format!(
                            "{} takes {}, which the app was not given",
                            def.path(),
                            lack.parameter
                        ))
                        .at(def.location)
                        .remedy(lack.remedy),
                    );
                }
            }
        }
    }
    if refused {
        return None;
    }
    let blocking = drafts.iter().any(|draft| draft.def.blocking);
    let handlers: Vec<_> = drafts.iter().map(|draft| draft.def).collect();
    let Draft {
        settings,
        claims,
        engine,
        ..
    } = drafts.into_iter().next()?;
    let handle = switch::join(cases, settings.unmatched.value, about.clone(), blocking)?;
    Some(SubscriptionPlan {
        handlers,
        about,
        handle,
        place,
        group,
        settings,
        engine,
        claims,
    })
}

/// Several handlers may share a topic and a group if a header decides between them, and if they agree on everything else.
fn may_share(
    place: &Place,
    group: Option<&Name>,
    drafts: &[Draft],
    problems: &mut Vec<Problem>,
) -> bool {
    let mut where_to = format!("{place}");
    if let Some(group) = group {
        let _ = write!(where_to, " in group `{group}`");
    }
    let places = |mut problem: Problem| {
        for draft in drafts {
            problem = problem.at(format!("{}  {}", draft.def.location, draft.def.path()));
        }
        problem
    };
    let mut whens: Vec<_> = drafts
        .iter()
        .filter_map(|draft| draft.def.when.map(|w| (w.header, w.is)))
        .collect();
    let count = whens.len();
    whens.sort_unstable();
    whens.dedup();
    if count < drafts.len() || whens.len() < count {
        let number = if drafts.len() == 2 {
            "two handlers".to_owned()
        } else {
            format!("{} handlers", drafts.len())
        };
        let same = drafts
            .windows(2)
            .any(|pair| pair[0].def.location == pair[1].def.location);
        let remedy = match place {
            _ if same => "the file is compiled in twice: remove one of the `mod` lines",
            Place::Tube(_) => {
                "each would get some of the tasks at random: give one of them another tube"
            }
            Place::Topic(_) => {
                "each would get some of the records at random: give one of them another group, or tell them apart with `when(header = \"..\", is = \"..\")`"
            }
        };
        problems.push(places(Problem::new(format!("{number} for {where_to}"))).remedy(remedy));
        return false;
    }
    if drafts.iter().any(|draft| draft.def.batch) {
        let what = format!("a batch handler cannot share {where_to} by `when`");
        problems.push(places(Problem::new(what)).remedy("give it a group of its own"));
        return false;
    }
    let rows = |draft: &Draft| {
        let path = draft.def.path();
        let shape = shape_of(draft.def, &path, draft.claims.is_some());
        draft
            .settings
            .describe(&shape)
            .into_iter()
            .map(|(name, value, _)| (name, value))
            .collect::<Vec<_>>()
    };
    let first = rows(&drafts[0]);
    let differing: Vec<_> = drafts[1..]
        .iter()
        .flat_map(|draft| {
            rows(draft)
                .into_iter()
                .zip(&first)
                .filter(|(a, b)| a != *b)
                .map(|(a, _)| a.0)
                .collect::<Vec<_>>()
        })
        .collect();
    if let Some(option) = differing.first() {
        let what = format!("handlers that share {where_to} must agree on `{option}`");
        problems.push(
            places(Problem::new(what))
                .remedy("they are served by one subscription: give them the same options"),
        );
        return false;
    }
    true
}
