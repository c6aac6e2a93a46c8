//! `--set key.path=value`: one value over what the file says.

use super::fields::{Reader, same_key};
use super::handlers::is_suffix;
use super::variables::{Env, expand, shield};
use super::yaml::{Entry, Mark, Node, What, parse};

/// Puts one value into the tree. The value is YAML, so `[a, b]` and `{ max: 3 }` work.
pub(super) fn apply(reader: &mut Reader, root: &mut Node, one: &str, env: Env<'_>) {
    let Some((path, value)) = one.split_once('=') else {
        // The text is not shown: it may be a password that was meant for another option.
        let at = reader.at(Mark::NONE, "--set");
        reader.problem(&at, "there is no `=`", "write `--set key.path=value`");
        return;
    };
    let path = path.trim();
    let at = reader.at(Mark::NONE, path);
    if path.is_empty() || path.split('.').any(str::is_empty) {
        reader.problem(
            &at,
            "this is not a path of keys",
            "write `--set key.path=value`",
        );
        return;
    }
    let text = shield(value);
    let mut node = match parse(&text.text) {
        Ok(node) => node.unwrap_or(Node {
            mark: Mark::NONE,
            what: What::Null,
        }),
        Err(error) => {
            reader.problem(&at, error.what, error.remedy.unwrap_or_default());
            return;
        }
    };
    let mut problems = Vec::new();
    expand(&mut node, &text, env, &mut problems);
    for problem in problems {
        reader.problem(&at, problem.what, problem.remedy.unwrap_or_default());
    }
    unmark(&mut node);
    let mut steps = steps(path);
    if same_key(&steps[0], "handlers")
        && let Some(name) = steps.get_mut(1)
        && let Some(known) = entry_of_handler(root, name)
    {
        *name = known;
    }
    put(root, &steps, node);
}

/// How the file names the handler that is meant by this name: both may be any end of its path, and they are one entry.
fn entry_of_handler(root: &Node, name: &str) -> Option<String> {
    let What::Map(sections) = &root.what else {
        return None;
    };
    let handlers = sections
        .iter()
        .find(|entry| same_key(&entry.key, "handlers"))?;
    let What::Map(entries) = &handlers.value.what else {
        return None;
    };
    if entries.iter().any(|entry| entry.key == name) {
        return None;
    }
    let mut meant = entries
        .iter()
        .filter(|entry| is_suffix(&entry.key, name) || is_suffix(name, &entry.key));
    // Of several it is not known here which; whoever matches handlers says so.
    meant
        .next()
        .filter(|_| meant.next().is_none())
        .map(|entry| entry.key.clone())
}

/// The keys of a path. Names of tubes and topics may hold dots themselves, so under `tubes` and `topics` only the last keys are
/// options, as many as are known.
fn steps(path: &str) -> Vec<String> {
    let parts: Vec<&str> = path.split('.').collect();
    let known: &[&str] = match parts[0] {
        first if same_key(first, "tubes") => super::places::TUBE,
        first if same_key(first, "topics") => super::places::TOPIC,
        first if same_key(first, "handlers") => super::handlers::HANDLER,
        _ => return parts.iter().map(ToString::to_string).collect(),
    };
    let is_option = |part: &&str| known.iter().any(|known| same_key(known, part));
    // `retention.age` and `dedup.keep` are two keys below a name, everything else is one.
    let from = match parts.len() {
        0..=2 => parts.len(),
        3 => 2,
        long if is_option(&parts[long - 2]) => long - 2,
        long if is_option(&parts[long - 1]) => long - 1,
        _ => 2,
    };
    let mut steps = vec![parts[0].to_owned(), parts[1..from].join(".")];
    steps.extend(parts[from..].iter().map(ToString::to_string));
    steps.retain(|step| !step.is_empty());
    steps
}

fn put(node: &mut Node, steps: &[String], value: Node) {
    let Some((step, rest)) = steps.split_first() else {
        *node = value;
        return;
    };
    if !matches!(node.what, What::Map(_)) {
        node.what = What::Map(Vec::new());
        node.mark = Mark::NONE;
    }
    let What::Map(entries) = &mut node.what else {
        return;
    };
    let found = entries
        .iter()
        .position(|entry| entry.key == *step)
        .or_else(|| entries.iter().position(|entry| same_key(&entry.key, step)));
    let index = found.unwrap_or_else(|| {
        entries.push(Entry {
            key: step.clone(),
            mark: Mark::NONE,
            value: Node {
                mark: Mark::NONE,
                what: What::Null,
            },
        });
        entries.len() - 1
    });
    put(&mut entries[index].value, rest, value);
}

fn unmark(node: &mut Node) {
    node.mark = Mark::NONE;
    match &mut node.what {
        What::List(items) => items.iter_mut().for_each(unmark),
        What::Map(entries) => {
            for entry in entries {
                entry.mark = Mark::NONE;
                unmark(&mut entry.value);
            }
        }
        What::Null | What::Broken | What::Scalar(_) => {}
    }
}
