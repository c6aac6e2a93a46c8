//! Habits: where state lives, what names may not be, and that no path of a machine is written down.

use crate::source::Crate;

/// Statics with state that are allowed: file, name, why.
const STATICS: &[(&str, &str, &str)] = &[];

/// Types that make a static a place for state.
const STATE: &[&str] = &[
    "Cell",
    "LazyCell",
    "LazyLock",
    "Mutex",
    "Notify",
    "OnceCell",
    "OnceLock",
    "RefCell",
    "RwLock",
    "UnsafeCell",
    "mut",
    "thread_local",
];

/// Words that say nothing about a thing.
const EMPTY_WORDS: &[&str] = &[
    "base", "common", "helper", "helpers", "impl", "manager", "misc", "util", "utils",
];

/// Folders that exist on one machine only. Written in two parts, so that this file is not found by a search for them.
const MACHINE: &[(&str, &str)] = &[
    ("/", "tmp"),
    ("/", "home/"),
    ("/", "root/"),
    ("/", "work/"),
    ("/", "Users/"),
];

/// Statics with state: two apps in one process would share it, and a test cannot start anew.
pub(crate) fn statics_with_state(sources: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for file in &sources.files {
        for (line, name, kind) in &file.statics {
            let state = kind
                .iter()
                .find(|word| STATE.contains(&word.as_str()) || word.starts_with("Atomic"));
            let allowed = STATICS
                .iter()
                .any(|(path, allowed, _)| file.path.ends_with(path) && allowed == name);
            if let Some(state) = state
                && !allowed
            {
                found.push(format!(
                    "{}: `{name}` is a static with state ({state}): two apps in one process would share it; make it a field",
                    file.at(*line)
                ));
            }
        }
    }
    found
}

/// Types, modules and files whose names say nothing.
pub(crate) fn empty_names(sources: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for file in &sources.files {
        let own = file.module.last().map(|name| (1, name.clone()));
        for (line, name) in file.names.iter().cloned().chain(own) {
            if let Some(word) = words(&name)
                .into_iter()
                .find(|word| EMPTY_WORDS.contains(&word.as_str()))
            {
                found.push(format!(
                    "{}: `{name}`: `{word}` says nothing; name what it is",
                    file.at(line)
                ));
            }
        }
    }
    found
}

/// `QueueManager` and `queue_manager` are both `queue`, `manager`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_uppercase() {
            words.push(String::new());
        }
        if c != '_' {
            words
                .last_mut()
                .expect("begins with one")
                .extend(c.to_lowercase());
        }
    }
    words
}

/// Paths that exist on one machine only, comments included.
pub(crate) fn machine_paths(sources: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for file in &sources.files {
        for (number, line) in file.text.lines().enumerate() {
            for (slash, rest) in MACHINE {
                let path = format!("{slash}{rest}");
                let starts_a_path = line.match_indices(&path).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.')
                });
                if starts_a_path {
                    found.push(format!(
                        "{}: `{path}` is a place on somebody's machine",
                        file.at(number + 1)
                    ));
                }
            }
        }
    }
    found
}
