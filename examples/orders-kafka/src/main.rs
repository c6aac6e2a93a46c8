//! Three hundred orders of thirty customers through a topic of three partitions, read by two workers. The orders of one customer are
//! charged one at a time, in order. Kill a worker while it runs: the other one takes over its partitions, and nothing is missing.
//!
//! ```sh
//! examples/orders-kafka/run   # starts a broker, two workers and the producer, and kills a worker in the middle
//! ```

use std::process::{ExitCode, Termination as _};

use go_queue::prelude::*;

/// librdkafka allocates each record on one of its threads and we free it on ours, which the usual allocator does not like.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many orders are pushed, and how many customers they are from.
const ORDERS: u64 = 300;
const CUSTOMERS: u64 = 30;

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    number: u64,
    customer: String,
}

/// Charges an order. Those of one customer run one at a time, in order; those of others beside them.
#[kq_handler(topic = "orders", order = key)]
async fn charge(order: Order, partition: Partition) {
    tokio::time::sleep(millis(30)).await;
    let Order { number, customer } = order;
    say(&format!(
        "charged {number:>3}  {customer:<11}  partition {}",
        partition.0
    ));
}

/// A service that only pushes: its handlers are elsewhere, it knows the topic.
async fn produce(config: &str) -> anyhow::Result<()> {
    let producer = Producer::open(config).await?;
    for number in 1..=ORDERS {
        let customer = format!("customer-{}", number % CUSTOMERS);
        let order = Order {
            number,
            customer: customer.clone(),
        };
        // Returns when all replicas in sync have it.
        charge::push(order).key(customer).send(&producer).await?;
        tokio::time::sleep(millis(20)).await;
    }
    say(&format!("pushed {ORDERS} orders, each of them confirmed"));
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("produce") {
        let config = arguments.next().unwrap_or_else(|| "config.yaml".to_owned());
        return match produce(&config).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&format!("{error:#}"));
                ExitCode::FAILURE
            }
        };
    }
    let exit: Exit = App::new().run().await.into();
    exit.report()
}

#[expect(
    clippy::print_stdout,
    reason = "what happens is what this example shows"
)]
fn say(line: &str) {
    println!("{line}");
}
