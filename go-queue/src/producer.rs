//! The producing face: typed builders that end in `.send(&producer)`, and the [`Producer`] that routes them to engines.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use crate::engine::{
    DEFAULT_PRIORITY, Engine, EngineError, Outgoing, Publish, PublishError, Published, Rescheduled,
    Revoked, TaskId,
};
use crate::handler::extract::Rejection;
use crate::handler::payload::Produce;
use crate::handler::{Context, Env, FromContext, Kind, Missing};
use crate::message::{Body, ContentType, Flags, Id, headers};
use crate::name::{Name, Place};
use crate::outcome::Chain;
use crate::time::{Clock, WallTime};

/// A tube with its payload type, for services that do not link the handlers:
/// `pub const REMINDERS: Tube<Reminder> = Tube::new("reminders");`
pub struct Tube<T: ?Sized>(&'static str, PhantomData<fn(&T)>);

/// A topic with its payload type, for services that do not link the handlers.
pub struct Topic<T: ?Sized>(&'static str, PhantomData<fn(&T)>);

macro_rules! typed_place {
    ($type:ident) => {
        impl<T: ?Sized> $type<T> {
            /// Names it. In a `const`, a bad name is a compile error.
            ///
            /// # Panics
            /// If the name breaks the rule of [`check_name`](crate::name::check_name) and this is not in a `const`.
            pub const fn new(name: &'static str) -> Self {
                let _checked = Name::literal(name);
                // `Name` has a destructor that cannot run in a const.
                std::mem::forget(_checked);
                Self(name, PhantomData)
            }

            /// Its name.
            pub const fn name(&self) -> &'static str {
                self.0
            }
        }

        impl<T: ?Sized> Clone for $type<T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T: ?Sized> Copy for $type<T> {}

        impl<T: ?Sized> fmt::Debug for $type<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($type)).field(&self.0).finish()
            }
        }
    };
}

typed_place!(Tube);
typed_place!(Topic);

#[expect(
    clippy::needless_pass_by_value,
    reason = "a payload is handed over; a borrow would put `&` into every call"
)]
impl<T: Produce> Tube<T> {
    /// A task to run as soon as possible.
    pub fn now(&self, payload: T) -> Enqueue {
        Enqueue::new(self.0, &payload)
    }

    /// A task to run after this time.
    pub fn delay(&self, payload: T, delay: Duration) -> Enqueue {
        Enqueue::new(self.0, &payload).after(delay)
    }

    /// A task to run at this time; in the past means now.
    pub fn at(&self, payload: T, at: SystemTime) -> Enqueue {
        Enqueue::new(self.0, &payload).not_before(at)
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a payload is handed over; a borrow would put `&` into every call"
)]
impl<T: Produce> Topic<T> {
    /// A record for the end of the log.
    pub fn push(&self, payload: T) -> Push {
        Push::new(self.0, &payload)
    }
}

#[derive(Clone, Debug)]
struct Parcel {
    name: &'static str,
    payload: Result<Vec<u8>, Arc<str>>,
    content: ContentType,
    flags: Flags,
    key: Vec<u8>,
    headers: Vec<u8>,
    header_error: Option<headers::HeadersError>,
    id: Option<IdGiven>,
}

#[derive(Clone, Debug)]
enum IdGiven {
    Named(Vec<u8>),
    Exact(Id),
}

impl Parcel {
    fn new<T: Produce + ?Sized>(name: &'static str, payload: &T) -> Self {
        let (payload, flags) = match payload.encode() {
            Ok(Some(bytes)) => (Ok(bytes), Flags::NULL_KEY),
            Ok(None) => (Ok(Vec::new()), Flags::NULL_KEY.with(Flags::NULL_PAYLOAD)),
            Err(error) => (Err(crate::outcome::reason(Chain(&*error))), Flags::NULL_KEY),
        };
        Self {
            name,
            payload,
            content: T::CONTENT,
            flags,
            key: Vec::new(),
            headers: Vec::new(),
            header_error: None,
            id: None,
        }
    }

