//! Orders come in as records of a topic; each customer's orders are charged in the order in which they came; each charge
//! schedules a reminder two seconds later. Everything is kept in one file, `data/quickstart.db`: kill the program at any
//! point and start it again, and it goes on where it was.
//!
//! ```sh
//! cargo run -p quickstart                       # runs until Ctrl-C
//! cargo run -p quickstart -- run --until-idle   # ends by itself when nothing is left to do
//! cargo run -p quickstart -- send charge '{"id":"o-1","customer":"eve","item":"kite","cents":1500}' --key eve
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use go_queue::app::{App, Exit};
use go_queue::prelude::*;

/// The orders that come with this example, one JSON object a line.
const ORDERS: &str = include_str!("../orders.jsonl");

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: String,
    customer: String,
    item: String,
    cents: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Reminder {
    order: String,
    customer: String,
}

/// A bank that has all the money.
#[derive(Clone, Default)]
struct Bank(Arc<AtomicU64>);

impl Bank {
    fn charge(&self, cents: u64) -> u64 {
        self.0.fetch_add(cents, Ordering::Relaxed) + cents
    }
}

/// Reads the orders that come with the example and pushes them. Sent under a name, so it is stored once, however often the
/// program starts.
#[dq_handler(tube = "imports")]
async fn import(file: String, producer: Producer) -> anyhow::Result<()> {
    let mut orders = Vec::new();
    for line in ORDERS.lines() {
        let order: Order = serde_json::from_str(line)?;
        let customer = order.customer.clone();
        orders.push(charge::push(order).key(customer));
    }
    let count = orders.len();
    for pushed in producer.send_all(orders).await {
        pushed?;
    }
    say(&format!("imported  {count} orders from {file}"));
    Ok(())
}

/// Charges an order and schedules its reminder. One customer's orders run one at a time, in order.
#[kq_handler(topic = "orders", group = "billing", order = key)]
async fn charge(order: Order, State(bank): State<Bank>, producer: Producer) -> anyhow::Result<()> {
    let total = bank.charge(order.cents);
    say(&format!(
        "charged   {}  {:<5} {:<8} {:>8}   total {:>8}",
        order.id,
        order.customer,
        order.item,
        money(order.cents),
        money(total)
    ));
    let reminder = Reminder {
        order: order.id.clone(),
        customer: order.customer,
    };
    // Named after the order: should this handler run twice, there is still one reminder.
    remind::delay(reminder, seconds(2))
        .id(order.id)
        .send(&producer)
        .await?;
    Ok(())
}

/// Reminds a customer, two seconds after the charge.
#[dq_handler(tube = "reminders")]
async fn remind(reminder: Reminder, meta: Meta) {
    let late = go_queue::time::Clock::system().now().since(meta.due);
    say(&format!(
        "reminded  {}  {:<5} {:>3} ms after it was due",
        reminder.order,
        reminder.customer,
        late.as_millis()
    ));
}

#[tokio::main]
async fn main() -> Exit {
    App::new()
        .state(Bank::default())
        .on_start(|producer| async move {
            import::now("orders.jsonl".to_owned()).id("orders.jsonl").send(&producer).await?;
            say("waiting for orders; stop with Ctrl-C, or send one from another terminal:");
            say(
                r#"  cargo run -p quickstart -- send charge '{"id":"o-1","customer":"eve","item":"kite","cents":1500}' --key eve"#,
            );
            Ok::<_, go_queue::engine::PublishError>(())
        })
        .run()
        .await
        .into()
}

fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

#[expect(
    clippy::print_stdout,
    reason = "what happens is what this example shows"
)]
fn say(line: &str) {
    println!("{line}");
}
