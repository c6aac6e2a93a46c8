//! Real servers for tests: started in the folder of the test on a port of loopback, stopped, killed and restarted by it, and
//! gone with it.
//!
//! A test that needs them begins with [`installed`]:
//!
//! ```no_run
//! use go_queue_tests::Folder;
//! use go_queue_tests::servers::{Beanstalkd, Redis, installed};
//!
//! if !installed(&[Beanstalkd::PROGRAM, Redis::PROGRAM]) {
//!     return;
//! }
//! let folder = Folder::new("three-nodes");
//! let nodes = [1, 2, 3].map(|n| Beanstalkd::start(folder.path(), &format!("node-{n}")));
//! let redis = Redis::start(folder.path(), "redis");
//! ```
//!
//! The servers of one machine stand between real processes and a real network; [`Proxy`] is the network that misbehaves.

mod beanstalkd;
mod kafka;
mod proxy;
mod redis;
mod server;

use std::path::PathBuf;

pub use beanstalkd::{Beanstalkd, BeanstalkdOptions};
pub use kafka::{
    Broker, KafkaCluster, KafkaOptions, Raw, RawRecord, SharedKafka, kafka_is_installed,
};
pub use proxy::Proxy;
pub use redis::{Redis, RedisOptions, Sentinel};
pub use server::{Server, free_server_port};

/// Whether these programs are on the path. If not, the test says so and ends; in CI that is a failure.
///
/// # Panics
/// If one is missing and `CI` is set: there nothing is skipped.
#[must_use]
pub fn installed(programs: &[&str]) -> bool {
    let absent: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|program| find(program).is_none())
        .collect();
    if absent.is_empty() {
        return true;
    }
    missing(&absent.join(", "));
    false
}

/// Says that a test is skipped because this is not there.
///
/// # Panics
/// If `CI` is set.
fn missing(what: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "not installed: {what}; `tests/run setup` installs it"
    );
    skipped(what);
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(missing: &str) {
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test");
    eprintln!("SKIPPED: {test}: not installed: {missing}");
}

/// Where the program is, as a shell would find it; administrators' folders too, where distributions put servers.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    let more = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    folders
        .chain(more)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
