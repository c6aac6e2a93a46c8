//! Configurations as services of go-zero have them: both queues, several sections, and what the framework itself reads.

use crate::config::{EngineKind, Wire};
use crate::name::{Name, Place};

use super::{load_with, remarks};

const SERVICE: &str = r"Name: order-mq
Host: 0.0.0.0
Port: 8888
Mode: pro
Timeout: 3000
Log:
  ServiceName: order-mq
  Mode: file
  Level: info
  Path: /var/log/order-mq
  KeepDays: 7
  Compress: true
Telemetry:
  Name: order-mq
  Endpoint: http://jaeger:14268/api/traces
  Sampler: 1.0
  Batcher: jaeger
Prometheus:
  Host: 0.0.0.0
  Port: 9091
  Path: /metrics
DevServer:
  Enabled: true
  Port: 6060
MetricsUrl: http://metrics.internal/push
OrdersConf:
  Brokers:
    - 10.0.0.5:9092
    - 10.0.0.6:9092
  Group: billing
  Topic: orders
  Offset: first
  Conns: 2
  Consumers: 8
  Processors: 8
  MinBytes: 10240
  MaxBytes: 10485760
PaymentsConf:
  Brokers:
    - 10.0.0.5:9092
    - 10.0.0.6:9092
  Group: billing
  Topic: payments
RemindersConf:
  Beanstalks:
    - Endpoint: 10.0.0.1:11300
      Tube: reminders
    - Endpoint: 10.0.0.2:11300
      Tube: reminders
  Redis:
    Host: 10.0.0.4:6379
    Type: node
    Pass: ${REDIS_PASS}
";

#[test]
fn a_service_of_go_zero_with_both_queues_is_read_as_it_is() {
    let config = load_with(SERVICE, &[("REDIS_PASS", "x")])
        .unwrap_or_else(|report| unreachable!("{report}"));
    assert_eq!(&*config.name.value, "order-mq");
    assert_eq!(config.go_sections.len(), 3);
    for (place, engine) in [
        (Place::Topic(Name::literal("orders")), EngineKind::Kafka),
        (Place::Topic(Name::literal("payments")), EngineKind::Kafka),
        (
            Place::Tube(Name::literal("reminders")),
            EngineKind::Beanstalkd,
        ),
    ] {
        assert_eq!(
            config.engine_for(&place).map(|choice| choice.kind),
            Ok(engine),
            "{place}"
        );
    }
    let reminders = config
        .tube(&Name::literal("reminders"))
        .expect("it has settings");
    assert_eq!(reminders.wire(), Wire::GoQueue);
    assert_eq!(config.dq.beanstalks.len(), 2);
    // What nothing here corresponds to is said, each with its line, and not ignored in silence.
    let said = remarks(&config).join("\n");
    for key in [
        "host",
        "port",
        "mode",
        "timeout",
        "telemetry",
        "prometheus",
        "devserver",
        "metricsurl",
    ] {
        assert!(
            said.to_lowercase().contains(&format!(": {key}")),
            "{key} is missing in:\n{said}"
        );
    }
    assert!(said.to_lowercase().contains("log"), "{said}");
}

#[test]
fn a_mistyped_section_of_ours_is_an_error_beside_sections_of_the_go_library_too() {
    let report = load_with(&format!("{SERVICE}Handlrs: {{}}\n"), &[("REDIS_PASS", "x")]);
    let report = report.expect_err("a typo");
    assert!(
        report.contains("Handlrs: unknown key; did you mean `handlers`?"),
        "{report}"
    );
    let report = load_with(&format!("{SERVICE}oops: 1\n"), &[("REDIS_PASS", "x")]);
    assert!(
        report
            .expect_err("not in the spelling of Go")
            .contains("oops: unknown key")
    );
}