    fn bytes(name: &'static str, payload: Vec<u8>, content: ContentType) -> Self {
        Self {
            name,
            payload: Ok(payload),
            content,
            flags: Flags::NULL_KEY,
            key: Vec::new(),
            headers: Vec::new(),
            header_error: None,
            id: None,
        }
    }

    fn set_key(&mut self, key: &[u8]) {
        self.key = key.to_vec();
        self.flags = Flags(self.flags.0 & !Flags::NULL_KEY.0);
    }

    fn add_header(&mut self, name: &str, value: &[u8]) {
        if let Err(error) = headers::encode(&mut self.headers, name, value) {
            self.header_error.get_or_insert(error);
        }
    }

    fn pack(self, place: Place, due: WallTime, priority: u32) -> Result<Outgoing, PublishError> {
        if let Some(error) = self.header_error {
            return Err(error.into());
        }
        let payload = self.payload.map_err(|why| PublishError::Encode {
            place: place.clone(),
            why,
        })?;
        let (id, named) = match self.id {
            Some(IdGiven::Named(name)) => (Id::named(place.name(), &name), true),
            Some(IdGiven::Exact(id)) => (id, true),
            None => (Id::unique(), false),
        };
        // The payload alone is the common case: its buffer becomes the body as it is.
        let body = if self.key.is_empty() && self.headers.is_empty() {
            Body::new(payload.into(), 0, 0)
        } else {
            Body::pack(&self.key, &self.headers, &payload)
        };
        Ok(Outgoing {
            place,
            id,
            named,
            body,
            flags: self.flags,
            content: self.content,
            due,
            priority,
        })
    }
}

/// A task that is ready to be sent. Nothing happens until [`Enqueue::send`] is awaited.
#[must_use = "nothing is sent until `.send(&producer).await`"]
#[derive(Clone, Debug)]
pub struct Enqueue {
    parcel: Parcel,
    when: When,
    /// As said for this task.
    priority: Option<u32>,
    /// As said by the attribute.
    usual_priority: u32,
}

#[derive(Clone, Copy, Debug)]
enum When {
    Now,
    After(Duration),
    At(SystemTime),
}

impl When {
    fn due(self, clock: &Clock) -> Result<WallTime, PublishError> {
        match self {
            Self::Now => Ok(WallTime::EPOCH),
            Self::After(delay) if delay.is_zero() => Ok(WallTime::EPOCH),
            Self::After(delay) => clock
                .now()
                .checked_add(delay)
                .ok_or(PublishError::DelayOutOfRange { delay }),
            Self::At(at) => WallTime::from_system(at).ok_or_else(|| {
                let delay = at
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                PublishError::DelayOutOfRange { delay }
            }),
        }
    }
}

impl Enqueue {
    /// A task for this tube, now. The attributes and [`Tube`] call it.
    pub fn new<T: Produce + ?Sized>(tube: &'static str, payload: &T) -> Self {
        Self {
            parcel: Parcel::new(tube, payload),
            when: When::Now,
            priority: None,
            usual_priority: DEFAULT_PRIORITY,
        }
    }

    /// A task whose payload is encoded already.
    pub fn bytes(tube: &'static str, payload: Vec<u8>, content: ContentType) -> Self {
        Self {
            parcel: Parcel::bytes(tube, payload, content),
            when: When::Now,
            priority: None,
            usual_priority: DEFAULT_PRIORITY,
        }
    }

    /// Not before so much time from the moment of sending.
    pub fn after(mut self, delay: Duration) -> Self {
        self.when = When::After(delay);
        self
    }

    /// Not before this time; in the past means now.
    pub fn not_before(mut self, at: SystemTime) -> Self {
        self.when = When::At(at);
        self
    }

