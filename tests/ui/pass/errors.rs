//! Every error that displays can be returned.
use std::error::Error;
use std::fmt;

use go_queue::outcome::{ClassifyError, ErrorClass};
use go_queue::prelude::*;

struct OnlyShown;

impl fmt::Display for OnlyShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only shown")
    }
}

/// As `eyre::Report`: no `Error` itself, converts into a boxed one.
#[derive(Debug)]
struct Report(Box<dyn Error + Send + Sync>);

impl<E: Error + Send + Sync + 'static> From<E> for Report {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl From<Report> for Box<dyn Error + Send + Sync> {
    fn from(report: Report) -> Self {
        report.0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

struct Says;

impl fmt::Display for Says {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("says")
    }
}

impl ClassifyError for Says {
    fn classify(&self) -> ErrorClass {
        ErrorClass::Skip
    }
}

#[dq_handler(tube = "a")]
async fn shown(_: ()) -> Result<(), OnlyShown> {
    Err(OnlyShown)
}

#[dq_handler(tube = "b")]
async fn reported(text: String) -> Result<Outcome, Report> {
    text.parse::<u8>()?;
    Ok(Outcome::Done)
}

#[dq_handler(tube = "c")]
async fn of_anyhow(text: String) -> anyhow::Result<()> {
    text.parse::<u8>()?;
    Ok(())
}

#[dq_handler(tube = "d")]
async fn boxed(text: String) -> Result<(), Box<dyn Error>> {
    text.parse::<u8>()?;
    Ok(())
}

#[dq_handler(tube = "e")]
async fn boxed_and_sent(text: String) -> Result<(), Box<dyn Error + Send + Sync>> {
    text.parse::<u8>()?;
    Ok(())
}

#[dq_handler(tube = "f")]
async fn text(_: ()) -> Result<(), &'static str> {
    Err("no")
}

#[dq_handler(tube = "g")]
async fn says(_: ()) -> Result<(), Says> {
    Err(Says)
}

#[kq_handler(topic = "h")]
async fn each(all: Vec<u8>) -> Result<Vec<Outcome>, std::io::Error> {
    Ok(vec![Outcome::Done; all.len()])
}

#[kq_handler(topic = "i")]
async fn outcome(_: u8) -> Outcome {
    Outcome::Done
}

fn main() {
    assert_eq!(go_queue::handler::Registry::global().len(), 9);
}
