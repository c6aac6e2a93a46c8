//! The contender that this program is itself.

use std::collections::HashMap;
use std::io::{self, BufRead as _};
use std::process::ExitCode;

use crate::figures::Figures;
use crate::scenarios;
use crate::terminal::say;

/// Runs the work of a variant on a runtime as an app has it.
pub(crate) fn on_runtime<F>(work: F) -> Result<Figures, String>
where
    F: Future<Output = Result<Figures, String>> + Send + 'static,
{
    let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        tokio::spawn(work)
            .await
            .map_err(|error| error.to_string())?
    })
}

/// What a run was told besides its variant.
#[derive(Debug, Default)]
pub(crate) struct Parameters(HashMap<String, String>);

impl Parameters {
    /// A number, or what it is if nothing was said.
    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        let Some(text) = self.0.get(name) else {
            return Ok(default);
        };
        text.parse()
            .map_err(|_| format!("{name}={text}: not a number"))
    }

    /// The parts of a text with commas; none if it was not said.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let text = self.0.get(name).map_or("", String::as_str);
        text.split(',').filter(|part| !part.is_empty()).collect()
    }
}

/// Answers on standard output until standard input ends.
pub(crate) fn serve() -> ExitCode {
    say(format_args!("hello go-queue {}", env!("CARGO_PKG_VERSION")));
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else {
            return ExitCode::FAILURE;
        };
        match answer(&line) {
            Ok(figures) => say(format_args!("done {figures}")),
            Err(error) => say(format_args!("failed {}", error.replace('\n', " | "))),
        }
    }
    ExitCode::SUCCESS
}

fn answer(line: &str) -> Result<crate::figures::Figures, String> {
    let rest = line
        .strip_prefix("run ")
        .ok_or_else(|| format!("not understood: {line}"))?;
    let mut words = rest.split_whitespace();
    let path = words.next().ok_or("run what?")?;
    let (scenario, variant) = path
        .split_once('/')
        .ok_or("a variant is SCENARIO/VARIANT")?;
    let mut parameters = Parameters::default();
    for word in words {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| format!("not a parameter: {word}"))?;
        parameters.0.insert(name.to_owned(), value.to_owned());
    }
    let scenario = scenarios::ALL
        .iter()
        .find(|one| one.name == scenario)
        .ok_or_else(|| format!("no scenario {scenario}"))?;
    (scenario.work)(variant, &parameters)
}
