//! Instructions for each record on Kafka, all threads of the client among them: what does not depend on how busy the machine is.

use std::sync::Arc;

use go_queue::engine::kafka::{Config, Kafka};
use go_queue::engine::{Engine, Subscribe};
use go_queue::name::Name;
use go_queue::prelude::*;
use go_queue::time::Clock;

use super::kq::{Log, on_runtime};
use crate::figures::Figures;
use crate::kafka::Order;
use crate::lane;
use crate::scenario::{Instructions, Scenario};
use crate::serve::Parameters;
use crate::servers::{Records, kafka};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "kq-instructions",
    about: "Apache Kafka: instructions for each record, of the drain alone and of the whole way with decode",
    rows: &[],
    columns: &[],
    goals: |_| Vec::new(),
    work,
    instructions: &[
        Instructions {
            variant: "drain",
            floor: None,
            limit: 2300.0,
        },
        Instructions {
            variant: "decode",
            floor: Some("drain"),
            limit: 3000.0,
        },
        // The contract's budget for the pump over the floor, as in `dispatch`.
        Instructions {
            variant: "whole",
            floor: Some("decode"),
            limit: 400.0,
        },
    ],
    servers: kafka(Records::Backlog(0)),
};

#[kq_handler(topic = "bench")]
async fn nothing(order: Order) {
    std::hint::black_box(&order);
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    let log = Log::of(parameters)?;
    let messages = parameters.number("messages", 10_000)?;
    let variant = variant.to_owned();
    on_runtime(async move {
        let text = |error: go_queue::engine::EngineError| error.to_string();
        let engine = Kafka::open(Config::new([log.brokers]), Clock::system());
        let engine = engine.await.map_err(text)?;
        let name = |name: &str| Name::new(name).map_err(|error| error.to_string());
        let to = Subscribe::topic(name(&log.topic)?, name(&log.group)?);
        let end = engine.subscribe(&to).await.map_err(text)?;
        let figures = match &*variant {
            "drain" => lane::drain(end, messages, |_| Ok(())).await?,
            "decode" => lane::floor::<Order>(end, messages).await?,
            "whole" => {
                let layers: Vec<Arc<_>> = Vec::new();
                lane::pump::<nothing>(&engine, &to, end, messages, layers, |_| {}).await?
            }
            other => return Err(format!("no variant {other}")),
        };
        engine.close().await.map_err(text)?;
        Ok(figures)
    })
}
