//! What keeps the claims of a site: one Redis, one with a replica that takes its place, or several that share the keys.

use std::time::Duration;

use go_queue_tests::servers::{Redis, RedisOptions, Sentinel, free_server_port};
use go_queue_tests::{Folder, until};

/// How Redis is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RedisSetup {
    Single,
    /// A server, its replica, and a sentinel that makes the replica the server when that one is dead.
    Sentinel,
    /// Three servers that share the keys.
    Cluster,
}

/// What stands beside the first server.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    servers: Vec<Redis>,
    sentinel: Option<Sentinel>,
}

impl Beside {
    #[track_caller]
    pub(crate) fn until_the_replica_leads(&self) {
        assert!(self.sentinel.is_some(), "nobody would make it so");
        until("the replica leads", Duration::from_secs(60), || {
            let said = self.servers[0].command(&["INFO", "replication"]);
            said.contains("role:master")
        });
    }
}

/// The name of the server that the sentinel watches.
const MASTER: &str = "claims";

impl RedisSetup {
    /// Starts it; the first server, the others, and what the configuration says.
    pub(crate) fn start(self, folder: &Folder, durable: bool) -> (Redis, Beside, String) {
        let with = |name: &str, arguments: &[&str]| {
            let options = RedisOptions {
                durable,
                arguments: arguments.iter().map(|&one| one.to_owned()).collect(),
                ..RedisOptions::default()
            };
            Redis::with(folder.path(), name, &options)
        };
        match self {
            Self::Single => {
                let redis = with("redis", &[]);
                let yaml = format!("host: \"{}\"", redis.endpoint());
                (redis, Beside::default(), yaml)
            }
            Self::Sentinel => {
                let redis = with("redis", &[]);
                let port = redis.address().port().to_string();
                let replica = with("replica", &["--replicaof", "127.0.0.1", &port]);
                until("the replica follows", Duration::from_secs(30), || {
                    let said = replica.command(&["INFO", "replication"]);
                    said.contains("master_link_status:up")
                });
                let sentinel = Sentinel::watch(folder.path(), "sentinel", MASTER, &redis);
                let yaml = format!(
                    "host: \"{}\", type: sentinel, master: {MASTER}",
                    sentinel.endpoint()
                );
                let beside = Beside {
                    servers: vec![replica],
                    sentinel: Some(sentinel),
                };
                (redis, beside, yaml)
            }
            Self::Cluster => {
                let mut servers: Vec<Redis> = (1..=3)
                    .map(|n| {
                        let bus = free_server_port().to_string();
                        let arguments = [
                            "--cluster-enabled",
                            "yes",
                            "--cluster-announce-ip",
                            "127.0.0.1",
                            "--cluster-node-timeout",
                            "2000",
                            "--cluster-port",
                            &bus,
                        ];
                        with(&format!("shard-{n}"), &arguments)
                    })
                    .collect();
                join(&servers);
                let hosts: Vec<String> = servers
                    .iter()
                    .map(|one| format!("\"{}\"", one.endpoint()))
                    .collect();
                let yaml = format!("host: [{}], type: cluster", hosts.join(", "));
                let first = servers.remove(0);
                let beside = Beside {
                    servers,
                    sentinel: None,
                };
                (first, beside, yaml)
            }
        }
    }
}

/// Makes servers a cluster, each with a third of the keys.
fn join(servers: &[Redis]) {
    for (server, range) in
        servers
            .iter()
            .zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")])
    {
        server.command(&["CLUSTER", "ADDSLOTSRANGE", range.0, range.1]);
    }
    let others = &servers[1..];
    for (n, other) in (2..).zip(others) {
        other.command(&["CLUSTER", "SET-CONFIG-EPOCH", &n.to_string()]);
        let (port, bus) = (other.address().port().to_string(), bus_of(other));
        servers[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }
    until("the cluster is well", Duration::from_secs(30), || {
        servers.iter().all(|server| {
            let said = server.command(&["CLUSTER", "INFO"]);
            said.contains("cluster_state:ok") && said.contains("cluster_known_nodes:3")
        })
    });
}

fn bus_of(server: &Redis) -> String {
    let said = server.command(&["CONFIG", "GET", "cluster-port"]);
    said.lines().last().unwrap_or_default().to_owned()
}
