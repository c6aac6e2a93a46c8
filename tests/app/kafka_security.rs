//! TLS, SCRAM and certificates of clients, as the configuration says them, against a broker that insists.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use go_queue::app::{App, AppError, Running};
use go_queue::handlers;
use go_queue::prelude::*;
use go_queue_tests::Folder;
use go_queue_tests::servers::{KafkaCluster, KafkaOptions, free_server_port, kafka_is_installed};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tokio::sync::mpsc;

/// Longer than anything that is right, shorter than what a user would call hanging.
const WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize, Deserialize)]
struct Payment {
    amount: u64,
}

type Seen = mpsc::UnboundedSender<u64>;

#[kq_handler(topic = "payments")]
async fn payment(payment: Payment, seen: State<Seen>) {
    let _ = seen.0.send(payment.amount);
}

/// A broker with two listeners that speak TLS: one asks for user and password, one for a certificate.
struct Site {
    folder: Folder,
    _kafka: KafkaCluster,
    by_password: u16,
    by_certificate: u16,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("an authority")
}

/// A certificate for loopback, and its key.
fn issued(by: &Authority, name: &str) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, by).expect("signed");
    (certificate.pem(), key.serialize_pem())
}

fn site() -> Option<Site> {
    if !kafka_is_installed() {
        return None;
    }
    let folder = Folder::new("kafka-security");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).expect("the folder of the test is writable");
    };
    let ours = authority("ours");
    let (certificate, key) = issued(&ours, "broker");
    write("broker.pem", &format!("{key}{certificate}"));
    write("ca.pem", &ours.pem());
    write("other-ca.pem", &authority("somebody else's").pem());
    let (certificate, key) = issued(&ours, "worker");
    write("worker.pem", &certificate);
    write("worker.key", &key);

    let (by_password, by_certificate) = (free_server_port(), free_server_port());
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let options = KafkaOptions {
        listeners: vec![
            ("PASSWORD".to_owned(), by_password),
            ("CERTIFICATE".to_owned(), by_certificate),
        ],
        users: vec![property("worker", "right")],
        properties: vec![
            property(
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PASSWORD:SASL_SSL,CERTIFICATE:SSL",
            ),
            property("inter.broker.listener.name", "PLAINTEXT"),
            property("ssl.keystore.type", "PEM"),
            property("ssl.keystore.location", &file("broker.pem")),
            property("ssl.truststore.type", "PEM"),
            property("ssl.truststore.location", &file("ca.pem")),
            property("listener.name.certificate.ssl.client.auth", "required"),
            property("sasl.enabled.mechanisms", "SCRAM-SHA-512"),
            property(
                "listener.name.password.scram-sha-512.sasl.jaas.config",
                "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            ),
        ],
        ..KafkaOptions::default()
    };
    let kafka = KafkaCluster::start(folder.path(), 1, &options);
    kafka.raw().create("payments", 2);
    kafka.raw().create("payments-dlt", 2);
    kafka.raw().alter("payments-dlt", &[("retention.ms", "-1")]);
    Some(Site {
        folder,
        _kafka: kafka,
        by_password,
        by_certificate,
    })
}

impl Site {
    async fn start() -> Option<Self> {
        let started = tokio::task::spawn_blocking(site);
        started.await.expect("the broker starts")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// An app on this port; `security` as YAML has it, where `DIR` is the folder of the certificates.
    async fn app(
        &self,
        port: u16,
        security: &str,
    ) -> Result<(Running, mpsc::UnboundedReceiver<u64>), AppError> {
        let dir: &Path = self.folder.path();
        let security = security.replace("DIR", &dir.to_string_lossy());
        let yaml = format!(
            "name: billing\nkq:\n  brokers: [\"127.0.0.1:{port}\"]\n  offset: first\n  connect_timeout: 15s\n  security: {security}\n"
        );
        let file = self.file("config.yaml");
        std::fs::write(&file, yaml).expect("the folder of the test is writable");
        let (seen, came) = mpsc::unbounded_channel();
        let app = App::new()
            .config(file)
            .state::<Seen>(seen)
            .handlers(handlers![payment]);
        Ok((app.start().await?, came))
    }

    async fn works(&self, port: u16, security: &str) {
        let started = tokio::time::timeout(Duration::from_secs(60), self.app(port, security));
        let started = started.await.expect("it starts");
        let (running, mut came) = started.unwrap_or_else(|error| panic!("{error:?}"));
        let producer = running.producer();
        let sent = payment::push(Payment { amount: 7 })
            .key("k")
            .send(&producer);
        sent.await.expect("stored");
        let amount = tokio::time::timeout(Duration::from_secs(60), came.recv());
        assert_eq!(amount.await.expect("it comes"), Some(7));
        running.stop(WITHIN).await.expect("stopped");
    }

    /// What is said where the app cannot start; soon, although nothing forbids to wait.
    async fn refused(&self, port: u16, security: &str) -> String {
        let began = Instant::now();
        let error = self.app(port, security).await.expect_err("refused");
        assert!(began.elapsed() < WITHIN, "{:?}", began.elapsed());
        let text = format!("{error:?}");
        assert!(!text.contains("wr0ng"), "{text}");
        text
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_served_over_tls_with_a_password_or_a_certificate() {
    let Some(site) = Site::start().await else {
        return;
    };
    let scram =
        "{ username: worker, password: right, mechanism: scram-sha-512, ca_file: DIR/ca.pem }";
    site.works(site.by_password, scram).await;
    let certificate =
        "{ ca_file: DIR/ca.pem, cert_file: DIR/worker.pem, key_file: DIR/worker.key }";
    site.works(site.by_certificate, certificate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_security_of_a_broker_is_said_within_seconds() {
    let Some(site) = Site::start().await else {
        return;
    };
    let wrong =
        "{ username: worker, password: wr0ng, mechanism: scram-sha-512, ca_file: DIR/ca.pem }";
    let text = site.refused(site.by_password, wrong).await;
    assert!(text.contains("uthentication"), "{text}");

    let other = "{ username: worker, password: wr0ng, mechanism: scram-sha-512, ca_file: DIR/other-ca.pem }";
    let text = site.refused(site.by_password, other).await;
    assert!(
        text.contains("certificate verify failed") && text.contains("ca_file"),
        "{text}"
    );

    let nobody = "{ ca_file: DIR/ca.pem }";
    let text = site.refused(site.by_certificate, nobody).await;
    assert!(text.contains("cert_file"), "{text}");

    // TLS where none is spoken, and none where it is.
    let open = "{ username: worker, password: wr0ng, mechanism: scram-sha-512 }";
    let text = site.refused(site.by_password, open).await;
    assert!(text.contains("tls: true"), "{text}");
}
