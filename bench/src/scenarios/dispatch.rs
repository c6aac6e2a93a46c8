//! What a message costs on its way from the engine through the pump into a handler and back, and how much of that is ours.
//!
//! The floor drains the same engine with the same slices, decodes the same payload and acknowledges: what anybody would have
//! to do. The rest is the pump, the erased handler and its context.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use go_queue::engine::memory::Memory;
use go_queue::engine::{BoxFuture, DEFAULT_PRIORITY, Engine, Outgoing, Receive, Subscribe};
use go_queue::handler::Registered;
use go_queue::message::{Body, ContentType, Flags, Id};
use go_queue::middleware::{Middleware, Next};
use go_queue::name::{Name, Place};
use go_queue::outcome::Outcome;
use go_queue::pipeline::{Plan, plan::Batch};
use go_queue::prelude::*;
use go_queue::time::{Clock, WallTime};

use crate::figures::Figures;
use crate::lane;
use crate::scenario::{Goal, Instructions, Medians, Row, Scenario};
use crate::serve::Parameters;
use crate::servers::NO_SERVERS;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "dispatch",
    about: "memory engine, 100 bytes of JSON, no-op handler, one lane: the cost of the pipeline",
    rows: &[
        Row::own(FLOOR, "floor"),
        Row::own("ready", "ready"),
        Row::own("ready, one middleware", "middleware-1"),
        Row::own("ready, two middleware", "middleware-2"),
        Row::own("yields once", "yields"),
        Row::own("batch of 100", "batch"),
        Row::own(FLOOR_TOPIC, "floor-topic"),
        Row::own(READY_KEY, "ready-key"),
        Row::own("yields once, key order", "yields-key"),
    ],
    columns: &[],
    goals,
    work,
    // The contract's gates: 400 over the floor, 500 for each middleware, 900 for a handler that yields. A change far from here moves the first by
    // about ten, for the layout of the code, so it has that much room.
    instructions: &[
        Instructions {
            variant: "ready",
            floor: Some("floor"),
            limit: 410.0,
        },
        Instructions {
            variant: "yields",
            floor: Some("ready"),
            limit: 900.0,
        },
        Instructions {
            variant: "middleware-1",
            floor: Some("ready"),
            limit: 500.0,
        },
        Instructions {
            variant: "middleware-2",
            floor: Some("middleware-1"),
            limit: 500.0,
        },
        Instructions {
            variant: "ready-key",
            floor: Some("floor-topic"),
            limit: 410.0,
        },
    ],
    servers: NO_SERVERS,
};

/// By CPU time: one thread works and never waits, so on an idle machine that is the wall time, and on a busy one it is
/// still a figure.
fn goals(medians: &Medians) -> Vec<Goal> {
    let each = |label: &str| medians.row(label).cpu_seconds_per_million() * 1e3;
    let over = |label: &str, floor: &str| each(label) - each(floor);
    vec![
        Goal::at_most("ready", each("ready"), 400.0, "ns"),
        Goal::at_most("ready over its floor", over("ready", FLOOR), 100.0, "ns"),
        Goal::at_most("ready, key order", each(READY_KEY), 400.0, "ns"),
        Goal::at_most(
            "ready, key order, over its floor",
            over(READY_KEY, FLOOR_TOPIC),
            100.0,
            "ns",
        ),
    ]
}

const FLOOR: &str = "floor: drain, decode, ack";
const FLOOR_TOPIC: &str = "floor, topic";
const READY_KEY: &str = "ready, key order";

/// About 100 bytes as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: u64,
    customer: u64,
    amount: u64,
    article: String,
    note: String,
}

impl Order {
    fn number(id: u64) -> Self {
        Self {
            id,
            customer: 1_000_000 + id % 5000,
            amount: 1999,
            article: "SKU-000042".to_owned(),
            note: "leave it at the door".to_owned(),
        }
    }
}

