//! Messages that are ready to be sent: what the typed builders gather, and how it becomes what an engine takes.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::engine::{DEFAULT_PRIORITY, Outgoing, PublishError, Published, TaskId};
use crate::handler::payload::Produce;
use crate::message::{Body, ContentType, Flags, Id, headers};
use crate::name::{Name, Place};
use crate::outcome::Chain;
use crate::time::{Clock, WallTime};

use super::{Producer, Route, Unconfirmed};
use sealed::Sealed;

/// Key, encoded headers and payload lie in one buffer from the start, as engines take them: the payload comes first, and what comes
/// later is put before it, mostly into room that the encoder has left.
#[derive(Clone, Debug)]
struct Parcel {
    name: &'static str,
    body: Vec<u8>,
    key_len: usize,
    head_len: usize,
    content: ContentType,
    flags: Flags,
    encode_error: Option<Arc<str>>,
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
        let null_payload = Flags::NULL_KEY.with(Flags::NULL_PAYLOAD);
        let (payload, flags, error) = match payload.encode() {
            Ok(Some(bytes)) => (bytes, Flags::NULL_KEY, None),
            Ok(None) => (Vec::new(), null_payload, None),
            Err(error) => {
                let why = crate::outcome::reason(Chain(&*error));
                (Vec::new(), Flags::NULL_KEY, Some(why))
            }
        };
        Self {
            flags,
            encode_error: error,
            ..Self::bytes(name, payload, T::CONTENT)
        }
    }

    fn bytes(name: &'static str, payload: Vec<u8>, content: ContentType) -> Self {
        Self {
            name,
            body: payload,
            key_len: 0,
            head_len: 0,
            content,
            flags: Flags::NULL_KEY,
            encode_error: None,
            header_error: None,
            id: None,
        }
    }

    fn set_key(&mut self, key: &[u8]) {
        put(&mut self.body, 0..self.key_len, key);
        self.key_len = key.len();
        self.flags = Flags(self.flags.0 & !Flags::NULL_KEY.0);
    }

    fn add_header(&mut self, name: &str, value: &[u8]) {
        let mut encoded = Vec::new();
        match headers::encode(&mut encoded, name, value) {
            Ok(()) => {
                let end = self.key_len + self.head_len;
                put(&mut self.body, end..end, &encoded);
                self.head_len += encoded.len();
            }
            Err(error) => {
                self.header_error.get_or_insert(error);
            }
        }
    }

    fn pack(self, place: Place, due: WallTime, priority: u32) -> Result<Outgoing, PublishError> {
        if let Some(error) = self.header_error {
            return Err(error.into());
        }
        if let Some(why) = self.encode_error {
            return Err(PublishError::Encode { place, why });
        }
        let (id, named) = match self.id {
            Some(IdGiven::Named(name)) if name.is_empty() => {
                return Err(PublishError::EmptyId { place });
            }
            Some(IdGiven::Named(name)) => (Id::named(place.name(), &name), true),
            Some(IdGiven::Exact(id)) => (id, true),
            None => (Id::unique(), false),
        };
        Ok(Outgoing {
            place,
            id,
            named,
            body: Body::new(self.body.into(), self.key_len, self.head_len),
            flags: self.flags,
            content: self.content,
            due,
            priority,
        })
    }
}

/// Puts bytes in the place of others.
fn put(buffer: &mut Vec<u8>, place: Range<usize>, bytes: &[u8]) {
    let (len, end) = (buffer.len(), place.start + bytes.len());
    if end > place.end {
        buffer.resize(len + end - place.end, 0);
    }
    buffer.copy_within(place.end..len, end);
    buffer.truncate(len + end - place.end);
    buffer[place.start..end].copy_from_slice(bytes);
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
        let place = outgoing.place.clone();
        let published = first(engine.publish.publish(vec![outgoing]).await, engine.name)?;
        Ok(Self::done(place, &published))
    }

    /// Hands it over without waiting until it is stored: the answer comes with the [`Unconfirmed`]. Waits only while 10,000
    /// messages for the engine are without a confirmation.
    ///
    /// In a handler, await the answer before you return: what you were given is done when you do.
    ///
    /// # Errors
    /// What is wrong with the task itself; the rest is for [`Unconfirmed`] to tell.
    ///
    /// # Cancel safety
    /// If the future is dropped the task was not handed over.
    pub async fn enqueue(self, producer: &Producer) -> Result<Unconfirmed<TaskId>, PublishError> {
        producer.enqueue(self).await
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
        let place = outgoing.place.clone();
        let published = first(engine.publish.publish(vec![outgoing]).await, engine.name)?;
        Ok(Self::done(place, &published))
    }

    /// Hands it over without waiting until it is stored: the answer comes with the [`Unconfirmed`]. Records that one caller
    /// enqueues keep their order. Waits only while 10,000 messages for the engine are without a confirmation.
    ///
    /// In a handler, await the answer before you return: what you were given is done when you do.
    ///
    /// # Examples
    /// ```
    /// # use go_queue::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Reading { sensor: u32 }
    /// const READINGS: Topic<Reading> = Topic::new("readings");
    ///
    /// # async fn run(producer: &Producer, readings: Vec<Reading>) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut unconfirmed = Vec::new();
    /// for reading in readings {
    ///     let key = reading.sensor.to_string();
    ///     unconfirmed.push(READINGS.push(reading).key(key).enqueue(producer).await?);
    /// }
    /// for record in unconfirmed {
    ///     record.await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What is wrong with the record itself; the rest is for [`Unconfirmed`] to tell.
    ///
    /// # Cancel safety
    /// If the future is dropped the record was not handed over.
    pub async fn enqueue(self, producer: &Producer) -> Result<Unconfirmed<Pushed>, PublishError> {
        producer.enqueue(self).await
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
    Name::of_program(name).map_err(|error| PublishError::Name {
        // It may hold anything, a line break too.
        name: name.escape_debug().take(80).collect(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_last_key_and_all_headers_stand_before_the_payload(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..3),
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..3),
            key_first in any::<bool>(),
        ) {
            let mut parcel = Parcel::bytes("orders", payload.clone(), ContentType::Raw);
            let set_keys = |parcel: &mut Parcel| keys.iter().for_each(|key| parcel.set_key(key));
            if key_first {
                set_keys(&mut parcel);
            }
            for value in &values {
                parcel.add_header("h", value);
            }
            if !key_first {
                set_keys(&mut parcel);
            }
            let place = Place::Topic(Name::literal("orders"));
            let packed = parcel.pack(place, WallTime::EPOCH, DEFAULT_PRIORITY).expect("within the format");
            let key = keys.last().cloned().unwrap_or_default();
            prop_assert_eq!(packed.body.key(), &key[..]);
            prop_assert_eq!(packed.body.payload(), &payload[..]);
            let found: Vec<_> = headers::iter(packed.body.raw_headers()).map(|(_, value)| value.to_vec()).collect();
            prop_assert_eq!(found, values);
            prop_assert_eq!(packed.flags.contains(Flags::NULL_KEY), keys.is_empty());
        }
    }

    #[test]
    fn an_empty_id_is_refused() {
        let mut parcel = Parcel::new("orders", &1);
        parcel.id = Some(IdGiven::Named(Vec::new()));
        let place = Place::Tube(Name::literal("orders"));
        let packed = parcel.pack(place, WallTime::EPOCH, DEFAULT_PRIORITY);
        assert!(matches!(packed, Err(PublishError::EmptyId { .. })));
    }
}
