//! The servers of one test, and the programs of the Go library that work on them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use go_queue_tests::servers::{Beanstalkd, Redis, installed};
use go_queue_tests::{Folder, Ledger, Process, until};

/// Longer than anything takes that does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The oldest Go that builds the programs.
const GO: (u32, u32) = (1, 21);

/// Servers, and a folder with the journals of all processes.
pub(crate) struct Fleet {
    pub(crate) folder: Folder,
    pub(crate) ledger: Ledger,
    pub(crate) nodes: Vec<Beanstalkd>,
    pub(crate) redis: Redis,
    program: PathBuf,
    started: usize,
}

impl Fleet {
    /// So many nodes and a Redis; `None` if something that is needed is not installed.
    pub(crate) fn new(name: &str, nodes: usize) -> Option<Self> {
        if !installed(&[Beanstalkd::PROGRAM, Redis::PROGRAM, "go"]) {
            return None;
        }
        let program = program()?;
        let folder = Folder::new(name);
        Some(Self {
            nodes: (0..nodes)
                .map(|n| Beanstalkd::start(folder.path(), &format!("node-{n}")))
                .collect(),
            redis: Redis::start(folder.path(), "redis"),
            ledger: Ledger::of(folder.path()),
            folder,
            program,
            started: 0,
        })
    }

    /// The nodes as the Go library takes them, joined by commas.
    pub(crate) fn endpoints(&self) -> String {
        let all: Vec<_> = self.nodes.iter().map(|node| node.endpoint()).collect();
        all.join(",")
    }

    /// Starts one of the programs.
    pub(crate) fn go(&mut self, mode: &str, tube: &str, rest: &[&str]) -> Process {
        let mut command = Command::new(&self.program);
        command.arg(mode).arg(self.endpoints()).arg(tube).args(rest);
        self.start(&format!("go-{mode}"), command)
    }

    /// Starts a process with a journal.
    pub(crate) fn start(&mut self, name: &str, command: Command) -> Process {
        self.started += 1;
        let name = format!("{name}-{}", self.started);
        Process::start(self.folder.path(), &name, command)
    }

    /// A worker of the Go library that is about to reserve.
    pub(crate) fn go_worker(&mut self, tube: &str) -> Process {
        let redis = self.redis.endpoint();
        let before = self.marks();
        let worker = self.go("work", tube, &[&redis]);
        self.until("the Go worker is ready", |ledger| {
            ledger.marks("ready") > before
        });
        worker
    }

    /// Lets the Go library send tasks, one at a time, due after so many milliseconds; names and ids as it answered.
    pub(crate) fn go_sends(
        &mut self,
        tube: &str,
        prefix: &str,
        count: u64,
        delay_ms: u64,
    ) -> Vec<(String, String)> {
        let [count, delay] = [count, delay_ms].map(|number| number.to_string());
        let mut process = self.go("produce", tube, &[prefix, &count, "1", &delay, &delay, "0"]);
        process.wait_success(PATIENCE);
        let log = process.log();
        let pairs = log.lines().filter_map(|line| line.split_once(' '));
        pairs
            .map(|(name, ids)| (name.to_owned(), ids.to_owned()))
            .collect()
    }

    pub(crate) fn marks(&mut self) -> usize {
        self.ledger.update().expect("readable journals");
        self.ledger.marks("ready")
    }

    /// Waits until the journals say so.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&Ledger) -> bool) {
        let ledger = &mut self.ledger;
        until(what, PATIENCE, || {
            ledger.update().expect("readable journals");
            condition(ledger)
        });
    }

    /// Waits until no node has a job of this tube that somebody could run.
    #[track_caller]
    pub(crate) fn until_empty(&self, tube: &str) {
        until("the tube is empty", PATIENCE, || {
            self.nodes.iter().all(|node| node.alive(tube) == 0)
        });
    }
}

/// The programs of the Go library, built once; `None` if Go is too old.
fn program() -> Option<PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(build).clone()
}

fn build() -> Option<PathBuf> {
    let version = Command::new("go")
        .args(["env", "GOVERSION"])
        .output()
        .expect("go is on the path");
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    if !is_new_enough(&version) {
        assert!(
            std::env::var_os("CI").is_none(),
            "{version} is too old: the programs of the Go library need Go 1.21"
        );
        say(&format!("{version} is older than Go 1.21"));
        return None;
    }
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("go-queue-fleet");
    let built = Command::new("go")
        .args(["build", "-buildvcs=false", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/interop/go"))
        .output()
        .expect("go is on the path");
    assert!(
        built.status.success(),
        "the programs of the Go library do not build:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    Some(program)
}

/// Whether `go1.26.8` or the like is enough.
fn is_new_enough(version: &str) -> bool {
    let mut parts = version.trim_start_matches("go").split(['.', 'r', 'b', ' ']);
    let mut number = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    (number(), number()) >= GO
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn say(why: &str) {
    eprintln!("SKIPPED: the tests of interoperation: {why}");
}

#[test]
fn the_version_of_go_is_read() {
    for (version, enough) in [
        ("go1.26.8", true),
        ("go1.21", true),
        ("go1.22rc1", true),
        ("go1.20.14", false),
        ("go2.0", true),
        ("", false),
    ] {
        assert_eq!(is_new_enough(version), enough, "{version}");
    }
}
