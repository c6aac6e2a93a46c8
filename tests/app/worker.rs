//! Worker processes of these tests: started, watched by their book, signalled by their id, and never left behind.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(40);

/// A folder with the configuration, the database and the book of some processes.
pub(crate) struct Site {
    folder: TempDir,
}

impl Site {
    /// With the default configuration: none.
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// With this configuration in `config.yaml`.
    pub(crate) fn with(yaml: &str) -> Self {
        let site = Self::new();
        site.write("config.yaml", yaml);
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("the file can be written");
    }

    /// A worker that has not been started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_app-worker"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("APP_BOOK", self.path("book"))
            .env_remove("GO_QUEUE_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a worker to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.start(args).wait()
    }

    /// Starts a worker.
    pub(crate) fn start(&self, args: &[&str]) -> Worker {
        Worker::spawn(&mut self.command(args))
    }

    /// What the handlers wrote.
    pub(crate) fn book(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("book")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until the book has so many lines that begin so.
    pub(crate) fn book_has(&self, count: usize, begin: &str) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut lines = self.book();
            lines.retain(|line| line.starts_with(begin));
            if lines.len() >= count {
                return lines;
            }
            assert!(
                Instant::now() < until,
                "waited in vain for {count} lines `{begin}..`, there are {:?}",
                self.book()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A process that runs. Killed when it is dropped.
pub(crate) struct Worker {
    child: Option<Child>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Asserts the exit code.
    pub(crate) fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// Asserts what was said, on either stream.
    pub(crate) fn says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(
                self.out.contains(part) || self.err.contains(part),
                "`{part}` is not in:\n{}\n{}",
                self.out,
                self.err
            );
        }
        self
    }
}

impl Worker {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self {
            child: Some(command.spawn().expect("the worker starts")),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process has an id"), signal).expect("it can be signalled");
    }

    /// Sends this signal again and again until it has ended.
    pub(crate) fn signal_until_the_end(mut self, signal: Signal) -> Ended {
        let until = Instant::now() + PATIENCE;
        loop {
            let child = self.child.as_mut().expect("it runs");
            if child.try_wait().expect("a child of ours").is_some() {
                return self.wait();
            }
            assert!(Instant::now() < until, "signals do not end it");
            self.signal(signal);
            std::thread::sleep(Duration::from_millis(600));
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let mut child = self.child.take().expect("it runs");
        // Both pipes are read while it runs, so that a full one does not hold it.
        let (said, hears) = std::sync::mpsc::channel();
        let id = child.id();
        let waiter = std::thread::Builder::new().spawn(move || {
            let out = child.stdout.take();
            let err = child.stderr.take();
            let err = std::thread::spawn(move || read(err));
            let out = read(out);
            let err = err.join().unwrap_or_default();
            let status = child.wait();
            let _nobody_waits_after_a_failure = said.send((status, out, err));
        });
        drop(waiter.expect("a thread"));
        let Ok((status, out, err)) = hears.recv_timeout(PATIENCE) else {
            let pid = i32::try_from(id)
                .ok()
                .and_then(Pid::from_raw)
                .expect("an id");
            let _it_may_just_have_ended = kill_process(pid, Signal::KILL);
            unreachable!("the worker {id} did not end")
        };
        Ended {
            code: status.expect("it was waited for").code(),
            out,
            err,
        }
    }
}

fn read(pipe: Option<impl std::io::Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _what_came_is_what_counts = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _it_may_have_ended = child.kill();
            let _reaped = child.wait();
        }
    }
}
