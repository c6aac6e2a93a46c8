//! The layers of the library, and who may know whom.

use std::fmt;

use crate::source::Crate;

/// The table. A module is in the layer of the longest path that is named here.
///
/// `engine/x` and `dedup/x` are implementations (L2), whatever x is: a new engine needs no line. A file of the contract
/// that is split off from `engine/mod.rs` does need one.
const LAYERS: &[(&str, u8)] = &[
    // L0, words
    ("delivery", 0),
    ("message", 0),
    ("name", 0),
    ("outcome", 0),
    ("secret", 0),
    ("time", 0),
    // L1, contracts
    ("dedup", 1),
    ("dedup/marks", 1),
    ("engine", 1),
    ("engine/dead", 1),
    ("engine/error", 1),
    ("engine/reserved", 1),
    ("engine/tasks", 1),
    ("handler", 1),
    ("middleware", 1),
    ("private", 1),
    // L3, the way of a message
    ("pipeline", 3),
    // L4, the application
    ("app", 4),
    ("config", 4),
    ("producer", 4),
    // L5, edges
    ("admin", 5),
    ("cli", 5),
    ("guide", 5),
    ("testing", 5),
];

/// The one place that names concrete engines and dedup stores.
const WIRING: &str = "app/wiring";

/// Exceptions: from, to, why. A line here is a decision.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "testing",
    "engine/memory",
    "the suite's reference subject, and tests of handlers, run on the memory engine",
)];

/// A folder or file of the top level, or one engine or store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    name: String,
    layer: u8,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{} ({})", self.layer, self.name)
    }
}

/// Which part a module belongs to; `None` is the root.
fn part(module: &[String]) -> Option<Result<Part, String>> {
    let first = module.first()?;
    if let Some((_, layer)) = LAYERS.iter().find(|(name, _)| *name == module.join("/")) {
        return Some(Ok(Part {
            name: module.join("/"),
            layer: *layer,
        }));
    }
    if (first == "engine" || first == "dedup")
        && let Some(second) = module.get(1)
    {
        return Some(Ok(Part {
            name: format!("{first}/{second}"),
            layer: 2,
        }));
    }
    let found = LAYERS.iter().find(|(name, _)| name == first);
    Some(found.map_or_else(
        || Err(first.clone()),
        |(name, layer)| {
            Ok(Part {
                name: (*name).to_owned(),
                layer: *layer,
            })
        },
    ))
}

/// Why `from`, a file of `module`, may not use `to`.
fn refusal(module: &str, from: &Part, to: &Part) -> Option<&'static str> {
    if from.name == to.name
        || EXCEPTIONS
            .iter()
            .any(|(a, b, _)| *a == from.name && *b == to.name)
    {
        None
    } else if to.name == "private" {
        Some("only generated code uses `private`")
    } else if from.layer == 2 && to.layer == 2 {
        Some("an engine or store does not know another L2; move what they share to L0 or L1")
    } else if to.layer > from.layer {
        Some("imports go downwards; pass a value or a trait object down instead")
    } else if from.layer == 3 && to.layer == 2 {
        Some("the pipeline knows contracts only, not who implements them")
    } else if from.layer >= 4
        && to.layer == 2
        && !(module == WIRING || module.starts_with("app/wiring/"))
    {
        Some("only app/wiring.rs names concrete engines and stores")
    } else {
        None
    }
}

/// Every line that breaks a layer, as `file:line: what`.
pub(crate) fn violations(sources: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for file in &sources.files {
        let from = match part(&file.module) {
            // The root lists and re-exports; it has no logic to hold.
            None => continue,
            Some(Ok(part)) => part,
            Some(Err(name)) => {
                found.push(format!(
                    "{}: `{name}` is in no layer; give it one in LAYERS",
                    file.at(1)
                ));
                continue;
            }
        };
        for used in &file.paths {
            if used.segments.is_empty() {
                continue;
            }
            let target = sources.module_of(&used.segments);
            // A file that is not read yet still has a place: `crate::app::App` is L4 without app/mod.rs.
            let to = match part(if target.is_empty() {
                &used.segments[..1]
            } else {
                target
            }) {
                Some(Ok(part)) => part,
                _ if used.called_macro => continue,
                _ => {
                    found.push(format!(
                        "{}: `crate::{}` goes through the root, which hides the layer; name its module",
                        file.at(used.line),
                        used.segments.join("::")
                    ));
                    continue;
                }
            };
            if let Some(why) = refusal(&file.module.join("/"), &from, &to) {
                found.push(format!(
                    "{}: {from} uses {to} by `crate::{}`: {why}",
                    file.at(used.line),
                    used.segments.join("::")
                ));
            }
        }
    }
    found
}
