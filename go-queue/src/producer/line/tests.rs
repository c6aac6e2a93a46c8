//! The line over an engine that answers when it is told to.

use std::pin::pin;
use std::sync::Mutex;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::engine::{Capabilities, Engine, EngineError, Publish, Receive, Subscribe};
use crate::message::ContentType;
use crate::name::Side;
use crate::producer::{Enqueue, Push, Route, Routes};
use crate::time::Clock;

/// What it was given, slice by slice, as the numbers in the payloads.
type Given = Arc<Mutex<Vec<Vec<usize>>>>;

/// Refuses this number.
const REFUSED: usize = 13;

#[derive(Clone, Debug)]
struct Told {
    given: Given,
    go: watch::Sender<bool>,
}

impl Told {
    fn new() -> Self {
        let (go, _) = watch::channel(false);
        Self {
            given: Given::default(),
            go,
        }
    }

    fn slices(&self) -> Vec<Vec<usize>> {
        self.given.lock().expect("whole").clone()
    }

    fn numbers(&self) -> Vec<usize> {
        self.slices().concat()
    }
}

impl Publish for Told {
    fn publish(&self, slice: Vec<Outgoing>) -> BoxFuture<'_, Answers> {
        Box::pin(async move {
            let numbers: Vec<usize> = slice.iter().map(number).collect();
            self.given.lock().expect("whole").push(numbers);
            let mut go = self.go.subscribe();
            go.wait_for(|go| *go).await.expect("the engine is there");
            slice.iter().map(answer).collect()
        })
    }
}

fn number(out: &Outgoing) -> usize {
    let text = std::str::from_utf8(out.body.payload()).expect("text");
    text.parse().expect("a number")
}

fn answer(out: &Outgoing) -> Result<Published, PublishError> {
    let number = number(out);
    if number == REFUSED {
        return Err(PublishError::EmptyId {
            place: out.place.clone(),
        });
    }
    Ok(Published {
        id: out.id,
        existed: false,
        token: None,
        partition: 0,
        offset: i64::try_from(number).expect("small"),
    })
}

impl Engine for Told {
    fn name(&self) -> &'static str {
        "told"
    }

    fn capabilities(&self, _: Side) -> Capabilities {
        Capabilities::default()
    }

    fn subscribe<'a>(
        &'a self,
        _: &'a Subscribe,
    ) -> BoxFuture<'a, Result<Box<dyn Receive>, EngineError>> {
        Box::pin(async { Err(EngineError::Closed { engine: "told" }) })
    }

    fn publisher(&self) -> Arc<dyn Publish> {
        Arc::new(self.clone())
    }
}

fn producer(tasks: &Told, topics: &Told) -> Producer {
    let route = |engine: &Told| Some(Route::new(Arc::new(engine.clone())));
    let routes = Routes {
        tasks: route(tasks),
        topics: route(topics),
        ..Routes::default()
    };
    Producer::new(Clock::system(), routes)
}

fn push(number: usize) -> Push {
    Push::bytes("log", number.to_string().into_bytes(), ContentType::Text)
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = timeout(Duration::from_secs(30), future).await;
    done.unwrap_or_else(|_| panic!("{what} does not end"))
}

/// Lets every other task run until it waits.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn is_pending(future: Pin<&mut impl Future>) -> bool {
    future
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_pending()
}

#[tokio::test]
async fn what_is_enqueued_goes_in_order_and_gathers_while_others_are_under_way() {
    let engine = Told::new();
    let producer = producer(&engine, &engine);
    let mut unconfirmed = Vec::new();
    for n in 0..4000 {
        unconfirmed.push(push(n).enqueue(&producer).await.expect("handed over"));
        if n % 1000 == 7 {
            settle().await;
        }
    }
    settle().await;
    let slices = engine.slices();
    assert!(
        slices.len() <= SLICES + 1 + 4,
        "small ones wait: {slices:?}"
    );
    engine.go.send_replace(true);
    for (n, answer) in unconfirmed.into_iter().enumerate() {
        match within("an answer", answer).await {
            Ok(stored) => assert_eq!(stored.offset, i64::try_from(n).expect("small")),
            Err(error) => assert_eq!(n, REFUSED, "{error}"),
        }
    }
    assert_eq!(engine.numbers(), (0..4000).collect::<Vec<_>>());
    assert!(engine.slices().iter().all(|slice| slice.len() <= SLICE));
}

