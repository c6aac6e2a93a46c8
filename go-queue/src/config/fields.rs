//! Reading mappings: any case of key, unknown and doubled keys, wrong types; every problem is kept and the reading goes on.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::schema::Form;
use super::yaml::{Entry, Mark, Node, Scalar, What};
use super::{At, ConfigError, Given, Remark, Secret};

/// What is collected while a file is read.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) file: Arc<str>,
    pub(super) problems: Vec<ConfigError>,
    pub(super) remarks: Vec<Remark>,
    /// Unknown keys are remarks instead of problems: inside of a section written for the Go library.
    pub(super) lenient: bool,
    /// What each key may hold, if somebody wants to know: for the schema.
    pub(super) outline: Option<BTreeMap<String, Form>>,
    /// Every key that was read, for the test of the reference file.
    #[cfg(test)]
    pub(super) read: std::collections::BTreeSet<String>,
    /// Every key that could have been read.
    #[cfg(test)]
    pub(super) readable: std::collections::BTreeSet<String>,
}

impl Reader {
    pub(super) fn new(file: &str) -> Self {
        Self {
            file: Arc::from(file),
            problems: Vec::new(),
            remarks: Vec::new(),
            lenient: false,
            outline: None,
            #[cfg(test)]
            read: std::collections::BTreeSet::new(),
            #[cfg(test)]
            readable: std::collections::BTreeSet::new(),
        }
    }

    pub(super) fn at(&self, mark: Mark, key: &str) -> At {
        let file = if mark == Mark::NONE {
            Arc::from("command line")
        } else {
            Arc::clone(&self.file)
        };
        At {
            file,
            line: mark.line,
            column: mark.column,
            key: Arc::from(key),
        }
    }

    /// Keeps what a key may hold. The first who knows is right.
    fn outline(&mut self, path: &str, key: &str, form: Form) {
        if let Some(outline) = &mut self.outline {
            let known = outline.entry(join(path, key)).or_insert(Form::Unknown);
            if *known == Form::Unknown {
                *known = form;
            }
        }
    }

    /// Whether something is wrong with this key or a key below it.
    pub(super) fn has_problem_below(&self, key: &str) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.key().starts_with(key))
    }

    pub(super) fn problem(&mut self, at: &At, what: impl Into<String>, remedy: impl Into<String>) {
        let remedy = remedy.into();
        let problem = ConfigError::at(at, what);
        self.problems.push(if remedy.is_empty() {
            problem
        } else {
            problem.remedy(remedy)
        });
    }
}

/// `MinBytes`, `min_bytes` and `min-bytes` are one key.
pub(super) fn same_key(a: &str, b: &str) -> bool {
    normal(a) == normal(b)
}

fn normal(key: &str) -> String {
    key.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// The nearest of the known words, if one is near.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = normal(word);
    known
        .into_iter()
        .map(|known| (strsim::osa_distance(&normal(known), &word), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// "did you mean `x`?" or the list of what is known.
pub(super) fn suggestion(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// A key as it is shown: what a file holds must not be able to break the lines of the report.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(80) {
        if c.is_control() {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    if text.chars().count() > 80 {
        out.push('…');
    }
    out
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        shown(key)
    } else {
        format!("{path}.{}", shown(key))
    }
}

/// Why a text is not a value: a sentence that goes on after the value, and never quotes it.
pub(super) struct Not {
    what: String,
    remedy: String,
    hidden: bool,
}

impl Not {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
            hidden: false,
        }
    }

    /// There is another remedy.
    pub(super) fn or(mut self, remedy: &str) -> Self {
        self.remedy.push_str(", or ");
        self.remedy.push_str(remedy);
        self
    }

    /// The value is not shown: it may hold a password.
    pub(super) fn hidden(self) -> Self {
        Self {
            hidden: true,
            ..self
        }
    }
}

/// A mapping whose keys were checked against those that are known.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    pub(super) path: String,
    pub(super) at: At,
    known: &'static [&'static str],
    entries: Vec<(&'static str, &'n Entry)>,
}

