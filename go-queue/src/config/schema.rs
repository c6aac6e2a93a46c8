//! The JSON Schema of the configuration, for editors.
//!
//! It is not written by hand: the reference file is read as any other file, the reader keeps what each key may hold, and the comments of
//! the file are the descriptions. So a key that is added to both is in the schema.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::engines::{TASK_ENGINES, TOPIC_ENGINES};
use super::fields::Reader;
use super::{Config, EngineKind};

/// Every key, with its default or an example, and a comment.
const REFERENCE: &str = include_str!("../../docs/reference.yaml");
/// Sections whose keys are names that people choose.
const NAMED: &[&str] = &["tubes", "topics", "handlers"];

/// What a key may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// It is read by hand.
    Unknown,
    /// One value: a text, a duration, a size, a number.
    Text,
    Flag,
    /// A whole number, from the first to the second.
    Number(u32, u32),
    /// One of these words.
    Words(Vec<&'static str>),
    /// Texts, or one text with commas.
    List,
    /// Keys.
    Section,
}

/// What the reference file says of a key.
struct Said {
    comment: String,
    default: Option<String>,
}

/// The JSON Schema (draft 7) of a configuration file, for editors: keys, what they may hold, their defaults, and what they mean. It
/// knows the spelling of the reference file, and sections in the form of the Go library by their shape; the program itself takes keys in
/// any case.
///
/// `check --schema` prints it. An editor finds it by a first line such as `# yaml-language-server: $schema=go-queue.schema.json`.
pub fn json_schema() -> String {
    let mut reader = Reader::new("reference.yaml");
    reader.outline = Some(BTreeMap::new());
    Config::read(&mut reader, None, REFERENCE, &[], &|_| None);
    let mut forms: BTreeMap<String, Form> = BTreeMap::new();
    for (path, form) in reader.outline.unwrap_or_default() {
        let known = forms.entry(general(&path)).or_insert(Form::Unknown);
        if *known == Form::Unknown {
            *known = form;
        }
    }
    let mut schema = section(&forms, &said(), "");
    if let Value::Object(schema) = &mut schema {
        schema.insert(
            "$schema".to_owned(),
            "http://json-schema.org/draft-07/schema#".into(),
        );
        schema.insert(
            "title".to_owned(),
            "Configuration of a go-queue worker".into(),
        );
        schema.insert("additionalProperties".to_owned(), go_section());
    }
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}

