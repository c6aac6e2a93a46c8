//! The form of an attribute: `key`, `key = value`, `key(..)`, with commas between. What they mean is not known here.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use quote::ToTokens;

use crate::problems::Problems;

/// One option as it is written.
pub(crate) struct Entry {
    pub(crate) key: Ident,
    pub(crate) value: Value,
}

/// What follows the key.
pub(crate) enum Value {
    Flag,
    /// The tokens after `=`, at least one.
    Is(TokenStream),
    /// The tokens between parentheses.
    Of(TokenStream),
}

impl Entry {
    pub(crate) fn is_word(&self, word: &str) -> bool {
        let Value::Is(tokens) = &self.value else {
            return false;
        };
        let mut tokens = tokens.clone().into_iter();
        matches!((tokens.next(), tokens.next()), (Some(TokenTree::Ident(one)), None) if one == word)
    }

    pub(crate) fn is_text(&self, text: &str) -> bool {
        let Value::Is(tokens) = &self.value else {
            return false;
        };
        syn::parse2::<syn::LitStr>(tokens.clone()).is_ok_and(|literal| literal.value() == text)
    }

    /// The value, if it is a whole number.
    pub(crate) fn whole_number(&self) -> Option<u32> {
        let Value::Is(tokens) = &self.value else {
            return None;
        };
        let number: syn::LitInt = syn::parse2(tokens.clone()).ok()?;
        number.base10_parse().ok()
    }

    /// Where a complaint about the value points.
    pub(crate) fn value_tokens(&self) -> TokenStream {
        match &self.value {
            Value::Is(tokens) => tokens.clone(),
            Value::Of(tokens) if !tokens.is_empty() => tokens.clone(),
            Value::Flag | Value::Of(_) => self.key.to_token_stream(),
        }
    }
}

/// The options of one attribute.
pub(crate) struct Entries {
    pub(crate) all: Vec<Entry>,
    /// The first key that belongs here was left out before a text: there is no need to say that it is missing.
    pub(crate) names_source: bool,
}

/// Reads all options, goes on behind each that is not one, and leaves out what is given twice. `keys` are examples.
pub(crate) fn read(tokens: TokenStream, keys: &[&str], problems: &mut Problems) -> Entries {
    let mut entries = Entries {
        all: Vec::new(),
        names_source: false,
    };
    let mut tokens = tokens.into_iter().peekable();
    while let Some(first) = tokens.next() {
        if is_comma(&first) {
            problems.at(first, "an option is missing before this comma");
            continue;
        }
        let mut rest = Vec::new();
        while let Some(token) = tokens.next_if(|token| !is_comma(token)) {
            let ends = is_literal(&token) && rest.len() == 1;
            rest.push(token);
            if ends && let Some(next) = tokens.peek().filter(|next| !is_comma(next)) {
                problems.at(next, "a comma is missing before this");
                break;
            }
        }
        tokens.next_if(is_comma);
        if let Some(entry) = entry(first, rest, keys, &mut entries, problems) {
            if entries.all.iter().any(|other| other.key == entry.key) {
                problems.at(&entry.key, format_args!("`{}` is given twice", entry.key));
            } else {
                entries.all.push(entry);
            }
        }
    }
    entries
}

fn is_comma(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')
}

fn is_literal(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Literal(_))
}

fn entry(
    first: TokenTree,
    rest: Vec<TokenTree>,
    keys: &[&str],
    entries: &mut Entries,
    problems: &mut Problems,
) -> Option<Entry> {
    let key = match first {
        TokenTree::Ident(key) => key,
        TokenTree::Literal(literal) => {
            entries.names_source = true;
            problems.at(
                &literal,
                format_args!("say what this is: `{} = {literal}`", keys[0]),
            );
            return None;
        }
        other => {
            problems.at(
                other,
                format_args!("write options such as `{} = ..`", keys[0]),
            );
            return None;
        }
    };
    let mut rest = rest.into_iter();
    let value = match rest.next() {
        None => Value::Flag,
        Some(TokenTree::Punct(punct)) if punct.as_char() == '=' => {
            let value: TokenStream = rest.by_ref().collect();
            if value.is_empty() {
                problems.at(&punct, format_args!("`{key}` has no value"));
                entries.names_source |= keys.contains(&&*key.to_string());
                return None;
            }
            Value::Is(value)
        }
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis => {
            Value::Of(group.stream())
        }
        Some(other) => {
            problems.at(
                other,
                format_args!("write `{key} = ..`; options stand between commas"),
            );
            entries.names_source |= keys.contains(&&*key.to_string());
            return None;
        }
    };
    if let Some(extra) = rest.next() {
        problems.at(extra, "a comma is missing before this");
    }
    Some(Entry { key, value })
}
