//! Real servers, which end with their value.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::engine::beanstalkd::codec::{self, Answer};
use crate::engine::beanstalkd::link::{Link, Tubes};

/// A node with a port of its own, whatever happens to it.
pub(super) struct Server {
    child: Child,
    port: u16,
    options: Vec<String>,
    _folder: Option<tempfile::TempDir>,
}

impl Server {
    pub(super) fn start() -> Self {
        Self::with(&[], None)
    }

    /// Its jobs survive it.
    pub(super) fn with_binlog() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_str().expect("a readable path").to_owned();
        Self::with(&["-b", &path], Some(folder))
    }

    pub(super) fn with(options: &[&str], folder: Option<tempfile::TempDir>) -> Self {
        let options: Vec<String> = options.iter().map(|&text| text.to_owned()).collect();
        // The port may be taken between the two: then the server ends at once, and another one is tried.
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").expect("binds");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            if let Some(child) = run(port, &options) {
                return Self {
                    child,
                    port,
                    options,
                    _folder: folder,
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

    /// Starts it again where it was.
    pub(super) fn restart(&mut self) {
        self.kill();
        // The port of the dead one may take a moment to be free.
        for _ in 0..100 {
            if let Some(child) = run(self.port, &self.options) {
                self.child = child;
                return;
            }
        }
        unreachable!("it does not come back")
    }

    /// It stands still, with its connections open.
    pub(super) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub(super) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// It takes no more jobs. Returns when that is in force.
    pub(super) async fn drain(&self) {
        self.signal(Signal::USR1);
        super::until("draining", async || {
            let Answer::Stats(text) = self.ask(&codec::Command::Stats).await else {
                unreachable!("stats are answered");
            };
            codec::stat(&text, "draining") == Some("true")
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("it runs"), signal).expect("a child may be signalled");
    }

    /// Asks it directly, on a connection of its own that uses the tube of the tests.
    pub(super) async fn ask(&self, command: &codec::Command<'_>) -> Answer {
        let tubes = Tubes {
            used: Some(super::TUBE.as_str().into()),
            watched: Some(super::TUBE.as_str().into()),
        };
        let mut link: Link<()> = Link::dial(self.endpoint().into(), tubes, super::BOUND, 1 << 20)
            .await
            .expect("connects");
        link.push(command, ()).expect("valid");
        std::future::poll_fn(|cx| link.poll_flush(cx))
            .await
            .expect("writes");
        let ((), answer) = std::future::poll_fn(|cx| link.poll_answer(cx))
            .await
            .expect("answers");
        answer
    }

    /// A number of the tube of the tests; 0 while it does not exist.
    pub(super) async fn tube(&self, field: &str) -> u64 {
        match self.ask(&codec::Command::StatsTube(&super::TUBE)).await {
            Answer::Stats(text) => codec::stat(&text, field)
                .and_then(|number| number.parse().ok())
                .expect("a number"),
            _ => 0,
        }
    }

    /// Jobs in the tube, ready or delayed.
    pub(super) async fn jobs(&self) -> u64 {
        self.tube("current-jobs-ready").await + self.tube("current-jobs-delayed").await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a process starts by the clock of the system"
)]
#[expect(
    clippy::zombie_processes,
    reason = "the server of the test waits for it"
)]
fn run(port: u16, options: &[String]) -> Option<Child> {
    let mut child = Command::new("beanstalkd")
        .args(["-l", "127.0.0.1", "-p", &port.to_string()])
        .args(options)
        .current_dir(Path::new("/"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("beanstalkd is installed");
    let began = std::time::Instant::now();
    while began.elapsed() < super::BOUND {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            // Somebody else may answer there.
            let ended = child.try_wait().expect("it is ours").is_some();
            return (!ended).then_some(child);
        }
        if child.try_wait().expect("it is ours").is_some() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    unreachable!("a server that neither answers nor ends")
}
