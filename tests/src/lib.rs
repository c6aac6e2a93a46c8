//! What the tests of this project share: a ledger that counts from outside what real processes did, and the tools to
//! start, stop and kill them.
//!
//! A fault test has three parties:
//!
//! - **Processes** (workers, producers, anything) that write what they do into a [`Journal`] each: one line for each event,
//!   appended by one write, so that a SIGKILL loses nothing of it.
//! - A **driver**, the test itself: it starts [`Process`]es in a [`Folder`], lets a [`Killer`] kill them, and the kills are
//!   written down as well.
//! - The **[`Ledger`]**, which reads all journals of the folder and says in a [`Report`] what was accepted, started, finished,
//!   lost, and run twice, and whether each second run had a cause.
//!
//! Nothing here knows how the library works inside; that is the point.

mod folder;
mod journal;
mod killer;
mod ledger;
mod order;
mod process;
mod report;
pub mod servers;
mod wait;

pub use folder::{Folder, free_port};
pub use journal::{JOURNAL_VARIABLE, Journal, Running};
pub use killer::{Killer, SEED_VARIABLE};
pub use ledger::{Event, Ledger, What};
pub use process::Process;
pub use report::{Report, SETTLE_WITHIN};
pub use wait::{until, until_some};

/// The log of the library goes to standard error if `GO_QUEUE_LOG` is set, for whoever looks into a failure: all of it, from
/// `debug` on.
pub fn log_if_asked() {
    if std::env::var_os("GO_QUEUE_LOG").is_some() {
        let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
        // Another test of this process may have set it.
        let _ = log
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .try_init();
    }
}
