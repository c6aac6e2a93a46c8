//! SIGTERM and SIGINT: the first asks to stop, the second to stop at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_default;
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
    given_back: Arc<AtomicBool>,
}

/// Gives the signals back to the system's default. For a process that cannot end by itself: tokio keeps the signals for as long as it lives,
/// and a handler that blocks its thread keeps the runtime, so that nothing but SIGKILL would end it. Any other process is about to end, and a
/// signal that comes twice must not change its exit code.
#[derive(Clone, Debug)]
pub(super) struct GiveBack(Arc<AtomicBool>);

impl GiveBack {
    /// From here on a signal ends the process.
    pub(super) fn now(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Signals {
    /// Takes both over from the system's default, which is to die.
    pub(super) fn listen() -> io::Result<Self> {
        let given_back = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            register_conditional_default(signal, Arc::clone(&given_back))?;
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            last: None,
            given_back,
        })
    }

    /// For the time after the stop.
    pub(super) fn give_back(&self) -> GiveBack {
        GiveBack(Arc::clone(&self.given_back))
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
