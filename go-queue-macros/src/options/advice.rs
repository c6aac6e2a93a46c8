//! What to say about options that are not there.

use crate::Side;

/// An option of the other attribute.
pub(super) fn foreign(side: Side, key: &str) -> String {
    match (side, key) {
        (Side::Dq, "topic") => {
            "`topic` belongs to `#[kq_handler]`; a `dq_handler` serves a `tube`".to_owned()
        }
        (Side::Dq, "order") => {
            "tubes keep no order: use a topic, `#[kq_handler(topic = \"..\", order = key)]`"
                .to_owned()
        }
        (Side::Dq, "group") => {
            "`group` belongs to `#[kq_handler]`: all workers of a tube share its tasks".to_owned()
        }
        (Side::Kq, "tube") => {
            "`tube` belongs to `#[dq_handler]`; a `kq_handler` reads a `topic`".to_owned()
        }
        (Side::Kq, "priority") => {
            "`priority` belongs to `#[dq_handler]`: the records of a topic are read in order"
                .to_owned()
        }
        (Side::Kq, "max_late") => {
            "`max_late` belongs to `#[dq_handler]`: the records of a topic have no due time"
                .to_owned()
        }
        (_, key) => {
            let (mine, other) = (side.attribute(), side.other().attribute());
            format!("`{key}` belongs to `#[{other}]`: a `{mine}` has no such option")
        }
    }
}

/// For names that people bring along from elsewhere.
///
/// `number` is the value, where it is a whole number.
pub(super) fn advice(key: &str, side: Side, function: &str, number: Option<u32>) -> Option<String> {
    let source = side.source();
    let or = |usual: u32| number.unwrap_or(usual);
    Some(match key {
        "queue" => format!("unknown option `queue`: did you mean `{source}`?"),
        "retries" | "max_retries" | "retry_max" | "attempts" | "max_attempts" => {
            format!("unknown option `{key}`: write `retry(max = {})`", or(8))
        }
        "backoff" => {
            "`backoff` is a part of `retry`: write `retry(backoff = \"1s..10m\")`".to_owned()
        }
        "workers" | "processors" | "consumers" | "conns" | "parallelism" | "threads" => {
            format!("unknown option `{key}`: write `concurrency = {}`", or(64))
        }
        "ttr" => "unknown option `ttr`: did you mean `lease`?".to_owned(),
        "delay" | "at" if side == Side::Dq => format!(
            "`{key}` is said by whoever sends: `{function}::{key}(payload, {})`",
            if key == "at" { "time" } else { "seconds(5)" }
        ),
        "delay" | "at" => format!(
            "`{key}` belongs to tasks: records are read at once; use a `#[dq_handler]` and `::{key}(..)`"
        ),
        "key" | "id" | "header" | "headers" => {
            let send = if side == Side::Dq { "now" } else { "push" };
            let method = key.trim_end_matches('s');
            format!("`{key}` is said by whoever sends: `{function}::{send}(payload).{method}(..)`")
        }
        "name" => "a handler has the name of its function; `handle = ..` names its type".to_owned(),
        "brokers" | "beanstalks" | "redis" | "engine" | "wire" | "dedup" | "replicas"
        | "partitions" => {
            format!("`{key}` belongs into the configuration, not into the code")
        }
        _ => return None,
    })
}