#[dq_handler(tube = "bench")]
async fn ready(order: Order) {
    std::hint::black_box(&order);
}

#[dq_handler(tube = "bench")]
async fn yields(order: Order) {
    std::hint::black_box(&order);
    Once(false).await;
}

#[dq_handler(tube = "bench", batch = 100)]
async fn batch(orders: Vec<Order>) {
    std::hint::black_box(&orders);
}

#[kq_handler(topic = "bench", group = "bench", order = key)]
async fn ready_key(order: Order) {
    std::hint::black_box(&order);
}

#[kq_handler(topic = "bench", group = "bench", order = key)]
async fn yields_key(order: Order) {
    std::hint::black_box(&order);
    Once(false).await;
}

/// Pending once, and woken at once.
struct Once(bool);

impl Future for Once {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A middleware that does nothing but stand there.
struct Nothing;

impl Middleware for Nothing {
    fn call<'a>(
        &'a self,
        cx: &'a go_queue::handler::Context,
        next: Next<'a>,
    ) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { next.run(cx).await })
    }
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    let messages = parameters.number("messages", 200_000)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        let engine = Memory::new(Clock::system());
        let name = Name::literal("bench");
        let to = if matches!(variant, "floor-topic" | "ready-key" | "yields-key") {
            Subscribe::topic(name.clone(), name)
        } else {
            Subscribe::tube(name)
        };
        fill(&engine, &to.place, messages).await?;
        let end = engine
            .subscribe(&to)
            .await
            .map_err(|error| error.to_string())?;
        match variant {
            "floor" | "floor-topic" => lane::floor::<Order>(end, messages).await,
            "ready" => drain::<ready>(&engine, &to, end, messages, 0).await,
            "middleware-1" => drain::<ready>(&engine, &to, end, messages, 1).await,
            "middleware-2" => drain::<ready>(&engine, &to, end, messages, 2).await,
            "yields" => drain::<yields>(&engine, &to, end, messages, 0).await,
            "batch" => drain::<batch>(&engine, &to, end, messages, 0).await,
            "ready-key" => drain::<ready_key>(&engine, &to, end, messages, 0).await,
            "yields-key" => drain::<yields_key>(&engine, &to, end, messages, 0).await,
            other => Err(format!("no variant {other}")),
        }
    })
}

async fn fill(engine: &Memory, place: &Place, messages: u64) -> Result<(), String> {
    let publisher = engine.publisher();
    let mut number = 0;
    while number < messages {
        let slice: Vec<Outgoing> = (number..messages.min(number + 1000))
            .map(|id| {
                let order = Order::number(id);
                let payload = serde_json::to_vec(&order).unwrap_or_default();
                Outgoing {
                    place: place.clone(),
                    id: Id(u128::from(id) + 1),
                    named: false,
                    body: Body::pack(&order.customer.to_be_bytes(), b"", &payload),
                    flags: Flags::default(),
                    content: ContentType::Json,
                    due: WallTime::EPOCH,
                    priority: DEFAULT_PRIORITY,
                }
            })
            .collect();
        number += slice.len() as u64;
        for result in publisher.publish(slice).await {
            result.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

async fn drain<H: Registered>(
    engine: &Memory,
    to: &Subscribe,
    end: Box<dyn Receive>,
    messages: u64,
    layers: usize,
) -> Result<Figures, String> {
    let layers = (0..layers)
        .map(|_| Arc::new(Nothing) as Arc<dyn Middleware>)
        .collect();
    let shape = |plan: &mut Plan| {
        plan.concurrency = 1000;
        if let Some(size) = H::DEF.options.batch.filter(|_| H::DEF.batch) {
            plan.batch = Some(Batch {
                size: size as usize,
                linger: Duration::from_millis(10),
            });
            plan.waiting = 1000 * size as usize;
        }
    };
    lane::pump::<H>(engine, to, end, messages, layers, shape).await
}
