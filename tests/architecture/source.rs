//! Reads the sources of a crate: which paths into the crate each file names, and its items. Tokens, not text, so that
//! comments and strings do not count; nothing is resolved that the compiler would have to resolve.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The files of one crate.
#[derive(Debug)]
pub(crate) struct Crate {
    pub(crate) files: Vec<SourceFile>,
}

/// One file: its place in the tree of modules, and what it names.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// As it is shown, from the root of the workspace.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// `["handler", "slot"]`; empty for `lib.rs`.
    pub(crate) module: Vec<String>,
    /// What it names of its own crate.
    pub(crate) paths: Vec<PathUse>,
    /// Its structs, enums, traits, types and inline modules.
    pub(crate) names: Vec<(usize, String)>,
    /// Its statics: line, name, and the identifiers of the type.
    pub(crate) statics: Vec<(usize, String, Vec<String>)>,
    /// Modules that are compiled for tests only.
    test_modules: Vec<String>,
}

/// A path into the crate, from its root: `crate::engine::Turn` is `["engine", "Turn"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathUse {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
    /// The path is that of a macro that is called.
    pub(crate) called_macro: bool,
}

impl Crate {
    /// Reads all `.rs` files below `src`, which is relative to `root`.
    pub(crate) fn read(root: &Path, src: &Path) -> Result<Self, String> {
        let mut files = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let full = root.join(src).join(&folder);
            let entries =
                fs::read_dir(&full).map_err(|error| format!("{}: {error}", full.display()))?;
            for entry in entries {
                let entry = entry.map_err(|error| format!("{}: {error}", full.display()))?;
                let below = folder.join(entry.file_name());
                if entry.path().is_dir() {
                    folders.push(below);
                } else if below.extension().is_some_and(|ext| ext == "rs") {
                    let text = fs::read_to_string(entry.path())
                        .map_err(|error| format!("{}: {error}", below.display()))?;
                    files.push(SourceFile::parse(src, &below, &text)?);
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self::of(files))
    }

    /// Of these files, without those that only tests compile.
    pub(crate) fn of(files: impl IntoIterator<Item = SourceFile>) -> Self {
        let mut files: Vec<_> = files.into_iter().collect();
        // Snippets may name a file twice, once with text: the first counts.
        let mut seen = BTreeSet::new();
        files.retain(|file| seen.insert(file.module.clone()));
        let tests: Vec<Vec<String>> = files
            .iter()
            .flat_map(|file| {
                file.test_modules.iter().map(|name| {
                    let mut module = file.module.clone();
                    module.push(name.clone());
                    module
                })
            })
            .collect();
        files.retain(|file| !tests.iter().any(|test| file.module.starts_with(test)));
        Self { files }
    }

    /// The deepest module of this crate that the path goes through, by files.
    pub(crate) fn module_of<'a>(&self, segments: &'a [String]) -> &'a [String] {
        (0..=segments.len())
            .rev()
            .map(|len| &segments[..len])
            .find(|prefix| self.files.iter().any(|file| file.module == *prefix))
            .unwrap_or(&[])
    }
}

impl SourceFile {
    /// Reads one file; `below` is its path below `src`.
    pub(crate) fn parse(src: &Path, below: &Path, text: &str) -> Result<Self, String> {
        let path = src.join(below);
        let tokens: TokenStream = text
            .parse()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let mut module: Vec<String> = below
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        if module
            .last()
            .is_some_and(|last| last == "mod" || last == "lib")
        {
            module.pop();
        }
        let mut file = Self {
            path,
            text: text.to_owned(),
            module: module.clone(),
            paths: Vec::new(),
            names: Vec::new(),
            statics: Vec::new(),
            test_modules: Vec::new(),
        };
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let children = declared_modules(&tokens);
        Walk {
            file: &mut file,
            module,
            children,
            hides_crate: false,
        }
        .tokens(&tokens);
        Ok(file)
    }

    /// As it is shown in an error.
    pub(crate) fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }
}

