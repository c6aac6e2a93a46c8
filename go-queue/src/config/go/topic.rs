//! A section for a topic: `Brokers`, `Group`, `Topic` and what goes with them.

use std::sync::Arc;

use super::{GoSection, note, same_servers};
use crate::config::fields::{Fields, Reader, not_empty};
use crate::config::topics::{OFFSET, SecurityConfig};
use crate::config::units::{endpoint, name};
use crate::config::{Config, Given, HandlerConfig, MAX_CONCURRENCY};
use crate::engine::Start;
use crate::name::Place;

const DEFAULT_PROCESSORS: u32 = 8;

pub(super) fn translate(reader: &mut Reader, config: &mut Config, fields: &Fields<'_>) {
    let brokers = fields.list(reader, "brokers", endpoint);
    if let Some(brokers) = brokers
        && not_empty(reader, &brokers, "broker")
    {
        same_servers(reader, &mut config.kq.brokers, brokers, "cluster");
    }
    let topic = fields.read(reader, "topic", name);
    let group = fields.read(reader, "group", name);
    if fields.raw("group").is_none() {
        reader.problem(&fields.at, "the group is missing", "add `Group: ..`");
    }
    let mut handler = HandlerConfig::silent(Arc::from(&*fields.path), fields.at.clone());
    handler.group = group;

    let offset = fields.choice(reader, "offset", OFFSET);
    if fields.raw("offset").is_none() {
        note(
            reader,
            fields,
            "topic",
            "no `Offset` is given, so a new group begins at the end, as in the Go library; write `Offset: first` to read what is there",
        );
        handler.keep("offset", Some(Given::new((), fields.at.clone())));
        handler.options.offset = Some(Start::Last);
    } else {
        handler.options.offset = handler.keep("offset", offset);
    }
    concurrency(reader, fields, &mut handler);
    security(reader, config, fields);
    let said = [
        (
            "consumers",
            "not needed: one subscription fetches for all handlers",
        ),
        (
            "force_commit",
            "not honoured: a message that failed is retried, then goes to the dead letters, and is never passed over",
        ),
        (
            "commit_in_order",
            "not needed: offsets are always committed in order, at any concurrency",
        ),
    ];
    for (key, text) in said {
        if fields.raw(key).is_some() {
            note(reader, fields, key, text);
        }
    }
    let bytes = 1..=1_000_000_000;
    let min_bytes = fields.number(reader, "min_bytes", bytes.clone());
    let max_bytes = fields.number(reader, "max_bytes", bytes);
    if let Some(topic) = topic {
        config.go_sections.push(GoSection {
            place: Place::Topic(topic.value),
            handler,
            min_bytes,
            max_bytes,
        });
    }
}

fn concurrency(reader: &mut Reader, fields: &Fields<'_>, handler: &mut HandlerConfig) {
    let processors = fields.number(reader, "processors", 1..=MAX_CONCURRENCY);
    let conns = fields.number(reader, "conns", 0..=MAX_CONCURRENCY);
    let many =
        |given: &Option<Given<u32>>, default| given.as_ref().map_or(default, |g| g.value.max(1));
    let product = many(&processors, DEFAULT_PROCESSORS).saturating_mul(many(&conns, 1));
    let product = product.min(MAX_CONCURRENCY);
    let key = if processors.is_some() {
        "processors"
    } else {
        "conns"
    };
    if conns.is_some() {
        note(
            reader,
            fields,
            key,
            format!("concurrency is {product}: `Processors` times `Conns`"),
        );
    } else if processors.is_none() {
        note(
            reader,
            fields,
            "topic",
            format!("no `Processors` are given, so concurrency is {product}, as in the Go library"),
        );
    }
    let at = processors
        .map(|given| given.at)
        .or(conns.map(|given| given.at))
        .unwrap_or_else(|| fields.at.clone());
    handler.options.concurrency = handler.keep("concurrency", Some(Given::new(product, at)));
}

fn security(reader: &mut Reader, config: &mut Config, fields: &Fields<'_>) {
    let username = fields.text(reader, "username");
    let password = fields.secret(reader, "password");
    let ca_file = fields.text(reader, "ca_file");
    if username.is_none() && password.is_none() && ca_file.is_none() {
        return;
    }
    if username.is_some() != password.is_some() {
        let remedy = "give both `Username` and `Password`, or none";
        reader.problem(&fields.at, "user and password belong together", remedy);
    }
    if ca_file.is_some() {
        note(
            reader,
            fields,
            "ca_file",
            "the certificates of the servers are verified with it; the Go library does not verify them",
        );
    }
    if let Some(known) = &config.kq.security {
        let same = known.username.as_ref().map(|g| &g.value) == username.as_ref().map(|g| &g.value)
            && known.password.as_ref().map(|g| &g.value) == password.as_ref().map(|g| &g.value);
        if !same {
            reader.problem(
                &fields.at,
                "another part of the configuration names another user for the same cluster",
                "one process is one user; use `kq.security` alone",
            );
        }
        return;
    }
    config.kq.security = Some(SecurityConfig {
        username,
        password,
        ca_file,
        ..SecurityConfig::default()
    });
}
