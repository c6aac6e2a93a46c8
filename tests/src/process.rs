//! A process of a test: started here, killed here, by its id, and by nobody else.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::journal::{EXTENSION, JOURNAL_VARIABLE, Journal};
use crate::wait::until_some;

/// How long a process that was killed may take to be gone.
const REAP_WITHIN: Duration = Duration::from_secs(30);

/// The journal of the test itself, in the folder of the others.
const DRIVER: &str = "driver";

/// A child process with a journal of its own. Whatever happens, it does not outlive this value.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    driver: Journal,
    log: PathBuf,
}

impl Process {
    /// Starts a command in `folder`. Its journal is `NAME.journal` there (the command reads the path from
    /// [`JOURNAL_VARIABLE`]), what it prints goes to `NAME.log`. A name is used once in a test.
    ///
    /// # Panics
    /// If the program cannot be started or the name was used before.
    pub fn start(folder: &Path, name: &str, mut command: Command) -> Self {
        let journal = folder.join(name).with_extension(EXTENSION);
        // Created here, so that a name cannot be used twice: fates hang on it.
        File::create_new(&journal)
            .unwrap_or_else(|error| unreachable!("{}: {error}", journal.display()));
        let log = folder.join(name).with_extension("log");
        let out = File::create(&log).expect("the folder of the test is writable");
        let err = out.try_clone().expect("a file can be shared");
        let child = command
            .current_dir(folder)
            .env(JOURNAL_VARIABLE, &journal)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| unreachable!("{command:?} does not start: {error}"));
        Self {
            name: name.to_owned(),
            child,
            status: None,
            driver: Journal::open(&folder.join(DRIVER).with_extension(EXTENSION))
                .expect("the folder of the test is writable"),
            log,
        }
    }

    /// What it is called in journals.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL, and waits until it is gone. Nothing happens if it has ended by itself.
    ///
    /// # Panics
    /// If the system does not let it go.
    pub fn kill(&mut self) {
        if self.running() {
            // Written first: whatever starts again because of it starts later than this line says.
            self.driver.line(format_args!("kill {}", self.name));
            self.signal(Signal::KILL);
        }
        self.wait(REAP_WITHIN);
    }

    /// SIGTERM: asks it to end.
    pub fn terminate(&mut self) {
        if self.running() {
            self.driver.line(format_args!("term {}", self.name));
            self.signal(Signal::TERM);
        }
    }

    /// SIGSTOP: it stands still, with all that it holds.
    pub fn stop(&mut self) {
        if self.running() {
            self.driver.line(format_args!("stop {}", self.name));
            self.signal(Signal::STOP);
        }
    }

    /// SIGCONT: it goes on and does not know that it was stopped.
    pub fn cont(&mut self) {
        if self.running() {
            // First the line: what it does from now on must not seem to come before.
            self.driver.line(format_args!("cont {}", self.name));
            self.signal(Signal::CONT);
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a child has a positive id");
        // Not reaped yet, so the id is still that of our child.
        kill_process(pid, signal).expect("a child may be signalled");
    }

    /// Whether it has not ended yet.
    ///
    /// # Panics
    /// If the system does not know its own child.
    pub fn running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
        }
        self.status.is_none()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// If it has not after `within`; the message has the end of what it printed.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        until_some(&what, within, || {
            self.running();
            self.status
        })
    }

    /// Waits until it has ended by itself with exit code 0.
    ///
    /// # Panics
    /// If it has not; the message has the end of what it printed.
    #[track_caller]
    pub fn wait_success(&mut self, within: Duration) {
        let status = self.wait(within);
        assert!(
            status.success(),
            "{} ended with {}:\n{}",
            self.name,
            describe(status),
            tail(&self.log())
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            let gone: io::Result<()> = self.child.kill();
            // A child that has ended meanwhile cannot be killed, and need not be.
            if gone.is_ok() || self.running() {
                let _ = self.child.wait();
            }
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => status.to_string(),
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Folder, Ledger, until};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_killed_process_is_gone_and_its_journal_stays() {
        let folder = Folder::new("killed");
        let script = format!("echo \"5 mark ready\" >> ${JOURNAL_VARIABLE}; exec sleep 1000");
        let mut process = Process::start(folder.path(), "w", shell(&script));
        let mut ledger = Ledger::of(folder.path());
        until("the mark", Duration::from_secs(30), || {
            ledger.update().expect("readable journals");
            ledger.marks("ready") == 1
        });
        process.kill();
        assert_eq!(process.wait(Duration::ZERO).signal(), Some(9));
        assert_eq!(ledger.report().expect("readable journals").kills, 1);
    }

    #[test]
    fn what_ended_by_itself_is_not_killed() {
        let folder = Folder::new("ended");
        let mut process = Process::start(folder.path(), "w", shell("echo done"));
        process.wait_success(Duration::from_secs(30));
        process.kill();
        assert_eq!(process.log(), "done\n");
        assert_eq!(
            Ledger::of(folder.path())
                .report()
                .expect("readable journals")
                .kills,
            0
        );
    }

    #[test]
    fn a_failure_shows_what_was_printed() {
        let folder = Folder::new("failed");
        let mut process = Process::start(folder.path(), "w", shell("echo it hurts >&2; exit 3"));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            process.wait_success(Duration::from_secs(30));
        }));
        let text = *panic
            .expect_err("exit code 3")
            .downcast::<String>()
            .expect("a text");
        assert!(
            text.contains("exit code 3") && text.contains("it hurts"),
            "{text}"
        );
    }

    #[test]
    fn a_stopped_process_stands_still_until_it_goes_on() {
        let folder = Folder::new("stopped");
        let mut process = Process::start(folder.path(), "w", shell("exec sleep 1000"));
        process.stop();
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid()))
                .unwrap_or_default();
            stat.rsplit(')')
                .next()
                .map(|rest| rest.trim_start().starts_with('T'))
        };
        if Path::new("/proc/self/stat").exists() {
            until("the stop", Duration::from_secs(30), || {
                state() == Some(true)
            });
        }
        process.cont();
        process.terminate();
        assert_eq!(process.wait(Duration::from_secs(30)).signal(), Some(15));
    }

    #[test]
    fn a_process_does_not_outlive_its_value() {
        let folder = Folder::new("outlive");
        let process = Process::start(folder.path(), "w", shell("exec sleep 1000"));
        let pid = Pid::from_raw(i32::try_from(process.pid()).expect("a pid")).expect("a pid");
        drop(process);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn a_name_is_used_once() {
        let folder = Folder::new("twice");
        let start = || Process::start(folder.path(), "w", shell("true"));
        let _first = start();
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(start));
        let text = *panic
            .expect_err("the name is taken")
            .downcast::<String>()
            .expect("a text");
        assert!(text.contains("w.journal"), "{text}");
    }
}