    /// Lower goes first. Unless said here it is that of the handler: by the configuration if the handler is served by the
    /// app of the producer, else by its attribute, else 1024.
    pub fn priority(mut self, priority: u32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// What the attribute says. Written by the attributes.
    #[doc(hidden)]
    pub fn usual_priority(mut self, priority: u32) -> Self {
        self.usual_priority = priority;
        self
    }

    /// A key that the handler can read. Tubes keep no order.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.parcel.set_key(key.as_ref());
        self
    }

    /// One more header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.parcel.add_header(name, value.as_ref());
        self
    }

    /// Names the task: the same name in the same tube is stored once, until `dedup.keep` after it is done. Sending it again
    /// answers with [`TaskId::existed`].
    pub fn id(mut self, name: impl AsRef<[u8]>) -> Self {
        self.parcel.id = Some(IdGiven::Named(name.as_ref().to_vec()));
        self
    }

    /// As [`Enqueue::id`], with an id that is known exactly.
    pub fn exact_id(mut self, id: Id) -> Self {
        self.parcel.id = Some(IdGiven::Exact(id));
        self
    }

    /// Sends it. Returns after the engine has confirmed that it is stored.
    ///
    /// # Errors
    /// If it was not accepted; see [`PublishError`].
    ///
    /// # Cancel safety
    /// If the future is dropped the task may or may not be stored. Send it again with an [`Enqueue::id`] to be sure.
    pub async fn send(self, producer: &Producer) -> Result<TaskId, PublishError> {
        let (engine, outgoing) = self.ready(producer)?;
        let published = first(
            engine.publish.publish(vec![outgoing.clone()]).await,
            engine.name,
        )?;
        Ok(Self::done(outgoing.place, &published))
    }
}

/// A record that is ready to be pushed. Nothing happens until [`Push::send`] is awaited.
#[must_use = "nothing is pushed until `.send(&producer).await`"]
#[derive(Clone, Debug)]
pub struct Push {
    parcel: Parcel,
}

impl Push {
    /// A record for this topic. The attributes and [`Topic`] call it.
    pub fn new<T: Produce + ?Sized>(topic: &'static str, payload: &T) -> Self {
        Self {
            parcel: Parcel::new(topic, payload),
        }
    }

    /// A record whose payload is encoded already.
    pub fn bytes(topic: &'static str, payload: Vec<u8>, content: ContentType) -> Self {
        Self {
            parcel: Parcel::bytes(topic, payload, content),
        }
    }

    /// The key: records of one key keep their order and go to one partition.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.parcel.set_key(key.as_ref());
        self
    }

    /// One more header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.parcel.add_header(name, value.as_ref());
        self
    }

    /// The id of the record, from a name: consumers with a dedup store run it once.
    pub fn id(mut self, name: impl AsRef<[u8]>) -> Self {
        self.parcel.id = Some(IdGiven::Named(name.as_ref().to_vec()));
        self
    }

    /// Pushes it. Returns after the engine has confirmed that it is stored.
    ///
    /// # Errors
    /// If it was not accepted; see [`PublishError`].
    ///
    /// # Cancel safety
    /// If the future is dropped the record may or may not be stored.
    pub async fn send(self, producer: &Producer) -> Result<Pushed, PublishError> {
        let (engine, outgoing) = self.ready(producer)?;
        let published = first(
            engine.publish.publish(vec![outgoing.clone()]).await,
            engine.name,
        )?;
        Ok(Self::done(outgoing.place, &published))
    }
}

/// What is known of a record that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its id.
    pub id: Id,
    /// Its partition.
    pub partition: u32,
    /// Its offset there.
    pub offset: i64,
}

fn first(
    results: Vec<Result<Published, PublishError>>,
    engine: &'static str,
) -> Result<Published, PublishError> {
    // An engine that answers nothing has not confirmed anything.
    results
        .into_iter()
        .next()
        .unwrap_or(Err(PublishError::Closed { engine }))
}

mod sealed {
    use super::{Enqueue, Outgoing, Producer, PublishError, Published, Push, Route};
    use crate::name::Place;

