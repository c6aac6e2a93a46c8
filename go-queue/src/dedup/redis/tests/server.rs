//! A Redis server of a test, in a folder of its own, and a proxy before it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

/// A server that ends with the test.
pub(crate) struct Server {
    child: Child,
    folder: TempDir,
    port: u16,
    args: Vec<String>,
}

/// Whether the server can be started at all; says so if not.
pub(crate) fn there_is_redis() -> bool {
    let found = Command::new("redis-server")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "redis-server is not installed"
        );
        eprintln!("skipped: redis-server is not installed");
    }
    found
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("bound").port()
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        // Another process may take the port in between.
        for _ in 0..20 {
            let port = free_port();
            if let Some(child) = launch(folder.path(), port, &args) {
                return Self {
                    child,
                    folder,
                    port,
                    args,
                };
            }
        }
        panic!("redis-server does not start");
    }

    /// A sentinel that knows this server by a name.
    pub(crate) fn sentinel(&self, name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for _ in 0..20 {
            let port = free_port();
            let text = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor {name} 127.0.0.1 {} 1\n",
                self.port
            );
            std::fs::write(folder.path().join("sentinel.conf"), text).expect("writes");
            let mut command = Command::new("redis-server");
            command.args(["sentinel.conf", "--sentinel"]);
            if let Some(child) = run(command, folder.path(), "+monitor master") {
                return Self {
                    child,
                    folder,
                    port,
                    args: Vec::new(),
                };
            }
        }
        panic!("the sentinel does not start");
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Starts it again, empty, at the same port.
    pub(crate) fn restart(&mut self) {
        for _ in 0..100 {
            if let Some(child) = launch(self.folder.path(), self.port, &self.args) {
                self.child = child;
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "the port is free in a moment")]
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("redis-server does not come back");
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }

    /// One command, apart from the store under test.
    pub(crate) async fn command(&self, words: &[&str]) -> redis::Value {
        let client = redis::Client::open(format!("redis://{}/", self.address())).expect("an url");
        let mut conn = client
            .get_multiplexed_async_connection()
            .await
            .expect("connects");
        redis::cmd(words[0])
            .arg(&words[1..])
            .query_async(&mut conn)
            .await
            .expect("is taken")
    }

    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        redis::from_redis_value(self.command(&["GET", key]).await).expect("a text or none")
    }

    pub(crate) async fn ttl(&self, key: &str) -> i64 {
        redis::from_redis_value(self.command(&["PTTL", key]).await).expect("a number")
    }
}

fn launch(folder: &Path, port: u16, args: &[String]) -> Option<Child> {
    let mut command = Command::new("redis-server");
    command
        .args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"])
        .args(["--port", &port.to_string()])
        .args(args.iter().map(|arg| match arg.as_str() {
            "PORT" => port.to_string(),
            "OTHER" => free_port().to_string(),
            other => other.to_owned(),
        }));
    run(command, folder, "Ready to accept connections")
}

/// Starts it and waits until it says so; `None` if it ends before.
fn run(mut command: Command, folder: &Path, ready: &str) -> Option<Child> {
    let mut child = command
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|n| n > 0) {
        if line.contains(ready) {
            // It goes on writing; nobody reads, but the pipe must not be closed.
            thread(move || {
                let _ = std::io::copy(&mut lines, &mut std::io::sink());
            });
            return Some(child);
        }
        line.clear();
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A way to a server that can swallow its answers.
pub(crate) struct Proxy {
    address: SocketAddr,
    swallow: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) fn before(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let swallow = Arc::new(AtomicBool::new(false));
        let closed = Arc::new(AtomicBool::new(false));
        let (to, swallows, ends) = (server.address(), Arc::clone(&swallow), Arc::clone(&closed));
        thread(move || {
            while let Ok((client, _)) = listener.accept() {
                if ends.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(server) = TcpStream::connect(&to) else {
                    continue;
                };
                let (from_client, to_server) = (copy_of(&client), copy_of(&server));
                let never = Arc::new(AtomicBool::new(false));
                thread(move || carry(from_client, to_server, &never));
                let swallows = Arc::clone(&swallows);
                thread(move || carry(server, client, &swallows));
            }
        });
        Self {
            address,
            swallow,
            closed,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on requests arrive and answers do not, or they do again.
    pub(crate) fn swallow(&self, answers: bool) {
        self.swallow.store(answers, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakes the one that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn thread(run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .spawn(run)
        .expect("a thread of a test");
}

fn copy_of(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a socket can be cloned")
}

fn carry(mut from: TcpStream, mut to: TcpStream, swallow: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 || (!swallow.load(Ordering::SeqCst) && to.write_all(&buffer[..n]).is_err()) {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
