//! beanstalkd nodes.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::server::{Greeting, Server};
use crate::wait::until;

const GREETING: Greeting = Greeting {
    question: b"list-tube-used\r\n",
    answer: b"USING default\r\n",
};

/// How a node is started.
#[derive(Clone, Debug, Default)]
pub struct BeanstalkdOptions {
    /// Whether jobs survive its death: a binlog in the folder of the node, synced at most every 50 ms, as the server does by
    /// default.
    pub binlog: bool,
    /// The largest job; `None`: 65,535 bytes.
    pub max_job_size: Option<u32>,
}

/// One node. Everything of [`Server`] can be done to it.
#[derive(Debug)]
pub struct Beanstalkd(Server);

impl Beanstalkd {
    /// What [`installed`](super::installed) is asked for.
    pub const PROGRAM: &str = "beanstalkd";

    /// A node that forgets everything when it dies.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(folder: &Path, name: &str) -> Self {
        Self::with(folder, name, &BeanstalkdOptions::default())
    }

    /// A node whose jobs survive.
    ///
    /// # Panics
    /// If it does not start.
    pub fn with_binlog(folder: &Path, name: &str) -> Self {
        let options = BeanstalkdOptions {
            binlog: true,
            ..BeanstalkdOptions::default()
        };
        Self::with(folder, name, &options)
    }

    /// A node as the options say.
    ///
    /// # Panics
    /// If it does not start.
    pub fn with(folder: &Path, name: &str, options: &BeanstalkdOptions) -> Self {
        let server = Server::start(Self::PROGRAM, folder, name, GREETING, |port, home| {
            let mut arguments = vec!["-l".to_owned(), "127.0.0.1".to_owned()];
            arguments.extend(["-p".to_owned(), port.to_string()]);
            if options.binlog {
                arguments.extend(["-b".to_owned(), home.to_string_lossy().into_owned()]);
            }
            if let Some(size) = options.max_job_size {
                arguments.extend(["-z".to_owned(), size.to_string()]);
            }
            arguments
        });
        Self(server)
    }

    /// SIGUSR1: it takes no more jobs until it is started again. Returns when that is in force.
    ///
    /// # Panics
    /// If it does not happen.
    pub fn drain(&mut self) {
        self.signal(Signal::USR1);
        until("the drain mode", Duration::from_secs(30), || {
            self.stats("stats")
                .get("draining")
                .is_some_and(|said| said == "true")
        });
    }

    /// Says commands, each ended by `\r\n`, on a new connection, and gives the first `lines` lines of the answer.
    ///
    /// # Panics
    /// If so many do not come.
    pub fn say(&self, commands: &[u8], lines: usize) -> Vec<String> {
        let said = self.ask(commands, |said| {
            String::from_utf8_lossy(said).matches('\n').count() >= lines
        });
        let said = String::from_utf8_lossy(&said);
        said.lines().take(lines).map(str::to_owned).collect()
    }

    /// What `stats`, `stats-tube NAME` or `stats-job ID` answers; empty if there is no such thing.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn stats(&self, command: &str) -> HashMap<String, String> {
        let said = self.ask(format!("{command}\r\n").as_bytes(), is_whole);
        let said = String::from_utf8_lossy(&said);
        said.lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
            .collect()
    }

    /// A number of a tube, such as `current-jobs-ready`; 0 if there is no such tube.
    ///
    /// # Panics
    /// If it does not answer, or knows no such number.
    pub fn of_tube(&self, tube: &str, number: &str) -> u64 {
        let stats = self.stats(&format!("stats-tube {tube}"));
        if stats.is_empty() {
            return 0;
        }
        stats
            .get(number)
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| unreachable!("`{number}` is no number of a tube"))
    }

    /// All jobs of a tube, whatever their state, without the buried ones.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn alive(&self, tube: &str) -> u64 {
        ["ready", "reserved", "delayed"]
            .into_iter()
            .map(|state| self.of_tube(tube, &format!("current-jobs-{state}")))
            .sum()
    }
}

/// Whether an answer with a body (`OK <bytes>`) or without one is complete.
fn is_whole(said: &[u8]) -> bool {
    let Some(end) = said.windows(2).position(|pair| pair == b"\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&said[..end]);
    let body: usize = match head.strip_prefix("OK ").map(str::parse) {
        Some(Ok(bytes)) => bytes,
        _ => return true,
    };
    said.len() >= end + 2 + body + 2
}

impl Deref for Beanstalkd {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Beanstalkd {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Folder;
    use crate::servers::installed;

    fn put(node: &Beanstalkd, tube: &str) -> Vec<String> {
        let commands = format!("use {tube}\r\nput 1024 0 60 3\r\nabc\r\n");
        node.say(commands.as_bytes(), 2)
    }

    #[test]
    fn a_node_with_a_binlog_keeps_its_jobs_and_its_port_when_it_is_killed() {
        if !installed(&[Beanstalkd::PROGRAM]) {
            return;
        }
        let folder = Folder::new("node");
        let mut node = Beanstalkd::with_binlog(folder.path(), "node");
        let endpoint = node.endpoint();
        assert_eq!(put(&node, "t"), ["USING t", "INSERTED 1"]);
        node.kill();
        assert_eq!(node.pid(), None);
        node.restart();
        assert_eq!(node.endpoint(), endpoint);
        assert_eq!(node.alive("t"), 1);
    }

    #[test]
    fn a_node_without_a_binlog_forgets() {
        if !installed(&[Beanstalkd::PROGRAM]) {
            return;
        }
        let folder = Folder::new("node");
        let mut node = Beanstalkd::start(folder.path(), "node");
        put(&node, "t");
        assert_eq!(node.of_tube("t", "current-jobs-ready"), 1);
        node.restart();
        assert_eq!(node.alive("t"), 0);
    }

    #[test]
    fn a_draining_node_takes_nothing_until_it_is_started_again() {
        if !installed(&[Beanstalkd::PROGRAM]) {
            return;
        }
        let folder = Folder::new("node");
        let mut node = Beanstalkd::start(folder.path(), "node");
        node.drain();
        assert_eq!(put(&node, "t")[1], "DRAINING");
        node.restart();
        assert_eq!(put(&node, "t")[1], "INSERTED 1");
    }

    #[test]
    fn the_largest_job_is_as_the_options_say() {
        if !installed(&[Beanstalkd::PROGRAM]) {
            return;
        }
        let folder = Folder::new("node");
        let options = BeanstalkdOptions {
            max_job_size: Some(2),
            ..BeanstalkdOptions::default()
        };
        let node = Beanstalkd::with(folder.path(), "node", &options);
        assert_eq!(put(&node, "t")[1], "JOB_TOO_BIG");
    }

    #[test]
    fn a_node_does_not_outlive_its_value_or_a_panic() {
        if !installed(&[Beanstalkd::PROGRAM]) {
            return;
        }
        let (send, receive) = std::sync::mpsc::channel();
        let test = std::thread::spawn(move || {
            let folder = Folder::new("node");
            let mut node = Beanstalkd::start(folder.path(), "node");
            // Also one that stands still.
            node.stop();
            let pid = node.pid().expect("it runs");
            send.send((pid, folder.path().to_owned())).expect("heard");
            assert_eq!(pid, 0, "the panic of a test");
        });
        assert!(test.join().is_err());
        let (pid, folder) = receive.recv().expect("it was started");
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid"));
        assert!(rustix::process::test_kill_process(pid.expect("a pid")).is_err());
        std::fs::remove_dir_all(folder).expect("kept for whoever looks at a failed test");
    }
}
