//! The producing side against real nodes, and against nodes that misbehave.

mod changes;
mod misbehaving;
mod nodes;
mod notes;
mod producing;
mod server;

use std::sync::Arc;
use std::time::Duration;

use super::{Beanstalkd, Config};
use crate::dedup::Marks;
use crate::engine::{DEFAULT_PRIORITY, Engine, Outgoing, PublishError, Published, TaskId};
use crate::message::{Body, ContentType, Flags, Id};
use crate::name::{Name, Place};
use crate::time::{Clock, WallTime};

/// Longer than anything takes.
const BOUND: Duration = Duration::from_secs(20);

const TUBE: Name = Name::literal("t");

fn task(payload: &[u8]) -> Outgoing {
    Outgoing {
        place: Place::Tube(TUBE),
        id: Id::unique(),
        named: false,
        body: Body::pack(b"", b"", payload),
        flags: Flags::NULL_KEY,
        content: ContentType::Raw,
        due: WallTime::EPOCH,
        priority: DEFAULT_PRIORITY,
    }
}

fn later(after: Duration) -> Outgoing {
    Outgoing {
        due: Clock::system().now().saturating_add(after),
        ..task(b"later")
    }
}

fn named(name: &str) -> Outgoing {
    Outgoing {
        id: Id::named(&TUBE, name.as_bytes()),
        named: true,
        ..later(Duration::from_secs(3600))
    }
}

async fn open(config: Config) -> Beanstalkd {
    open_with(config, None).await
}

async fn open_with(config: Config, marks: Option<Arc<dyn Marks>>) -> Beanstalkd {
    Beanstalkd::open(config, marks, Clock::system())
        .await
        .expect("a node is there")
}

/// Sends one, within the bound.
async fn send(engine: &Beanstalkd, out: Outgoing) -> Result<Published, PublishError> {
    let mut answers = send_all(engine, vec![out]).await;
    answers.pop().expect("one answer")
}

async fn send_all(
    engine: &Beanstalkd,
    slice: Vec<Outgoing>,
) -> Vec<Result<Published, PublishError>> {
    let n = slice.len();
    let publisher = engine.publisher();
    let answers = tokio::time::timeout(BOUND, publisher.publish(slice))
        .await
        .expect("in time");
    assert_eq!(answers.len(), n, "one answer for each");
    answers
}

fn id_of(published: &Published) -> TaskId {
    TaskId::new(TUBE, published)
}

/// Looks again and again until it is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(BOUND, looking).await.is_err() {
        unreachable!("{what} has not happened");
    }
}
