//! Middleware: its order, its short cut, and what it sees.

use go_queue::engine::BoxFuture;
use go_queue::handler::Context;
use go_queue::middleware::{Middleware, Next};
use go_queue::prelude::*;

use crate::stage::{Stage, Trail, on_both_engines, stop};

on_both_engines!(
    layers_run_from_outside_to_inside_and_back,
    a_layer_can_end_a_run_and_change_its_outcome,
    a_layer_of_one_handler_leaves_the_others_alone,
);

/// Writes down what comes in and what goes out.
struct Stamp(&'static str, Option<Trail>);

impl Middleware for Stamp {
    fn call<'a>(&'a self, cx: &'a Context, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let trail = self
                .1
                .clone()
                .or_else(|| TRAIL.with(|t| t.borrow().clone()));
            let write = |text: String| {
                if let Some(trail) = &trail {
                    trail.add(text);
                }
            };
            let about = cx.about();
            write(format!("{} in {}/{}", self.0, about.source, about.handler));
            let outcome = next.run(cx).await;
            write(format!("{} out {outcome:?}", self.0));
            outcome
        })
    }
}

thread_local! {
    /// For layers that an attribute makes, which have no state. Each test has a thread of its own.
    static TRAIL: std::cell::RefCell<Option<Trail>> = const { std::cell::RefCell::new(None) };
}

fn of_attribute(name: &'static str) -> Stamp {
    Stamp(name, None)
}

#[dq_handler(tube = "layered", middleware = [of_attribute("third"), of_attribute("fourth")])]
async fn layered(n: u32, State(trail): State<Trail>) {
    trail.add(format_args!("handler {n}"));
}

#[dq_handler(tube = "plain")]
async fn plain(n: u32, State(trail): State<Trail>) {
    trail.add(format_args!("handler {n}"));
}

async fn layers_run_from_outside_to_inside_and_back(stage: Stage) {
    let trail = Trail::new();
    TRAIL.set(Some(trail.clone()));
    let app = stage
        .app(handlers![layered])
        .state(trail.clone())
        .middleware(Stamp("first", Some(trail.clone())))
        .middleware(Stamp("second", Some(trail.clone())));
    let running = app.start().await.unwrap();
    layered::now(1).send(&running.producer()).await.unwrap();
    assert_eq!(
        trail.reach(9).await,
        [
            "first in layered/layered",
            "second in layered/layered",
            "third in layered/layered",
            "fourth in layered/layered",
            "handler 1",
            "fourth out Done",
            "third out Done",
            "second out Done",
            "first out Done",
        ]
    );
    stop(running).await;
}

/// Lets nothing through that is marked, and turns failures into dead letters.
struct Guard;

impl Middleware for Guard {
    fn call<'a>(&'a self, cx: &'a Context, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            match cx.message().headers().get_str("guard") {
                Some("skip") => return Outcome::Skip,
                Some("dead") => return Outcome::dead("guarded"),
                Some("panic") => std::panic::panic_any("guard"),
                _ => {}
            }
            match next.run(cx).await {
                Outcome::Retry { error, .. } => Outcome::dead(format_args!("no retry: {error}")),
                other => other,
            }
        })
    }
}

#[dq_handler(tube = "guarded", retry(max = 1, backoff = "1ms..2ms"))]
async fn guarded(n: u32, State(trail): State<Trail>) -> Result<(), &'static str> {
    trail.add(n);
    if n == 4 { Err("four") } else { Ok(()) }
}

async fn a_layer_can_end_a_run_and_change_its_outcome(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app(handlers![guarded])
        .state(trail.clone())
        .middleware(Guard);
    let running = app.start().await.unwrap();
    let producer = running.producer();
    guarded::now(1)
        .header("guard", "skip")
        .send(&producer)
        .await
        .unwrap();
    guarded::now(2)
        .header("guard", "dead")
        .send(&producer)
        .await
        .unwrap();
    guarded::now(3).send(&producer).await.unwrap();
    guarded::now(4).send(&producer).await.unwrap();
    let mut reasons: Vec<_> = stage
        .dead(2)
        .await
        .into_iter()
        .map(|l| l.reason.to_string())
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["guarded", "no retry: four"]);
    trail.reach(2).await;
    stop(running).await;
    assert_eq!(trail.sorted(), ["3", "4"]);
}

async fn a_layer_of_one_handler_leaves_the_others_alone(stage: Stage) {
    let trail = Trail::new();
    TRAIL.set(Some(trail.clone()));
    let app = stage.app(handlers![layered, plain]).state(trail.clone());
    let running = app.start().await.unwrap();
    plain::now(1).send(&running.producer()).await.unwrap();
    assert_eq!(trail.reach(1).await, ["handler 1"]);
    layered::now(2).send(&running.producer()).await.unwrap();
    assert_eq!(trail.reach(6).await[1], "third in layered/layered");
    stop(running).await;
    assert_eq!(trail.lines().len(), 6);
}

#[dq_handler(tube = "threads", blocking)]
fn on_a_thread(n: u32, State(trail): State<Trail>) {
    trail.add(n);
}

/// In real time: a paused clock runs ahead of threads.
#[tokio::test]
async fn a_panic_in_a_layer_is_an_error_and_a_layer_around_blocking_works() {
    layers_around_threads(Stage::memory()).await;
    layers_around_threads(Stage::sqlite().await).await;
}

async fn layers_around_threads(stage: Stage) {
    let trail = Trail::new();
    let app = stage
        .app(handlers![guarded, on_a_thread])
        .state(trail.clone())
        .middleware(Guard);
    let running = app.start().await.unwrap();
    let producer = running.producer();
    guarded::now(1)
        .header("guard", "panic")
        .send(&producer)
        .await
        .unwrap();
    on_a_thread::now(2)
        .header("guard", "dead")
        .send(&producer)
        .await
        .unwrap();
    on_a_thread::now(3).send(&producer).await.unwrap();
    let mut told: Vec<_> = stage
        .dead(2)
        .await
        .into_iter()
        .map(|letter| (letter.reason, letter.attempts))
        .collect();
    told.sort();
    assert_eq!(told, [("guarded".into(), 1), ("panic: guard".into(), 2)]);
    assert_eq!(trail.reach(1).await, ["3"]);
    stop(running).await;
}
