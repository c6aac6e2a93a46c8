//! `send`: one message, or one for each line of a file, to a handler of this program.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app::plan::EngineKey;
use crate::app::report::{AppError, Problem};
use crate::app::{Planned, table, terminal, wiring};
use crate::config::EngineKind;
use crate::engine::PublishError;
use crate::handler::{HandlerDef, Source};
use crate::message::{Body, Flags, Message};
use crate::producer::{Enqueue, Producer, Push};

use super::{Payload, SendCommand};

/// Engines that are no longer needed are waited for so long.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// So many lines are sent at a time: where one is not accepted, no line of a later slice has passed it.
const SLICE: usize = 1_000;
/// So many faulty lines are told.
const TOLD: usize = 20;

/// What is to be sent: it decodes.
enum Checked {
    One(Vec<u8>),
    /// So many lines.
    Lines(Input, u64),
}

/// Sends what was asked for.
pub(in crate::app) async fn send(planned: Planned, asked: SendCommand) -> Result<(), AppError> {
    let def = find(&planned, &asked.handler)?;
    check_time(def, &asked)?;
    let what = match &asked.payload {
        Payload::Given(payload) => {
            check_payload(def, payload.as_bytes()).map_err(|why| {
                let mut problem = Problem::new(does_not_decode("the payload", def, &why));
                if is_bare_text(def, payload) {
                    problem =
                        problem.remedy("a text is JSON too: write its quotes, as in '\"eve\"'");
                }
                AppError::Usage(problem.at(place(def)))
            })?;
            Checked::One(payload.clone().into_bytes())
        }
        Payload::File(file) => {
            let input = Input::open(file)?;
            let lines = check_file(def, &input)?;
            Checked::Lines(input, lines)
        }
    };
    let destination = destination(&planned, def);
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
    let sent = match what {
        Checked::One(payload) => one(&producer, def, &asked, payload)
            .await
            .map_err(not_accepted),
        Checked::Lines(input, lines) => all(&producer, def, &asked, &input, lines).await,
    };
    // What was accepted is stored, whatever closing says; the first failure is the one to tell.
    let closed = opened.close(CLOSE_WITHIN).await;
    let line = sent?;
    terminal::line(&line);
    terminal::error_line(&destination);
    closed
}

/// Where it goes, for people: an id does not tell that a file was made in the wrong folder, or that nobody serves the handler here.
fn destination(planned: &Planned, def: &HandlerDef) -> String {
    let plan = &planned.plan;
    let served = plan.subscriptions.iter().find(|subscription| {
        let mut handlers = subscription.handlers.iter();
        handlers.any(|handler| std::ptr::eq(*handler, def))
    });
    let Some(served) = served else {
        return format!(
            "`{}` is switched off here: what was sent waits for a worker that serves it",
            def.name
        );
    };
    let engine = table::engine(&plan.config, served.engine);
    let mut text = format!("sent to {} on {engine}", served.place);
    if served.engine == EngineKey::Kind(EngineKind::Sqlite) && !plan.config.sqlite_path().exists() {
        text.push_str(": a new file, for workers in this folder or with the same `sqlite.path`");
    }
    text
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

/// What can never be accepted is a mistake of who sends; anything else has failed.
fn not_accepted(error: PublishError) -> AppError {
    match error {
        PublishError::TooLarge { .. }
        | PublishError::DelayOutOfRange { .. }
        | PublishError::Encode { .. }
        | PublishError::Name { .. }
        | PublishError::EmptyId { .. }
        | PublishError::Header(_) => AppError::Usage(Problem::new(error.to_string())),
        error => AppError::failed("the message was not accepted", error),
    }
}

/// Sends every line of a file, in its order. Ends with the slice in which one was not accepted: what comes later would pass it.
async fn all(
    producer: &Producer,
    def: &HandlerDef,
    asked: &SendCommand,
    input: &Input,
    lines: u64,
) -> Result<String, AppError> {
    let progress = terminal::Progress::begin("sending", lines);
    let (mut sent, mut last) = (0, 0);
    let mut reading = input.lines()?.peekable();
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
        last = numbers.last().copied().unwrap_or(last);
        let of_lines = numbers.into_iter().zip(errors);
        let failed: Vec<(u64, PublishError)> = of_lines
            .filter_map(|(number, error)| Some((number, error?)))
            .collect();
        progress.is_at(sent);
        if let Some((_, error)) = failed.first() {
            let refused: Vec<u64> = failed.iter().map(|(number, _)| *number).collect();
            drop(progress);
            return Err(AppError::failed(
                format!(
                    "of {}, {} not accepted: {}; the other lines to {last} are stored, and nothing behind it was sent",
                    input.name,
                    if refused.len() == 1 {
                        "this line was"
                    } else {
                        "these lines were"
                    },
                    ranges(&refused),
                ),
                error.clone(),
            ));
        }
    }
    drop(progress);
    let messages = if sent == 1 { "message" } else { "messages" };
    Ok(format!("{sent} {messages} sent to `{}`", def.name))
}

