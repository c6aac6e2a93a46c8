//! `#[derive(Outcome)]`: one word on each variant of an error says what it asks for.

use std::fmt::Write as _;
use std::time::Duration;

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Fields, Index, LitInt, LitStr, Member, Meta, Path, Type};

use crate::entries::{self, Entry, Value};
use crate::expand::local;
use crate::function::plain;
use crate::problems::{Problems, nearest};
use crate::values;

const WORDS: [&str; 4] = ["retry", "dead", "skip", "transparent"];

/// The implementation of `ClassifyError`, and whatever is wrong.
pub(crate) fn derive(item: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(item) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    let mut reader = Reader {
        problems: Problems::default(),
        krate: quote!(::go_queue),
    };
    reader.library(&input.attrs);
    let cases = match &input.data {
        Data::Enum(data) => {
            let usual = reader.said(&input.attrs, None).unwrap_or(Asks::Retry);
            let of_variant = |variant: &syn::Variant| {
                reader.outcome_on_variant(&variant.attrs);
                Case {
                    asks: reader
                        .case(&variant.attrs, &variant.fields)
                        .unwrap_or_else(|| usual.clone()),
                    name: variant.ident.unraw().to_string(),
                    pattern: Some(variant.ident.clone()),
                }
            };
            data.variants.iter().map(of_variant).collect()
        }
        Data::Struct(data) => vec![Case {
            asks: reader
                .case(&input.attrs, &data.fields)
                .unwrap_or(Asks::Retry),
            name: input.ident.unraw().to_string(),
            pattern: None,
        }],
        Data::Union(data) => {
            reader.problems.at(
                data.union_token,
                "`#[derive(Outcome)]` stands on an enum or a struct",
            );
            Vec::new()
        }
    };
    let mut tokens = if matches!(input.data, Data::Union(_)) {
        TokenStream::new()
    } else {
        implementation(&reader.krate, &input, &cases)
    };
    tokens.extend(reader.problems.into_tokens());
    tokens
}

/// A variant, or the struct.
struct Case {
    name: String,
    /// The variant.
    pattern: Option<Ident>,
    asks: Asks,
}

#[derive(Clone)]
enum Asks {
    Retry,
    After(Duration),
    /// The time is in this field.
    AfterField(Member, Box<Type>),
    Dead,
    Skip,
    /// The error in this field says it.
    Transparent(Member, Box<Type>),
}

struct Reader {
    problems: Problems,
    krate: TokenStream,
}

