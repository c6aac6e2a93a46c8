//! How fast tasks are accepted on SQLite: by 64 callers that each wait for the disk, and in bulk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use go_queue::engine::Engine;
use go_queue::engine::sqlite::{Config, Sqlite};
use go_queue::prelude::*;
use go_queue::producer::{Route, Routes};
use go_queue::time::Clock;

use crate::figures::{Figures, Stopwatch, count};
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::Parameters;
use crate::servers::NO_SERVERS;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "embedded-send",
    about: "SQLite, power: tasks accepted from 64 awaiting callers, and by send_all",
    rows: &[
        Row::own(CALLERS, "callers messages=200000"),
        Row::own("1 awaiting caller", "callers messages=2000 callers=1"),
        Row::own(BULK, "bulk messages=500000"),
    ],
    columns: &["syncs/k", "sync_ms"],
    goals,
    work,
    instructions: &[],
    servers: NO_SERVERS,
};

const CALLERS: &str = "64 awaiting callers";
const BULK: &str = "send_all";

fn goals(medians: &Medians) -> Vec<Goal> {
    vec![
        Goal::at_least(
            "64 awaiting callers",
            medians.row(CALLERS).per_second(),
            40_000.0,
            "tasks/s",
        ),
        Goal::at_least(
            "send_all",
            medians.row(BULK).per_second(),
            200_000.0,
            "tasks/s",
        ),
    ]
}

/// About 100 bytes as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Mail {
    user: u64,
    subject: String,
    text: String,
}

const MAILS: Tube<Mail> = Tube::new("mails");

fn mail(user: u64) -> Mail {
    Mail {
        user,
        subject: "Your order is on its way".to_owned(),
        text: "It will be there tomorrow morning.".to_owned(),
    }
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    let messages = parameters.number("messages", 200_000)?;
    let callers = parameters.number("callers", 64)?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("no runtime: {error}"))?;
    let bulk = match variant {
        "bulk" => true,
        "callers" => false,
        other => return Err(format!("no variant {other}")),
    };
    runtime.block_on(async {
        let work = tokio::spawn(send(messages, if bulk { None } else { Some(callers) }));
        work.await.map_err(|error| error.to_string())?
    })
}

async fn send(messages: u64, callers: Option<u64>) -> Result<Figures, String> {
    let clock = Clock::system();
    let engine = Sqlite::open(Config::new("bench.db"), clock.clone())
        .await
        .map_err(|error| error.to_string())?;
    let routes = Routes {
        tasks: Some(Route::new(Arc::new(engine.clone()))),
        ..Routes::default()
    };
    let producer = Producer::new(clock, routes);
    // The first one makes the tube.
    MAILS
        .now(mail(0))
        .send(&producer)
        .await
        .map_err(|error| error.to_string())?;
    let before = engine.syncs();
    let watch = Stopwatch::start();
    match callers {
        None => {
            let results = producer
                .send_all((0..messages).map(|user| MAILS.now(mail(user))))
                .await;
            for result in results {
                result.map_err(|error| error.to_string())?;
            }
        }
        Some(callers) => await_each(&producer, messages, callers).await?,
    }
    let figures = watch.figures(messages);
    let after = engine.syncs();
    let syncs = after.count - before.count;
    let millis =
        (after.time.saturating_sub(before.time)).as_secs_f64() * 1e3 / count(syncs).max(1.0);
    engine.close().await.map_err(|error| error.to_string())?;
    Ok(figures
        .with("syncs/k", count(syncs) / (count(messages) / 1e3))
        .with("sync_ms", millis))
}

async fn await_each(producer: &Producer, messages: u64, callers: u64) -> Result<(), String> {
    let next = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let (producer, next) = (producer.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let user = next.fetch_add(1, Ordering::Relaxed);
                    if user >= messages {
                        return Ok::<_, String>(());
                    }
                    MAILS
                        .now(mail(user))
                        .send(&producer)
                        .await
                        .map_err(|error| error.to_string())?;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.map_err(|error| error.to_string())??;
    }
    Ok(())
}
