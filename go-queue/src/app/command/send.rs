//! `send`: one message, or one for each line of a file, to a handler of this program.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use crate::app::report::{AppError, Problem};
use crate::app::{Planned, terminal, wiring};
use crate::engine::PublishError;
use crate::handler::{HandlerDef, Source};
use crate::message::{Body, Flags, Message};
use crate::producer::{Enqueue, Producer, Push};

use super::{Payload, SendCommand};

/// Engines that are no longer needed are waited for so long.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// So many lines are sent before the progress is shown again.
const SLICE: usize = 5_000;
/// So many faulty lines are told.
const TOLD: usize = 20;

/// Sends what was asked for.
pub(in crate::app) async fn send(planned: Planned, asked: SendCommand) -> Result<(), AppError> {
    let def = find(&planned, &asked.handler)?;
    check_time(def, &asked)?;
    let lines = match &asked.payload {
        Payload::Given(payload) => {
            check_payload(def, payload.as_bytes()).map_err(|why| {
                let problem = Problem::new(does_not_decode("the payload", def, &why));
                AppError::Usage(problem.at(place(def)))
            })?;
            1
        }
        Payload::File(file) => check_file(def, file)?,
    };
    let (producer, opened) = wiring::connect(planned).await?;
    if let Some(engine) = producer.loses_at_exit(def.source.side(), def.source.names()) {
        let problem = Problem::new(format!(
            "the {engine} engine of {} ends with this process, and the message with it",
            def.path()
        ));
        return Err(AppError::Usage(problem.remedy(
            "send from the program that serves the handler, or configure an engine that keeps it",
        )));
    }
    let sent = match &asked.payload {
        Payload::Given(payload) => one(&producer, def, &asked, payload.clone().into_bytes())
            .await
            .map_err(|error| AppError::failed("the message was not accepted", error)),
        Payload::File(file) => all(&producer, def, &asked, file, lines).await,
    };
    // What was accepted is stored, whatever closing says; the first failure is the one to tell.
    let closed = opened.close(CLOSE_WITHIN).await;
    let line = sent?;
    terminal::line(&line);
    closed
}

/// Sends one, and says what it has become.
async fn one(
    producer: &Producer,
    def: &HandlerDef,
    asked: &SendCommand,
    payload: Vec<u8>,
) -> Result<String, PublishError> {
    match def.source {
        Source::Tube(tube) => {
            let id = task(tube, def, asked, payload).send(producer).await?;
            let existed = if id.existed() {
                " (it was there already)"
            } else {
                ""
            };
            Ok(format!("{id}{existed}"))
        }
        Source::Topics { topics, .. } => {
            let pushed = record(topics, def, asked, payload).send(producer).await?;
            Ok(format!(
                "{} partition {} offset {}",
                pushed.id, pushed.partition, pushed.offset
            ))
        }
    }
}

/// Sends every line of a file, in its order.
async fn all(
    producer: &Producer,
    def: &HandlerDef,
    asked: &SendCommand,
    file: &Path,
    lines: u64,
) -> Result<String, AppError> {
    let progress = terminal::Progress::begin("sending", lines);
    let (mut sent, mut failed): (u64, Vec<(u64, PublishError)>) = (0, Vec::new());
    let mut reading = open(file)?.peekable();
    while reading.peek().is_some() {
        let mut slice = Vec::new();
        while slice.len() < SLICE
            && let Some(line) = reading.next()
        {
            slice.push(line?);
        }
        let numbers: Vec<u64> = slice.iter().map(|(number, _)| *number).collect();
        let payloads = slice.into_iter().map(|(_, payload)| payload);
        let errors: Vec<Option<PublishError>> = match def.source {
            Source::Tube(tube) => {
                let tasks = payloads.map(|payload| task(tube, def, asked, payload));
                let answers = producer.send_all(tasks).await;
                answers.into_iter().map(Result::err).collect()
            }
            Source::Topics { topics, .. } => {
                let records = payloads.map(|payload| record(topics, def, asked, payload));
                let answers = producer.send_all(records).await;
                answers.into_iter().map(Result::err).collect()
            }
        };
        sent += numbers.len() as u64;
        let of_lines = numbers.into_iter().zip(errors);
        failed.extend(of_lines.filter_map(|(number, error)| Some((number, error?))));
        progress.is_at(sent);
    }
    drop(progress);
    match failed.split_first() {
        None => Ok(format!("{sent} messages sent to `{}`", def.name)),
        Some(((number, error), _)) => Err(AppError::failed(
            format!(
                "{} of {sent} messages were not accepted, the others are stored; the first is line {number} of {}",
                failed.len(),
                file.display()
            ),
            error.clone(),
        )),
    }
}

fn task(tube: &'static str, def: &HandlerDef, asked: &SendCommand, payload: Vec<u8>) -> Enqueue {
    let mut task = Enqueue::bytes(tube, payload, def.content);
    if let Some(priority) = def.options.priority {
        task = task.usual_priority(priority);
    }
    if let Some(delay) = asked.delay {
        task = task.after(delay);
    }
    if let Some(at) = asked.at {
        task = task.not_before(at);
    }
    if let Some(key) = &asked.key {
        task = task.key(key);
    }
    if let Some(id) = &asked.id {
        task = task.id(id);
    }
    task
}

