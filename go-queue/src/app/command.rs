//! The command line of a worker: `run`, `check`, `handlers`, `send`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Arg, ArgAction, ArgMatches, Command as Clap, value_parser};

use crate::handler::HandlerDef;
use crate::handler::Source;
use crate::message::{Body, Flags, Message};
use crate::producer::{Enqueue, Push};
use crate::time::parse_duration;

use super::report::{AppError, Problem};
use super::{Planned, terminal, wiring};

/// Engines that are no longer needed are waited for so long.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// What was asked for.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) file: Option<PathBuf>,
    pub(super) set: Vec<String>,
    pub(super) command: Command,
}

#[derive(Debug)]
pub(super) enum Command {
    /// `--until-idle`: the horizon.
    Run {
        until_idle: Option<Duration>,
    },
    Check,
    Handlers {
        json: bool,
    },
    Send(SendCommand),
}

#[derive(Debug)]
pub(super) struct SendCommand {
    handler: String,
    payload: String,
    delay: Option<Duration>,
    at: Option<SystemTime>,
    key: Option<String>,
    id: Option<String>,
}

fn command_line() -> Clap {
    let until_idle = Arg::new("until-idle")
        .long("until-idle")
        .value_name("HORIZON")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("10s")
        .value_parser(|text: &str| parse_duration(text))
        .help("Stop when nothing is left for this process to do, and nothing is due within HORIZON (10s)");
    let run = || {
        Clap::new("run")
            .about("Run the handlers until SIGTERM or SIGINT (the default)")
            .arg(until_idle.clone())
    };
    Clap::new("worker")
        .about("A go-queue worker")
        .disable_help_subcommand(true)
        .arg(
            Arg::new("file")
                .short('f')
                .long("config")
                .value_name("FILE")
                .global(true)
                .value_parser(value_parser!(PathBuf))
                .help("Configuration file; else $GO_QUEUE_CONFIG, else config.yaml if it is there"),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("KEY=VALUE")
                .global(true)
                .action(ArgAction::Append)
                .help("One key over what the file says, for example handlers.charge.concurrency=8"),
        )
        .arg(until_idle.clone())
        .subcommand(run())
        .subcommand(
            Clap::new("check").about("Check configuration and handlers, without a connection"),
        )
        .subcommand(
            Clap::new("handlers")
                .about("List the handlers, their limits, and where each value comes from")
                .arg(
                    Arg::new("json")
                        .long("json")
                        .action(ArgAction::SetTrue)
                        .help("For programs"),
                ),
        )
        .subcommand(
            Clap::new("send")
                .about(
                    "Send one message to a handler; the payload is checked against its type first",
                )
                .arg(
                    Arg::new("handler")
                        .value_name("HANDLER")
                        .required(true)
                        .help("The function, or a longer end of its path"),
                )
                .arg(
                    Arg::new("payload")
                        .value_name("PAYLOAD")
                        .required(true)
                        .help("JSON, or text for a handler that takes text"),
                )
                .arg(
                    Arg::new("delay")
                        .long("delay")
                        .value_name("5s")
                        .conflicts_with("at")
                        .allow_hyphen_values(true)
                        .value_parser(|text: &str| parse_duration(text))
                        .help("Tasks: not before this time has passed"),
                )
                .arg(
                    Arg::new("at")
                        .long("at")
                        .value_name("TIME")
                        .value_parser(|text: &str| {
                            humantime::parse_rfc3339_weak(text)
                                .map_err(|_| "write a time in UTC as `2030-01-31T08:00:00Z`")
                        })
                        .help("Tasks: not before this time (UTC)"),
                )
                .arg(
                    Arg::new("key")
                        .long("key")
                        .value_name("KEY")
                        .help("The key: records of one key keep their order"),
                )
                .arg(
                    Arg::new("id")
                        .long("id")
                        .value_name("NAME")
                        .help("A name: the same name is stored once"),
                ),
        )
}

/// Reads the command line. `None`: help was asked for and given.
pub(super) fn parse<I, T>(args: I) -> Result<Option<Arguments>, Problem>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let matches = match command_line().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            let text = text
                .trim_end()
                .strip_prefix("error: ")
                .unwrap_or(text.trim_end());
            return Err(Problem::new(text));
        }
        Err(help) => {
            terminal::line(help.to_string().trim_end());
            return Ok(None);
        }
    };
    let file = matches.get_one::<PathBuf>("file").cloned();
    let set = matches
        .get_many::<String>("set")
        .map(|all| all.cloned().collect())
        .unwrap_or_default();
    let command = match matches.subcommand() {
        None => run(&matches),
        Some(("run", matches)) => run(matches),
        Some(("check", _)) => Command::Check,
        Some(("handlers", matches)) => Command::Handlers {
            json: matches.get_flag("json"),
        },
        Some((_, matches)) => {
            let text = |name: &str| matches.get_one::<String>(name).cloned();
            Command::Send(SendCommand {
                handler: text("handler").unwrap_or_default(),
                payload: text("payload").unwrap_or_default(),
                delay: matches.get_one("delay").copied(),
                at: matches.get_one("at").copied(),
                key: text("key"),
                id: text("id"),
            })
        }
    };
    Ok(Some(Arguments { file, set, command }))
}