/// `handlers.charge.retry` is `handlers.*.retry`.
fn general(path: &str) -> String {
    let mut parts: Vec<&str> = path.split('.').collect();
    if parts.len() > 1 && NAMED.contains(&parts[0]) {
        parts[1] = "*";
    }
    parts.join(".")
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A mapping, or one of these words.
fn section_or(words: &Value, section: &Value) -> Value {
    json!({ "anyOf": [{ "enum": words }, section] })
}

/// A mapping with the keys below this path.
fn section(forms: &BTreeMap<String, Form>, said: &BTreeMap<String, Said>, path: &str) -> Value {
    let prefix = join(path, "");
    let prefix = if path.is_empty() { "" } else { &prefix };
    let mut properties = Map::new();
    for (full, form) in forms {
        let Some(key) = full.strip_prefix(prefix).filter(|key| !key.contains('.')) else {
            continue;
        };
        let mut value = match (full.as_str(), form) {
            ("dq.beanstalks", _) => nodes(),
            // They are read with a sentence of their own for the engines of the other side.
            ("dq.engine" | "tubes.*.engine", _) => scalar(&words(TASK_ENGINES)),
            ("kq.engine" | "topics.*.engine", _) => scalar(&words(TOPIC_ENGINES)),
            (_, Form::Unknown) if path.is_empty() && NAMED.contains(&key) => json!({
                "type": ["object", "null"],
                "additionalProperties": section(forms, said, &join(full, "*")),
            }),
            (_, Form::Unknown) if key == "properties" => json!({
                "type": ["object", "null"],
                "additionalProperties": { "type": ["string", "number", "boolean"] },
            }),
            (_, Form::Section | Form::Unknown) if key == "retry" => {
                section_or(&json!(["none"]), &section(forms, said, full))
            }
            (_, Form::Section | Form::Unknown) if key == "dedup" => {
                section_or(&json!(["off", false, "none"]), &section(forms, said, full))
            }
            (_, Form::Section) => section(forms, said, full),
            (_, form) => scalar(form),
        };
        if let (Value::Object(value), Some(said)) = (&mut value, said.get(full)) {
            if !said.comment.is_empty() {
                value.insert("description".to_owned(), said.comment.clone().into());
            }
            if let Some(default) = &said.default {
                value.insert("default".to_owned(), default_of(form, default));
            }
        }
        if key != "*" {
            properties.insert(key.to_owned(), value);
        }
    }
    json!({ "type": ["object", "null"], "properties": properties, "additionalProperties": false })
}

fn words(engines: &[(&'static str, EngineKind)]) -> Form {
    Form::Words(engines.iter().map(|(word, _)| *word).collect())
}

/// A default in the type of its key.
fn default_of(form: &Form, text: &str) -> Value {
    match form {
        Form::Number(..) => text
            .parse::<u64>()
            .map_or_else(|_| text.into(), Value::from),
        Form::Flag => Value::Bool(text == "true"),
        _ => text.into(),
    }
}

fn scalar(form: &Form) -> Value {
    // Filled in by the program from its environment.
    let variable = json!({ "type": "string", "pattern": "\\$\\{" });
    match form {
        Form::Flag => {
            json!({ "anyOf": [{ "type": "boolean" }, { "enum": ["yes", "no", "on", "off"] }, variable] })
        }
        Form::Number(low, high) => {
            json!({ "anyOf": [{ "type": "integer", "minimum": low, "maximum": high }, variable] })
        }
        Form::Words(words) => json!({ "anyOf": [{ "enum": words }, variable] }),
        Form::List => {
            json!({ "anyOf": [{ "type": "array", "items": { "type": "string" } }, { "type": "string" }] })
        }
        Form::Text | Form::Unknown | Form::Section => {
            json!({ "type": ["string", "number", "boolean"] })
        }
    }
}

/// `dq.beanstalks`: endpoints, as texts or as mappings.
fn nodes() -> Value {
    let node = json!({
        "type": "object",
        "properties": { "endpoint": { "type": "string" } },
        "required": ["endpoint"],
        "additionalProperties": false,
    });
    let items = json!({ "anyOf": [{ "type": "string" }, node] });
    json!({ "anyOf": [{ "type": "array", "items": items }, { "type": "string" }] })
}

/// Any other key at the top is a section in the form of the Go library.
fn go_section() -> Value {
    json!({
        "description": "A section in the form of the Go library",
        "type": "object",
        "anyOf": [{ "required": ["Brokers", "Topic"] }, { "required": ["Beanstalks"] }],
    })
}

/// The comments and the defaults of the reference file, by general path.
fn said() -> BTreeMap<String, Said> {
    let mut all: BTreeMap<String, Said> = BTreeMap::new();
    let mut above: Vec<(usize, &str)> = Vec::new();
    for line in REFERENCE.lines() {
        let (code, comment) = line.split_once(" # ").unwrap_or((line, ""));
        let indent = code.len() - code.trim_start().len();
        let code = code.trim();
        // Items of lists say nothing of a key of their own.
        if code.is_empty() || code.starts_with('#') || code.starts_with("- ") {
            continue;
        }
        let Some((key, value)) = code.split_once(':') else {
            continue;
        };
        above.retain(|(other, _)| *other < indent);
        above.push((indent, key));
        let path: Vec<&str> = above.iter().map(|(_, key)| *key).collect();
        let is_example = comment.starts_with("example");
        let comment = comment
            .strip_prefix("example")
            .unwrap_or(comment)
            .trim_start_matches(['.', ';', ' ']);
        let value = value.trim();
        let depends = value.is_empty() || is_example || comment.contains("the default is");
        let default = (!depends).then(|| value.to_owned());
        all.entry(general(&path.join(".")))
            // Handlers of tubes and of topics have defaults of their own.
            .and_modify(|known| {
                let same = known.default == default;
                known.default = known.default.take().filter(|_| same);
            })
            .or_insert(Said {
                comment: comment.to_owned(),
                default,
            });
    }
    all
}
