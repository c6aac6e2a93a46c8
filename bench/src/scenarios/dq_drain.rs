//! How fast a backlog on three beanstalkd nodes runs, each task once, beside the Go library.
//!
//! The clock runs from the start of the worker until the last task has run and no node holds a replica any more. The Go library deletes a
//! job before it runs it and forgets the task if the worker dies; ours deletes it when the task is done, so ours is the stronger
//! guarantee. Its handler gets bytes and does not decode them; ours decodes them.

use super::dq::{Cluster, GO, GO_PEER};
use crate::figures::Figures;
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::{Parameters, on_runtime};
use crate::servers::CLUSTER;

pub(crate) const NOTHING: Scenario = Scenario {
    name: "dq-drain",
    about: "3 beanstalkd nodes and Redis: a backlog of 3 replicas each, no-op handler",
    rows: &[
        Row::peer(GO, GO_PEER, "drain messages=40000"),
        Row::own(DEFAULT, "drain messages=40000"),
        Row::own(WIDE, "drain messages=40000 concurrency=256"),
    ],
    columns: COLUMNS,
    goals: |medians| {
        let cpu = |label: &str| medians.row(label).cpu_seconds_per_million();
        vec![
            faster(medians, DEFAULT, 5.0),
            Goal::at_least(
                "client CPU of the Go library over ours",
                cpu(GO) / cpu(DEFAULT),
                4.0,
                "times",
            ),
        ]
    },
    work,
    instructions: &[],
    servers: CLUSTER,
};

pub(crate) const ONE_MILLISECOND: Scenario = Scenario {
    name: "dq-drain-1ms",
    about: "3 beanstalkd nodes and Redis: a backlog of 3 replicas each, a handler that sleeps for 1 ms",
    rows: &[
        Row::peer(GO, GO_PEER, "drain messages=8000 micros=1000"),
        Row::own(DEFAULT, "drain messages=40000 sleeps=1"),
        Row::own(WIDE, "drain messages=40000 sleeps=1 concurrency=256"),
    ],
    columns: COLUMNS,
    goals: |medians| vec![faster(medians, WIDE, 15.0), faster(medians, DEFAULT, 8.0)],
    work,
    instructions: &[],
    servers: CLUSTER,
};

const COLUMNS: &[&str] = &["nodes/M", "redis/M", "again"];
const DEFAULT: &str = "default concurrency (64)";
const WIDE: &str = "concurrency 256";

fn faster(medians: &Medians, label: &str, times: f64) -> Goal {
    let rate = |label: &str| medians.row(label).per_second();
    let what = format!("{label}, over the Go library");
    Goal::at_least(&what, rate(label) / rate(GO), times, "times")
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    if variant != "drain" {
        return Err(format!("no variant {variant}"));
    }
    let cluster = Cluster::of(parameters)?;
    let messages = parameters.number("messages", 40_000)?;
    let sleeps = parameters.number("sleeps", 0)? > 0;
    let concurrency = match parameters.number("concurrency", 0)? {
        0 => None,
        said => Some(said),
    };
    on_runtime(async move {
        cluster.fill(messages).await?;
        cluster.drain(messages, sleeps, concurrency).await
    })
}
