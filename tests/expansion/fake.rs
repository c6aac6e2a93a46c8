//! An engine that keeps what it is given, to look at.

use std::sync::{Arc, Mutex, PoisonError};

use go_queue::engine::{
    BoxFuture, Capabilities, Engine, EngineError, Outgoing, Publish, PublishError, Published,
    Receive, Subscribe,
};
use go_queue::name::Side;
use go_queue::producer::{Producer, Route, Routes};
use go_queue::time::Clock;

#[derive(Clone, Debug, Default)]
pub(crate) struct Fake(Arc<Mutex<Vec<Outgoing>>>);

impl Fake {
    /// A producer of tasks and records that all end here.
    pub(crate) fn producer(&self) -> Producer {
        let route = Route::new(Arc::new(self.clone()));
        let routes = Routes {
            tasks: Some(route.clone()),
            topics: Some(route),
            ..Routes::default()
        };
        Producer::new(Clock::system(), routes)
    }

    /// The only message that was sent since the last call.
    pub(crate) fn take(&self) -> Outgoing {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(sent.len(), 1, "one message was sent");
        sent.remove(0)
    }
}

impl Engine for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self, _: Side) -> Capabilities {
        Capabilities::default()
    }

    fn subscribe<'a>(
        &'a self,
        _: &'a Subscribe,
    ) -> BoxFuture<'a, Result<Box<dyn Receive>, EngineError>> {
        Box::pin(async { Err(EngineError::Closed { engine: "fake" }) })
    }

    fn publisher(&self) -> Arc<dyn Publish> {
        Arc::new(self.clone())
    }
}

impl Publish for Fake {
    fn publish(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<Published, PublishError>>> {
        let answer = |one: &Outgoing| {
            Ok(Published {
                id: one.id,
                existed: false,
                token: None,
                partition: 3,
                offset: 7,
            })
        };
        let answers = slice.iter().map(answer).collect();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(slice);
        Box::pin(async { answers })
    }
}
