//! No command, report or log shows a secret, also where everything is logged and nothing works.

use std::io::Write as _;
use std::net::TcpListener;

use crate::worker::Site;

const CANARY: &str = "c4n4ry-Zq7";

/// Accepts connections and answers each with nonsense, then hangs up. Ends with the test's process.
fn nonsense() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let mut connection = connection;
            let _it_may_be_gone = connection.write_all(b"-ERR what?\r\nNOT A PROTOCOL\r\n");
        }
    });
    port
}

/// A configuration with a secret wherever there can be one, for servers on this port.
fn yaml(port: u16, engine: &str) -> String {
    format!(
        "\
name: secrets
dq:
  engine: {engine}
  beanstalks: [\"127.0.0.1:{port}\"]
  deadline: 100ms
  connect_timeout: 200ms
  redis: {{ host: \"127.0.0.1:{port}\", pass: \"${{CANARY}}\", timeout: 100ms, connect_timeout: 200ms }}
kq:
  engine: sqlite
  brokers: [\"127.0.0.1:{port}\"]
  security: {{ username: u, password: \"${{CANARY}}\", key_password: {CANARY} }}
  properties: {{ sasl.password: {CANARY} }}
  producer: {{ properties: {{ ssl.key.password: {CANARY} }} }}
admin: {{ listen: \"127.0.0.1:9090\", token: {CANARY} }}
log: {{ level: trace, format: text }}
"
    )
}

#[test]
fn no_secret_is_shown_by_any_command_nor_by_a_trace_log() {
    // One port answers nonsense, at the other nobody listens.
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.local_addr().expect("it is bound").port()
    };
    // Where nobody answers, it fails; where nonsense answers a password, the set-up is wrong; where nobody is needed, it works.
    for (port, engine, without) in [
        (closed, "beanstalkd", 1),
        (nonsense(), "beanstalkd", 2),
        (closed, "sqlite", 0),
    ] {
        let site = Site::with(&yaml(port, engine));
        for (args, code) in [
            (&["check"][..], 0),
            (&["check", "--schema"], 0),
            (&["handlers"], 0),
            (&["handlers", "--json"], 0),
            (&["send", "job", "1"], without),
            (
                &["send", "job", "1", "--set", "dq.redis.pass=c4n4ry-Zq7"],
                without,
            ),
            (&["run", "--until-idle=100ms"], without),
            (&["check", "--set", "dq.redis.pas=c4n4ry-Zq7"], 2),
            (&["check", "--set", "kq.security.password=[c4n4ry-Zq7]"], 2),
            (&["check", "--set", "admin.token={ c4n4ry-Zq7: 1 }"], 2),
        ] {
            let mut command = site.command(args);
            command.env("CANARY", CANARY);
            let ended = crate::worker::Worker::spawn(&mut command).wait();
            let shown = format!("{}{}", ended.out, ended.err);
            assert_eq!(ended.code, Some(code), "{args:?} on {engine}: {shown}");
            assert!(!shown.contains(CANARY), "{args:?} on {engine}: {shown}");
        }
    }
}
