//! How fast a backlog goes through claim, handler and acknowledgement on SQLite, and whether its length matters.
//!
//! Everything is at its default (durability `power`) but the concurrency, which is 256. The clock runs from the start of the
//! pump until the last acknowledgement is confirmed and the subscription is closed.

use go_queue::engine::sqlite::{Config, Sqlite};
use go_queue::engine::{DEFAULT_PRIORITY, Engine, Outgoing, Subscribe};
use go_queue::message::{Body, ContentType, Flags, Id};
use go_queue::name::Name;
use go_queue::prelude::*;
use go_queue::time::{Clock, WallTime};

use crate::figures::Figures;
use crate::lane;
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::Parameters;
use crate::servers::NO_SERVERS;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "embedded-drain",
    about: "SQLite, power, concurrency 256: claim + no-op handler + ack, at three lengths of the backlog",
    rows: &[
        Row::own(FLOOR, "floor backlog=100000"),
        Row::own(SHORT, "drain backlog=1000 rounds=50"),
        Row::own(MIDDLE, "drain backlog=100000"),
        Row::own(LONG, "drain backlog=1000000"),
    ],
    columns: &["syncs/k"],
    goals,
    work,
    instructions: &[],
    servers: NO_SERVERS,
};

const FLOOR: &str = "floor: claim, decode, ack; 100,000";
const SHORT: &str = "backlog 1,000, 50 times";
const MIDDLE: &str = "backlog 100,000";
const LONG: &str = "backlog 1,000,000";

/// The rates by wall time. Whether the length matters by CPU time: a run of 1,000 ends with a sync that 100,000 share, and how long
/// that takes is the disk's affair of the moment.
fn goals(medians: &Medians) -> Vec<Goal> {
    let rate = |label: &str| medians.row(label).per_second();
    let costs = [SHORT, MIDDLE, LONG].map(|label| medians.row(label).cpu_seconds_per_million());
    let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let most = costs.iter().copied().fold(0.0, f64::max);
    vec![
        Goal::at_least("backlog 1,000", rate(SHORT), 60_000.0, "tasks/s"),
        Goal::at_least("backlog 100,000", rate(MIDDLE), 60_000.0, "tasks/s"),
        Goal::at_least("backlog 1,000,000", rate(LONG), 60_000.0, "tasks/s"),
        Goal::at_least(
            "CPU of the cheapest over that of the dearest length",
            least / most,
            0.8,
            "times",
        ),
    ]
}

#[dq_handler(tube = "bench")]
async fn nothing(task: u64) {
    std::hint::black_box(&task);
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    let backlog = parameters.number("backlog", 100_000)?;
    let rounds = parameters.number("rounds", 1)?;
    let floor = match variant {
        "floor" => true,
        "drain" => false,
        other => return Err(format!("no variant {other}")),
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        let work = tokio::spawn(rounds_of(backlog, rounds, floor));
        work.await.map_err(|error| error.to_string())?
    })
}

async fn rounds_of(backlog: u64, rounds: u64, floor: bool) -> Result<Figures, String> {
    let engine = Sqlite::open(Config::new("bench.db"), Clock::system())
        .await
        .map_err(|error| error.to_string())?;
    let to = Subscribe::tube(Name::literal("bench"));
    let mut sum = Figures::default();
    let mut syncs = 0;
    for round in 0..rounds {
        fill(&engine, &to, round * backlog, backlog).await?;
        let before = engine.syncs().count;
        let end = engine
            .subscribe(&to)
            .await
            .map_err(|error| error.to_string())?;
        let figures = if floor {
            lane::floor::<u64>(end, backlog).await?
        } else {
            lane::pump::<nothing>(&engine, &to, end, backlog, Vec::new(), |plan| {
                plan.concurrency = 256;
            })
            .await?
        };
        syncs += engine.syncs().count - before;
        sum.messages += figures.messages;
        sum.wall += figures.wall;
        sum.cpu += figures.cpu;
    }
    engine.close().await.map_err(|error| error.to_string())?;
    let thousands = crate::figures::count(sum.messages) / 1e3;
    Ok(sum.with("syncs/k", crate::figures::count(syncs) / thousands))
}

async fn fill(engine: &Sqlite, to: &Subscribe, from: u64, tasks: u64) -> Result<(), String> {
    let publisher = engine.publisher();
    let all: Vec<u64> = (from..from + tasks).collect();
    for slice in all.chunks(1000) {
        let slice: Vec<Outgoing> = slice
            .iter()
            .map(|id| Outgoing {
                place: to.place.clone(),
                id: Id(u128::from(*id) + 1),
                named: false,
                body: Body::pack(b"", b"", id.to_string().as_bytes()),
                flags: Flags::NULL_KEY,
                content: ContentType::Json,
                due: WallTime::EPOCH,
                priority: DEFAULT_PRIORITY,
            })
            .collect();
        for result in publisher.publish(slice).await {
            result.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
