//! Faulty files and exactly what the user reads.

use super::load;

#[test]
fn a_faulty_file_is_reported_whole_with_places_and_remedies() {
    for (text, report) in FAULTY {
        let found = load(text).err();
        assert_eq!(found.as_deref(), Some(*report), "for:\n{text}");
    }
}

/// A text, and the report.
const FAULTY: &[(&str, &str)] = &[
    (
        "handlers:
  charge:
    concurency: 4
    retry: { maxx: 3 }
kq: { broker: [a:1] }
zzz: 1
",
        "the configuration has 4 problems
  app.yaml:3:5: handlers.charge.concurency: unknown key; did you mean `concurrency`?
  app.yaml:4:14: handlers.charge.retry.maxx: unknown key; did you mean `max`?
  app.yaml:5:7: kq.broker: unknown key; did you mean `brokers`?
  app.yaml:6:1: zzz: unknown key; known here: name, sqlite, dq, kq, tubes, topics, handlers, admin, shutdown, log",
    ),
    (
        "name: a
  b: c
",
        "app.yaml:2:4: a `:` stands where no key can be; check indentation and brackets, or put a text with `: ` in quotes",
    ),
    (
        "dq:\n\tengine: sqlite\n",
        "app.yaml:2:2: a tab stands where YAML takes only spaces; indent with spaces",
    ),
    (
        "kq: { brokers: [a:1
name: x
",
        "app.yaml:2:5: a `:` stands where no key can be; check indentation and brackets, or put a text with `: ` in quotes",
    ),
    (
        "kq: [1, 2]
",
        "app.yaml:1:5: kq: a list where keys are expected; known here: engine, brokers, group, offset, conns, create_topics, replication, protocol, instance_id, session, commit_interval, memory, connect_timeout, security, properties, producer",
    ),
    (
        "name: [a]
",
        "app.yaml:1:7: name: a list where one value is expected",
    ),
    (
        "- a
- b
",
        "app.yaml:1:1: a list where keys are expected; known here: name, sqlite, dq, kq, tubes, topics, handlers, admin, shutdown, log",
    ),
    (
        "just text
",
        "app.yaml:1:1: a text where keys are expected; known here: name, sqlite, dq, kq, tubes, topics, handlers, admin, shutdown, log",
    ),
    (
        "name: a
Name: b
",
        "app.yaml:2:1: Name: given twice, first as `name` in line 1; remove one of them",
    ),
    (
        "name: a
name: b
",
        "app.yaml:2:1: name: given twice, first as `name` in line 1; remove one of them",
    ),
    (
        "handlers: { charge: { concurrency: 0, timeout: 90, rate: 200, order: keyy, retry: { backoff: 10m..1s }, linger: -1s } }
",
        "the configuration has 6 problems
  app.yaml:1:36: handlers.charge.concurrency: `0` is out of range; write a whole number from 1 to 1000000
  app.yaml:1:48: handlers.charge.timeout: `90` is not a duration; the unit is missing, write for example `30s`, or `none`
  app.yaml:1:58: handlers.charge.rate: `200` is not a rate; write for example `200/s` or `5/10s`, or `none`
  app.yaml:1:70: handlers.charge.order: `keyy` is not known here; did you mean `key`?
  app.yaml:1:94: handlers.charge.retry.backoff: `10m..1s` ends before it begins; write the shorter wait first, for example `1s..10m`
  app.yaml:1:113: handlers.charge.linger: `-1s` is not a duration; write a time that is not negative",
    ),
    (
        "handlers: { charge: { concurrency: many, lanes: 5.5, waiting: -1, batch: 99999999999999999999999 } }
",
        "the configuration has 4 problems
  app.yaml:1:36: handlers.charge.concurrency: `many` is not a whole number; write one from 1 to 1000000
  app.yaml:1:49: handlers.charge.lanes: `5.5` is not a whole number; write one from 1 to 256
  app.yaml:1:63: handlers.charge.waiting: `-1` is out of range; write a whole number from 0 to 10000000
  app.yaml:1:74: handlers.charge.batch: `99999999999999999999999` is out of range; write a whole number from 1 to 65536",
    ),
    (
        "handlers: { charge: { enabled: maybe, timeout: 1 month, lease: 10ms, max_late: 0s } }
",
        "the configuration has 4 problems
  app.yaml:1:32: handlers.charge.enabled: `maybe` is neither true nor false; write `true` or `false`
  app.yaml:1:48: handlers.charge.timeout: `1 month` is not a duration; months and years have no fixed length, use days (`d`), or `none`
  app.yaml:1:64: handlers.charge.lease: `10ms` is too short; write at least `1s`
  app.yaml:1:80: handlers.charge.max_late: `0s` is too short; write more than `0s`, or `none`",
    ),
    (
        "handlers:
  charge:
    concurrency:
",
        "app.yaml:3:16: handlers.charge.concurrency: has no value; write one, or remove the key",
    ),
    (
        "handlers: { charge: 5 }
",
        "app.yaml:1:21: handlers.charge: a text where keys are expected; known here: concurrency, waiting, lanes, order, timeout, retry, on_retry, undecodable, unmatched, batch, linger, enabled, max_late, lease, priority, rate, offset, group",
    ),
    (
        "handlers: 7
",
        "app.yaml:1:11: handlers: names are expected here, each with its settings; write for example `handlers: { name: { .. } }`",
    ),
    (
        "kq: { brokers: [] }
",
        "app.yaml:1:16: kq.brokers: is empty; name at least one broker, or remove the key",
    ),
    (
        r#"kq: { brokers: "" }
"#,
        "app.yaml:1:16: kq.brokers: is empty; name at least one broker, or remove the key",
    ),
    (
        "kq: { brokers: [a] }
",
        "app.yaml:1:17: kq.brokers[0]: `a` is not an endpoint; the port is missing, write `host:port`",
    ),
    (
        r#"kq: { brokers: [a:1, a:1, b:99999, "::1:5"] }
"#,
        "the configuration has 3 problems
  app.yaml:1:22: kq.brokers[1]: `a:1` is named twice; remove one of them
  app.yaml:1:27: kq.brokers[2]: `b:99999` is not an endpoint; its port must be a number from 1 to 65535
  app.yaml:1:36: kq.brokers[3]: `::1:5` is not an endpoint; put brackets around an IPv6 address: `[::1]:11300`",
    ),
    (
        "dq: { beanstalks: [{ endpoint: a:1 }, { endpint: b:2 }] }
",
        "app.yaml:1:41: dq.beanstalks[1].endpint: unknown key; did you mean `endpoint`?",
    ),
    (
        "dq: { beanstalks: [a:1, b:1] }
",
        "app.yaml:1:25: dq.beanstalks[1]: with more than one node every task has replicas, and only Redis can tell that one of them has run; add `dq.redis`, or write `dedup: off` under `dq` and expect a task to run once for each replica",
    ),
    (
        "dq: { engine: kafka }
kq: { engine: beanstalkd }
",
        "the configuration has 2 problems
  app.yaml:1:15: dq.engine: `kafka` keeps no tasks; write `sqlite`, `beanstalkd` or `memory`
  app.yaml:2:15: kq.engine: `beanstalkd` keeps no topics; write `sqlite`, `kafka` or `memory`",
    ),
    (
        "dq: { engine: beanstalkd }
kq: { engine: kafka }
",
        r#"the configuration has 2 problems
  app.yaml:1:15: dq.engine: beanstalkd is chosen, but no server is named; add `beanstalks: [{ endpoint: "10.0.0.1:11300" }]`
  app.yaml:2:15: kq.engine: kafka is chosen, but no server is named; add `brokers: ["10.0.0.5:9092"]`"#,
    ),
    (
        "dq: { beanstalks: [a:1], replicas: 3, write_quorum: 2 }
",
        "the configuration has 2 problems
  app.yaml:1:36: dq.replicas: `3` is more than the number of nodes in `beanstalks` (1); name more nodes, or ask for fewer replicas
  app.yaml:1:53: dq.write_quorum: `2` is more than the number of replicas (1); a quorum is at most the number of replicas",
    ),
    (
        "dq: { redis: { pass: x } }
",
        r#"app.yaml:1:7: dq.redis: the host is missing; add `host: "10.0.0.4:6379"`"#,
    ),
    (
        r#"dq: { redis: { host: "redis://u:p@h:6379" } }
"#,
        "app.yaml:1:22: dq.redis.host: the value is not an endpoint; write `host:port`, and user and password under keys of their own",
    ),
    (
        r#"dq: { redis: { host: "a:1,b:2" } }
"#,
        "app.yaml:1:22: dq.redis.host: names 2 hosts, but one server has one; add `type: cluster` or `type: sentinel`, or name one",
    ),
    (
        "dq: { redis: }
",
        r#"app.yaml:1:7: dq.redis: the host is missing; add `host: "10.0.0.4:6379"`"#,
    ),
    (
        r#"sqlite: { path: "", durability: pwer, quota: 64 }
"#,
        "the configuration has 3 problems
  app.yaml:1:17: sqlite.path: is empty; write a value, or remove the key
  app.yaml:1:33: sqlite.durability: `pwer` is not known here; did you mean `power`?
  app.yaml:1:46: sqlite.quota: `64` is not a size; the unit is missing, write for example `64MiB`",
    ),
    (
        "sqlite: { quota: 64MB2 }
",
        "app.yaml:1:18: sqlite.quota: `64MB2` is not a size; its unit must be B, KB, MB, GB, TB, KiB, MiB, GiB or TiB",
    ),
    (
        r#"tubes: { "a b": {}, c: { wire: gob, mixed_fleet: true } }
"#,
        "the configuration has 2 problems
  app.yaml:1:10: tubes.a b: `a b` is not a name; 1 to 200 letters, digits, `.`, `_` and `-`, not beginning with `-`
  app.yaml:1:32: tubes.c.wire: `gob` is not known here; write `native` or `go-queue`",
    ),
    (
        "tubes: { c: { wire: go-queue } }
",
        "app.yaml:1:21: tubes.c.wire: the wire of the Go library is for beanstalkd, and this tube is on sqlite; name `dq.beanstalks`, or use the native wire",
    ),
    (
        "topics: { orders: { partitions: 0, retention: { age: forever, size: 0 } } }
",
        "the configuration has 3 problems
  app.yaml:1:33: topics.orders.partitions: `0` is out of range; write a whole number from 1 to 10000
  app.yaml:1:54: topics.orders.retention.age: `forever` is not a duration; write for example `30s`, `1m 30s` or `7d`, or `none`
  app.yaml:1:69: topics.orders.retention.size: `0` is not a size; write for example `64MiB` or `1GB`, or `none`",
    ),
    (
        "kq: { brokers: [\"a:1\"], protocol: eager, session: 10ms, commit_interval: 0s, memory: 1KB, replication: 0, connect_timeout: 1h }
dq: { engine: sqlite }
",
        "the configuration has 6 problems
  app.yaml:1:35: kq.protocol: `eager` is not known here; write `cooperative` or `range` or `consumer`
  app.yaml:1:51: kq.session: `10ms` is too short; write at least `1s`
  app.yaml:1:74: kq.commit_interval: `0s` is too short; write at least `10ms`
  app.yaml:1:86: kq.memory: `1KB` is out of range; write a size from `1MiB` to `2GB`
  app.yaml:1:104: kq.replication: `0` is out of range; write a whole number from 1 to 1000
  app.yaml:1:124: kq.connect_timeout: `1h` is too long; write at most `10m`",
    ),
    (
        "kq: { security: { username: u }, properties: { acks: 0, x: [1] } }
",
        "the configuration has 3 problems
  app.yaml:1:19: kq.security.username: is given without `password`; give both or none
  app.yaml:1:48: kq.properties.acks: cannot be set here: a record is accepted when all replicas in sync have it; remove it
  app.yaml:1:60: kq.properties.x: a list where one value is expected",
    ),
    (
        "admin: { listen: 0.0.0.0:9090 }
",
        "app.yaml:1:18: admin.listen: `0.0.0.0:9090` can be reached from other machines; add a `token`, or listen on `127.0.0.1`",
    ),
    (
        "shutdown: { deadline: 2s, drain: 5s }
",
        "app.yaml:1:34: shutdown.drain: 5s is longer than the whole stop may take (2s); shorten it, or give `shutdown.deadline` more",
    ),
    (
        "log: { level: verbose }
",
        "app.yaml:1:15: log.level: `verbose` is not known here; write `off` or `error` or `warn` or `info` or `debug` or `trace`",
    ),
    (
        r#"name: ${NAME}
kq: { group: "a-${B:?say which group}", brokers: ${C }, offset: x }
"#,
        "the configuration has 4 problems
  app.yaml:1:7: name: the variable NAME is not set; set it, or give a default with `${NAME:-..}`
  app.yaml:2:17: kq.group: the variable B is not set; say which group
  app.yaml:2:50: kq.brokers: `${C..}` is written in a form that is not known here; write `${C}`, `${C:-default}` or `${C:?message}`
  app.yaml:2:65: kq.offset: `x` is not known here; write `first` or `last`",
    ),
    (
        r#"name: a${b}
log: { level: "${" }
sqlite: { path: "${1}" }
shutdown: { deadline: "${A:-${B}}", drain: "${A/x}" }
"#,
        "the configuration has 5 problems
  app.yaml:1:8: name: the variable b is not set; set it, or give a default with `${b:-..}`
  app.yaml:2:16: log.level: `${` is not closed; close it with `}`, or write `$${` for a literal `${`
  app.yaml:3:18: sqlite.path: `${..}` needs the name of a variable; write `${NAME}`, or `$${` for a literal `${`
  app.yaml:4:24: shutdown.deadline: expressions do not nest; set one variable from the other outside
  app.yaml:4:45: shutdown.drain: `${A..}` is written in a form that is not known here; write `${A}`, `${A:-default}` or `${A:?message}`",
    ),
    (
        "name: x
---
name: y
",
        "app.yaml:2:1: a second document begins here; a configuration is one document, remove the `---`",
    ),
    (
        "name: *x
",
        "app.yaml:1:7: this alias names no anchor; write the `&name` before the `*name`, or put the text in quotes",
    ),
    (
        "name: &a [*a]
",
        "app.yaml:1:11: this alias contains itself",
    ),
    (
        "name: !secret x
",
        "app.yaml:1:15: tags (`!name`) mean nothing here; put the text in quotes if it begins with `!`",
    ),
    (
        "{a: 1}: b
",
        "app.yaml:1:1: a key must be a text; put `${VAR}` and texts with `{` or `[` in quotes",
    ),
    (
        "name: 'x
",
        "app.yaml:1:7: this quote is not closed; close it, or double a `'` inside of `'..'`",
    ),
    (
        r#"name: "\q"
"#,
        r#"app.yaml:1:7: `\` begins an escape inside of `".."`, and this one is unknown; write `\\`, or use `'..'`"#,
    ),
    (
        "name: my app
log: {level: null}
",
        "the configuration has 2 problems
  app.yaml:1:7: name: `my app` is not a name; a name may hold only letters, digits, `.`, `_` and `-`
  app.yaml:2:14: log.level: has no value; write one, or remove the key",
    ),
    (
        "a: b: c
",
        "app.yaml:1:5: a `:` stands where no key can be; check indentation and brackets, or put a text with `: ` in quotes",
    ),
    (
        "handlers: {<<: 1}
",
        "app.yaml:1:16: `<<` takes a mapping; write `<<: *name`",
    ),
    (
        "handlers: { charge: { rate: 0/s, priority: 4294967296, timeout: [1], offset: newest, on_retry: park } }
",
        "the configuration has 5 problems
  app.yaml:1:29: handlers.charge.rate: `0/s` lets nothing through; write at least one in some time, `enabled: false` to switch the handler off, or `none`
  app.yaml:1:44: handlers.charge.priority: `4294967296` is out of range; write a whole number from 0 to 4294967295
  app.yaml:1:65: handlers.charge.timeout: a list where one value is expected
  app.yaml:1:78: handlers.charge.offset: `newest` is not known here; write `first` or `last`
  app.yaml:1:96: handlers.charge.on_retry: `park` is not known here; write `block` or `dead_letter`",
    ),
    (
        "dq: { write_quorum: 0, replicas: three, deadline: 0s, dedup: on }
",
        "the configuration has 4 problems
  app.yaml:1:21: dq.write_quorum: `0` is out of range; write a whole number from 1 to 64
  app.yaml:1:34: dq.replicas: `three` is not a whole number; write one from 1 to 64
  app.yaml:1:51: dq.deadline: `0s` is too short; write more than `0s`
  app.yaml:1:62: dq.dedup: `on` is not known here; write `off`, or `{ store: .. }`",
    ),
    (
        "kq: { security: { mechanism: md5, tls: maybe, cert_file: a }, producer: { linger: 2h, compression: lzma, timeout: 0s }, conns: 0, create_topics: 2 }
",
        "the configuration has 8 problems
  app.yaml:1:30: kq.security.mechanism: `md5` is not known here; write `plain` or `scram-sha-256` or `scram-sha-512`
  app.yaml:1:40: kq.security.tls: `maybe` is neither true nor false; write `true` or `false`
  app.yaml:1:47: kq.security.cert_file: is given without `key_file`; give both or none
  app.yaml:1:83: kq.producer.linger: `2h` is too long; write at most `1m`
  app.yaml:1:100: kq.producer.compression: `lzma` is not known here; write `none` or `lz4` or `zstd` or `snappy` or `gzip`
  app.yaml:1:115: kq.producer.timeout: `0s` is too short; write at least `100ms`
  app.yaml:1:128: kq.conns: `0` is out of range; write a whole number from 1 to 256
  app.yaml:1:146: kq.create_topics: `2` is neither true nor false; write `true` or `false`",
    ),
    (
        r#"name: "a\u0007\nb"
handlers: { "x\ny": 1 }
"#,
        r"the configuration has 2 problems
  app.yaml:1:7: name: `a\u{7}\nb` is not a name; a name may hold only letters, digits, `.`, `_` and `-`
  app.yaml:2:21: handlers.x\ny: a text where keys are expected; known here: concurrency, waiting, lanes, order, timeout, retry, on_retry, undecodable, unmatched, batch, linger, enabled, max_late, lease, priority, rate, offset, group",
    ),
    (
        "kq:
  brokers:
    - a:1
   - b:2
",
        "app.yaml:4:4: the indentation does not fit, or a `:` is missing; keys of one mapping begin in the same column and end in `: `",
    ),
    (
        "kq: { brokers: [a:1]
",
        "app.yaml:1:5: this `{` is not closed; close it",
    ),
    (
        "handlers: { a: { retry: 8 }, a: {} }
",
        "the configuration has 2 problems
  app.yaml:1:25: handlers.a.retry: `8` is not known here; write `none`, or `{ max: 5, backoff: 1s..1m }`
  app.yaml:1:30: handlers.a: given twice, first in line 1; remove one of them",
    ),
    (
        "tubes: { a: {}, a: {} }
",
        "app.yaml:1:17: tubes.a: given twice, first in line 1; remove one of them",
    ),
    (
        "handlers:
  one: &base
    timeout: 5s
    lanes: 0
  two: { <<: *base, lanes: 2 }
",
        "app.yaml:4:12: handlers.one.lanes: `0` is out of range; write a whole number from 1 to 256",
    ),
];