impl<'n> Fields<'n> {
    /// Checks the keys of a mapping. An empty value is an empty mapping; anything else is a problem and reads as empty.
    pub(super) fn open(
        reader: &mut Reader,
        node: &'n Node,
        path: &str,
        known: &'static [&'static str],
    ) -> Self {
        let at = reader.at(node.mark, path);
        for key in known {
            reader.outline(path, key, Form::Unknown);
        }
        #[cfg(test)]
        (reader.readable).extend(known.iter().map(|key| join(path, key)));
        let mut fields = Self {
            path: path.to_owned(),
            at,
            known,
            entries: Vec::new(),
        };
        let entries = match &node.what {
            What::Map(entries) => entries,
            What::Null | What::Broken => return fields,
            What::Scalar(_) | What::List(_) => {
                let found = found(node);
                reader.problem(
                    &fields.at,
                    format!("{found} where keys are expected"),
                    format!("known here: {}", known.join(", ")),
                );
                return fields;
            }
        };
        for entry in entries {
            let at = reader.at(entry.mark, &join(path, &entry.key));
            let Some(name) = known.iter().find(|name| same_key(name, &entry.key)) else {
                let hint = suggestion(&entry.key, known);
                if reader.lenient {
                    let text = format!("unknown key, ignored; {hint}");
                    reader.remarks.push(Remark::warning(Some(&at), text));
                } else {
                    reader.problem(&at, "unknown key", hint);
                }
                continue;
            };
            if let Some((_, first)) = fields.entries.iter().find(|(known, _)| known == name) {
                let line = first.mark.line;
                reader.problem(
                    &at,
                    format!(
                        "given twice, first as `{}` in line {line}",
                        shown(&first.key)
                    ),
                    "remove one of them",
                );
                continue;
            }
            #[cfg(test)]
            reader.read.insert(join(path, name));
            fields.entries.push((name, entry));
        }
        fields
    }

    /// The value of a key, empty ones included.
    pub(super) fn raw(&self, key: &str) -> Option<&'n Node> {
        debug_assert!(
            self.known.contains(&key),
            "`{key}` is read but not known in `{}`",
            self.path
        );
        let (_, entry) = self.entries.iter().find(|(name, _)| *name == key)?;
        Some(&entry.value)
    }

    /// The key as it was written, for its place.
    pub(super) fn key_at(&self, reader: &Reader, key: &str) -> Option<At> {
        let (_, entry) = self.entries.iter().find(|(name, _)| *name == key)?;
        Some(reader.at(entry.mark, &join(&self.path, key)))
    }

    /// A mapping below this one.
    pub(super) fn section(
        &self,
        reader: &mut Reader,
        key: &'static str,
        known: &'static [&'static str],
    ) -> Option<Fields<'n>> {
        reader.outline(&self.path, key, Form::Section);
        let node = self.raw(key)?;
        let mut fields = Fields::open(reader, node, &join(&self.path, key), known);
        if let Some(at) = self.key_at(reader, key) {
            fields.at = at;
        }
        Some(fields)
    }

    /// A text that `read` understands.
    pub(super) fn read<T>(
        &self,
        reader: &mut Reader,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, Not>,
    ) -> Option<Given<T>> {
        reader.outline(&self.path, key, Form::Text);
        let node = self.raw(key)?;
        read_scalar(reader, node, &join(&self.path, key), read)
    }

    /// A text that is never shown. An empty one, as a variable may give it, is none.
    pub(super) fn secret(&self, reader: &mut Reader, key: &'static str) -> Option<Given<Secret>> {
        reader.outline(&self.path, key, Form::Text);
        let node = self.raw(key)?;
        let path = join(&self.path, key);
        let scalar = scalar(reader, node, &path)?;
        if scalar.text.is_empty() {
            return None;
        }
        Some(Given::new(
            Secret::new(&scalar.text),
            reader.at(node.mark, &path),
        ))
    }

    /// A text that is not empty.
    pub(super) fn text(&self, reader: &mut Reader, key: &'static str) -> Option<Given<Arc<str>>> {
        self.read(reader, key, |text| Ok(Arc::from(text)))
    }

    /// Yes or no.
    pub(super) fn flag(&self, reader: &mut Reader, key: &'static str) -> Option<Given<bool>> {
        reader.outline(&self.path, key, Form::Flag);
        self.read(reader, key, |text| match &*text.to_ascii_lowercase() {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(Not::new(
                "is neither true nor false",
                "write `true` or `false`",
            )),
        })
    }

    /// A whole number within a range.
    pub(super) fn number(
        &self,
        reader: &mut Reader,
        key: &'static str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<Given<u32>> {
        reader.outline(&self.path, key, Form::Number(*range.start(), *range.end()));
        self.read(reader, key, |text| {
            let (low, high) = range.into_inner();
            let digits = text.strip_prefix('-').unwrap_or(text);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(Not::new(
                    "is not a whole number",
                    format!("write one from {low} to {high}"),
                ));
            }
            match text.parse::<u32>() {
                Ok(number) if (low..=high).contains(&number) => Ok(number),
                _ => Err(Not::new(
                    "is out of range",
                    format!("write a whole number from {low} to {high}"),
                )),
            }
        })
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(
        &self,
        reader: &mut Reader,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<Given<T>> {
        let all = words.iter().map(|(word, _)| *word).collect();
        reader.outline(&self.path, key, Form::Words(all));
        self.read(reader, key, |text| choice(text, words))
    }

    /// A list of texts; one text with commas is a list too, so that a variable can give one.
    pub(super) fn list<T>(
        &self,
        reader: &mut Reader,
        key: &'static str,
        mut read: impl FnMut(&str) -> Result<T, Not>,
    ) -> Option<Given<Vec<Given<T>>>> {
        reader.outline(&self.path, key, Form::List);
        let node = self.raw(key)?;
        let path = join(&self.path, key);
        let at = reader.at(node.mark, &path);
        let mut out = Vec::new();
        match &node.what {
            What::Broken => return None,
            What::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    out.extend(read_scalar(reader, item, &path, &mut read));
                }
            }
            What::Scalar(scalar) => {
                for part in scalar.text.split(',').map(str::trim) {
                    if !part.is_empty() {
                        out.extend(checked(reader, scalar, part, &at, &mut read));
                    }
                }
            }
            What::Null => {}
            What::Map(_) => {
                reader.problem(&at, "keys where a list is expected", "write `[a, b]`");
                return None;
            }
        }
        Some(Given::new(out, at))
    }
}

