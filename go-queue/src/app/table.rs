//! The table of handlers: for people, for programs, for the log.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::config::{Config, EngineKind};
use crate::handler::HandlerDef;
use crate::outcome::ErrorCase;

use super::plan::{AppPlan, EngineKey, SubscriptionPlan, shape_of};

/// For people: one block for each handler.
pub(super) fn render(plan: &AppPlan) -> String {
    let mut out = String::new();
    for subscription in &plan.subscriptions {
        for def in &subscription.handlers {
            let _ = writeln!(
                out,
                "{}  {}  on {}\n    {}  {}",
                def.name,
                source(subscription),
                engine(&plan.config, subscription.engine),
                def.location,
                def.path(),
            );
            let path = def.path();
            let shape = shape_of(def, &path, subscription.claims.is_some());
            for (name, value, origin) in subscription.settings.describe(&shape) {
                let _ = writeln!(out, "    {name:<14} {value:<16} {origin}");
            }
            out.push_str(&errors((def.errors)()));
        }
    }
    for def in &plan.disabled {
        let _ = writeln!(
            out,
            "{}  switched off\n    {}  {}",
            def.name,
            def.location,
            def.path()
        );
    }
    out.truncate(out.trim_end().len());
    out
}

/// For programs: a list of objects.
pub(super) fn json(plan: &AppPlan) -> String {
    let mut all = Vec::new();
    for subscription in &plan.subscriptions {
        for def in &subscription.handlers {
            let path = def.path();
            let shape = shape_of(def, &path, subscription.claims.is_some());
            let options: serde_json::Map<_, _> = subscription
                .settings
                .describe(&shape)
                .into_iter()
                .map(|(name, value, origin)| {
                    (
                        name.to_owned(),
                        serde_json::json!({ "value": value, "origin": origin.to_string() }),
                    )
                })
                .collect();
            let mut object = about(def);
            object["enabled"] = true.into();
            object["place"] = subscription.place.name().as_str().into();
            object["group"] = subscription
                .group
                .as_ref()
                .map(crate::name::Name::as_str)
                .into();
            object["engine"] = engine(&plan.config, subscription.engine).into();
            object["options"] = options.into();
            all.push(object);
        }
    }
    for def in &plan.disabled {
        let mut object = about(def);
        object["enabled"] = false.into();
        all.push(object);
    }
    serde_json::to_string_pretty(&all).unwrap_or_default()
}

/// What the errors of a handler ask for, where their type says it.
fn errors(cases: &[ErrorCase]) -> String {
    let rows = ErrorCase::rows(cases);
    let width = rows.iter().map(|(error, _)| error.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (error, asks) in rows {
        if out.is_empty() {
            out.push_str("    errors\n");
        }
        let _ = writeln!(out, "        {error:<width$}  {asks}");
    }
    out
}

fn about(def: &HandlerDef) -> serde_json::Value {
    serde_json::json!({
        "name": def.name,
        "path": def.path(),
        "kind": def.source.side().to_string(),
        "payload": def.payload,
        "location": def.location.to_string(),
        "package": def.package,
        "errors": ErrorCase::rows((def.errors)())
            .into_iter()
            .map(|(error, asks)| serde_json::json!({ "error": error, "asks": asks.to_string() }))
            .collect::<Vec<_>>(),
    })
}

/// For the log: one line for each subscription.
pub(super) fn log(plan: &AppPlan) {
    for subscription in &plan.subscriptions {
        let settings = &subscription.settings;
        tracing::info!(
            handler = %subscription.about.handler,
            source = %source(subscription),
            engine = %engine(&plan.config, subscription.engine),
            concurrency = settings.concurrency.value,
            "serving"
        );
    }
    for def in &plan.disabled {
        tracing::info!(handler = def.name, "switched off by the configuration");
    }
}

fn source(subscription: &SubscriptionPlan) -> String {
    match &subscription.group {
        Some(group) => format!("{}, group `{group}`", subscription.place),
        None => subscription.place.to_string(),
    }
}

/// An engine with what it stands on: a file, or servers.
pub(super) fn engine(config: &Config, key: EngineKey) -> String {
    match key {
        EngineKey::Kind(EngineKind::Sqlite) => {
            let path = config.sqlite_path();
            // The file need not be there yet.
            let absolute: PathBuf = std::path::absolute(&path).unwrap_or(path);
            format!("sqlite {}", absolute.display())
        }
        EngineKey::Kind(EngineKind::Beanstalkd) => {
            let dq = &config.dq;
            let nodes: Vec<&str> = dq.beanstalks.iter().map(|node| &*node.value).collect();
            let mut text = format!("beanstalkd {}", nodes.join(","));
            if nodes.len() > 1 {
                let _ = write!(
                    text,
                    " ({} replicas, {} to confirm)",
                    dq.replicas(),
                    dq.write_quorum()
                );
            }
            text
        }
        EngineKey::Kind(kind) => kind.to_string(),
        EngineKey::Given(side) => format!("the app's own engine for {side}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Asks;

    #[test]
    fn each_error_stands_beside_what_it_asks_for() {
        let case = |error, asks| ErrorCase { error, asks };
        let cases = [case("Cut", Asks::Retry), case("UnknownCard", Asks::Dead)];
        assert_eq!(
            errors(&cases),
            "    errors\n        Cut          retry\n        UnknownCard  dead letter\n"
        );
        assert_eq!(errors(&[]), "");
    }
}