fn run(matches: &ArgMatches) -> Command {
    Command::Run {
        until_idle: matches.get_one::<Duration>("until-idle").copied(),
    }
}

/// Sends one message to a handler of this program.
pub(super) async fn send(planned: Planned, asked: SendCommand) -> Result<(), AppError> {
    let def = find(&planned, &asked.handler)?;
    check_payload(def, &asked)?;
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
    let sent = match def.source {
        Source::Tube(tube) => {
            let mut task = Enqueue::bytes(tube, asked.payload.into_bytes(), def.content);
            if let Some(priority) = def.options.priority {
                task = task.usual_priority(priority);
            }
            if let Some(delay) = asked.delay {
                task = task.after(delay);
            }
            if let Some(at) = asked.at {
                task = task.not_before(at);
            }
            if let Some(key) = asked.key {
                task = task.key(key);
            }
            if let Some(id) = asked.id {
                task = task.id(id);
            }
            task.send(&producer).await.map(|id| {
                let existed = if id.existed() {
                    " (it was there already)"
                } else {
                    ""
                };
                format!("{id}{existed}")
            })
        }
        Source::Topics { topics, .. } => {
            let mut record = Push::bytes(
                topics.first().copied().unwrap_or_default(),
                asked.payload.into_bytes(),
                def.content,
            );
            if let Some(key) = asked.key {
                record = record.key(key);
            }
            if let Some(id) = asked.id {
                record = record.id(id);
            }
            record.send(&producer).await.map(|pushed| {
                format!(
                    "{} partition {} offset {}",
                    pushed.id, pushed.partition, pushed.offset
                )
            })
        }
    };
    opened.close(CLOSE_WITHIN).await?;
    let line = sent.map_err(|error| AppError::failed("the message was not accepted", error))?;
    terminal::line(&line);
    Ok(())
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
                problem = problem.at(format!("{}  {}", def.location, def.path()));
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

fn check_payload(def: &HandlerDef, send: &SendCommand) -> Result<(), AppError> {
    if matches!(def.source, Source::Topics { .. }) && (send.delay.is_some() || send.at.is_some()) {
        let problem = Problem::new(format!(
            "`{}` reads a topic, and a topic has no delay",
            def.name
        ));
        return Err(AppError::Usage(
            problem.remedy("leave `--delay` and `--at` out"),
        ));
    }
    let message = Message {
        body: Body::pack(b"", b"", send.payload.as_bytes()),
        flags: Flags::NULL_KEY,
        content: def.content,
        ..Message::default()
    };
    (def.check)(&message).map_err(|why| {
        let problem = Problem::new(format!(
            "the payload does not decode as `{}`: {why}",
            one_payload(def)
        ));
        AppError::Usage(problem.at(format!("{}  {}", def.location, def.path())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command_line().debug_assert();
    }

    #[test]
    fn run_is_the_default_and_the_horizon_is_optional() {
        let until = |args: &[&str]| {
            let all = std::iter::once("worker").chain(args.iter().copied());
            match parse(all).expect("parses").expect("no help").command {
                Command::Run { until_idle } => until_idle,
                other => unreachable!("{other:?}"),
            }
        };
        assert_eq!(until(&[]), None);
        assert_eq!(
            until(&["run", "--until-idle"]),
            Some(Duration::from_secs(10))
        );
        assert_eq!(until(&["--until-idle=2m"]), Some(Duration::from_secs(120)));
    }

    #[test]
    fn a_negative_delay_is_refused_with_a_sentence() {
        let problem =
            parse(["worker", "send", "remind", "{}", "--delay", "-5s"]).expect_err("negative");
        assert!(
            problem.what.contains("must not be negative"),
            "{}",
            problem.what
        );
    }

    #[test]
    fn a_misspelt_command_gets_a_suggestion() {
        let problem = parse(["worker", "hanlders"]).expect_err("misspelt");
        assert!(problem.what.contains("handlers"), "{}", problem.what);
    }
}
