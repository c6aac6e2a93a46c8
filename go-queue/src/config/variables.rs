//! `${VAR}`, `${VAR:-default}` and `${VAR:?message}` in values.
//!
//! Values are filled in after the YAML was parsed, so that no variable can change the structure: a value with a newline, a
//! colon or a quote stays one text. Only `${` begins an expression; `$x` and `$$` stay as they are, and `$${` is a literal
//! `${`. What is filled in is not expanded again.

use std::fmt::Write as _;

use super::yaml::{Entry, Mark, Node, What};

/// How a program reads its environment; tests give their own.
pub(super) type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// What is wrong with an expression, and at which byte of the text.
struct Wrong {
    offset: usize,
    what: String,
    remedy: Option<String>,
}

/// A problem with its place.
pub(super) struct Problem {
    pub(super) mark: Mark,
    pub(super) path: String,
    pub(super) what: String,
    pub(super) remedy: Option<String>,
}

/// YAML gives these a meaning; inside of an expression they have none. Each stands for one of a block of characters that
/// nobody uses, so that columns stay as they are.
const SPECIAL: &str = "${}[],:#&*!|>%@` ";
const STAND_IN: u32 = 0xE7A0;

/// A text whose expressions are safe for the parser.
pub(super) struct Shielded {
    pub(super) text: String,
    /// Whether there are stand-ins in it.
    on: bool,
}

/// Makes expressions safe to stand without quotes, also inside of `{ }` and with a `: ` or ` #` in their message. Undone by
/// [`expand`]. Byte offsets change, characters do not.
pub(super) fn shield(text: &str) -> Shielded {
    let in_use = |c: char| (STAND_IN..STAND_IN + 32).contains(&u32::from(c));
    // An escape would put one into the tree behind our back.
    let escaped = |text: &str| {
        ["\\ue7", "\\u0000e7"]
            .iter()
            .any(|escape| text.contains(escape))
    };
    if !text.contains("${") || text.contains(in_use) || escaped(&text.to_ascii_lowercase()) {
        return Shielded {
            text: text.to_owned(),
            on: false,
        };
    }
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(begin) = rest.find("${") {
        let inner = &rest[begin + 2..];
        let end = inner
            .find(['}', '\n', '"'])
            .filter(|end| inner[*end..].starts_with('}'));
        let named = inner.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let (stop, shielded) = match end {
            Some(end) if named => (begin + 2 + end + 1, true),
            _ => (begin + 2, false),
        };
        out.push_str(&rest[..begin]);
        for c in rest[begin..stop].chars() {
            out.push(if shielded { stand_in(c) } else { c });
        }
        rest = &rest[stop..];
    }
    out.push_str(rest);
    Shielded {
        text: out,
        on: true,
    }
}

fn stand_in(c: char) -> char {
    match SPECIAL
        .chars()
        .zip(STAND_IN..)
        .find(|(special, _)| *special == c)
    {
        Some((_, code)) => char::from_u32(code).unwrap_or(c),
        None => c,
    }
}

/// Undoes [`shield`].
fn unshield(text: &str, on: bool) -> String {
    if !on {
        return text.to_owned();
    }
    text.chars()
        .map(|c| {
            u32::from(c)
                .checked_sub(STAND_IN)
                .and_then(|index| SPECIAL.chars().nth(usize::try_from(index).ok()?))
                .unwrap_or(c)
        })
        .collect()
}

/// Fills in all values of the tree that was parsed from `source`.
pub(super) fn expand(
    node: &mut Node,
    source: &Shielded,
    env: Env<'_>,
    problems: &mut Vec<Problem>,
) {
    walk(node, &mut String::new(), source, env, problems);
}

