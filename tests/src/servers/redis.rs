//! Redis, and the sentinels that watch it.

use std::ops::{Deref, DerefMut};
use std::path::Path;

use super::server::{Greeting, PATIENCE, Server};
use crate::wait::until_some;

const GREETING: Greeting = Greeting {
    question: b"PING\r\n",
    answer: b"+PONG",
};

/// A server that wants a password lives as well, although it may still be loading its data.
const LOCKED_GREETING: Greeting = Greeting {
    question: b"PING\r\n",
    answer: b"-NOAUTH",
};

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Whether keys survive its death: an append-only file, synced at each write.
    pub durable: bool,
    /// The password that clients must give.
    pub password: Option<String>,
    /// More arguments of `redis-server`.
    pub arguments: Vec<String>,
}

/// One server. Everything of [`Server`] can be done to it.
#[derive(Debug)]
pub struct Redis {
    server: Server,
    password: Option<String>,
}

impl Redis {
    /// What [`installed`](super::installed) is asked for.
    pub const PROGRAM: &str = "redis-server";

    /// A server that forgets everything when it dies.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(folder: &Path, name: &str) -> Self {
        Self::with(folder, name, &RedisOptions::default())
    }

    /// A server as the options say.
    ///
    /// # Panics
    /// If it does not start.
    pub fn with(folder: &Path, name: &str, options: &RedisOptions) -> Self {
        let greeting = if options.password.is_some() {
            LOCKED_GREETING
        } else {
            GREETING
        };
        let server = Server::start(Self::PROGRAM, folder, name, greeting, |port, home| {
            let mut arguments = words(&format!("--port {port} --bind 127.0.0.1 --daemonize no"));
            arguments.extend(["--dir".to_owned(), home.to_string_lossy().into_owned()]);
            arguments.extend(["--save".to_owned(), String::new()]);
            arguments.extend(words(if options.durable {
                "--appendonly yes --appendfsync always"
            } else {
                "--appendonly no"
            }));
            if let Some(password) = &options.password {
                arguments.extend(["--requirepass".to_owned(), password.clone()]);
            }
            arguments.extend(options.arguments.iter().cloned());
            arguments
        });
        Self {
            server,
            password: options.password.clone(),
        }
    }

    /// Runs one command and gives its answer as `redis-cli` would write it without a terminal: one line for each value, an
    /// empty one for nil, errors as they are. Waits while the server loads its data.
    ///
    /// # Panics
    /// If no answer comes.
    pub fn command(&self, command: &[&str]) -> String {
        let mut request = Vec::new();
        let mut skipped = 0;
        if let Some(password) = &self.password {
            request.extend(encode(&["AUTH", password]));
            skipped = 1;
        }
        request.extend(encode(command));
        until_some("the end of loading", PATIENCE, || {
            let whole = |said: &[u8]| nth_reply(said, skipped).is_some();
            let said = self.server.ask(&request, whole);
            nth_reply(&said, skipped).filter(|reply| !reply.starts_with("LOADING "))
        })
    }
}

