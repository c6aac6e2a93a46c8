//! Instructions for each record on Kafka, all threads of the client among them: what does not depend on how busy the machine is.
//!
//! `client` is librdkafka alone, by hand; `drain` the engine without a pump; `decode` the same with typed payloads; `whole` the pump as
//! a worker at its defaults has it. The records are not compressed: how much it takes to unpack depends on them, and is not ours.

use std::sync::Arc;

use go_queue::engine::kafka::{Config, Kafka};
use go_queue::engine::{Engine, Order, Subscribe};
use go_queue::name::Name;
use go_queue::pipeline::Plan;
use go_queue::prelude::*;
use go_queue::time::Clock;

use super::kq::Log;
use super::kq_push::{self, How};
use crate::client;
use crate::figures::Figures;
use crate::kafka;
use crate::lane;
use crate::scenario::{Instructions, Scenario};
use crate::serve::{Parameters, on_runtime};
use crate::servers::{self, Records};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "kq-instructions",
    about: "Apache Kafka: instructions for each record, of the drain alone and of the whole way with decode",
    rows: &[],
    columns: &[],
    goals: |_| Vec::new(),
    work,
    instructions: &[
        Instructions {
            variant: "client",
            floor: None,
            limit: 2300.0,
        },
        // Each record copied out, handed out, acknowledged, and counted for the commit.
        Instructions {
            variant: "drain",
            floor: Some("client"),
            limit: 850.0,
        },
        Instructions {
            variant: "decode",
            floor: Some("drain"),
            limit: 3000.0,
        },
        // As in `dispatch` with key order, and room for what each turn costs beside its records.
        Instructions {
            variant: "whole",
            floor: Some("decode"),
            limit: 430.0,
        },
        // A thousand callers, each awaiting: JSON, record, acknowledgement, wake.
        Instructions {
            variant: "push",
            floor: None,
            limit: 17_000.0,
        },
        Instructions {
            variant: "send-all",
            floor: None,
            limit: 13_500.0,
        },
        Instructions {
            variant: "enqueue",
            floor: None,
            limit: 16_000.0,
        },
    ],
    servers: servers::kafka(Records::Plain(0)),
};

#[kq_handler(topic = "bench")]
async fn nothing(order: kafka::Order) {
    std::hint::black_box(&order);
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    let log = Log::of(parameters)?;
    let messages = parameters.number("messages", 10_000)?;
    if variant == "client" {
        return client::drain(&log.brokers, &log.topic, messages);
    }
    let pushed = match variant {
        "push" => Some(How::Awaiting(1000)),
        "send-all" => Some(How::InBulk),
        "enqueue" => Some(How::Enqueued),
        _ => None,
    };
    if let Some(how) = pushed {
        return kq_push::with(log, messages, how);
    }
    let variant = variant.to_owned();
    on_runtime(async move {
        let text = |error: go_queue::engine::EngineError| error.to_string();
        let engine = Kafka::open(Config::new([log.brokers]), Clock::system());
        let engine = engine.await.map_err(text)?;
        let name = |name: &str| Name::new(name).map_err(|error| error.to_string());
        let mut to = Subscribe::topic(name(&log.topic)?, name(&log.group)?);
        to.order = Order::Key;
        let end = engine.subscribe(&to).await.map_err(text)?;
        let figures = match &*variant {
            "drain" => lane::drain(end, messages, |_| Ok(())).await?,
            "decode" => lane::floor::<kafka::Order>(end, messages).await?,
            "whole" => {
                let layers: Vec<Arc<_>> = Vec::new();
                let defaults = |plan: &mut Plan| plan.concurrency = 1000;
                lane::pump::<nothing>(&engine, &to, end, messages, layers, defaults).await?
            }
            other => return Err(format!("no variant {other}")),
        };
        engine.close().await.map_err(text)?;
        Ok(figures)
    })
}
