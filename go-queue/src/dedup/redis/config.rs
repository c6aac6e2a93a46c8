//! Where Redis is, and how it is talked to.

use std::fmt;
use std::time::Duration;

use redis::cluster::ClusterClient;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    TlsCertificates, TlsMode,
};
use rustls::crypto::CryptoProvider;

/// What stands behind the hosts.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum RedisKind {
    /// One server.
    #[default]
    Node,
    /// A cluster; the hosts are some of its nodes.
    Cluster,
    /// Sentinels, which know where the server is now.
    Sentinel {
        /// The name of the server among the sentinels.
        master: String,
        /// The user of the sentinels themselves.
        user: Option<String>,
        /// Their password.
        pass: Option<String>,
    },
}

impl fmt::Debug for RedisKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("Node"),
            Self::Cluster => f.write_str("Cluster"),
            Self::Sentinel { master, .. } => f
                .debug_struct("Sentinel")
                .field("master", master)
                .finish_non_exhaustive(),
        }
    }
}

/// How the store finds and uses Redis. User and password never print.
#[derive(Clone)]
#[non_exhaustive]
pub struct RedisConfig {
    /// `host:port` each; one for a single server.
    pub hosts: Vec<String>,
    /// What they are.
    pub kind: RedisKind,
    /// The user of the access list.
    pub user: Option<String>,
    /// The password.
    pub pass: Option<String>,
    /// The number of the database; a cluster has only 0.
    pub db: u32,
    /// TLS, with certificates that are verified.
    pub tls: bool,
    /// The authorities to trust, as PEM, instead of the system's.
    pub ca: Option<Vec<u8>>,
    /// How long a request may take, 250 ms by default.
    pub timeout: Duration,
    /// How long a connection may take to be made, 1 s by default.
    pub connect_timeout: Duration,
    /// Begins every key but those of the Go library. All programs that use the same tubes must agree on it. `gq` by default.
    pub prefix: String,
    /// How long a claim is held without a sign of life of its process, 15 s by default. It is renewed after a third of that.
    pub lease: Duration,
}

impl RedisConfig {
    /// One server at `host:port`, with all defaults.
    pub fn node(host: impl Into<String>) -> Self {
        Self {
            hosts: vec![host.into()],
            kind: RedisKind::Node,
            user: None,
            pass: None,
            db: 0,
            tls: false,
            ca: None,
            timeout: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(1),
            prefix: "gq".to_owned(),
            lease: Duration::from_secs(15),
        }
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("hosts", &self.hosts)
            .field("kind", &self.kind)
            .field("db", &self.db)
            .field("tls", &self.tls)
            .field("timeout", &self.timeout)
            .field("prefix", &self.prefix)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// Why a store cannot be used as it was configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisConfigError {
    /// There is no host.
    #[error("no Redis host is named; write `host:port`")]
    NoHost,
    /// One server has one host.
    #[error(
        "{0} hosts are named for one Redis server; name one, or say that they are a cluster or sentinels"
    )]
    ManyHosts(usize),
    /// Not `host:port`.
    #[error("`{host}` is not the address of a Redis server; write `host:port`")]
    Host {
        /// As written.
        host: String,
    },
    /// A cluster has one database.
    #[error("a Redis cluster has only database 0, not {0}")]
    Database(u32),
    /// A time that would make every request fail, or never end.
    #[error("{what} of {given:?} is not between {least:?} and {most:?}")]
    Time {
        /// Which time.
        what: &'static str,
        /// As given.
        given: Duration,
        /// The least that makes sense.
        least: Duration,
        /// The most.
        most: Duration,
    },
    /// The prefix would make keys that tools cannot read.
    #[error("the key prefix `{0}` is not 1 to 64 letters, digits and `.`, `_`, `-`, `:`")]
    Prefix(String),
    /// The authorities cannot be read, or do not go with TLS.
    #[error("the authorities to trust cannot be used: {0}")]
    Authorities(String),
    /// The client refuses it.
    #[error("Redis cannot be used as configured: {0}")]
    Client(String),
}

