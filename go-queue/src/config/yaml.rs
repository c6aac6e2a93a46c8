//! Text to a tree of nodes that know where they stand. The only file that names the YAML crate.
//!
//! The tree keeps scalars as they were written: `pass: 0123` is the text `0123`, and whoever reads a key decides what it
//! must be. One document, one mapping at the top; anchors, aliases and merge keys (`<<`) work, within a bound.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, options};

/// More than any configuration needs, and few enough that aliases of aliases cannot fill the memory.
const MAX_NODES: usize = 100_000;
/// Collections inside of collections. Also bounds the recursion here and of whoever walks the tree.
const MAX_DEPTH: usize = 32;

/// Line and column from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Mark {
    /// Nowhere in a file: given on the command line.
    pub(super) const NONE: Self = Self { line: 0, column: 0 };

    fn of(span: Span) -> Self {
        Self {
            line: u32::try_from(span.start.line()).unwrap_or(u32::MAX),
            column: u32::try_from(span.start.col() + 1).unwrap_or(u32::MAX),
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) what: What,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// Nothing, `~` or `null`, not quoted.
    Null,
    /// Reported already: whoever reads it says nothing more.
    Broken,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A text, exactly as written but for YAML's own escapes.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Bytes of the source, to point into it.
    pub(super) source: Option<std::ops::Range<usize>>,
    /// The names of the variables that were put in; such a text is never shown.
    pub(super) variables: Vec<String>,
}

/// One key of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) mark: Mark,
    pub(super) value: Node,
}

/// Why a text is not a tree.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) mark: Mark,
    pub(super) what: String,
    pub(super) remedy: Option<&'static str>,
}

/// Reads one document. `None`: there is nothing in it.
pub(super) fn parse(text: &str) -> Result<Option<Node>, SyntaxError> {
    let options = options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut tree = Tree {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        nodes: 0,
        depth: 0,
    };
    let mut root = None;
    loop {
        let (event, span) = tree.next()?;
        match event {
            Event::StreamEnd => return Ok(root),
            Event::DocumentStart(..) if root.is_some() => {
                return Err(fail(
                    Mark::of(span),
                    "a second document begins here",
                    Some("a configuration is one document, remove the `---`"),
                ));
            }
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            node => root = Some(tree.node(node, span)?),
        }
    }
}

fn fail(mark: Mark, what: impl Into<String>, remedy: Option<&'static str>) -> SyntaxError {
    SyntaxError {
        mark,
        what: what.into(),
        remedy,
    }
}

struct Tree<'t> {
    events: Parser<'t, granit_parser::StrInput<'t>>,
    /// `None`: it is being read, so an alias to it would contain itself.
    anchors: HashMap<usize, Option<Node>>,
    nodes: usize,
    depth: usize,
}