impl Deref for Redis {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// One sentinel, which watches one master with a quorum of one.
#[derive(Debug)]
pub struct Sentinel(Server);

impl Sentinel {
    /// Watches `redis` under the name `master`, and takes it for dead after 500 ms of silence.
    ///
    /// # Panics
    /// If it does not start.
    pub fn watch(folder: &Path, name: &str, master: &str, redis: &Redis) -> Self {
        let port = redis.address().port();
        let mut text = format!(
            "sentinel monitor {master} 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds {master} 500\n\
             sentinel failover-timeout {master} 5000\n"
        );
        if let Some(password) = &redis.password {
            text.extend(["sentinel auth-pass ", master, " ", password, "\n"]);
        }
        let server = Server::start(Redis::PROGRAM, folder, name, GREETING, |port, home| {
            // A sentinel writes into its file, so each has its own.
            let file = home.join("sentinel.conf");
            std::fs::write(&file, &text).expect("the folder of the test is writable");
            let mut arguments = vec![file.to_string_lossy().into_owned(), "--sentinel".to_owned()];
            arguments.extend(words(&format!("--port {port} --bind 127.0.0.1")));
            arguments.extend(["--dir".to_owned(), home.to_string_lossy().into_owned()]);
            arguments
        });
        Self(server)
    }
}

impl Deref for Sentinel {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Sentinel {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn encode(command: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    out
}

/// The reply after `skipped` others, if it has come whole.
fn nth_reply(mut said: &[u8], skipped: usize) -> Option<String> {
    for _ in 0..skipped {
        said = reply(said)?.1;
    }
    Some(reply(said)?.0)
}

fn reply(said: &[u8]) -> Option<(String, &[u8])> {
    let end = said.windows(2).position(|pair| pair == b"\r\n")?;
    let (head, rest) = (
        String::from_utf8_lossy(&said[..end]).into_owned(),
        &said[end + 2..],
    );
    let number = || head[1..].parse::<i64>().unwrap_or(-1);
    match head.as_bytes().first()? {
        b'$' => match usize::try_from(number()) {
            Err(_) => Some((String::new(), rest)),
            Ok(length) => {
                let body = rest.get(..length)?;
                let rest = rest.get(length + 2..)?;
                Some((String::from_utf8_lossy(body).into_owned(), rest))
            }
        },
        b'*' => {
            let mut lines = Vec::new();
            let mut rest = rest;
            for _ in 0..number().max(0) {
                let (line, after) = reply(rest)?;
                lines.push(line);
                rest = after;
            }
            Some((lines.join("\n"), rest))
        }
        _ => Some((head[1..].to_owned(), rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::installed;
    use crate::{Folder, until};
    use std::time::Duration;

    #[test]
    fn commands_are_answered_and_a_durable_server_remembers() {
        if !installed(&[Redis::PROGRAM]) {
            return;
        }
        let folder = Folder::new("redis");
        let options = RedisOptions {
            durable: true,
            password: Some("open sesame".to_owned()),
            ..RedisOptions::default()
        };
        let mut redis = Redis::with(folder.path(), "redis", &options);
        assert_eq!(redis.command(&["SET", "k", "v"]), "OK");
        redis.restart();
        assert_eq!(redis.command(&["GET", "k"]), "v");
        assert_eq!(redis.command(&["GET", "none"]), "");
        assert_eq!(redis.command(&["KEYS", "*"]), "k");
        assert_eq!(redis.command(&["DBSIZE"]), "1");
        assert!(
            redis
                .command(&["NOSUCH"])
                .starts_with("ERR unknown command")
        );
        assert_eq!(redis.command(&["FLUSHALL"]), "OK");
        assert_eq!(redis.command(&["GET", "k"]), "");
    }

    #[test]
    fn a_plain_server_forgets() {
        if !installed(&[Redis::PROGRAM]) {
            return;
        }
        let folder = Folder::new("redis");
        let mut redis = Redis::start(folder.path(), "redis");
        redis.command(&["SET", "k", "v"]);
        redis.restart();
        assert_eq!(redis.command(&["DBSIZE"]), "0");
    }

    #[test]
    fn a_sentinel_knows_its_master() {
        if !installed(&[Redis::PROGRAM]) {
            return;
        }
        let folder = Folder::new("sentinel");
        let redis = Redis::start(folder.path(), "redis");
        let sentinel = Sentinel::watch(folder.path(), "sentinel", "mine", &redis);
        let port = redis.address().port().to_string();
        let question = encode(&["SENTINEL", "get-master-addr-by-name", "mine"]);
        until("the address of the master", Duration::from_secs(30), || {
            let said = sentinel.ask(&question, |said| nth_reply(said, 0).is_some());
            nth_reply(&said, 0) == Some(format!("127.0.0.1\n{port}"))
        });
    }
}