fn walk(
    node: &mut Node,
    path: &mut String,
    source: &Shielded,
    env: Env<'_>,
    problems: &mut Vec<Problem>,
) {
    let mark = node.mark;
    match &mut node.what {
        What::Null | What::Broken => {}
        What::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                let long = path.len();
                let _ = write!(path, "[{index}]");
                walk(item, path, source, env, problems);
                path.truncate(long);
            }
        }
        What::Map(entries) => {
            for Entry { key, value, .. } in entries {
                *key = unshield(key, source.on);
                let long = path.len();
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                walk(value, path, source, env, problems);
                path.truncate(long);
            }
        }
        What::Scalar(scalar) => {
            let written = unshield(&scalar.text, source.on);
            match fill_in(&written, env) {
                Ok((text, variables)) => {
                    scalar.text = text;
                    scalar.variables = variables;
                }
                Err(wrong) => {
                    let nth = written[..wrong.offset].matches("${").count();
                    let in_source = scalar
                        .source
                        .clone()
                        .and_then(|range| source.text.get(range))
                        .map(|slice| unshield(slice, source.on));
                    problems.push(Problem {
                        mark: in_source.map_or(mark, |slice| point(mark, &slice, nth)),
                        path: path.clone(),
                        what: wrong.what,
                        remedy: wrong.remedy,
                    });
                    node.what = What::Broken;
                }
            }
        }
    }
}

/// Where the `nth` expression of a text stands that begins at `mark`.
fn point(mark: Mark, slice: &str, nth: usize) -> Mark {
    let Some((offset, _)) = slice.match_indices("${").nth(nth) else {
        return mark;
    };
    let before = &slice[..offset];
    let long = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    match before.rsplit_once('\n') {
        None => Mark {
            line: mark.line,
            column: mark.column.saturating_add(long(before)),
        },
        Some((lines, last)) => Mark {
            line: mark
                .line
                .saturating_add(u32::try_from(lines.matches('\n').count() + 1).unwrap_or(u32::MAX)),
            column: long(last).saturating_add(1),
        },
    }
}

/// The text with its variables, and their names.
fn fill_in(text: &str, env: Env<'_>) -> Result<(String, Vec<String>), Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut names = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("${") {
        let begin = at + found;
        if text[..begin].ends_with('$') && begin > at {
            out.push_str(&text[at..begin - 1]);
            out.push_str("${");
            at = begin + 2;
            continue;
        }
        out.push_str(&text[at..begin]);
        let inner_at = begin + 2;
        let Some(long) = text[inner_at..].find('}') else {
            return Err(Wrong {
                offset: begin,
                what: "`${` is not closed".to_owned(),
                remedy: Some("close it with `}`, or write `$${` for a literal `${`".to_owned()),
            });
        };
        let inner = &text[inner_at..inner_at + long];
        let (name, value) = one(inner, env).map_err(|(what, remedy)| Wrong {
            offset: begin,
            what,
            remedy,
        })?;
        out.push_str(&value);
        names.push(name);
        at = inner_at + long + 1;
    }
    out.push_str(&text[at..]);
    Ok((out, names))
}

fn one(inner: &str, env: Env<'_>) -> Result<(String, String), (String, Option<String>)> {
    let long = inner
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(inner.len());
    let (name, how) = inner.split_at(long);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err((
            "`${..}` needs the name of a variable".to_owned(),
            Some("write `${NAME}`, or `$${` for a literal `${`".to_owned()),
        ));
    }
    if how.contains("${") {
        return Err((
            "expressions do not nest".to_owned(),
            Some("set one variable from the other outside".to_owned()),
        ));
    }
    let value = env(name);
    let full = value.clone().filter(|value| !value.is_empty());
    let unset = if value.is_some() { "empty" } else { "not set" };
    if how.is_empty() {
        return match value {
            Some(value) => Ok((name.to_owned(), value)),
            None => Err((
                format!("the variable {name} is not set"),
                Some(format!("set it, or give a default with `${{{name}:-..}}`")),
            )),
        };
    }
    if let Some(default) = how.strip_prefix(":-") {
        return Ok((name.to_owned(), full.unwrap_or_else(|| default.to_owned())));
    }
    if let Some(message) = how.strip_prefix(":?") {
        return match full {
            Some(value) => Ok((name.to_owned(), value)),
            None if message.trim().is_empty() => Err((
                format!("the variable {name} is {unset}"),
                Some("set it".to_owned()),
            )),
            None => Err((
                format!("the variable {name} is {unset}"),
                Some(message.trim().to_owned()),
            )),
        };
    }
    Err((
        format!("`${{{name}..}}` is written in a form that is not known here"),
        Some(format!(
            "write `${{{name}}}`, `${{{name}:-default}}` or `${{{name}:?message}}`"
        )),
    ))
}
