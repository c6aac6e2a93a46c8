//! A worker and a web server in one process: the request is answered when the task is stored, and the work is done behind it.
//!
//! ```console
//! $ cargo run -p embedded-in-axum
//! $ curl -d '{"to":"ada"}' -H 'content-type: application/json' http://127.0.0.1:8080/mails
//! $ curl http://127.0.0.1:8080/readyz
//! ```
#![expect(
    clippy::print_stdout,
    reason = "it shows what it does on standard output; the log goes to standard error"
)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Json, State as Shared};
use axum::http::StatusCode;
use axum::routing::{get, post};
use go_queue::app::Running;
use go_queue::prelude::*;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A mail to be sent.
#[derive(Serialize, Deserialize)]
struct Mail {
    to: String,
}

/// Sends a mail, after a moment.
#[dq_handler(tube = "mails")]
async fn deliver(mail: Mail) {
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!("mail to {}", mail.to);
}

/// Answers when the task is stored: from then on it is not lost, whatever happens to this process.
async fn accept(
    Shared(worker): Shared<Arc<Running>>,
    Json(mail): Json<Mail>,
) -> (StatusCode, String) {
    match deliver::now(mail).send(&worker.producer()).await {
        Ok(task) => (StatusCode::ACCEPTED, task.to_string()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// For the load balancer: fails while a handler is not served, and from the moment the app stops.
async fn ready(Shared(worker): Shared<Arc<Running>>) -> (StatusCode, String) {
    match worker.ready() {
        Ok(()) => (StatusCode::OK, "ready".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `start` installs no signal handlers and no log: those are the program's.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let worker = Arc::new(App::new().start().await?);
    let router = Router::new()
        .route("/mails", post(accept))
        .route("/readyz", get(ready))
        .with_state(worker.clone());
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);

    let quiet = worker.clone();
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // Nothing more is taken from the tube, and `/readyz` says so while open requests are answered.
            quiet.quiet();
        })
        .await?;
    // The server and its requests are gone, so this is the last one who knows the worker.
    let worker =
        Arc::into_inner(worker).ok_or_else(|| anyhow::anyhow!("a request is still open"))?;
    worker.stop(Duration::from_secs(25)).await?;
    println!("stopped");
    Ok(())
}
