//! The worker of the app's process tests: what its handlers do, they write into the book, a file that outlives the process.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use go_queue::app::{App, Exit};
use go_queue::engine::PublishError;
use go_queue::prelude::*;

/// One line for each thing that happens. Whole lines, from several processes.
#[derive(Clone)]
struct Book(Arc<File>);

impl Book {
    fn open() -> Option<Self> {
        let path = std::env::var_os("APP_BOOK")?;
        let file = File::options().append(true).create(true).open(path).ok()?;
        Some(Self(Arc::new(file)))
    }

    fn write(&self, line: &str) -> Result<(), std::io::Error> {
        (&*self.0).write_all(format!("{line}\n").as_bytes())
    }
}

/// How long a job takes in this process.
fn pace() -> Duration {
    let millis = std::env::var("APP_PACE")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_millis(millis.unwrap_or(0))
}

/// Takes its time.
#[dq_handler(tube = "jobs", concurrency = 4, priority = 9, lease = "2s")]
async fn job(n: u32, meta: Meta, State(book): State<Book>) -> Result<(), std::io::Error> {
    book.write(&format!("begin {n} attempt {}", meta.attempt))?;
    tokio::time::sleep(pace()).await;
    book.write(&format!("end {n}"))
}

/// Says hello.
#[dq_handler(tube = "greetings")]
async fn greet(
    name: Text,
    key: Key,
    meta: Meta,
    State(book): State<Book>,
) -> Result<(), std::io::Error> {
    let early = go_queue::time::Clock::system().now() < meta.due;
    let key = key.as_str().unwrap_or("no key").to_owned();
    book.write(&format!(
        "hello {} {key}{}",
        name.0,
        if early { " early" } else { "" }
    ))
}

/// Reads events.
#[kq_handler(topic = "events", group = "audit", order = key)]
async fn audit(
    event: serde_json::Value,
    key: Key,
    State(book): State<Book>,
) -> Result<(), std::io::Error> {
    let key = key.as_str().unwrap_or("no key").to_owned();
    book.write(&format!("event {event} {key}"))
}

/// Neither awaits nor ends.
#[dq_handler(tube = "stuck")]
async fn stuck(_nothing: (), State(book): State<Book>) -> Result<(), std::io::Error> {
    book.write("stuck")?;
    loop {
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}

/// Fails with what it was given.
#[dq_handler(tube = "failures", retry = none)]
async fn fail(secret: String, State(book): State<Book>) -> Result<(), &'static str> {
    drop(secret);
    let written = book.write("fail");
    written.map_err(|_| "the book is closed")?;
    Err("of no use")
}

#[tokio::main]
async fn main() -> Exit {
    let mode = std::env::var("APP_MODE").unwrap_or_default();
    let mut app = App::new();
    if let Some(book) = Book::open() {
        let said = book.clone();
        app = app.state(book.clone()).on_stop(move || async move {
            let _closed_books_are_seen_by_the_test = said.write("stopped");
        });
        app = match &*mode {
            "seed" => app.on_start(|producer| async move {
                for n in 0..20 {
                    job::now(n).id(format!("seed {n}")).send(&producer).await?;
                }
                Ok::<_, PublishError>(())
            }),
            "fail to start" => app.on_start(|_| async { Err("no licence") }),
            "start for ever" => app.on_start(move |_| async move {
                book.write("starting")?;
                std::future::pending::<Result<(), std::io::Error>>().await
            }),
            _ => app,
        };
    }
    if mode == "no handlers" {
        app = app.handlers(handlers![]);
    }
    app.run().await.into()
}
