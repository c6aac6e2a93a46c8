//! How near we come to what one beanstalkd node can do at all.
//!
//! The raw rows are the limit of the server: one thread that knows nothing of tasks keeps two connections full, each with a batch under
//! way while the other is read. They move bodies of the same size as ours. Nothing remembers here what has run (`dedup: off`).

use std::io::Write as _;

use super::dq::{Cluster, MAILS, TUBE, mail};
use crate::beanstalkd::Connection;
use crate::figures::Figures;
use crate::scenario::{Goal, Medians, Row, Scenario};
use crate::serve::{Parameters, on_runtime};
use crate::servers::ONE_NODE;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "dq-ceiling",
    about: "one beanstalkd node, no dedup: how near we come to what the server can do",
    rows: &[
        Row::own(RAW_DRAIN, "raw-drain messages=200000"),
        Row::own(DRAIN, "drain messages=200000"),
        Row::own(
            "worker, concurrency 256",
            "drain messages=200000 concurrency=256",
        ),
        Row::own(RAW_PUT, "raw-put messages=200000"),
        Row::own(SEND, "send-all messages=200000"),
    ],
    columns: &["nodes/M", "again"],
    goals,
    work,
    instructions: &[],
    servers: ONE_NODE,
};

const RAW_DRAIN: &str = "raw: reserve and delete";
const DRAIN: &str = "worker, default concurrency (64)";
const RAW_PUT: &str = "raw: put";
const SEND: &str = "send_all";

/// How many jobs are under way on each of the connections.
const BATCH: u64 = 128;

/// The envelope of a task without key and headers, and the mail in it.
const BODY: usize = 46 + 100;

fn goals(medians: &Medians) -> Vec<Goal> {
    let rate = |label: &str| medians.row(label).per_second();
    let share = |what: &str, of: f64| Goal::at_least(what, of, 0.7, "times");
    vec![
        share("worker, of the raw rate", rate(DRAIN) / rate(RAW_DRAIN)),
        share("send_all, of the raw rate", rate(SEND) / rate(RAW_PUT)),
    ]
}

fn work(variant: &str, parameters: &Parameters) -> Result<Figures, String> {
    let cluster = Cluster::of(parameters)?;
    let messages = parameters.number("messages", 200_000)?;
    let concurrency = match parameters.number("concurrency", 0)? {
        0 => None,
        said => Some(said),
    };
    match variant {
        "raw-put" => {
            let watch = cluster.watch()?;
            put(cluster.node(), messages)?;
            watch.figures(messages)
        }
        "raw-drain" => {
            put(cluster.node(), messages)?;
            let watch = cluster.watch()?;
            drain(cluster.node(), messages)?;
            watch.figures(messages)
        }
        "send-all" => on_runtime(async move {
            let producer = cluster.producer("").await?;
            let watch = cluster.watch()?;
            let sent = producer
                .send_all((0..messages).map(|user| MAILS.now(mail(user))))
                .await;
            let figures = watch.figures(messages)?;
            for result in sent {
                result.map_err(|error| error.to_string())?;
            }
            Ok(figures)
        }),
        "drain" => on_runtime(async move {
            cluster.fill(messages).await?;
            cluster.drain(messages, false, concurrency).await
        }),
        other => Err(format!("no variant {other}")),
    }
}

fn connections(node: &str) -> Result<[Connection; 2], String> {
    let mut two = [Connection::open(node)?, Connection::open(node)?];
    for connection in &mut two {
        connection.expect(&format!("use {TUBE}\r\n"), "USING")?;
        connection.expect(&format!("watch {TUBE}\r\n"), "WATCHING")?;
        connection.expect("ignore default\r\n", "WATCHING")?;
    }
    Ok(two)
}

/// Puts so many jobs.
fn put(node: &str, jobs: u64) -> Result<(), String> {
    let mut two = connections(node)?;
    let mut one_put = format!("put 1024 0 60 {BODY}\r\n").into_bytes();
    one_put.resize(one_put.len() + BODY, b'x');
    one_put.extend_from_slice(b"\r\n");
    let mut left = jobs;
    let mut under_way = [0; 2];
    loop {
        for (connection, under_way) in two.iter_mut().zip(&mut under_way) {
            for _ in 0..std::mem::take(under_way) {
                connection.expect_line("INSERTED")?;
            }
            let batch = left.min(BATCH);
            left -= batch;
            if batch > 0 {
                connection.say(&one_put.repeat(usize::try_from(batch).unwrap_or(1)))?;
            }
            *under_way = batch;
        }
        if under_way == [0; 2] {
            return Ok(());
        }
    }
}

/// Reserves and deletes so many jobs, which have to be there.
fn drain(node: &str, jobs: u64) -> Result<(), String> {
    let mut two = connections(node)?;
    let mut deleted = 0;
    // Of each connection: how many deletes and how many reserves are not answered.
    let mut under_way = [(0, 0); 2];
    let mut commands = Vec::new();
    loop {
        for (connection, (deletes, reserves)) in two.iter_mut().zip(&mut under_way) {
            commands.clear();
            for _ in 0..std::mem::take(deletes) {
                connection.expect_line("DELETED")?;
                deleted += 1;
            }
            for _ in 0..std::mem::take(reserves) {
                if let Some(id) = connection.reserved()? {
                    // Writing into memory cannot fail.
                    let _ = write!(commands, "delete {id}\r\n");
                    *deletes += 1;
                }
            }
            if deleted < jobs {
                *reserves = BATCH;
                for _ in 0..BATCH {
                    commands.extend_from_slice(b"reserve-with-timeout 0\r\n");
                }
            }
            if !commands.is_empty() {
                connection.say(&commands)?;
            }
        }
        if deleted >= jobs && under_way == [(0, 0); 2] {
            return Ok(());
        }
    }
}