    pub trait Sealed: Sized {
        type Receipt;
        fn ready(self, producer: &Producer) -> Result<(&Route, Outgoing), PublishError>;
        fn done(place: Place, published: &Published) -> Self::Receipt;
    }

    impl Sealed for Enqueue {
        type Receipt = super::TaskId;

        fn ready(self, producer: &Producer) -> Result<(&Route, Outgoing), PublishError> {
            let place = Place::Tube(super::checked(self.parcel.name)?);
            let due = self.when.due(&producer.0.clock)?;
            let route = producer.route(&place)?;
            let priority = self.priority.or(route.priority);
            let priority = priority.unwrap_or(self.usual_priority);
            Ok((route, self.parcel.pack(place, due, priority)?))
        }

        fn done(place: Place, published: &Published) -> super::TaskId {
            super::TaskId::new(place.name().clone(), published)
        }
    }

    impl Sealed for Push {
        type Receipt = super::Pushed;

        fn ready(self, producer: &Producer) -> Result<(&Route, Outgoing), PublishError> {
            let place = Place::Topic(super::checked(self.parcel.name)?);
            let route = producer.route(&place)?;
            let now = super::WallTime::EPOCH;
            Ok((
                route,
                self.parcel.pack(place, now, super::DEFAULT_PRIORITY)?,
            ))
        }

        fn done(_: Place, published: &Published) -> super::Pushed {
            let Published {
                id,
                partition,
                offset,
                ..
            } = *published;
            super::Pushed {
                id,
                partition,
                offset,
            }
        }
    }
}

use sealed::Sealed;

/// What [`Producer::send_all`] takes: [`Enqueue`] and [`Push`].
pub trait Sendable: Sealed {}
impl Sendable for Enqueue {}
impl Sendable for Push {}

fn checked(name: &'static str) -> Result<Name, PublishError> {
    Name::new(name).map_err(|error| PublishError::Name {
        // It may hold anything, a line break too.
        name: name.escape_debug().take(80).collect(),
        error,
    })
}

/// One engine as the producer sees it.
#[derive(Clone)]
pub struct Route {
    name: &'static str,
    engine: Arc<dyn Engine>,
    publish: Arc<dyn Publish>,
    priority: Option<u32>,
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

    /// Sends many with one completion for each thousand; one result for each, in order. Those that cannot be sent do not
    /// hold the others up.
    ///
    /// # Cancel safety
    /// If the future is dropped, those that were handed over may or may not be stored.
    pub async fn send_all<S: Sendable>(
        &self,
        all: impl IntoIterator<Item = S>,
    ) -> Vec<Result<S::Receipt, PublishError>> {
        const SLICE: usize = 1000;
        let mut results = Vec::new();
        let mut slice: Vec<(usize, Outgoing)> = Vec::new();
        let mut engine: Option<Route> = None;
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
            let same = engine
                .as_ref()
                .is_some_and(|e| Arc::ptr_eq(&e.engine, &route.engine));
            if !same || slice.len() == SLICE {
                if let Some(engine) = &engine {
                    publish_slice::<S>(engine, &mut slice, &mut results).await;
                }
                engine = Some(route.clone());
            }
            slice.push((position, outgoing));
        }
        if let Some(engine) = &engine {
            publish_slice::<S>(engine, &mut slice, &mut results).await;
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

async fn publish_slice<S: Sendable>(
    engine: &Route,
    slice: &mut Vec<(usize, Outgoing)>,
    results: &mut [Option<Result<S::Receipt, PublishError>>],
) {
    let (positions, outgoing): (Vec<_>, Vec<_>) = slice.drain(..).unzip();
    let places: Vec<_> = outgoing.iter().map(|one| one.place.clone()).collect();
    let answers = engine.publish.publish(outgoing).await;
    for ((position, place), answer) in positions.into_iter().zip(places).zip(answers) {
        results[position] = Some(answer.map(|published| S::done(place, &published)));
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
