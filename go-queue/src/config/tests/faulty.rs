//! Faulty files and exactly what the user reads.
use super::load;
#[test]
fn print_all() {
    for text in [
        "handlers:\n  charge:\n    concurency: 4\n    retry: { maxx: 3 }\nkq: { broker: [a:1] }\nzzz: 1\n",
        "name: a\n  b: c\n",
        "dq:\n\tengine: sqlite\n",
        "kq: { brokers: [a:1\nname: x\n",
        "kq: [1, 2]\n",
        "name: [a]\n",
        "- a\n- b\n",
        "just text\n",
        "name: a\nName: b\n",
        "name: a\nname: b\n",
        "handlers: { charge: { concurrency: 0, timeout: 90, rate: 200, order: keyy, retry: { backoff: 10m..1s }, linger: -1s } }\n",
        "handlers: { charge: { concurrency: many, lanes: 5.5, waiting: -1, batch: 99999999999999999999999 } }\n",
        "handlers: { charge: { enabled: maybe, timeout: 1 month, lease: 10ms, max_late: 0s } }\n",
        "handlers:\n  charge:\n    concurrency:\n",
        "handlers: { charge: 5 }\n",
        "handlers: 7\n",
        "kq: { brokers: [] }\n",
        "kq: { brokers: \"\" }\n",
        "kq: { brokers: [a] }\n",
        "kq: { brokers: [a:1, a:1, b:99999, \"::1:5\"] }\n",
        "dq: { beanstalks: [{ endpoint: a:1 }, { endpint: b:2 }] }\n",
        "dq: { beanstalks: [a:1, b:1] }\n",
        "dq: { engine: kafka }\nkq: { engine: beanstalkd }\n",
        "dq: { engine: beanstalkd }\nkq: { engine: kafka }\n",
        "dq: { beanstalks: [a:1], replicas: 3, write_quorum: 2 }\n",
        "dq: { redis: { pass: x } }\n",
        "dq: { redis: { host: \"redis://u:p@h:6379\" } }\n",
        "dq: { redis: { host: \"a:1,b:2\" } }\n",
        "dq: { redis: }\n",
        "sqlite: { path: \"\", durability: pwer, quota: 64 }\n",
        "sqlite: { quota: 64MB2 }\n",
        "tubes: { \"a b\": {}, c: { wire: gob, mixed_fleet: true } }\n",
        "tubes: { c: { wire: go-queue } }\n",
        "topics: { orders: { partitions: 0, retention: { age: forever, size: 0 } } }\n",
        "kq: { security: { username: u }, properties: { acks: 0, x: [1] } }\n",
        "admin: { listen: 0.0.0.0:9090 }\n",
        "shutdown: { deadline: 2s, drain: 5s }\n",
        "log: { level: verbose }\n",
        "name: ${NAME}\nkq: { group: \"a-${B:?say which group}\", brokers: ${C }, offset: x }\n",
        "name: a${b}\nlog: { level: \"${\" }\nsqlite: { path: \"${1}\" }\nshutdown: { deadline: \"${A:-${B}}\", drain: \"${A/x}\" }\n",
        "name: x\n---\nname: y\n",
        "name: *x\n",
        "name: &a [*a]\n",
        "name: !secret x\n",
        "{a: 1}: b\n",
        "name: 'x\n",
        "name: \"\\q\"\n",
        "name: my app\nlog: {level: null}\n",
        "a: b: c\n",
        "handlers: {<<: 1}\n",
    ] {
        println!(
            "-----\n{text}=====\n{}",
            load(text)
                .map(|c| format!("OK {c:?}"))
                .unwrap_or_else(|e| e)
        );
    }
}
