//! The producing face: typed builders that end in `.send(&producer)`, and the [`Producer`] that routes them to engines.

mod line;
mod parcel;
mod places;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::engine::{
    Answers, BoxFuture, DeadLetters, Engine, EngineError, Outgoing, Publish, PublishError,
    Rescheduled, Revoked, TaskId,
};
use crate::handler::extract::Rejection;
use crate::handler::{Context, Env, FromContext, Kind, Missing};
use crate::name::{Name, Place};
use crate::time::{Clock, WallTime};

/// So many messages of `send_all` have one completion.
const SLICE: usize = 1000;
/// So many slices of `send_all` are under way beside the one that is being filled.
const SLICES: usize = 2;

pub use line::Unconfirmed;
pub use parcel::{Enqueue, Push, Pushed, Sendable};
pub use places::{Topic, Tube};

/// One engine as the producer sees it.
#[derive(Clone)]
pub struct Route {
    name: &'static str,
    engine: Arc<dyn Engine>,
    publish: Arc<dyn Publish>,
    priority: Option<u32>,
    entrance: Arc<line::Entrance>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Route").field(&self.name).finish()
    }
}

impl Route {
    /// Through this engine.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            name: engine.name(),
            publish: engine.publisher(),
            engine,
            priority: None,
            entrance: Arc::default(),
        }
    }

    /// The priority of tasks that do not say one.
    #[must_use]
    pub fn with_priority(mut self, priority: Option<u32>) -> Self {
        self.priority = priority;
        self
    }
}

/// Which engine serves which place.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// For tubes that are not named in `places`.
    pub tasks: Option<Route>,
    /// For topics that are not named in `places`.
    pub topics: Option<Route>,
    /// For single tubes and topics.
    pub places: HashMap<Place, Route>,
}

/// Sends tasks and records. Cheap to clone; one for a whole program. Handlers take it as a parameter.
#[derive(Clone)]
pub struct Producer(Arc<Inner>);

struct Inner {
    clock: Clock,
    routes: OnceLock<Routes>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Producer")
            .field(&self.0.routes.get())
            .finish()
    }
}

impl Producer {
    /// A producer over these engines.
    pub fn new(clock: Clock, routes: Routes) -> Self {
        Self(Arc::new(Inner {
            clock,
            routes: OnceLock::from(routes),
        }))
    }