impl Reader {
    /// `#[outcome(crate = path)]`.
    fn library(&mut self, attrs: &[Attribute]) {
        const HOW: &str = "write `#[outcome(crate = my_queue::go_queue)]`, or what the error asks for: `#[retry]`, `#[dead]`, `#[skip]`";
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("outcome")) {
            let Meta::List(list) = &attr.meta else {
                self.problems.at(&attr.meta, HOW);
                continue;
            };
            for entry in entries::read(list.tokens.clone(), &["crate"], &mut self.problems).all {
                let path = match &entry.value {
                    Value::Is(path) if entry.key == "crate" => syn::parse2::<Path>(path.clone()),
                    _ => {
                        self.misplaced_word(&entry, HOW);
                        continue;
                    }
                };
                match path {
                    Ok(path) => self.krate = path.into_token_stream(),
                    Err(_) => self.problems.at(entry.value_tokens(), HOW),
                }
            }
        }
    }

    /// `#[outcome(..)]` above a variant.
    fn outcome_on_variant(&mut self, attrs: &[Attribute]) {
        const HOW: &str = "`#[outcome(crate = ..)]` stands above the type";
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("outcome")) {
            match &attr.meta {
                Meta::List(list) => {
                    for entry in
                        entries::read(list.tokens.clone(), &["crate"], &mut self.problems).all
                    {
                        self.misplaced_word(&entry, HOW);
                    }
                }
                other => self.problems.at(other, HOW),
            }
        }
    }

    /// `#[outcome(dead)]`.
    fn misplaced_word(&mut self, entry: &Entry, how: &str) {
        let key = entry.key.to_string();
        if WORDS.contains(&&*key) {
            self.problems
                .at(&entry.key, format_args!("write `#[{key}]`"));
        } else {
            self.problems.at(&entry.key, how);
        }
    }

    /// What a variant or the struct asks for, by a word above it or on the field that decides.
    fn case(&mut self, attrs: &[Attribute], fields: &Fields) -> Option<Asks> {
        let said = self.said(attrs, Some(fields));
        let mut by_field = None;
        for (field, member) in fields.iter().zip(fields.members()) {
            for attr in field.attrs.iter().filter(|attr| word_of(attr).is_some()) {
                if !attr.path().is_ident("transparent") {
                    self.problems.at(
                        attr,
                        "this is said of a whole error: put it above the variant or the struct",
                    );
                } else if said.is_some() || by_field.is_some() {
                    self.problems.at(
                        attr,
                        "an error asks for one thing, and this one has said it already",
                    );
                } else {
                    self.alone(attr, "transparent");
                    by_field = Some(Asks::Transparent(
                        member.clone(),
                        Box::new(field.ty.clone()),
                    ));
                }
            }
        }
        said.or(by_field)
    }

    /// What the attributes above something say. `fields` is `None` above a whole enum.
    fn said(&mut self, attrs: &[Attribute], fields: Option<&Fields>) -> Option<Asks> {
        let mut said = None;
        let mut before: Option<&str> = None;
        for attr in attrs {
            let Some(word) = word_of(attr) else {
                continue;
            };
            if let Some(first) = before {
                let text = if first == word {
                    format!("`#[{word}]` is there already")
                } else {
                    format!("an error asks for one thing: remove this or the `#[{first}]`")
                };
                self.problems.at(attr, text);
                continue;
            }
            before = Some(word);
            said = match word {
                "retry" => self.retry(attr, fields),
                "dead" => self.alone(attr, word).then_some(Asks::Dead),
                "skip" => self.alone(attr, word).then_some(Asks::Skip),
                _ => self.transparent(attr, fields),
            };
            // What was wrong is no second mistake for the whole enum's word.
            said = said.or(Some(Asks::Retry));
        }
        said
    }

    /// Whether nothing stands behind the word.
    fn alone(&mut self, attr: &Attribute, word: &str) -> bool {
        let extra = match &attr.meta {
            Meta::Path(_) => return true,
            Meta::List(list) if list.tokens.is_empty() => attr.meta.to_token_stream(),
            Meta::List(list) => list.tokens.clone(),
            Meta::NameValue(pair) => pair.value.to_token_stream(),
        };
        let text = match word {
            "dead" => "write `#[dead]`: the text kept with a dead letter is that of the error",
            "skip" => "write `#[skip]`: what is skipped is removed, and nothing is kept of it",
            _ => "write `#[transparent]`",
        };
        self.problems.at(extra, text);
        false
    }

    fn transparent(&mut self, attr: &Attribute, fields: Option<&Fields>) -> Option<Asks> {
        if !self.alone(attr, "transparent") {
            return None;
        }
        let Some(fields) = fields else {
            self.problems.at(
                attr,
                "`#[transparent]` stands above a variant: each has its own error in it",
            );
            return None;
        };
        if let (1, Some(member), Some(field)) =
            (fields.len(), fields.members().next(), fields.iter().next())
        {
            return Some(Asks::Transparent(member, Box::new(field.ty.clone())));
        }
        let text = if fields.is_empty() {
            "`#[transparent]` asks the error in it, and there is none: write `#[retry]`, `#[dead]` or `#[skip]`"
        } else {
            "`#[transparent]` asks the error in it: of several fields put it on the one that decides"
        };
        self.problems.at(attr, text);
        None
    }

    fn retry(&mut self, attr: &Attribute, fields: Option<&Fields>) -> Option<Asks> {
        const HOW: &str = "write `#[retry]`, or `#[retry(after = \"10s\")]`";
        let tokens = match &attr.meta {
            Meta::Path(_) => return Some(Asks::Retry),
            Meta::List(list) if !list.tokens.is_empty() => list.tokens.clone(),
            Meta::List(_) => {
                self.problems.at(&attr.meta, HOW);
                return None;
            }
            Meta::NameValue(pair) => {
                self.problems.at(&pair.value, HOW);
                return None;
            }
        };
        let mut asks = None;
        for entry in entries::read(tokens, &["after"], &mut self.problems).all {
            let key = entry.key.to_string();
            match (&*key, &entry.value) {
                ("after", Value::Is(value)) => asks = self.after(value, fields),
                ("after", _) => self.problems.at(&entry.key, HOW),
                ("max" | "backoff", _) => self.problems.at(
                    &entry.key,
                    format_args!(
                        "`{key}` belongs to the handler: write `retry({key} = ..)` in its attribute"
                    ),
                ),
                _ => {
                    let hint = nearest(&key, ["after"]).map_or_else(
                        || format!("; {HOW}"),
                        |meant| format!(": did you mean `{meant}`?"),
                    );
                    self.problems.at(
                        &entry.key,
                        format_args!("unknown option `{key}` of `retry`{hint}"),
                    );
                }
            }
        }
        asks
    }

    /// A duration in quotes, or a field.
    fn after(&mut self, value: &TokenStream, fields: Option<&Fields>) -> Option<Asks> {
        if let Ok(text) = syn::parse2::<LitStr>(value.clone()) {
            return match values::duration(&text.value()) {
                Ok(time) => Some(Asks::After(time)),
                Err(why) => {
                    self.problems.at(text, why);
                    None
                }
            };
        }
        let number = syn::parse2::<LitInt>(value.clone());
        let member = match &number {
            Ok(number) if number.suffix().is_empty() => number.base10_parse().ok().map(|index| {
                Member::Unnamed(Index {
                    index,
                    span: number.span(),
                })
            }),
            Ok(_) => None,
            Err(_) => syn::parse2::<Ident>(value.clone()).ok().map(Member::Named),
        };
        let found = fields.zip(member.as_ref()).and_then(|(fields, member)| {
            let same = fields.members().zip(fields).find(|(one, _)| one == member);
            same.map(|(one, field)| Asks::AfterField(one, Box::new(field.ty.clone())))
        });
        if found.is_some() {
            return found;
        }
        let text = match (&number, fields) {
            (Ok(number), _) if number.suffix().is_empty() => {
                format!("the unit is missing: write `after = \"{number}s\"`")
            }
            (Ok(number), _) => format!("a duration stands in quotes: write `after = \"{number}\"`"),
            (Err(_), None) => {
                "an enum has no fields: write a duration, or `#[retry(after = field)]` above a variant"
                    .to_owned()
            }
            (Err(_), Some(fields)) => {
                no_field(&value.to_string(), member.is_some(), fields)
            }
        };
        self.problems.at(value, text);
        None
    }
}

