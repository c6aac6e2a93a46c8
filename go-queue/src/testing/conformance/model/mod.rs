//! Random operations, on the engine and on a model of a few lines at once: both must say the same at every step, and in
//! the end everything that was accepted has been seen.

mod tasks;
mod topics;

use std::fmt::Debug;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use super::{Consumer, Subject, eventually};
use crate::engine::{DeadQuery, Engine, Subscribe};
use crate::message::Id;
use crate::name::Side;
use crate::time::millis;

/// How many operations a sequence has at most.
const LONGEST: usize = 60;

/// Runs random sequences on fresh subjects. A failure is shrunk, and printed as the shortest sequence that fails.
pub fn run<S: Subject>(make: impl AsyncFn() -> S) {
    let mut sequences = 0;
    let mut sides = [false; 2];
    super::run(async {
        let subject = make().await;
        if super::is_lacking(&subject, "random_operations_agree_with_the_model") {
            return;
        }
        sequences = subject.sequences();
        sides = [Side::Tasks, Side::Topics].map(|side| subject.capabilities(side).supported);
    });
    if sides[0] {
        check(sequences, vec(tasks::step(), 1..LONGEST), &async |steps| {
            let subject = make().await;
            tasks::run(&subject, steps).await;
        });
    }
    if sides[1] {
        check(sequences, vec(topics::step(), 1..LONGEST), &async |steps| {
            let subject = make().await;
            topics::run(&subject, steps).await;
        });
    }
}

fn check<T: Debug>(
    sequences: u32,
    strategy: impl Strategy<Value = Vec<T>>,
    body: &impl AsyncFn(&[T]),
) {
    let config = Config {
        cases: sequences,
        max_shrink_iters: 256,
        // Checked between runs; a real engine takes its time for each.
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..Config::default()
    };
    let failed = TestRunner::new(config).run(&strategy, |steps| {
        let run = std::panic::AssertUnwindSafe(|| super::run(body(&steps)));
        std::panic::catch_unwind(run).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            TestCaseError::fail(text.unwrap_or_default())
        })
    });
    let report = match failed {
        Ok(()) => None,
        Err(TestError::Fail(why, steps)) => Some(format!("{why}\nafter {steps:#?}")),
        Err(TestError::Abort(why)) => Some(format!("gave up: {why}")),
    };
    assert!(report.is_none(), "{}", report.unwrap_or_default());
}

/// Lets every consumer take a turn, as its pump would: an engine may store a settlement only then.
async fn turn<'a>(consumers: impl Iterator<Item = &'a mut Consumer>) {
    for consumer in consumers {
        consumer.idle(millis(5)).await;
    }
}

/// The cursor of a dead message, once it is listed for this subscription; `consumers` may have to store it first.
async fn cursor_of(
    engine: &Arc<dyn Engine>,
    to: &Subscribe,
    id: Id,
    consumers: &mut [Option<Consumer>],
) -> u64 {
    let dead = engine.dead_letters().expect("declared");
    let mut cursor = None;
    eventually("it is among the dead letters", async || {
        turn(consumers.iter_mut().flatten()).await;
        let query = DeadQuery {
            place: Some(to.place.clone()),
            group: to.group.clone(),
            after: None,
            limit: 1000,
        };
        let list = dead.list(query).await.expect("listed");
        cursor = list
            .iter()
            .find(|letter| letter.id == id)
            .map(|letter| letter.cursor);
        cursor.is_some()
    })
    .await;
    cursor.expect("found")
}
