//! Forty reminders on three beanstalkd nodes and Redis, one every quarter of a second. Each is stored on three nodes and runs once; kill
//! a node while they run, and nothing is missing.
//!
//! ```sh
//! examples/reminders-cluster/run   # starts the servers, runs this, and kills a node in the middle
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use go_queue::app::{App, Exit};
use go_queue::prelude::*;

/// How many reminders are sent.
const REMINDERS: u64 = 40;

#[derive(Debug, Serialize, Deserialize)]
struct Reminder {
    number: u64,
}

/// How many have run.
#[derive(Clone, Default)]
struct Done(Arc<AtomicU64>);

#[dq_handler(tube = "reminders")]
async fn remind(reminder: Reminder, meta: Meta, State(done): State<Done>) {
    let late = go_queue::time::Clock::system().now().since(meta.due);
    let count = done.0.fetch_add(1, Ordering::Relaxed) + 1;
    say(&format!(
        "reminded {:>2}   {:>3} ms after it was due   {count} of {REMINDERS}",
        reminder.number,
        late.as_millis()
    ));
}

/// Sends all of them, while the program already serves them. A node that is away is no reason to fail: two of three confirm.
async fn send_all(producer: Producer) -> anyhow::Result<()> {
    for number in 1..=REMINDERS {
        let delay = Duration::from_millis(500 + 250 * number);
        // Named, so that a program that is started again sends none of them twice.
        remind::delay(Reminder { number }, delay)
            .id(number.to_string())
            .send(&producer)
            .await?;
    }
    say(&format!(
        "sent {REMINDERS} reminders, each confirmed by two nodes"
    ));
    Ok(())
}

#[tokio::main]
async fn main() -> Exit {
    App::new()
        .state(Done::default())
        .on_start(send_all)
        .run()
        .await
        .into()
}

#[expect(
    clippy::print_stdout,
    reason = "what happens is what this example shows"
)]
fn say(line: &str) {
    println!("{line}");
}
