//! The schema for editors and the reader say the same of a file.

use serde_json::{Map, Value};

use super::load;
use crate::config::json_schema;
use crate::config::yaml::{self, Node, What};

const REFERENCE: &str = include_str!("../../../docs/reference.yaml");

/// As an editor sees it: a plain scalar that looks like a number or a switch is one.
fn as_json(node: &Node, source: &str) -> Value {
    match &node.what {
        What::Null | What::Broken => Value::Null,
        What::List(items) => items.iter().map(|item| as_json(item, source)).collect(),
        What::Map(entries) => {
            let pairs = entries
                .iter()
                .map(|entry| (entry.key.clone(), as_json(&entry.value, source)));
            Value::Object(pairs.collect::<Map<_, _>>())
        }
        What::Scalar(scalar) => {
            let line = source
                .lines()
                .nth(node.mark.line as usize - 1)
                .unwrap_or_default();
            let quoted = line.chars().nth(node.mark.column as usize - 1) == Some('"');
            match serde_json::from_str(&scalar.text) {
                Ok(value @ (Value::Number(_) | Value::Bool(_))) if !quoted => value,
                _ => Value::String(scalar.text.clone()),
            }
        }
    }
}

/// What the schema says of a file: nothing, if it is good.
fn refusals(text: &str) -> Vec<String> {
    let schema = serde_json::from_str(&json_schema()).expect("the schema is JSON");
    let validator = jsonschema::draft7::new(&schema).expect("the schema is one");
    let tree = yaml::parse(text)
        .expect("it is YAML")
        .expect("it is not empty");
    let value = as_json(&tree, text);
    let errors = validator.iter_errors(&value);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// As an editor needs it: it knows no variables, and `${..}` without quotes is not YAML.
fn with_quotes(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let end = at + rest[at..].find('}').expect("closed") + 1;
        let quote = if rest[..at].ends_with('"') { "" } else { "\"" };
        out.push_str(&rest[..at]);
        for part in [quote, &rest[at..end], quote] {
            out.push_str(part);
        }
        rest = &rest[end..];
    }
    out + rest
}

#[test]
fn the_schema_is_a_schema() {
    let schema = serde_json::from_str(&json_schema()).expect("the schema is JSON");
    jsonschema::draft7::meta::validate(&schema).expect("it is one");
}

#[test]
fn the_schema_takes_the_reference_file() {
    assert_eq!(refusals(REFERENCE), Vec::<String>::new());
}

#[test]
fn the_schema_takes_what_the_guide_shows() {
    const GUIDE: &str = include_str!("../../../docs/configuration.md");
    let mut examples = 0;
    for part in GUIDE.split("```yaml\n").skip(1) {
        let text = part.split("```").next().unwrap_or_default();
        // A file of the Go library has its keys at the top, in its own spelling.
        if !text.contains("Brokers") {
            let text = &with_quotes(text);
            assert_eq!(refusals(text), Vec::<String>::new(), "{text}");
            examples += 1;
        }
    }
    assert!(examples >= 3);
}

#[test]
fn what_the_reader_refuses_the_schema_refuses() {
    for text in [
        "oops: 1",
        "handlers: { charge: { concurency: 4 } }",
        "handlers: { charge: { concurrency: 0 } }",
        "handlers: { charge: { concurrency: many } }",
        "handlers: { charge: { order: kye } }",
        "handlers: { charge: { enabled: perhaps } }",
        "handlers: { charge: { retry: { maximum: 1 } } }",
        "dq: { engine: rabbit }",
        "dq: { beanstalks: [{ address: \"a:1\" }] }",
        "dq: { dedup: 7 }",
        "kq: { brokers: { a: 1 } }",
        "sqlite: [a]",
        "log: { level: loud }",
        "tubes: { t: { wire: go } }",
        "topics: { t: { retention: { years: 1 } } }",
    ] {
        assert!(load(text).is_err(), "the reader takes {text}");
        assert!(!refusals(text).is_empty(), "the schema takes {text}");
    }
}

#[test]
fn the_schema_takes_variables_where_values_are_expected() {
    let text = "\
handlers: { charge: { concurrency: \"${N}\", enabled: \"${ON:-true}\", order: \"${ORDER}\", timeout: \"${T}\" } }
kq: { brokers: \"${BROKERS}\", producer: { linger: \"${L}\" } }
dq: { beanstalks: \"${NODES}\", dedup: off }
";
    assert_eq!(refusals(text), Vec::<String>::new());
}

#[test]
fn every_key_of_the_schema_has_a_description() {
    fn walk(value: &Value, path: &str, silent: &mut Vec<String>) {
        let inner = value.get("anyOf").and_then(Value::as_array);
        for part in inner.into_iter().flatten().chain([value]) {
            for (key, value) in part
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                let path = format!("{path}.{key}");
                let is_section = value.get("properties").is_some();
                if value.get("description").is_none() && !is_section && key != "endpoint" {
                    silent.push(path.clone());
                }
                walk(value, &path, silent);
                if let Some(named) = value.get("additionalProperties") {
                    walk(named, &path, silent);
                }
            }
        }
    }
    let schema: Value = serde_json::from_str(&json_schema()).expect("JSON");
    let mut silent = Vec::new();
    walk(&schema, "", &mut silent);
    assert_eq!(silent, Vec::<String>::new());
    let handler = &schema["properties"]["handlers"]["additionalProperties"]["properties"];
    assert_eq!(handler["priority"]["default"], 1024, "{handler}");
    assert_eq!(
        handler["concurrency"]["default"],
        Value::Null,
        "tubes and topics differ: {handler}"
    );
}
