//! TLS, and how we prove who we are.

use std::path::Path;
use std::sync::Arc;

use crate::secret::Secret;

/// How the connections to the brokers are protected.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// TLS with verified certificates and host names. `None`: connections are open.
    pub tls: Option<Tls>,
    /// Who we are. `None`: nobody is asked.
    pub sasl: Option<Sasl>,
}

/// TLS. Certificates are always verified.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// A PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<Arc<str>>,
    /// A PEM file with the certificate of this client.
    pub cert_file: Option<Arc<str>>,
    /// A PEM file with its key.
    pub key_file: Option<Arc<str>>,
    /// The password of the key.
    pub key_password: Option<Secret>,
}

/// User and password.
#[derive(Clone, Debug)]
pub struct Sasl {
    /// How the password is proved.
    pub mechanism: SaslMechanism,
    /// The user.
    pub username: Arc<str>,
    /// The password.
    pub password: Secret,
}

/// How a password is proved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password as it is.
    #[default]
    Plain,
    /// A challenge, SHA-256.
    ScramSha256,
    /// A challenge, SHA-512.
    ScramSha512,
}

impl SaslMechanism {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// What is said where OpenSSL is needed and not there.
const NO_TLS: &str = "this program was built without the feature `kafka-tls`; add it to the features of go-queue in Cargo.toml (it needs OpenSSL's headers to build)";

impl Security {
    /// The name of the protocol in the client's settings.
    pub(super) fn protocol(&self) -> &'static str {
        match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        }
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.needs_tls(cfg!(feature = "kafka-tls"))
            .or_else(|| self.tls.as_ref().and_then(Tls::problem))
    }

    /// What cannot be because OpenSSL is not part of this program.
    pub(super) fn needs_tls(&self, compiled_in: bool) -> Option<String> {
        if compiled_in {
            return None;
        }
        if self.tls.is_some() {
            return Some(format!("TLS is asked for, and {NO_TLS}"));
        }
        let sasl = self.sasl.as_ref()?;
        (sasl.mechanism != SaslMechanism::Plain)
            .then(|| format!("{} is asked for, and {NO_TLS}", sasl.mechanism.name()))
    }
}

impl Tls {
    fn problem(&self) -> Option<String> {
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Some(
                "a certificate of the client and its key belong together; give both or none"
                    .to_owned(),
            );
        }
        // The client's own message names neither the setting nor the file.
        [
            ("ca_file", &self.ca_file),
            ("cert_file", &self.cert_file),
            ("key_file", &self.key_file),
        ]
        .into_iter()
        .find_map(|(name, file)| {
            let file = file.as_ref()?;
            let error = std::fs::File::open(Path::new(&**file)).err()?;
            Some(format!("`{name}`: {file} cannot be read: {error}"))
        })
    }
}