/// `3, 7-9`.
fn ranges(numbers: &[u64]) -> String {
    let mut text = String::new();
    let mut rest = numbers.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while let Some(next) = rest.next_if(|next| *next == last + 1) {
            last = next;
        }
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing into a text cannot fail.
        let _ = write!(text, "{comma}{first}");
        if last > first {
            let _ = write!(text, "-{last}");
        }
    }
    text
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

/// The file of payloads. It is read twice, so what can be read only once, such as a pipe, is kept.
struct Input {
    name: String,
    held: Held,
}

enum Held {
    /// On the disk.
    File(PathBuf),
    /// Here.
    Bytes(Vec<u8>),
}

impl Input {
    fn open(file: &Path) -> Result<Self, AppError> {
        let is_stdin = file == Path::new("-");
        let name = if is_stdin {
            "the standard input".to_owned()
        } else {
            file.display().to_string()
        };
        let read = || {
            if !is_stdin && std::fs::metadata(file)?.is_file() {
                return Ok(Held::File(file.to_owned()));
            }
            let mut bytes = Vec::new();
            if is_stdin {
                std::io::stdin().lock().read_to_end(&mut bytes)?;
            } else {
                File::open(file)?.read_to_end(&mut bytes)?;
            }
            Ok(Held::Bytes(bytes))
        };
        match read() {
            Ok(held) => Ok(Self { name, held }),
            Err(error) => Err(unreadable(&name, &error)),
        }
    }

    /// The lines that are not empty, with their numbers from 1, without their ends.
    fn lines(&self) -> Result<impl Iterator<Item = Result<(u64, Vec<u8>), AppError>>, AppError> {
        let read: Box<dyn BufRead + Send + '_> = match &self.held {
            Held::File(path) => match File::open(path) {
                Ok(file) => Box::new(BufReader::new(file)),
                Err(error) => return Err(unreadable(&self.name, &error)),
            },
            Held::Bytes(bytes) => Box::new(&bytes[..]),
        };
        let lines = (1..).zip(read.split(b'\n'));
        Ok(lines.filter_map(|(number, line)| match line {
            Ok(mut line) => {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                (!line.trim_ascii().is_empty()).then_some(Ok((number, line)))
            }
            Err(error) => Some(Err(unreadable(&self.name, &error))),
        }))
    }
}

fn unreadable(name: &str, error: &std::io::Error) -> AppError {
    AppError::Usage(Problem::new(format!("{name} cannot be read: {error}")))
}

/// Checks every line, before any is sent, and counts them.
fn check_file(def: &HandlerDef, input: &Input) -> Result<u64, AppError> {
    let (mut lines, mut faulty, mut problem) = (0, 0_usize, Problem::new(""));
    for line in input.lines()? {
        let (number, payload) = line?;
        lines += 1;
        if let Err(why) = check_payload(def, &payload) {
            faulty += 1;
            if faulty <= TOLD {
                // Within a line of JSON, the line is always the first.
                let why = why.replace(" at line 1 column ", " at column ");
                let hint = if number == 1 && payload.starts_with("\u{feff}".as_bytes()) {
                    "; the file begins with a byte order mark, which is none of the payload"
                } else if std::str::from_utf8(&payload).is_ok_and(|text| is_bare_text(def, text)) {
                    "; a text is JSON too: it has quotes around it"
                } else {
                    ""
                };
                problem = problem.at(format!("{}:{number}: {why}{hint}", input.name));
            }
        }
    }
    if lines == 0 {
        return Err(AppError::Usage(
            Problem::new(format!("{} has no payload", input.name)).remedy("write one on each line"),
        ));
    }
    if faulty == 0 {
        return Ok(lines);
    }
    let what = format!("{faulty} of {lines} payloads");
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

/// Whether it would be right with quotes around it: shells take them away.
fn is_bare_text(def: &HandlerDef, payload: &str) -> bool {
    let quoted = serde_json::to_vec(payload).unwrap_or_default();
    check_payload(def, &quoted).is_ok()
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
