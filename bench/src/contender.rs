//! One measured process, driven over its standard streams, one line each way:
//!
//! ```text
//! contender -> hello NAME VERSION
//! driver    -> run VARIANT [key=value ..]
//! contender -> done messages=N wall_ns=N cpu_ns=N [key=value ..]     or     failed TEXT
//! ```
//!
//! `cpu_ns` is user and system time of the contender's process during the measured part. The working directory is an
//! empty folder of its own. The end of its input ends the contender. What it has to say besides goes to standard error.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::figures::Figures;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// This program: our library, or a floor written by hand.
    Own,
    /// This program with mimalloc, which `bench/run` builds beside it.
    OwnMimalloc,
    /// The program that `bench/peers/NAME/run` builds and starts.
    Peer(&'static str),
}

impl Who {
    fn command(self) -> Result<Command, String> {
        match self {
            Self::Own | Self::OwnMimalloc => {
                let mut own =
                    std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
                if self == Self::OwnMimalloc {
                    own.set_file_name("go-queue-bench-mimalloc");
                }
                let mut command = Command::new(own);
                command.arg("serve");
                Ok(command)
            }
            Self::Peer(name) => {
                let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                    .join("peers")
                    .join(name)
                    .join("run");
                if !path.exists() {
                    return Err(format!("the peer {name} has no {}", path.display()));
                }
                Ok(Command::new(path))
            }
        }
    }
}

/// A started contender.
#[derive(Debug)]
pub(crate) struct Contender {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    folder: PathBuf,
    /// Name and version, as it introduced itself.
    pub(crate) version: String,
}

impl Contender {
    /// Starts it in a new folder below `dir`.
    pub(crate) fn start(who: Who, dir: &Path) -> Result<Self, String> {
        let folder = dir.join(format!(
            "run-{}-{:x}",
            std::process::id(),
            fastrand::u64(..)
        ));
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut child = who
            .command()?
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{who:?} does not start: {error}"))?;
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().ok_or("a contender without output")?);
        let mut contender = Self {
            child,
            to,
            from,
            folder,
            version: String::new(),
        };
        let hello = contender.line()?;
        let version = hello.strip_prefix("hello ");
        version
            .ok_or_else(|| format!("not a hello: {hello}"))?
            .clone_into(&mut contender.version);
        Ok(contender)
    }

    /// Lets it run once.
    pub(crate) fn run(&mut self, what: &str) -> Result<Figures, String> {
        let to = self.to.as_mut().ok_or("the contender has ended")?;
        writeln!(to, "run {what}")
            .map_err(|error| format!("the contender does not listen: {error}"))?;
        let answer = self.line()?;
        match answer.split_once(' ') {
            Some(("done", figures)) => {
                let figures: Figures = figures.parse()?;
                Ok(figures.with("rss_mb", peak_memory(self.child.id())))
            }
            _ => Err(format!("`{what}`: {answer}")),
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let read = self
            .from
            .read_line(&mut line)
            .map_err(|error| format!("the contender: {error}"))?;
        if read == 0 {
            return Err("the contender ended without an answer".to_owned());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// The most memory that a process has had at a time, in megabytes; NaN where the system does not say.
fn peak_memory(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|text| text.trim().strip_suffix(" kB"));
    let kilobytes = kilobytes.and_then(|text| text.trim().parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) / 1000.0
}

impl Drop for Contender {
    fn drop(&mut self) {
        drop(self.to.take());
        if self.child.wait().is_err() {
            let _ = self.child.kill();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