/// One of some words, in any case.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, Not> {
    if let Some((_, value)) = words.iter().find(|(word, _)| same_key(word, text)) {
        return Ok(*value);
    }
    let remedy = if let Some(near) = nearest(text, words.iter().map(|(word, _)| *word)) {
        format!("did you mean `{near}`?")
    } else {
        let all: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        format!("write {}", all.join(" or "))
    };
    Err(Not::new("is not known here", remedy))
}

fn found(node: &Node) -> &'static str {
    match &node.what {
        What::Null | What::Broken => "nothing",
        What::Scalar(_) => "a text",
        What::List(_) => "a list",
        What::Map(_) => "keys",
    }
}

fn scalar<'n>(reader: &mut Reader, node: &'n Node, path: &str) -> Option<&'n Scalar> {
    let at = || reader.at(node.mark, path);
    match &node.what {
        What::Scalar(scalar) => Some(scalar),
        What::Broken => None,
        What::Null => {
            let at = at();
            reader.problem(&at, "has no value", "write one, or remove the key");
            None
        }
        What::List(_) | What::Map(_) => {
            let at = at();
            let found = found(node);
            reader.problem(&at, format!("{found} where one value is expected"), "");
            None
        }
    }
}

/// Reads one value.
pub(super) fn read_scalar<T>(
    reader: &mut Reader,
    node: &Node,
    path: &str,
    read: impl FnOnce(&str) -> Result<T, Not>,
) -> Option<Given<T>> {
    let scalar = scalar(reader, node, path)?;
    let at = reader.at(node.mark, path);
    checked(reader, scalar, scalar.text.trim(), &at, read)
}

fn checked<T>(
    reader: &mut Reader,
    scalar: &Scalar,
    text: &str,
    at: &At,
    read: impl FnOnce(&str) -> Result<T, Not>,
) -> Option<Given<T>> {
    let variables = scalar.variables.join("}`, `${");
    let result = if text.is_empty() {
        Err(Not::new("", "write a value, or remove the key"))
    } else {
        read(text)
    };
    match result {
        Ok(value) => Some(Given::new(value, at.clone())),
        Err(not) => {
            let what = match (text.is_empty(), variables.is_empty()) {
                (true, true) => "is empty".to_owned(),
                (true, false) => format!("is empty, it comes from `${{{variables}}}`"),
                (false, true) if not.hidden => format!("the value {}", not.what),
                (false, true) => format!("`{}` {}", shown(text), not.what),
                // What came from the environment may be a secret that was put into the wrong place.
                (false, false) => format!("the value from `${{{variables}}}` {}", not.what),
            };
            let remedy = if variables.is_empty() || !not.remedy.starts_with("did you mean") {
                not.remedy
            } else {
                String::new()
            };
            reader.problem(at, what, remedy);
            None
        }
    }
}

/// Says so if a list of servers that was written is empty.
pub(super) fn not_empty<T>(reader: &mut Reader, list: &Given<Vec<T>>, what: &str) -> bool {
    // A list whose items were all wrong has been reported.
    let reported = reader.problems.iter().any(|problem| {
        problem
            .place()
            .is_some_and(|at| at.key.starts_with(&*list.at.key))
    });
    if list.value.is_empty() && !reported {
        reader.problem(
            &list.at,
            "is empty",
            format!("name at least one {what}, or remove the key"),
        );
    }
    !list.value.is_empty()
}

/// Says so if a server is named twice.
pub(super) fn no_doubles(reader: &mut Reader, list: &Given<Vec<Given<Arc<str>>>>) {
    let mut seen = HashSet::new();
    for item in &list.value {
        if !seen.insert(&item.value) {
            reader.problem(
                &item.at,
                format!("`{}` is named twice", item.value),
                "remove one of them",
            );
        }
    }
}
