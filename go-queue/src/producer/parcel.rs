//! Messages that are ready to be sent: what the typed builders gather, and how it becomes what an engine takes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::engine::{DEFAULT_PRIORITY, Outgoing, PublishError, Published, TaskId};
use crate::handler::payload::Produce;
use crate::message::{Body, ContentType, Flags, Id, headers};
use crate::name::{Name, Place};
use crate::outcome::Chain;
use crate::time::{Clock, WallTime};

use super::{Producer, Route};
use sealed::Sealed;

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
            Some(IdGiven::Named(name)) if name.is_empty() => {
                return Err(PublishError::EmptyId { place });
            }
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
    /// A task for this tube, now. The attributes and [`Tube`](super::Tube) call it.
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
    /// A record for this topic. The attributes and [`Topic`](super::Topic) call it.
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

pub(super) mod sealed {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_id_is_refused() {
        let mut parcel = Parcel::new("orders", &1);
        parcel.id = Some(IdGiven::Named(Vec::new()));
        let place = Place::Tube(Name::literal("orders"));
        let packed = parcel.pack(place, WallTime::EPOCH, DEFAULT_PRIORITY);
        assert!(matches!(packed, Err(PublishError::EmptyId { .. })));
    }
}
