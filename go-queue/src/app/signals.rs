//! SIGTERM and SIGINT: the first asks to stop, the second to stop at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// Signals that follow one another so fast are one: a supervisor that signals a process and then its group, a terminal that does so
/// beside it. Nobody has changed his mind.
const ONE: Duration = Duration::from_millis(500);

/// The two signals that end a worker.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    last: Option<Instant>,
}

impl Signals {
    /// Takes both over from the system's default, which is to die.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            last: None,
        })
    }

    /// Waits for the next of them that means something, and says which.
    ///
    /// # Cancel safety
    /// No signal is lost.
    pub(super) async fn next(&mut self) -> &'static str {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            };
            let now = Instant::now();
            let last = self.last.replace(now);
            if last.is_none_or(|last| now - last >= ONE) {
                return name;
            }
        }
    }
}
