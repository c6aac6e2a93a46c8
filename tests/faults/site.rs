//! One test: a folder, a configuration, and the processes that work on it.

use std::process::Command;
use std::time::Duration;

use go_queue_tests::{Folder, Ledger, Process, Report, until};

/// Longer than anything takes that does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Everything that one test starts. The processes end with it.
pub(crate) struct Site {
    pub(crate) folder: Folder,
    pub(crate) ledger: Ledger,
    pub(crate) config: String,
    started: usize,
}

impl Site {
    /// A new database file. `extra` is YAML that is added to the configuration.
    pub(crate) fn new(name: &str, extra: &str) -> Self {
        let extra = format!("sqlite: {{ path: faults.db }}\n{extra}");
        Self::in_folder(Folder::new(name), &extra)
    }

    /// Whatever `extra` configures, with its files in this folder.
    pub(crate) fn in_folder(folder: Folder, extra: &str) -> Self {
        let yaml = format!("name: faults\nlog: {{ level: info, format: text }}\n{extra}");
        let config = folder.write("config.yaml", &yaml);
        Self {
            ledger: Ledger::of(folder.path()),
            config: config.to_string_lossy().into_owned(),
            folder,
            started: 0,
        }
    }

    fn start(&mut self, mode: &str, arguments: &[&str]) -> Process {
        self.start_with(mode, arguments, &[])
    }

    pub(crate) fn start_with(
        &mut self,
        mode: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Process {
        self.started += 1;
        let mut command = Command::new(env!("CARGO_BIN_EXE_ledger_worker"));
        command.arg(mode).arg(&self.config).args(arguments);
        command.envs(environment.iter().copied());
        Process::start(
            self.folder.path(),
            &format!("{mode}-{}", self.started),
            command,
        )
    }

    /// A worker, which may not be ready yet.
    pub(crate) fn worker(&mut self) -> Process {
        self.start("worker", &[])
    }

    /// A worker whose start hook takes so long.
    pub(crate) fn slow_worker(&mut self, millis: &str) -> Process {
        self.start_with("worker", &[], &[("LEDGER_WORKER_SLOW_START", millis)])
    }

    /// A worker that serves.
    pub(crate) fn ready_worker(&mut self) -> Process {
        let before = self.marks();
        let worker = self.worker();
        self.until("the worker is ready", |ledger| {
            ledger.marks("ready") > before
        });
        worker
    }

    pub(crate) fn marks(&mut self) -> usize {
        self.ledger.update().expect("readable journals");
        self.ledger.marks("ready")
    }

    /// Sends `count` tasks, 64 at a time.
    pub(crate) fn tasks(
        &mut self,
        prefix: &str,
        count: u64,
        max_delay_ms: u64,
        work_us: u64,
    ) -> Process {
        let [count, delay, work] = [count, max_delay_ms, work_us].map(|number| number.to_string());
        self.start("tasks", &[prefix, &count, "64", &delay, &work])
    }

    /// Sends tasks until SIGTERM, `abreast` at a time.
    pub(crate) fn stream(
        &mut self,
        prefix: &str,
        abreast: u64,
        max_delay_ms: u64,
        work_us: u64,
    ) -> Process {
        let [abreast, delay, work] =
            [abreast, max_delay_ms, work_us].map(|number| number.to_string());
        self.start("tasks", &[prefix, "0", &abreast, &delay, &work])
    }

    /// As [`Site::stream`], by producers that go on when a task is refused, and note it as the mark `refused`.
    pub(crate) fn steady_stream(
        &mut self,
        prefix: &str,
        abreast: u64,
        max_delay_ms: u64,
        work_us: u64,
    ) -> Process {
        let [abreast, delay, work] =
            [abreast, max_delay_ms, work_us].map(|number| number.to_string());
        let arguments = [prefix, "0", &abreast, &delay, &work];
        self.start_with("tasks", &arguments, &[("LEDGER_WORKER_KEEP_GOING", "1")])
    }

    /// How many tasks were refused by producers that go on.
    pub(crate) fn refused(&mut self) -> usize {
        self.ledger.update().expect("readable journals");
        self.ledger.marks("refused")
    }

    /// Pushes `count` records for each of `keys` keys.
    pub(crate) fn records(&mut self, prefix: &str, count: u64, keys: u64, work_us: u64) -> Process {
        let [count, keys, work] = [count, keys, work_us].map(|number| number.to_string());
        self.start("records", &[prefix, &count, &keys, &work])
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

    /// Waits until everything that was accepted has ended, then counts. Stops the workers in order, so that what
    /// they still had in hand is seen.
    #[track_caller]
    pub(crate) fn settle(&mut self, workers: &mut [Process]) -> Report {
        self.settle_within(workers, PATIENCE)
    }

    /// As [`Site::settle`], within a time that proves something: that nobody waited for a lease to end.
    #[track_caller]
    pub(crate) fn settle_within(&mut self, workers: &mut [Process], within: Duration) -> Report {
        let mut last = 0;
        let mut quiet_since = std::time::Instant::now();
        let folder = self.folder.path().to_owned();
        until("all that was accepted has ended", within, || {
            self.ledger.update().expect("readable journals");
            let finished = self.ledger.finished_so_far();
            if finished != last {
                last = finished;
                quiet_since = std::time::Instant::now();
            }
            // The exact count is dear; it is made when nothing moves. Ten seconds of rest are an answer too: something is lost.
            let rest = quiet_since.elapsed();
            let all =
                finished >= self.ledger.accepted_so_far() && rest > Duration::from_millis(200);
            (all && self
                .ledger
                .report()
                .expect("readable journals")
                .lost
                .is_empty())
                || rest > Duration::from_secs(10)
        });
        for worker in workers.iter_mut() {
            worker.terminate();
        }
        for worker in workers.iter_mut() {
            worker.wait_success(PATIENCE);
        }
        let report = self.ledger.report().expect("readable journals");
        print(&format!("{}\n{report}", folder.display()));
        report
    }
}

#[expect(
    clippy::print_stdout,
    reason = "shown with --nocapture, and when the test fails"
)]
pub(crate) fn print(text: &str) {
    println!("{text}");
}

/// A number from the environment, for the long forms.
pub(crate) fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}
