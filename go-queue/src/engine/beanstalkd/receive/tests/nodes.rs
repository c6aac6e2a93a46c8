//! Nodes for tests: a real one, and what is asked of it directly.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};

use super::*;
use crate::engine::beanstalkd::codec::{Answer, Command, stat};
use crate::engine::beanstalkd::link::{Link, Tubes};

/// A real server, which ends with this value.
pub(super) struct Node {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
    binlog: bool,
}

impl Node {
    pub(super) fn start() -> Self {
        Self::new(false)
    }

    pub(super) fn with_binlog() -> Self {
        Self::new(true)
    }

    fn new(binlog: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // The port may be taken between the two: then the server ends at once, and another one is tried.
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").expect("binds");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            if let Some(child) = run(port, folder.path(), binlog) {
                return Self {
                    child,
                    port,
                    folder,
                    binlog,
                };
            }
        }
        unreachable!("no server came up: is beanstalkd installed?")
    }

    pub(super) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    pub(super) fn restart(&mut self) {
        self.kill();
        self.child = run(self.port, self.folder.path(), self.binlog).expect("comes back");
    }

    async fn link(&self) -> Link<()> {
        let tubes = Tubes {
            used: Some(Arc::from(TUBE)),
            watched: None,
        };
        Link::dial(Arc::from(self.endpoint()), tubes, BOUND, 1 << 20)
            .await
            .expect("connects")
    }

    pub(super) async fn ask(&self, commands: &[Command<'_>]) -> Vec<Answer> {
        let mut link = self.link().await;
        for command in commands {
            link.push(command, ()).expect("valid");
        }
        poll_fn(|cx| link.poll_flush(cx)).await.expect("writes");
        let mut answers = Vec::new();
        while link.outstanding() > 0 {
            let ((), answer) = poll_fn(|cx| link.poll_answer(cx)).await.expect("answers");
            answers.push(answer);
        }
        answers
    }

    /// Stores jobs: delay, time to run, body.
    pub(super) async fn put(&self, jobs: &[(u32, u32, Vec<u8>)]) -> Vec<u64> {
        let bodies: Vec<[&[u8]; 1]> = jobs.iter().map(|(_, _, body)| [&body[..]]).collect();
        let puts: Vec<Command<'_>> = jobs
            .iter()
            .zip(&bodies)
            .map(|((delay, ttr, _), body)| Command::Put {
                priority: DEFAULT_PRIORITY,
                delay: *delay,
                ttr: *ttr,
                body,
                limit: 65_535,
            })
            .collect();
        let answers = self.ask(&puts).await;
        let id = |answer: &Answer| match answer {
            Answer::Inserted(id) => *id,
            other => unreachable!("{other:?}"),
        };
        answers.iter().map(id).collect()
    }

    pub(super) async fn put_all(&self, payloads: impl IntoIterator<Item = String>) -> Vec<u64> {
        let jobs = payloads
            .into_iter()
            .map(|payload| (0, 60, body(payload.as_bytes())));
        self.put(&jobs.collect::<Vec<_>>()).await
    }

    /// Puts a task as a producer does: the delay rounded down.
    pub(super) async fn put_due(&self, due: WallTime, payload: &[u8]) {
        let rest = due.since(Clock::system().now());
        let delay = u32::try_from(rest.as_secs()).expect("soon");
        self.put(&[(delay, 60, body_due(due, payload))]).await;
    }

    /// A number of the tube's statistics; 0 if there is no such tube.
    pub(super) async fn count(&self, field: &str) -> u64 {
        let answers = self.ask(&[Command::StatsTube(TUBE)]).await;
        match &answers[0] {
            Answer::Stats(text) => stat(text, field)
                .and_then(|text| text.parse().ok())
                .expect("a number"),
            _ => 0,
        }
    }

    /// Jobs in any state.
    pub(super) async fn alive(&self) -> u64 {
        let mut sum = 0;
        for state in ["ready", "reserved", "delayed", "buried"] {
            sum += self.count(&format!("current-jobs-{state}")).await;
        }
        sum
    }
}

fn run(port: u16, folder: &Path, binlog: bool) -> Option<Child> {
    let mut process = Process::new("beanstalkd");
    process.args(["-l", "127.0.0.1", "-p", &port.to_string()]);
    if binlog {
        process.arg("-b").arg(folder);
    }
    let mut child = process
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|why: io::Error| unreachable!("beanstalkd does not start: {why}"));
    loop {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            // Ours, or that of somebody who was faster?
            return child
                .try_wait()
                .expect("it is ours")
                .is_none()
                .then_some(child);
        }
        if child.try_wait().expect("it is ours").is_some() {
            return None;
        }
        std::thread::yield_now();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
