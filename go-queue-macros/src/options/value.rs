//! The forms of a value: a word, a text, a duration.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Ident, LitStr};

use super::Reader;
use crate::entries::{Entry, Value};
use crate::problems::nearest;
use crate::values;

impl Reader<'_> {
    /// One of these words, as a variant of this type.
    pub(super) fn choice(
        &mut self,
        key: &str,
        entry: &Entry,
        ty: &TokenStream,
        words: &[(&'static str, &str)],
    ) {
        let all = || words.iter().map(|(word, _)| *word);
        if let Some((_, variant)) = words.iter().find(|(word, _)| entry.is_word(word)) {
            let variant = Ident::new(variant, Span::call_site());
            return self.set(key, &quote!(#ty::#variant));
        }
        let list: Vec<_> = all().map(|word| format!("`{word}`")).collect();
        let given = entry.value_tokens().to_string();
        let quoted = given.trim_matches('"');
        let hint = if quoted != given && all().any(|word| word == quoted) {
            format!("write `{key} = {quoted}`, without quotes")
        } else {
            let meant = nearest(quoted, all())
                .map_or_else(String::new, |meant| format!(": did you mean `{meant}`?"));
            format!("`{key}` is one of {}{meant}", list.join(", "))
        };
        self.problems.at(entry.value_tokens(), hint);
    }

    pub(super) fn boolean(&mut self, entry: &Entry) -> Option<bool> {
        let value = entry.value_tokens();
        let literal = syn::parse2::<syn::LitBool>(value.clone());
        if literal.is_err() {
            self.problems
                .at(value, format_args!("`{}` is `true` or `false`", entry.key));
        }
        Some(literal.ok()?.value)
    }

    pub(super) fn duration(&mut self, entry: &Entry, example: &str) -> Option<Duration> {
        if let Value::Is(value) = &entry.value
            && let Ok(number) = syn::parse2::<syn::LitInt>(value.clone())
        {
            let text = if number.suffix().is_empty() {
                format!("the unit is missing: write `{} = \"{number}s\"`", entry.key)
            } else {
                format!(
                    "a duration stands in quotes: write `{} = \"{number}\"`",
                    entry.key
                )
            };
            self.problems.at(number, text);
            return None;
        }
        let text = self.text(entry, example)?;
        match values::duration(&text.value()) {
            Ok(time) => Some(time),
            Err(why) => {
                self.problems.at(text, why);
                None
            }
        }
    }

    pub(super) fn text(&mut self, entry: &Entry, example: &str) -> Option<LitStr> {
        let value = self.is(entry, example)?;
        let text = syn::parse2(value.clone());
        if text.is_err() {
            self.problems.at(
                value,
                format_args!(
                    "`{0}` is a text in quotes: write `{0} = \"{example}\"`",
                    entry.key
                ),
            );
        }
        text.ok()
    }

    /// The tokens after `=`.
    pub(super) fn is(&mut self, entry: &Entry, example: &str) -> Option<TokenStream> {
        if let Value::Is(value) = &entry.value {
            return Some(value.clone());
        }
        let example = match example {
            "" => "..".to_owned(),
            text => format!("\"{text}\""),
        };
        self.problems.at(
            entry.value_tokens(),
            format_args!("write `{} = {example}`", entry.key),
        );
        None
    }
}
