//! What the README and the pages of the guide say is held to what is there. Their Rust examples are doc-tests of the library.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use go_queue::config::Config;

/// The root of the workspace.
fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The README and every page: path from the root, and text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![PathBuf::from("README.md")];
    let found = fs::read_dir(root().join("docs")).expect("there is a folder docs");
    for entry in found {
        let name = PathBuf::from("docs").join(entry.expect("it can be read").file_name());
        if name.extension().is_some_and(|ending| ending == "md") {
            paths.push(name);
        }
    }
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(root().join(&path)).expect("a page is text");
            (path, text)
        })
        .collect()
}

/// The fenced blocks of one language: line of the fence, and text without its indentation.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, bool, usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let bare = line.trim_start();
        match (&mut open, bare.strip_prefix("```")) {
            (None, Some(info)) => {
                let wanted = info.split(',').next() == Some(language);
                open = Some((number + 1, wanted, line.len() - bare.len(), String::new()));
            }
            (Some(_), Some(_)) => {
                if let Some((at, true, _, block)) = open.take() {
                    found.push((at, block));
                }
            }
            (Some((_, _, indent, block)), None) => {
                block.push_str(line.get(*indent..).unwrap_or_default());
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// All sources below a folder, as one text.
fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push_str(&fs::read_to_string(&path).expect("a source is text"));
        }
    }
}

#[test]
fn every_configuration_that_is_shown_is_accepted() {
    let mut count = 0;
    for (path, text) in pages() {
        // The page of all keys shows fragments and mistakes; the reference file beside it is tested whole.
        if path.ends_with("configuration.md") {
            continue;
        }
        for (line, block) in blocks(&text, "yaml") {
            count += 1;
            if let Err(errors) = Config::from_yaml(&block, "shown", &|_| Some("1".to_owned())) {
                panic!("{}:{line}: {errors}", path.display());
            }
        }
    }
    assert!(count >= 2, "only {count} blocks were found");
}

#[test]
fn every_test_that_is_named_exists() {
    let mut all = String::new();
    for folder in ["go-queue/src", "go-queue-macros/src", "tests"] {
        sources(&root().join(folder), &mut all);
    }
    let mut count = 0;
    for (path, text) in pages() {
        // Names of tests are sentences: in backticks, at least three words.
        let named: BTreeSet<&str> = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| word.split('_').filter(|part| !part.is_empty()).count() >= 3)
            .filter(|word| {
                word.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            })
            .collect();
        for name in named {
            count += 1;
            assert!(
                all.contains(&format!("fn {name}(")),
                "{}: there is no test `{name}`",
                path.display()
            );
        }
    }
    assert!(count >= 20, "only {count} names were found");
}

#[test]
fn the_test_on_the_first_page_is_one_that_runs() {
    let page = std::fs::read_to_string(root().join("docs/first-worker.md")).expect("readable");
    let tested = std::fs::read_to_string(root().join("tests/app/first_worker.rs"));
    let tested = tested.expect("readable");
    let (_, code) = tested.split_once("\n\n").expect("a line about it first");
    assert!(
        page.contains(code),
        "the page and tests/app/first_worker.rs differ"
    );
}

#[test]
fn every_file_that_is_linked_exists() {
    let mut count = 0;
    for (path, text) in pages() {
        let inline = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        let defined = text
            .lines()
            .filter(|line| line.starts_with('['))
            .filter_map(|line| line.split_once("]: ").map(|(_, to)| to.trim()));
        for target in inline.chain(defined) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.contains("::") || file.contains(' ')
            {
                continue;
            }
            count += 1;
            let from = root().join(path.parent().unwrap_or(Path::new("")));
            assert!(
                from.join(file).exists(),
                "{}: there is no `{target}`",
                path.display()
            );
        }
    }
    assert!(count >= 5, "only {count} links were found");
}

/// The library puts its own definitions in front of a page; without one in the page itself the link works only there.
#[test]
fn every_reference_is_defined_in_its_own_page() {
    for (path, text) in pages() {
        let references = text
            .split("][")
            .skip(1)
            .filter_map(|rest| rest.split(']').next());
        for name in references {
            assert!(
                text.contains(&format!("\n[{name}]: ")),
                "{}: `[{name}]` is not defined",
                path.display()
            );
        }
    }
}

#[test]
fn every_heading_that_is_linked_exists() {
    for (path, text) in pages() {
        let anchors: BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .map(|heading| anchor(heading.trim_start_matches('#').trim()))
            .collect();
        for target in text
            .split("](#")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            assert!(
                anchors.contains(target),
                "{}: there is no heading `#{target}`",
                path.display()
            );
        }
    }
}

/// As GitHub makes it from a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}