/// What makes connections.
pub(super) enum Dialer {
    Node(Client),
    Cluster(ClusterClient),
    Sentinel(tokio::sync::Mutex<SentinelClient>),
}

impl RedisConfig {
    pub(super) fn dialer(&self) -> Result<Dialer, RedisConfigError> {
        self.check()?;
        if self.tls && CryptoProvider::get_default().is_none() {
            // With the features of another crate on, the TLS library would not know which of its two providers to take, and panic.
            // Somebody else may be faster: then theirs is taken.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client =
            |error: redis::RedisError| RedisConfigError::Client(self.redact(&error.to_string()));
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: self.ca.clone(),
        };
        let infos = self
            .hosts
            .iter()
            .map(|host| self.info(host))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(match &self.kind {
            RedisKind::Node => {
                let info = infos.into_iter().next().ok_or(RedisConfigError::NoHost)?;
                Dialer::Node(if self.tls {
                    Client::build_with_tls(info, certificates).map_err(client)?
                } else {
                    Client::open(info).map_err(client)?
                })
            }
            RedisKind::Cluster => {
                let mut builder = ClusterClient::builder(infos)
                    .connection_timeout(self.connect_timeout)
                    .response_timeout(self.timeout)
                    .overall_response_timeout(Some(self.timeout))
                    // A redirection counts as a retry; a request that was sent is repeated by nobody else.
                    .retries(2);
                if self.tls {
                    builder = builder.tls(TlsMode::Secure).certs(certificates);
                }
                Dialer::Cluster(builder.build().map_err(client)?)
            }
            RedisKind::Sentinel { master, user, pass } => {
                let addresses = infos.iter().map(|info| info.addr().clone());
                let mut builder =
                    SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)
                        .map_err(client)?
                        .set_client_to_redis_db(i64::from(self.db));
                if self.tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_certificates(certificates);
                }
                if let Some(user) = &self.user {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(pass) = &self.pass {
                    builder = builder.set_client_to_redis_password(pass);
                }
                if let Some(user) = user {
                    builder = builder.set_client_to_sentinel_username(user);
                }
                if let Some(pass) = pass {
                    builder = builder.set_client_to_sentinel_password(pass);
                }
                Dialer::Sentinel(tokio::sync::Mutex::new(builder.build().map_err(client)?))
            }
        })
    }

    fn check(&self) -> Result<(), RedisConfigError> {
        match (&self.kind, self.hosts.len()) {
            (_, 0) => return Err(RedisConfigError::NoHost),
            (RedisKind::Node, 2..) => return Err(RedisConfigError::ManyHosts(self.hosts.len())),
            _ => {}
        }
        if self.kind == RedisKind::Cluster && self.db != 0 {
            return Err(RedisConfigError::Database(self.db));
        }
        let good = |c: u8| c.is_ascii_alphanumeric() || b"._-:".contains(&c);
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.bytes().all(good) {
            return Err(RedisConfigError::Prefix(
                self.prefix.escape_default().to_string(),
            ));
        }
        let times = [
            ("a timeout", self.timeout, 1, 60_000),
            ("a connect timeout", self.connect_timeout, 1, 60_000),
            ("a lease", self.lease, 300, 3_600_000),
        ];
        for (what, given, least, most) in times {
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
            if given < least || given > most {
                return Err(RedisConfigError::Time {
                    what,
                    given,
                    least,
                    most,
                });
            }
        }
        match &self.ca {
            Some(_) if !self.tls => Err(RedisConfigError::Authorities(
                "they are named, but TLS is off; turn it on".to_owned(),
            )),
            Some(pem) if !has_certificate(pem) => Err(RedisConfigError::Authorities(
                "there is no `BEGIN CERTIFICATE` in the file".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    fn info(&self, host: &str) -> Result<ConnectionInfo, RedisConfigError> {
        let wrong = || RedisConfigError::Host {
            host: host.escape_default().to_string(),
        };
        let (name, port) = host.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        let bare = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        let name = bare.unwrap_or(name);
        let bad = |c: char| c.is_whitespace() || c.is_control() || "/@[]".contains(c);
        if name.is_empty()
            || port == 0
            || name.contains(bad)
            || (bare.is_none() && name.contains(':'))
        {
            return Err(wrong());
        }
        let address = if self.tls {
            ConnectionAddr::TcpTls {
                host: name.to_owned(),
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(name.to_owned(), port)
        };
        let mut settings = RedisConnectionInfo::default()
            .set_db(i64::from(self.db))
            .set_skip_set_lib_name();
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(pass) = &self.pass {
            settings = settings.set_password(pass);
        }
        address
            .into_connection_info()
            .map(|info| info.set_redis_settings(settings))
            .map_err(|error| RedisConfigError::Client(self.redact(&error.to_string())))
    }

    /// A text of the client or the server, without what must not be read by others.
    pub(super) fn redact(&self, text: &str) -> String {
        let sentinel = match &self.kind {
            RedisKind::Sentinel { user, pass, .. } => [user.as_ref(), pass.as_ref()],
            _ => [None, None],
        };
        let mut text = text.to_owned();
        for secret in [self.user.as_ref(), self.pass.as_ref()]
            .into_iter()
            .chain(sentinel)
            .flatten()
            .filter(|secret| !secret.is_empty())
        {
            text = text.replace(secret.as_str(), "***");
        }
        text
    }
}

fn has_certificate(pem: &[u8]) -> bool {
    let mark = b"-----BEGIN CERTIFICATE-----";
    pem.windows(mark.len()).any(|window| window == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut RedisConfig)) -> String {
        let mut config = RedisConfig::node("127.0.0.1:6379");
        change(&mut config);
        match config.dialer() {
            Ok(_) => panic!("{config:?} is taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_to_write() {
        for (text, part) in [
            (wrong(|c| c.hosts.clear()), "host:port"),
            (wrong(|c| c.hosts.push("b:1".into())), "2 hosts"),
            (
                wrong(|c| c.hosts = vec!["localhost".into()]),
                "`localhost` is not the address",
            ),
            (
                wrong(|c| c.hosts = vec!["::1:6379".into()]),
                "is not the address",
            ),
            (
                wrong(|c| c.hosts = vec!["redis://a:1".into()]),
                "is not the address",
            ),
            (
                wrong(|c| c.hosts = vec!["a:70000".into()]),
                "is not the address",
            ),
            (wrong(|c| c.timeout = Duration::ZERO), "a timeout of 0ns"),
            (
                wrong(|c| c.lease = Duration::from_millis(1)),
                "a lease of 1ms",
            ),
            (wrong(|c| c.prefix = "a b".into()), "key prefix `a b`"),
            (wrong(|c| c.ca = Some(vec![])), "TLS is off"),
            (
                wrong(|c| {
                    c.tls = true;
                    c.ca = Some(b"nonsense".to_vec());
                }),
                "BEGIN CERTIFICATE",
            ),
            (
                wrong(|c| {
                    c.kind = RedisKind::Cluster;
                    c.db = 3;
                }),
                "only database 0",
            ),
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn all_kinds_are_built_without_a_connection() {
        for kind in [
            RedisKind::Node,
            RedisKind::Cluster,
            RedisKind::Sentinel {
                master: "main".into(),
                user: None,
                pass: Some("x".into()),
            },
        ] {
            for host in ["127.0.0.1:1", "[::1]:1", "redis.example:6379"] {
                let mut config = RedisConfig::node(host);
                config.kind = kind.clone();
                assert!(config.dialer().is_ok(), "{config:?}");
            }
        }
    }

    #[test]
    fn user_and_password_never_print() {
        let mut config = RedisConfig::node("127.0.0.1:1");
        config.user = Some("canary-user".into());
        config.pass = Some("canary-pass".into());
        config.kind = RedisKind::Sentinel {
            master: "main".into(),
            user: Some("canary-user".into()),
            pass: Some("canary-two".into()),
        };
        assert!(!format!("{config:?}").contains("canary"));
        assert!(
            !config
                .redact("canary-user/canary-pass/canary-two")
                .contains("canary")
        );
    }
}