#[tokio::test]
async fn whole_slices_reach_an_engine_that_stands_still() {
    let engine = Told::new();
    let producer = producer(&engine, &engine);
    for n in 100..5100 {
        drop(push(n).enqueue(&producer).await.expect("handed over"));
        if n < 110 {
            settle().await;
        }
    }
    settle().await;
    // All but what is less than a slice: its time runs there, not here.
    assert!(engine.numbers().len() > 4000, "{}", engine.numbers().len());
    engine.go.send_replace(true);
    within("flush", producer.flush()).await;
    assert_eq!(engine.numbers(), (100..5100).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_nobody_waits_for_is_sent_and_flush_waits_for_it() {
    let engine = Told::new();
    let producer = producer(&engine, &engine);
    for n in 0..50 {
        drop(push(n).enqueue(&producer).await.expect("handed over"));
    }
    let mut flushed = pin!(producer.flush());
    assert!(is_pending(flushed.as_mut()), "nothing is confirmed");
    settle().await;
    assert!(is_pending(flushed.as_mut()), "nothing is confirmed");
    engine.go.send_replace(true);
    within("flush", flushed).await;
    assert_eq!(engine.numbers(), (0..50).collect::<Vec<_>>());
    within("flush of nothing", producer.flush()).await;
}

#[tokio::test]
async fn a_caller_waits_while_too_many_are_without_an_answer() {
    let engine = Told::new();
    let producer = producer(&engine, &engine);
    for n in 0..ROOM as usize {
        let handed = within("there is room", push(n).enqueue(&producer)).await;
        drop(handed.expect("handed over"));
    }
    let mut over = pin!(push(0).enqueue(&producer));
    assert!(is_pending(over.as_mut()));
    settle().await;
    assert!(is_pending(over.as_mut()));
    engine.go.send_replace(true);
    let over = within("there is room again", over).await;
    within("its answer", over.expect("handed over"))
        .await
        .expect("stored");
}

#[tokio::test]
async fn an_engine_that_stands_still_holds_no_other_up() {
    let (tasks, topics) = (Told::new(), Told::new());
    let producer = producer(&tasks, &topics);
    topics.go.send_replace(true);
    let mut records = Vec::new();
    for n in 100..3200 {
        let task = Enqueue::bytes("work", n.to_string().into_bytes(), ContentType::Text);
        drop(task.enqueue(&producer).await.expect("handed over"));
        records.push(push(n).enqueue(&producer).await.expect("handed over"));
        if n % 100 == 0 {
            settle().await;
        }
    }
    for record in records {
        within("a record", record).await.expect("stored");
    }
    assert!(tasks.numbers().len() < 3100, "it stands still");
    assert_eq!(topics.numbers(), (100..3200).collect::<Vec<_>>());
}

#[test]
fn a_line_that_ended_with_its_runtime_answers_and_begins_anew() {
    let runtime = || {
        let built = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        built.expect("a runtime")
    };
    let engine = Told::new();
    let producer = producer(&engine, &engine);
    let first = runtime();
    let mut lost = None;
    first.block_on(async {
        lost = push(1).enqueue(&producer).await.ok();
        settle().await;
    });
    drop(first);
    engine.go.send_replace(true);
    runtime().block_on(async {
        let answer = within("an answer", lost.expect("handed over")).await;
        assert!(
            matches!(answer, Err(PublishError::Closed { .. })),
            "{answer:?}"
        );
        let again = push(2).enqueue(&producer).await.expect("handed over");
        let stored = within("an answer", again).await.expect("stored");
        assert_eq!(stored.offset, 2);
    });
}

#[tokio::test]
async fn what_cannot_be_sent_is_said_at_once() {
    let engine = Told::new();
    let producer = producer(&engine, &engine);
    let refused = push(1).id("").enqueue(&producer).await;
    assert!(matches!(refused, Err(PublishError::EmptyId { .. })));
    let nowhere = Producer::new(Clock::system(), Routes::default());
    let refused = push(1).enqueue(&nowhere).await;
    assert!(matches!(refused, Err(PublishError::Unsupported { .. })));
}