    /// A producer that is connected later: what handlers are bound to before the engines are opened.
    pub(crate) fn unconnected(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            clock,
            routes: OnceLock::new(),
        }))
    }

    /// Connects it; a second call has no effect.
    pub(crate) fn connect(&self, routes: Routes) {
        let _ = self.0.routes.set(routes);
    }

    fn route(&self, place: &Place) -> Result<&Route, PublishError> {
        let unserved = || PublishError::Unsupported {
            engine: "configured",
            what: format!("take messages for {place}: no engine is configured for it"),
        };
        let routes = self.0.routes.get().ok_or_else(unserved)?;
        let side = match place {
            Place::Tube(_) => &routes.tasks,
            Place::Topic(_) => &routes.topics,
        };
        routes
            .places
            .get(place)
            .or(side.as_ref())
            .ok_or_else(unserved)
    }

    /// The engine of the first of these places, if what it accepts ends with this process.
    pub(crate) fn loses_at_exit(
        &self,
        side: crate::name::Side,
        names: &[&'static str],
    ) -> Option<&'static str> {
        let name = Name::new(names.first()?).ok()?;
        let place = match side {
            crate::name::Side::Tasks => Place::Tube(name),
            crate::name::Side::Topics => Place::Topic(name),
        };
        let route = self.route(&place).ok()?;
        (!route.engine.capabilities(side).durable).then_some(route.name)
    }

    /// Sends many with one completion for each thousand, two or three of them under way at a time; one result for each, in order. Those that cannot be sent do not
    /// hold the others up.
    ///
    /// # Cancel safety
    /// If the future is dropped, those that were handed over may or may not be stored.
    pub async fn send_all<S: Sendable>(
        &self,
        all: impl IntoIterator<Item = S>,
    ) -> Vec<Result<S::Receipt, PublishError>> {
        let mut results = Vec::new();
        let mut slice: Vec<(usize, Outgoing)> = Vec::new();
        let mut engine: Option<&Route> = None;
        let mut under_way: VecDeque<UnderWay<'_>> = VecDeque::new();
        for item in all {
            let position = results.len();
            let (route, outgoing) = match item.ready(self) {
                Ok(ready) => ready,
                Err(error) => {
                    results.push(Some(Err(error)));
                    continue;
                }
            };
            results.push(None);
            let same = engine.is_some_and(|e| Arc::ptr_eq(&e.engine, &route.engine));
            if let Some(engine) = engine.filter(|_| !same || slice.len() == SLICE) {
                under_way.push_back(UnderWay::begin(engine, &mut slice).await);
                if under_way.len() > SLICES
                    && let Some(first) = under_way.pop_front()
                {
                    first.end::<S>(&mut results).await;
                }
            }
            engine = Some(route);
            slice.push((position, outgoing));
        }
        if let Some(engine) = engine {
            under_way.push_back(UnderWay::begin(engine, &mut slice).await);
        }
        for slice in under_way {
            slice.end::<S>(&mut results).await;
        }
        let unanswered = || {
            Err(PublishError::Closed {
                engine: "configured",
            })
        };
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(unanswered))
            .collect()
    }

    /// Takes a task back. Answers the truth.
    ///
    /// # Errors
    /// If the engine cannot tell now.
    ///
    /// # Cancel safety
    /// If the future is dropped the task may or may not have been taken back.
    pub async fn revoke(&self, task: &TaskId) -> Result<Revoked, EngineError> {
        let tasks = self.tasks(task)?;
        let answers = tasks.revoke(vec![task.clone()]).await;
        answers
            .into_iter()
            .next()
            .unwrap_or(Err(EngineError::Closed {
                engine: "configured",
            }))
    }

    /// Moves a task that has not started to another time.
    ///
    /// # Errors
    /// If the engine cannot tell now, or the time is beyond the year 2262.
    ///
    /// # Cancel safety
    /// If the future is dropped the task may or may not have been moved.
    pub async fn reschedule(
        &self,
        task: &TaskId,
        at: SystemTime,
    ) -> Result<Rescheduled, EngineError> {
        let tasks = self.tasks(task)?;
        let due = WallTime::from_system(at).ok_or_else(|| EngineError::Unsupported {
            engine: "configured",
            what: "move a task beyond the year 2262".to_owned(),
        })?;
        let answers = tasks.reschedule(vec![(task.clone(), due)]).await;
        answers
            .into_iter()
            .next()
            .unwrap_or(Err(EngineError::Closed {
                engine: "configured",
            }))
    }

    /// The dead letters of a tube or a topic, wherever they are kept: to list, show, replay and purge them. `None` if no engine is
    /// configured for it, or it keeps none.
    pub fn dead_letters(&self, place: &Place) -> Option<Arc<dyn DeadLetters>> {
        self.route(place).ok()?.engine.dead_letters()
    }

    fn tasks(&self, task: &TaskId) -> Result<Arc<dyn crate::engine::Tasks>, EngineError> {
        let unsupported = |engine| EngineError::Unsupported {
            engine,
            what: format!("revoke or reschedule tasks of tube `{}`", task.tube()),
        };
        let place = Place::Tube(task.tube().clone());
        let route = self.route(&place).map_err(|_| unsupported("configured"))?;
        route.engine.tasks().ok_or_else(|| unsupported(route.name))
    }
}

/// A slice that an engine has taken: the next is encoded while this one is stored.
struct UnderWay<'a> {
    /// Where in the results each belongs, and where it went.
    sent: Vec<(usize, Place)>,
    answers: BoxFuture<'a, Answers>,
}

impl<'a> UnderWay<'a> {
    /// Hands the slice over.
    async fn begin(engine: &'a Route, slice: &mut Vec<(usize, Outgoing)>) -> Self {
        let (positions, outgoing): (Vec<_>, Vec<_>) = slice.drain(..).unzip();
        let places = outgoing.iter().map(|one| one.place.clone());
        let sent = positions.into_iter().zip(places).collect();
        let answers = engine.publish.take(outgoing).await.answers();
        Self { sent, answers }
    }

    /// Waits for the answers and puts each where it belongs.
    async fn end<S: Sendable>(self, results: &mut [Option<Result<S::Receipt, PublishError>>]) {
        for ((position, place), answer) in self.sent.into_iter().zip(self.answers.await) {
            results[position] = Some(answer.map(|published| S::done(place, &published)));
        }
    }
}

#[diagnostic::do_not_recommend]
impl<K: Kind> FromContext<K> for Producer {
    type Plan = Producer;

    fn plan(env: &Env) -> Result<Producer, Missing> {
        env.get::<Producer>().cloned().ok_or_else(|| Missing {
            parameter: "Producer".to_owned(),
            remedy: "run the handler in an app, or put a producer into the environment".to_owned(),
        })
    }

    fn extract<'a>(
        plan: &'a Producer,
        _: &'a Context,
    ) -> impl Future<Output = Result<Self, Rejection>> + Send + 'a {
        std::future::ready(Ok(plan.clone()))
    }
}
