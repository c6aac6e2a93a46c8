//! The command line of a worker: `run`, `check`, `handlers`, `send`, `completions`.

mod send;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command as Clap, value_parser};
use clap_complete::Shell;

use crate::handler::Registry;
use crate::time::parse_duration;

use super::report::Problem;
use super::terminal;

pub(super) use send::send;

/// Below the list of commands.
const AFTER: &str = "\
Without a configuration file everything has a default: tasks and topics are kept in data/<name>.db.

Exit codes: 0 clean; 1 something failed for good while it ran; 2 the command line or the set-up is wrong, and nothing was run;
3 the shutdown deadline passed, and work was handed back.";

const AFTER_RUN: &str = "\
The first SIGTERM or SIGINT stops in order: nothing more is received, what runs may finish within `shutdown.deadline`, and the rest is
handed back without counting an attempt. A second signal hands back at once.";

const AFTER_SEND: &str = "\
Examples:
  send remind '{\"order\":\"o-7\"}' --delay 15m
  send charge '{\"id\":\"o-7\",\"cents\":1500}' --key eve
  send charge --file orders.jsonl

The payload is JSON, so a text has its quotes: '\"eve\"'. Of a batch handler it is one item.
A file has one payload on each line; all lines are checked before the first is sent.";

const AFTER_CHECK: &str = "\
An editor that knows YAML checks while you type, if the file begins with the line
  # yaml-language-server: $schema=go-queue.schema.json
and `check --schema > go-queue.schema.json` was run once.";

const AFTER_COMPLETIONS: &str = "\
Examples:
  bash   worker completions bash > ~/.local/share/bash-completion/completions/worker
  zsh    worker completions zsh > \"${fpath[1]}/_worker\"
  fish   worker completions fish > ~/.config/fish/completions/worker.fish";

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
    Check {
        schema: bool,
    },
    Handlers {
        json: bool,
    },
    Send(SendCommand),
    Completions {
        shell: Shell,
        program: String,
    },
}

#[derive(Debug)]
pub(super) struct SendCommand {
    handler: String,
    payload: Payload,
    delay: Option<Duration>,
    at: Option<SystemTime>,
    key: Option<String>,
    id: Option<String>,
}

/// Where the payloads are.
#[derive(Debug)]
enum Payload {
    Given(String),
    /// One on each line.
    File(PathBuf),
}

