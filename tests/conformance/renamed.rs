//! An engine whose places have other names: subjects that share a server do not share its topics.

use std::fmt;
use std::sync::Arc;

use go_queue::engine::{
    Answers, BoxFuture, Capabilities, DeadLetter, DeadLetters, DeadQuery, Engine, EngineError,
    Outgoing, Publish, PublishError, Receive, Subscribe, Taken,
};
use go_queue::name::{Name, Place, Side};

/// The engine, and what stands before every name that it hears.
pub(crate) struct Renamed {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) prefix: Prefix,
}

impl fmt::Debug for Renamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renamed")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Stands before names of topics and groups. The copies of one subject are equal.
#[derive(Clone, Debug)]
pub(crate) struct Prefix(pub(crate) Arc<str>);

impl Prefix {
    pub(crate) fn name(&self, name: &Name) -> Name {
        Name::new(&format!("{}{name}", self.0)).expect("a short prefix of plain letters")
    }

    fn place(&self, place: &Place) -> Place {
        match place {
            Place::Tube(name) => Place::Tube(self.name(name)),
            Place::Topic(name) => Place::Topic(self.name(name)),
        }
    }

    fn own(&self, name: &Name) -> Name {
        let own = name.as_str().strip_prefix(&*self.0);
        Name::new(own.unwrap_or(name.as_str())).expect("it was a name before")
    }

    fn own_place(&self, place: &Place) -> Place {
        match place {
            Place::Tube(name) => Place::Tube(self.own(name)),
            Place::Topic(name) => Place::Topic(self.own(name)),
        }
    }

    fn letter(&self, letter: DeadLetter) -> DeadLetter {
        DeadLetter {
            place: self.own_place(&letter.place),
            group: letter.group.as_ref().map(|group| self.own(group)),
            ..letter
        }
    }
}

impl Engine for Renamed {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn capabilities(&self, side: Side) -> Capabilities {
        self.engine.capabilities(side)
    }

    fn subscribe<'a>(
        &'a self,
        to: &'a Subscribe,
    ) -> BoxFuture<'a, Result<Box<dyn Receive>, EngineError>> {
        Box::pin(async move {
            let to = Subscribe {
                place: self.prefix.place(&to.place),
                group: to.group.as_ref().map(|group| self.prefix.name(group)),
                ..to.clone()
            };
            self.engine.subscribe(&to).await
        })
    }

    fn publisher(&self) -> Arc<dyn Publish> {
        Arc::new(Producing {
            publish: self.engine.publisher(),
            prefix: self.prefix.clone(),
        })
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        let letters = self.engine.dead_letters()?;
        let prefix = self.prefix.clone();
        Some(Arc::new(Letters { letters, prefix }))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.engine.close()
    }
}

struct Producing {
    publish: Arc<dyn Publish>,
    prefix: Prefix,
}

impl Producing {
    fn outgoing(&self, slice: Vec<Outgoing>) -> Vec<Outgoing> {
        let renamed = slice.into_iter().map(|out| Outgoing {
            place: self.prefix.place(&out.place),
            ..out
        });
        renamed.collect()
    }

    async fn answers(&self, answers: BoxFuture<'_, Answers>) -> Answers {
        let mut answers = answers.await;
        for answer in &mut answers {
            if let Err(PublishError::TooLarge { place, .. }) = answer {
                *place = self.prefix.own_place(place);
            }
        }
        answers
    }
}

impl Publish for Producing {
    fn publish(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Answers> {
        Box::pin(self.answers(self.publish.publish(self.outgoing(slice))))
    }

    fn take(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Taken<'_>> {
        let taking = self.publish.take(self.outgoing(slice));
        Box::pin(async { Taken::new(Box::pin(self.answers(taking.await.answers()))) })
    }
}

struct Letters {
    letters: Arc<dyn DeadLetters>,
    prefix: Prefix,
}

impl DeadLetters for Letters {
    fn list(&self, query: DeadQuery) -> BoxFuture<'_, Result<Vec<DeadLetter>, EngineError>> {
        let query = DeadQuery {
            place: query.place.as_ref().map(|place| self.prefix.place(place)),
            group: query.group.as_ref().map(|group| self.prefix.name(group)),
            ..query
        };
        Box::pin(async move {
            let letters = self.letters.list(query).await?;
            Ok(letters
                .into_iter()
                .map(|letter| self.prefix.letter(letter))
                .collect())
        })
    }

    fn show(&self, cursor: u64) -> BoxFuture<'_, Result<Option<DeadLetter>, EngineError>> {
        Box::pin(async move {
            let letter = self.letters.show(cursor).await?;
            Ok(letter.map(|letter| self.prefix.letter(letter)))
        })
    }

    fn replay(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>> {
        self.letters.replay(cursors)
    }

    fn purge(&self, cursors: Vec<u64>) -> BoxFuture<'_, Result<usize, EngineError>> {
        self.letters.purge(cursors)
    }

    fn count(&self, place: Option<Place>) -> BoxFuture<'_, Result<u64, EngineError>> {
        self.letters
            .count(place.as_ref().map(|place| self.prefix.place(place)))
    }
}