impl<'t> Tree<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), SyntaxError> {
        match self.events.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, SyntaxError> {
        let mark = Mark::of(span);
        self.count(1, mark)?;
        if let Some(tag) = event.tag()
            && !tag.is_yaml_core_schema()
        {
            return Err(fail(
                mark,
                "tags (`!name`) mean nothing here",
                Some("put the text in quotes if it begins with `!`"),
            ));
        }
        let anchor = event.anchor_id();
        if let Some(id) = anchor {
            self.anchors.insert(id, None);
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(fail(mark, "nested too deep", None));
        }
        let what = match event {
            Event::Scalar(text, style, ..) => {
                if style == ScalarStyle::Plain
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL")
                {
                    What::Null
                } else {
                    What::Scalar(Scalar {
                        text: text.into_owned(),
                        source: span.byte_range(),
                        variables: Vec::new(),
                    })
                }
            }
            Event::SequenceStart(..) => What::List(self.list()?),
            Event::MappingStart(..) => What::Map(self.map()?),
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(Some(node)) => {
                    let node = node.clone();
                    self.count(size(&node), mark)?;
                    self.depth -= 1;
                    return Ok(node);
                }
                _ => return Err(fail(mark, "this alias contains itself", None)),
            },
            _ => return Err(fail(mark, "a value is expected here", None)),
        };
        self.depth -= 1;
        let node = Node { mark, what };
        if let Some(id) = anchor {
            self.anchors.insert(id, Some(node.clone()));
        }
        Ok(node)
    }

    fn count(&mut self, more: usize, mark: Mark) -> Result<(), SyntaxError> {
        self.nodes += more;
        if self.nodes > MAX_NODES {
            return Err(fail(
                mark,
                "too many values",
                Some("aliases count as what they stand for"),
            ));
        }
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<Node>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            items.push(self.node(event, span)?);
        }
    }

    fn map(&mut self) -> Result<Vec<Entry>, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span)?;
            let key_mark = key.mark;
            let key = match key.what {
                What::Scalar(scalar) => scalar.text,
                What::Null | What::Broken => "null".to_owned(),
                What::List(_) | What::Map(_) => {
                    return Err(fail(
                        key_mark,
                        "a key must be a text",
                        Some("put `${VAR}` and texts with `{` or `[` in quotes"),
                    ));
                }
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            if key == "<<" {
                merged.extend(merge(value)?);
            } else {
                entries.push(Entry {
                    key,
                    mark: key_mark,
                    value,
                });
            }
        }
        // What is written wins over what is merged, and the first merged over the next.
        for entry in merged {
            if !entries.iter().any(|own| own.key == entry.key) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

fn merge(value: Node) -> Result<Vec<Entry>, SyntaxError> {
    let wrong = |mark| fail(mark, "`<<` takes a mapping", Some("write `<<: *name`"));
    match value.what {
        What::Map(entries) => Ok(entries),
        What::List(items) => {
            let mut all = Vec::new();
            for item in items {
                match item.what {
                    What::Map(entries) => all.extend(entries),
                    _ => return Err(wrong(item.mark)),
                }
            }
            Ok(all)
        }
        _ => Err(wrong(value.mark)),
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.what {
        What::Null | What::Broken | What::Scalar(_) => 0,
        What::List(items) => items.iter().map(size).sum(),
        What::Map(entries) => entries.iter().map(|entry| 1 + size(&entry.value)).sum(),
    }
}

/// The crate's words for common mistakes are those of a parser; these are for people. None of them quotes the source.
fn syntax(error: &ScanError) -> SyntaxError {
    let mark = Mark {
        line: u32::try_from(error.marker().line()).unwrap_or(u32::MAX),
        column: u32::try_from(error.marker().col() + 1).unwrap_or(u32::MAX),
    };
    let (what, remedy) = match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation => (
            "a tab stands where YAML takes only spaces".to_owned(),
            Some("indent with spaces"),
        ),
        ErrorKind::UnexpectedEofFlowSequence | ErrorKind::ExpectedFlowSequenceSeparator => (
            "this list in `[ ]` is not closed, or a `,` is missing".to_owned(),
            Some("close it with `]`"),
        ),
        ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofImplicitFlowMapping
        | ErrorKind::ExpectedFlowMappingSeparator => (
            "this mapping in `{ }` is not closed, or a `,` is missing".to_owned(),
            Some("close it with `}`"),
        ),
        ErrorKind::UnclosedQuotedScalar | ErrorKind::DocumentIndicatorInQuotedScalar => (
            "this quote is not closed".to_owned(),
            Some("close it, or double a `'` inside of `'..'`"),
        ),
        ErrorKind::UnknownAnchor => (
            "this alias names no anchor".to_owned(),
            Some("write the `&name` before the `*name`, or put the text in quotes"),
        ),
        ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::InvalidIndentation
        | ErrorKind::SimpleKeyExpected
        | ErrorKind::InvalidSimpleKey => (
            "the indentation does not fit, or a `:` is missing".to_owned(),
            Some("keys of one mapping begin in the same column and end in `: `"),
        ),
        ErrorKind::MappingValueNotAllowed
        | ErrorKind::MappingKeyNotAllowed
        | ErrorKind::InvalidColonPlacement => (
            "a `:` stands where no key can be".to_owned(),
            Some("check indentation and brackets, or put a text with `: ` in quotes"),
        ),
        ErrorKind::UnclosedFlowCollection { open } => {
            (format!("this `{open}` is not closed"), Some("close it"))
        }
        ErrorKind::UnknownQuotedScalarEscape => (
            "`\\` begins an escape inside of `\"..\"`, and this one is unknown".to_owned(),
            Some("write `\\\\`, or use `'..'`"),
        ),
        kind => (format!("this is not YAML: {kind}"), None),
    };
    SyntaxError { mark, what, remedy }
}