/// The names of `mod name;` and `mod name { .. }` at the top of a file.
fn declared_modules(tokens: &[TokenTree]) -> BTreeSet<String> {
    tokens
        .windows(2)
        .filter(|pair| is_ident(&pair[0], "mod"))
        .filter_map(|pair| ident(&pair[1]))
        .collect()
}

struct Walk<'a> {
    file: &'a mut SourceFile,
    /// Where we are, inline modules included.
    module: Vec<String>,
    /// The modules that can be named without a prefix here.
    children: BTreeSet<String>,
    /// A module of the crate's own name was imported: that is what the name means from here on.
    hides_crate: bool,
}

/// The name of the crate, which is one of its modules' too.
const CRATE: &str = "go_queue";

impl Walk<'_> {
    fn tokens(&mut self, tokens: &[TokenTree]) {
        let mut at = 0;
        while at < tokens.len() {
            if let Some(after) = attribute_of_tests(&tokens[at..]) {
                at = self.skip_item(tokens, at + after);
                continue;
            }
            let TokenTree::Ident(word) = &tokens[at] else {
                if let TokenTree::Group(group) = &tokens[at] {
                    let inner: Vec<_> = group.stream().into_iter().collect();
                    self.tokens(&inner);
                }
                at += 1;
                continue;
            };
            let line = word.span().start().line;
            at = match word.to_string().as_str() {
                "use" => self.use_item(tokens, at + 1),
                "mod" => self.inline_module(tokens, at),
                "struct" | "enum" | "trait" | "type" | "union" => {
                    if let Some(name) = tokens.get(at + 1).and_then(ident) {
                        self.file.names.push((line, name));
                    }
                    at + 1
                }
                "static" if !follows_quote(tokens, at) => self.static_item(tokens, at),
                "thread_local" => {
                    let kind = vec!["thread_local".to_owned()];
                    self.file
                        .statics
                        .push((line, "thread_local!".to_owned(), kind));
                    at + 3
                }
                _ => self.path(tokens, at),
            };
        }
    }

    /// Behind `use`: the tree up to the semicolon.
    fn use_item(&mut self, tokens: &[TokenTree], from: usize) -> usize {
        let end = tokens[from..]
            .iter()
            .position(|token| is_punct(token, ';'))
            .map_or(tokens.len(), |len| from + len);
        self.use_tree(&tokens[from..end], &[]);
        end + 1
    }

    fn use_tree(&mut self, tokens: &[TokenTree], prefix: &[String]) {
        for one in tokens.split(|token| is_punct(token, ',')) {
            let mut segments = prefix.to_vec();
            let mut line = 0;
            let mut grouped = false;
            for token in one {
                match token {
                    TokenTree::Ident(word) if word == "as" => break,
                    TokenTree::Ident(word) => {
                        line = word.span().start().line;
                        if word != "self" || segments.is_empty() {
                            segments.push(word.to_string());
                        }
                    }
                    TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                        let inner: Vec<_> = group.stream().into_iter().collect();
                        self.use_tree(&inner, &segments);
                        grouped = true;
                    }
                    _ => {}
                }
            }
            if !grouped && line > 0 {
                self.name(&segments, line, false);
                self.hides_crate |=
                    segments.len() > 1 && segments.last().is_some_and(|it| it == CRATE);
            }
        }
    }

    fn inline_module(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let (Some(name), Some(TokenTree::Group(body))) =
            (tokens.get(at + 1).and_then(ident), tokens.get(at + 2))
        else {
            return at + 2;
        };
        self.file
            .names
            .push((tokens[at].span().start().line, name.clone()));
        let inner: Vec<_> = body.stream().into_iter().collect();
        let children = declared_modules(&inner);
        self.module.push(name);
        let outside = std::mem::replace(&mut self.children, children);
        self.tokens(&inner);
        self.children = outside;
        self.module.pop();
        at + 3
    }

    /// `static NAME: Type = ..`. The value is walked as any expression.
    fn static_item(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let mut kind = Vec::new();
        let mut next = at + 1;
        if tokens.get(next).is_some_and(|token| is_ident(token, "mut")) {
            kind.push("mut".to_owned());
            next += 1;
        }
        let Some(name) = tokens.get(next).and_then(ident) else {
            return at + 1;
        };
        let end = tokens[next..]
            .iter()
            .position(|token| is_punct(token, '='))
            .map_or(tokens.len(), |len| next + len);
        collect_idents(&tokens[next + 1..end], &mut kind);
        self.file
            .statics
            .push((tokens[at].span().start().line, name, kind));
        next + 1
    }

    /// A path in code, from its first word.
    fn path(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let mut segments = Vec::new();
        let mut next = at;
        while let Some(word) = tokens.get(next).and_then(ident) {
            segments.push(word);
            next += 1;
            if tokens.len() > next + 1
                && is_punct(&tokens[next], ':')
                && is_punct(&tokens[next + 1], ':')
            {
                next += 2;
            } else {
                break;
            }
        }
        let called_macro = tokens.get(next).is_some_and(|token| is_punct(token, '!'));
        if segments.len() > 1 {
            self.name(&segments, tokens[at].span().start().line, called_macro);
        }
        next.max(at + 1)
    }

    /// Notes a path if it is one into this crate.
    fn name(&mut self, segments: &[String], line: usize, called_macro: bool) {
        let mut rest = segments;
        let mut base = match rest.first().map(String::as_str) {
            Some("crate") => {
                rest = &rest[1..];
                Vec::new()
            }
            Some(CRATE) if !self.hides_crate => {
                rest = &rest[1..];
                Vec::new()
            }
            Some("self") => {
                rest = &rest[1..];
                self.module.clone()
            }
            Some("super") => self.module.clone(),
            Some(child) if self.children.contains(child) => self.module.clone(),
            _ => return,
        };
        while rest.first().is_some_and(|segment| segment == "super") {
            rest = &rest[1..];
            base.pop();
        }
        base.extend(rest.iter().cloned());
        self.file.paths.push(PathUse {
            line,
            segments: base,
            called_macro,
        });
    }

    /// Behind `#[cfg(test)]`: over further attributes and the item.
    fn skip_item(&mut self, tokens: &[TokenTree], mut at: usize) -> usize {
        let mut is_use = false;
        while let Some(token) = tokens.get(at) {
            is_use |= is_ident(token, "use");
            if is_ident(token, "mod")
                && tokens.get(at + 2).is_some_and(|token| is_punct(token, ';'))
                && let Some(name) = tokens.get(at + 1).and_then(ident)
            {
                self.file.test_modules.push(name);
            }
            at += 1;
            let body =
                matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
            if is_punct(token, ';') || (body && !is_use) {
                break;
            }
        }
        at
    }
}

