//! A server process: it lives at one address, whatever happens to it.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::find;
use crate::wait::until_some;

/// How long a server may take until it answers, and until it is gone.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a server that lives may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Ports are taken from here: below the range from which the system takes the local ports of connections, so that no connection
/// sits on the port of a server while it is down.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// What a server is asked to see that it lives, and how its answer begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeting {
    pub(super) question: &'static [u8],
    pub(super) answer: &'static [u8],
}

/// A server process at an address of loopback that does not change while it is killed and started again.
///
/// It does not outlive this value: dropping it kills it, also while the test panics; and where the system can (Linux with
/// `setpriv`), it dies with the process of the test, however that ends.
#[derive(Debug)]
pub struct Server {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    port: u16,
    greeting: Greeting,
    child: Option<Child>,
    stopped: bool,
}

impl Server {
    /// Starts `program` and waits until it answers. `arguments` get the port and the folder of this server, which is
    /// `folder/name`; what it prints goes to `folder/name.log`.
    ///
    /// # Panics
    /// If it does not answer.
    pub(super) fn start(
        program: &str,
        folder: &Path,
        name: &str,
        greeting: Greeting,
        arguments: impl Fn(u16, &Path) -> Vec<String>,
    ) -> Self {
        let program = find(program)
            .unwrap_or_else(|| unreachable!("{program} is not installed: ask `installed` first"));
        let home = folder.join(name);
        std::fs::create_dir(&home).unwrap_or_else(|error| {
            unreachable!("{}: {error}; a name is used once", home.display())
        });
        let mut tries = 0;
        loop {
            let port = free_server_port();
            let mut server = Self {
                name: name.to_owned(),
                program: program.clone(),
                arguments: arguments(port, &home),
                folder: home.clone(),
                port,
                greeting,
                child: None,
                stopped: false,
            };
            server.spawn();
            match server.wait_until_it_answers() {
                Ok(()) => return server,
                // Somebody took the port between our look and its bind.
                Err(_) if tries < 5 => tries += 1,
                Err(status) => unreachable!("{name} ended with {status}:\n{}", server.log()),
            }
        }
    }

    /// What the test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where it listens, as configurations name it: `127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        self.address().to_string()
    }

    /// The folder for its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.with_extension("log")
    }

    /// Its id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL, and waits until it is gone. Nothing happens if it does not run.
    ///
    /// # Panics
    /// If the system does not let it go.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // A child that has ended meanwhile cannot be killed, and need not be.
        let _ = child.kill();
        child.wait().expect("a child can be waited for");
        self.stopped = false;
    }

    /// SIGTERM, and waits until it has ended.
    ///
    /// # Panics
    /// If it has not after a minute.
    pub fn terminate(&mut self) {
        self.cont();
        self.signal(Signal::TERM);
        if let Some(mut child) = self.child.take() {
            let what = format!("the end of {}", self.name);
            until_some(&what, PATIENCE, || {
                child.try_wait().expect("a child can be waited for")
            });
        }
    }

    /// SIGSTOP: it stands still with all its connections open.
    ///
    /// # Panics
    /// If it does not run.
    pub fn stop(&mut self) {
        self.signal(Signal::STOP);
        self.stopped = true;
    }

    /// SIGCONT: it goes on and does not know that it was stopped. Nothing happens if it was not.
    pub fn cont(&mut self) {
        if std::mem::take(&mut self.stopped) {
            self.signal(Signal::CONT);
        }
    }

    /// Starts it again at the same port with the same folder, and waits until it answers. Kills it first if it runs.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn restart(&mut self) {
        self.kill();
        let began = Instant::now();
        loop {
            self.spawn();
            match self.wait_until_it_answers() {
                Ok(()) => return,
                // The port of the dead one may take a moment to be free.
                Err(_) if began.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(status) => unreachable!("{} ended with {status}:\n{}", self.name, self.log()),
            }
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = self
            .pid()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        let pid = pid.unwrap_or_else(|| unreachable!("{} does not run", self.name));
        // Not reaped yet, so the id is still that of our child.
        kill_process(pid, signal).expect("a child may be signalled");
    }

    /// Says something to it on a new connection and gives back what has come when `enough` says that it is all.
    ///
    /// # Panics
    /// If no answer comes within ten seconds.
    pub(super) fn ask(&self, words: &[u8], enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        try_ask(self.address(), words, ANSWER_WITHIN, enough)
            .unwrap_or_else(|error| unreachable!("{} does not answer: {error}", self.name))
    }

    fn spawn(&mut self) {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("the folder of the test is writable");
        let mut command = bound_to_this_process(&self.program);
        command
            .args(&self.arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        let child = spawn_from_a_lasting_thread(command);
        let child =
            child.unwrap_or_else(|error| unreachable!("{} does not start: {error}", self.name));
        self.child = Some(child);
    }

    /// An error says how it ended instead.
    fn wait_until_it_answers(&mut self) -> Result<(), ExitStatus> {
        let what = format!("an answer of {}", self.name);
        let Greeting { question, answer } = self.greeting;
        let address = self.address();
        let child = self.child.as_mut().expect("it was started");
        let outcome = until_some(&what, PATIENCE, || {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return Some(Err(status));
            }
            let said = try_ask(address, question, Duration::from_secs(1), |said| {
                said.len() >= answer.len()
            });
            // Whoever answers while our child lives and holds the port is our child: two cannot bind it.
            said.is_ok_and(|said| said.starts_with(answer))
                .then_some(Ok(()))
        });
        if outcome.is_err() {
            self.child = None;
        }
        outcome
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn try_ask(
    address: SocketAddr,
    words: &[u8],
    within: Duration,
    enough: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.write_all(words)?;
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    while !enough(&said) {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => said.extend_from_slice(&chunk[..read]),
        }
    }
    Ok(said)
}

/// A port for a server, which nobody listens on now. Two threads of a process never get the same.
#[must_use]
pub fn free_server_port() -> u16 {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let port = fastrand::u16(PORTS);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.push(port);
            return port;
        }
    }
}

/// The command that runs `program` so that the system kills it when we are gone.
fn bound_to_this_process(program: &Path) -> Command {
    match find("setpriv") {
        Some(setpriv) if cfg!(target_os = "linux") => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        _ => Command::new(program),
    }
}

type Request = (Command, Sender<io::Result<Child>>);

/// The signal at the death of the parent comes when the *thread* that started a child ends, and each test has a thread of its
/// own, so one that lasts as long as the process starts them all.
fn spawn_from_a_lasting_thread(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<Sender<Request>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (requests, inbox) = channel::<Request>();
        std::thread::Builder::new()
            .name("starts-servers".to_owned())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    // Whoever asked waits for the answer.
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        requests
    });
    let (answer, answered) = channel();
    starter
        .send((command, answer))
        .expect("the thread lasts as long as the process");
    answered.recv().expect("the thread answers every request")
}