fn no_field(given: &str, is_name: bool, fields: &Fields) -> String {
    if !is_name {
        return "`after` is a duration in quotes, or a field that holds one: write `after = \"10s\"`"
            .to_owned();
    }
    let names: Vec<String> = fields
        .members()
        .map(|member| member.to_token_stream().to_string())
        .collect();
    let known = || names.iter().map(String::as_str);
    match nearest(given, known()) {
        Some(meant) => format!("there is no field `{given}`: did you mean `{meant}`?"),
        None if names.is_empty() => {
            format!("there is no field `{given}`: write a duration, `after = \"10s\"`")
        }
        None => format!(
            "there is no field `{given}`; there are {}",
            names.join(", ")
        ),
    }
}

fn word_of(attr: &Attribute) -> Option<&'static str> {
    WORDS.into_iter().find(|word| attr.path().is_ident(word))
}

fn implementation(krate: &TokenStream, input: &DeriveInput, cases: &[Case]) -> TokenStream {
    let name = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    let mut bounds = bounds.map_or_else(
        || quote!(where),
        |bounds| {
            let comma = (!bounds.predicates.empty_or_trailing()).then(|| quote!(,));
            quote!(#bounds #comma)
        },
    );
    let types: Vec<_> = input.generics.type_params().map(|one| &one.ident).collect();
    if !types.is_empty() {
        // Without a parameter this would only be told twice.
        bounds.extend(quote!(Self: ::core::fmt::Display,));
    }
    for case in cases {
        if let Asks::Transparent(_, ty) = &case.asks
            && types.iter().any(|one| names(ty.to_token_stream(), one))
        {
            bounds.extend(quote!(#ty: #krate::outcome::ClassifyError,));
        }
    }
    let rows = cases.iter().map(|case| {
        let (error, asks) = (&case.name, case.asks.shown(krate));
        quote!(#krate::outcome::ErrorCase { error: #error, asks: #asks })
    });
    let arms = cases.iter().map(|case| {
        let variant = case.pattern.as_ref().map(|variant| quote!(::#variant));
        let (field, class) = case.asks.class(krate);
        quote!(Self #variant { #field .. } => #class,)
    });
    // Nothing can be matched by value behind a reference, so an enum without variants needs the place itself.
    let this = if cases.is_empty() {
        quote!(*self)
    } else {
        quote!(self)
    };
    let table = table(cases);
    quote! {
        #[automatically_derived]
        #[diagnostic::do_not_recommend]
        #[doc = #table]
        impl #generics #krate::outcome::ClassifyError for #name #arguments #bounds {
            const CASES: &'static [#krate::outcome::ErrorCase] = &[#(#rows),*];

            fn classify(&self) -> #krate::outcome::ErrorClass {
                match #this {
                    #(#arms)*
                }
            }
        }
    }
}

impl Asks {
    /// As `go_queue::outcome::Asks`.
    fn shown(&self, krate: &TokenStream) -> TokenStream {
        let asks = quote!(#krate::outcome::Asks);
        match self {
            Self::Retry => quote!(#asks::Retry),
            Self::After(time) => {
                let time = crate::options::duration_tokens(*time);
                quote!(#asks::RetryAfter(#time))
            }
            Self::AfterField(member, _) => {
                let name = plain(member);
                quote!(#asks::RetryAfterField(#name))
            }
            Self::Dead => quote!(#asks::Dead),
            Self::Skip => quote!(#asks::Skip),
            Self::Transparent(_, ty) => {
                let inner =
                    quote_spanned!(ty.span()=> <#ty as #krate::outcome::ClassifyError>::CASES);
                quote!(#asks::Transparent(#inner))
            }
        }
    }

    /// The field that a pattern binds, and the class as an expression.
    fn class(&self, krate: &TokenStream) -> (TokenStream, TokenStream) {
        let class = quote!(#krate::outcome::ErrorClass);
        let bound = local("field");
        let nothing = TokenStream::new();
        match self {
            Self::Retry => (nothing, quote!(#class::Retry)),
            Self::After(time) => {
                let time = crate::options::duration_tokens(*time);
                (nothing, quote!(#class::RetryAfter(#time)))
            }
            Self::AfterField(member, ty) => (
                quote!(#member: #bound,),
                quote_spanned!(ty.span()=> <#ty as #krate::private::Wait>::class(#bound)),
            ),
            Self::Dead => (nothing, quote!(#class::Dead)),
            Self::Skip => (nothing, quote!(#class::Skip)),
            Self::Transparent(member, ty) => (
                quote!(#member: #bound,),
                quote_spanned!(ty.span()=> <#ty as #krate::outcome::ClassifyError>::classify(#bound)),
            ),
        }
    }
}

/// For the documentation of the type.
fn table(cases: &[Case]) -> String {
    let mut table = "What each error asks for.\n\n| error | asks for |\n|---|---|\n".to_owned();
    for case in cases {
        let asks = match &case.asks {
            Asks::Retry => "retry".to_owned(),
            Asks::After(time) => format!("retry after {time:?}"),
            Asks::AfterField(member, _) => format!("retry after `{}`", plain(member)),
            Asks::Dead => "dead letter".to_owned(),
            Asks::Skip => "skip".to_owned(),
            Asks::Transparent(_, ty) => format!("what the `{}` in it asks for", plain(ty)),
        };
        // Writing into a text cannot fail.
        let _ = writeln!(table, "| `{}` | {asks} |", case.name);
    }
    table
}

/// Whether the name stands among the tokens.
fn names(tokens: TokenStream, name: &Ident) -> bool {
    tokens.into_iter().any(|token| match token {
        proc_macro2::TokenTree::Ident(ident) => ident == *name,
        proc_macro2::TokenTree::Group(group) => names(group.stream(), name),
        _ => false,
    })
}