/// Whether an attribute that says `cfg` and `test` begins here; then how many tokens it has.
fn attribute_of_tests(tokens: &[TokenTree]) -> Option<usize> {
    let [hash, TokenTree::Group(group), ..] = tokens else {
        return None;
    };
    if !is_punct(hash, '#') || group.delimiter() != Delimiter::Bracket {
        return None;
    }
    let mut words = Vec::new();
    collect_idents(&group.stream().into_iter().collect::<Vec<_>>(), &mut words);
    let negated = words.iter().any(|word| word == "not");
    (words.first().is_some_and(|word| word == "cfg")
        && words.iter().any(|word| word == "test")
        && !negated)
        .then_some(2)
}

fn collect_idents(tokens: &[TokenTree], into: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Ident(word) => into.push(word.to_string()),
            TokenTree::Group(group) => {
                collect_idents(&group.stream().into_iter().collect::<Vec<_>>(), into);
            }
            _ => {}
        }
    }
}

fn ident(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        _ => None,
    }
}

fn is_ident(token: &TokenTree, text: &str) -> bool {
    matches!(token, TokenTree::Ident(word) if word == text)
}

fn is_punct(token: &TokenTree, c: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == c)
}

/// `'static` is a quote and a word.
fn follows_quote(tokens: &[TokenTree], at: usize) -> bool {
    at > 0 && is_punct(&tokens[at - 1], '\'')
}
