//! SIGTERM and SIGINT: the first asks to stop, the second to stop at once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
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
}

/// Whether a signal ends the process, as it does by the system's default. One for the process: actions of signals are never taken back.
static GIVEN_BACK: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Gives the signals back to the system's default, if they were taken, until somebody [listens](Signals::listen) again. For a process that
/// cannot end by itself: tokio keeps the signals for as long as it lives, and a handler that blocks its thread keeps the runtime, so that
/// nothing but SIGKILL would end it. Any other process is about to end, and a signal that comes twice must not change its exit code.
pub(super) fn give_back() {
    if let Some(given_back) = GIVEN_BACK.get() {
        given_back.store(true, Ordering::SeqCst);
    }
}

/// Takes the signals from the system's default.
fn take() -> io::Result<()> {
    if let Some(given_back) = GIVEN_BACK.get() {
        given_back.store(false, Ordering::SeqCst);
        return Ok(());
    }
    let given_back = Arc::clone(GIVEN_BACK.get_or_init(Arc::default));
    for signal in [SIGTERM, SIGINT] {
        register_conditional_default(signal, Arc::clone(&given_back))?;
    }
    Ok(())
}

impl Signals {
    /// Takes both over from the system's default, which is to die.
    pub(super) fn listen() -> io::Result<Self> {
        take()?;
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