fn record(
    topics: &[&'static str],
    def: &HandlerDef,
    asked: &SendCommand,
    payload: Vec<u8>,
) -> Push {
    let topic = topics.first().copied().unwrap_or_default();
    let mut record = Push::bytes(topic, payload, def.content);
    if let Some(key) = &asked.key {
        record = record.key(key);
    }
    if let Some(id) = &asked.id {
        record = record.id(id);
    }
    record
}

/// The lines of a file that are not empty, with their numbers from 1, without their ends.
fn open(
    file: &Path,
) -> Result<impl Iterator<Item = Result<(u64, Vec<u8>), AppError>> + use<>, AppError> {
    let name = file.display().to_string();
    let unreadable = move |error: std::io::Error| {
        AppError::Usage(Problem::new(format!("{name} cannot be read: {error}")))
    };
    let opened = File::open(file).map_err(&unreadable)?;
    let lines = (1..).zip(BufReader::new(opened).split(b'\n'));
    Ok(lines.filter_map(move |(number, line)| match line {
        Ok(mut line) => {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            (!line.trim_ascii().is_empty()).then_some(Ok((number, line)))
        }
        Err(error) => Some(Err(unreadable(error))),
    }))
}

/// Checks every line, before any is sent, and counts them.
fn check_file(def: &HandlerDef, file: &Path) -> Result<u64, AppError> {
    let (mut lines, mut faulty, mut problem) = (0, 0_usize, Problem::new(""));
    for line in open(file)? {
        let (number, payload) = line?;
        lines += 1;
        if let Err(why) = check_payload(def, &payload) {
            faulty += 1;
            if faulty <= TOLD {
                problem = problem.at(format!("{}:{number}: {why}", file.display()));
            }
        }
    }
    if lines == 0 {
        return Err(AppError::Usage(
            Problem::new(format!("{} has no payload", file.display()))
                .remedy("write one on each line"),
        ));
    }
    if faulty == 0 {
        return Ok(lines);
    }
    let what = format!("{faulty} of {lines} lines");
    problem.what = does_not_decode(&what, def, "nothing was sent");
    Err(AppError::Usage(problem.at(place(def))))
}

/// Where a handler stands.
fn place(def: &HandlerDef) -> String {
    format!("{}  {}", def.location, def.path())
}

fn find(planned: &Planned, wanted: &str) -> Result<&'static HandlerDef, AppError> {
    let all: Vec<_> = planned.plan.handlers().collect();
    let meant: Vec<_> = all
        .iter()
        .copied()
        .filter(|def| def.is_meant_by(wanted))
        .collect();
    match meant[..] {
        [def] => Ok(def),
        [] => {
            let mut names: Vec<&str> = all.iter().map(|def| def.name).collect();
            names.sort_unstable();
            let near = names
                .iter()
                .map(|name| (strsim::osa_distance(name, wanted), *name))
                .min()
                .filter(|(distance, name)| *distance <= 1 + name.len() / 3);
            let problem = Problem::new(format!("there is no handler `{wanted}`"));
            Err(AppError::Usage(match near {
                Some((_, name)) => problem.remedy(format!("did you mean `{name}`?")),
                None => problem.remedy(format!("handlers are: {}", names.join(", "))),
            }))
        }
        _ => {
            let mut problem = Problem::new(format!("`{wanted}` means {} handlers", meant.len()));
            for def in &meant {
                problem = problem.at(place(def));
            }
            Err(AppError::Usage(problem.remedy("write more of the path")))
        }
    }
}

/// The type of one message: of a batch handler that of an item.
fn one_payload(def: &HandlerDef) -> &str {
    let item = def
        .payload
        .split_once('<')
        .map(|(_, rest)| rest.trim_end().strip_suffix('>').unwrap_or(rest));
    item.filter(|_| def.batch).map_or(def.payload, str::trim)
}

fn does_not_decode(what: &str, def: &HandlerDef, why: &str) -> String {
    let does = if what.ends_with('s') { "do" } else { "does" };
    format!("{what} {does} not decode as `{}`: {why}", one_payload(def))
}

fn check_time(def: &HandlerDef, asked: &SendCommand) -> Result<(), AppError> {
    if matches!(def.source, Source::Topics { .. }) && (asked.delay.is_some() || asked.at.is_some())
    {
        let problem = Problem::new(format!(
            "`{}` reads a topic, and a topic has no delay",
            def.name
        ));
        return Err(AppError::Usage(
            problem.remedy("leave `--delay` and `--at` out"),
        ));
    }
    Ok(())
}

/// Why a payload would not decode.
fn check_payload(def: &HandlerDef, payload: &[u8]) -> Result<(), std::sync::Arc<str>> {
    let message = Message {
        body: Body::pack(b"", b"", payload),
        flags: Flags::NULL_KEY,
        content: def.content,
        ..Message::default()
    };
    (def.check)(&message)
}