/// `names` are the handlers, where a shell completes them; otherwise any end of a path is one.
fn command_line(names: Vec<&'static str>) -> Clap {
    let until_idle = Arg::new("until-idle")
        .long("until-idle")
        .value_name("HORIZON")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("10s")
        .value_parser(|text: &str| parse_duration(text))
        .help("Stop when nothing is left for this process to do, and nothing is due within HORIZON (10s)");
    Clap::new("worker")
        .about("A go-queue worker: runs its handlers, and answers questions about them")
        .version(concat!("(go-queue ", env!("CARGO_PKG_VERSION"), ")"))
        .after_help(AFTER)
        .disable_help_subcommand(true)
        .arg(
            Arg::new("file")
                .short('f')
                .long("config")
                .value_name("FILE")
                .global(true)
                .value_parser(value_parser!(PathBuf))
                .value_hint(clap::ValueHint::FilePath)
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
        .subcommand(
            Clap::new("run")
                .about("Run the handlers until SIGTERM or SIGINT (the default)")
                .after_help(AFTER_RUN)
                .arg(until_idle),
        )
        .subcommand(
            Clap::new("check")
                .about(
                    "Check configuration and handlers, without a connection; every problem at once",
                )
                .after_help(AFTER_CHECK)
                .arg(
                    Arg::new("schema")
                        .long("schema")
                        .action(ArgAction::SetTrue)
                        .help("Print the JSON Schema of the configuration, for editors"),
                ),
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
        .subcommand(send_line(names))
        .subcommand(
            Clap::new("completions")
                .about("Print completions for a shell; they know the names of the handlers")
                .after_help(AFTER_COMPLETIONS)
                .arg(
                    Arg::new("shell")
                        .value_name("SHELL")
                        .required(true)
                        .value_parser(value_parser!(Shell)),
                ),
        )
}

fn send_line(names: Vec<&'static str>) -> Clap {
    let mut handler = Arg::new("handler")
        .value_name("HANDLER")
        .required(true)
        .help("The function, or a longer end of its path");
    if !names.is_empty() {
        handler = handler.value_parser(PossibleValuesParser::new(names));
    }
    Clap::new("send")
        .about("Send to a handler; payloads are checked against its type first")
        .after_help(AFTER_SEND)
        .arg(handler)
        .arg(
            Arg::new("payload")
                .value_name("PAYLOAD")
                .required_unless_present("lines")
                .conflicts_with("lines")
                .help("JSON; the text itself for a handler that takes `Text`"),
        )
        .arg(
            Arg::new("lines")
                .long("file")
                .value_name("F.jsonl")
                .conflicts_with("id")
                .value_parser(value_parser!(PathBuf))
                .value_hint(clap::ValueHint::FilePath)
                .help("Instead of PAYLOAD: a file with one on each line"),
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
                .help("Tasks: not before this time, such as 2030-01-31T08:00:00Z (UTC)"),
        )
        .arg(
            Arg::new("key")
                .long("key")
                .value_name("KEY")
                .help("The key: records of one key keep their order; tasks have it, and no order"),
        )
        .arg(
            Arg::new("id")
                .long("id")
                .value_name("NAME")
                .help("A name: the same name is stored once"),
        )
}

/// Reads the command line. `None`: help was asked for and given.
pub(super) fn parse<I, T>(args: I) -> Result<Option<Arguments>, Problem>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let program = args.first().map_or_else(String::new, program_name);
    let mut line = command_line(Vec::new());
    if !program.is_empty() {
        line = line.display_name(&program);
    }
    let matches = match line.try_get_matches_from(args) {
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
        Some(("check", matches)) => Command::Check {
            schema: matches.get_flag("schema"),
        },
        Some(("handlers", matches)) => Command::Handlers {
            json: matches.get_flag("json"),
        },
        Some(("completions", matches)) => Command::Completions {
            shell: matches.get_one("shell").copied().unwrap_or(Shell::Bash),
            program,
        },
        Some((_, matches)) => {
            let text = |name: &str| matches.get_one::<String>(name).cloned();
            let payload = match matches.get_one::<PathBuf>("lines") {
                Some(file) => Payload::File(file.clone()),
                None => Payload::Given(text("payload").unwrap_or_default()),
            };
            Command::Send(SendCommand {
                handler: text("handler").unwrap_or_default(),
                payload,
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

/// What people type to start this program.
fn program_name(first: &OsString) -> String {
    let name = Path::new(first).file_name().unwrap_or(first);
    name.to_string_lossy().into_owned()
}

/// Prints the completions of a shell.
pub(super) fn completions(shell: Shell, program: &str, registry: &Registry) {
    let mut names: Vec<&'static str> = registry.iter().map(|def| def.name).collect();
    names.sort_unstable();
    names.dedup();
    let mut line = command_line(names);
    let name = if program.is_empty() {
        "worker"
    } else {
        program
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut line, name, &mut script);
    terminal::bytes(&script);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command_line(Vec::new()).debug_assert();
        command_line(vec!["charge"]).debug_assert();
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
        assert!(problem.what.contains("not negative"), "{}", problem.what);
    }

    #[test]
    fn a_misspelt_command_or_option_gets_a_suggestion() {
        for (args, near) in [
            (&["hanlders"][..], "'handlers'"),
            (&["chekc"], "'check'"),
            (&["completion", "bash"], "'completions'"),
            (&["check", "--scheme"], "'--schema'"),
            (&["run", "--until-idel"], "'--until-idle'"),
            (&["send", "remind", "{}", "--dealy", "5s"], "'--delay'"),
            (&["completions", "bsh"], "'bash'"),
        ] {
            let all = std::iter::once("worker").chain(args.iter().copied());
            let problem = parse(all).expect_err("misspelt");
            assert!(problem.what.contains(near), "{args:?}: {}", problem.what);
        }
    }

    #[test]
    fn a_payload_is_given_or_in_a_file_and_not_both() {
        let asked = |args: &[&str]| {
            let all = ["worker", "send", "charge"]
                .into_iter()
                .chain(args.iter().copied());
            parse(all).map(|all| all.expect("no help").command)
        };
        assert!(matches!(
            asked(&["--file", "orders.jsonl"]),
            Ok(Command::Send(SendCommand { payload: Payload::File(file), .. })) if file.ends_with("orders.jsonl")
        ));
        for wrong in [
            &["{}", "--file", "f"][..],
            &[],
            &["--file", "f", "--id", "x"],
        ] {
            asked(wrong).expect_err("one of them");
        }
    }
}
