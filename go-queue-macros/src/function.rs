//! The marked function: its parts, and what a handler must look like.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{
    Attribute, FnArg, GenericArgument, PathArguments, ReturnType, Safety, Signature, Type,
    Visibility,
};

use crate::problems::Problems;

/// A function whose body is not looked at: rustc reports what is wrong in there.
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(crate) body: TokenStream,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        Ok(Self {
            attrs: input.call(Attribute::parse_outer)?,
            vis: input.parse()?,
            sig: input.parse()?,
            body: input.parse()?,
        })
    }
}

impl ToTokens for Function {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        for attr in &self.attrs {
            attr.to_tokens(tokens);
        }
        self.vis.to_tokens(tokens);
        self.sig.to_tokens(tokens);
        self.body.to_tokens(tokens);
    }
}

/// What the parameters say.
pub(crate) struct Parameters {
    pub(crate) payload: Payload,
    /// The types of the parameters after the payload.
    pub(crate) extractors: Vec<Type>,
    /// Whether the function may be called just so. If not, calling it would be a second mistake.
    pub(crate) callable: bool,
}

/// The first parameter.
pub(crate) struct Payload {
    /// As it is written.
    pub(crate) written: Type,
    /// What one message holds: of `Vec<T>` the `T`.
    pub(crate) item: Type,
    pub(crate) batch: bool,
}

/// Extractors that the library has. As the type of a first parameter, or behind `&`, they are taken for a slip.
const EXTRACTORS: [&str; 9] = [
    "State",
    "Meta",
    "Key",
    "Headers",
    "Cancel",
    "Producer",
    "Partition",
    "Offset",
    "Timestamp",
];

impl Function {
    /// Whether the function may be called as a handler; `None` if nothing can be generated for it.
    pub(crate) fn check(&mut self, problems: &mut Problems) -> Option<Parameters> {
        self.refuse_second_attribute(problems);
        self.refuse_qualifiers(problems);
        let whole = self.refuse_generics(problems) & self.refuse_receiver(problems);
        let Some(payload) = self.payload(problems) else {
            self.extractors(problems);
            return None;
        };
        self.refuse_lone_outcomes(&payload, problems);
        let extractors = self.extractors(problems);
        let extractors = extractors.filter(|_| whole)?;
        Some(Parameters {
            payload: payload.ok()?,
            extractors,
            callable: !matches!(self.sig.safety, Safety::Unsafe(_)),
        })
    }

    /// Whether it returns `impl Future`, or something else that has no name.
    pub(crate) fn returns_opaque(&self) -> bool {
        matches!(&self.sig.output, ReturnType::Type(_, ty) if matches!(bare(ty), Type::ImplTrait(_)))
    }

    /// `#[cfg(..)]`s of the function, for everything that is generated beside it.
    pub(crate) fn cfgs(&self) -> impl Iterator<Item = &Attribute> + Clone {
        self.attrs.iter().filter(|attr| attr.path().is_ident("cfg"))
    }

    fn refuse_second_attribute(&mut self, problems: &mut Problems) {
        self.attrs.retain(|attr| {
            let last = attr.path().segments.last();
            let again = last.is_some_and(|s| s.ident == "dq_handler" || s.ident == "kq_handler");
            if again {
                problems.at(
                    attr,
                    "one function is one handler: write a second function that calls this one",
                );
            }
            !again
        });
    }

    fn refuse_qualifiers(&self, problems: &mut Problems) {
        let sig = &self.sig;
        if let Safety::Unsafe(token) = &sig.safety {
            problems.at(
                token,
                "a handler must not be `unsafe`: the framework calls it",
            );
        }
        if let Some(token) = &sig.constness {
            problems.at(token, "a handler must not be `const`");
        }
        if let Some(abi) = &sig.abi {
            problems.at(abi, "a handler must not be `extern`");
        }
        if let Some(variadic) = &sig.variadic {
            problems.at(variadic, "a handler has a fixed number of parameters");
        }
    }

    fn refuse_generics(&self, problems: &mut Problems) -> bool {
        let generics = &self.sig.generics;
        if generics.params.is_empty() && generics.where_clause.is_none() {
            return true;
        }
        let only_lifetimes = generics.lifetimes().count() == generics.params.len();
        if generics.params.is_empty() {
            problems.at(
                &generics.where_clause,
                "a handler has nothing to say `where` of: it is not generic",
            );
        } else if only_lifetimes {
            problems.at(
                generics,
                "a handler has no named lifetimes: write `'_` for a payload that borrows from its message",
            );
        } else {
            problems.at(
                generics,
                "a handler cannot be generic, because nothing names its types: write a small handler for each type that calls \
                 a generic function",
            );
        }
        false
    }

    fn refuse_receiver(&self, problems: &mut Problems) -> bool {
        let receiver = self.sig.receiver();
        if let Some(receiver) = receiver {
            problems.at(
                receiver,
                "a handler is a free function, not a method: take what it needs as `State<T>`",
            );
        }
        receiver.is_none()
    }

    /// `None`: there is none. `Err`: there is one that cannot be.
    fn payload(&self, problems: &mut Problems) -> Option<Result<Payload, ()>> {
        let mut parameters = self.sig.inputs.iter();
        let first = parameters.find_map(|input| match input {
            FnArg::Typed(parameter) => Some(parameter),
            FnArg::Receiver(_) => None,
        });
        let Some(first) = first else {
            problems.at_span(
                self.sig.paren_token.span.join(),
                "the payload is missing: the first parameter takes it, for example `order: Order`, or `_: ()` if there is \
                 nothing to say",
            );
            return None;
        };
        let unconditional = refuse_attributes(&first.attrs, problems);
        let written = bare(&first.ty).clone();
        let item = vec_item(&written);
        let payload = Payload {
            batch: item.is_some(),
            item: item.cloned().unwrap_or_else(|| written.clone()),
            written,
        };
        if let Type::Reference(reference) = &payload.item {
            problems.at(
                reference,
                format_args!(
                    "a handler takes owned arguments: write `{}`, or a type that borrows what it can, such as `Order<'_>` \
                     or `Cow<'_, str>`",
                    owned(&reference.elem)
                ),
            );
            return Some(Err(()));
        }
        if let Some(span) = for_ever(payload.written.to_token_stream()) {
            problems.at_span(
                span,
                "a payload lives as long as its message: write `'_` instead of `'static`",
            );
            return Some(Err(()));
        }
        if let Type::ImplTrait(generic) = &payload.item {
            problems.at(
                generic,
                "a handler cannot be generic: write the type of the payload",
            );
            return Some(Err(()));
        }
        if let Some(extractor) = known_extractor(&payload.item) {
            problems.at(
                &payload.item,
                format_args!(
                    "the first parameter is the payload: put `{extractor}` after it, or begin with `_: ()` if there is nothing \
                     to say (is this a payload type of your own? then write its path, as in `self::{extractor}`)"
                ),
            );
            return Some(Err(()));
        }
        Some(if unconditional { Ok(payload) } else { Err(()) })
    }

    fn extractors(&self, problems: &mut Problems) -> Option<Vec<Type>> {
        let mut whole = true;
        let mut types = Vec::new();
        let parameters = self.sig.inputs.iter().filter_map(|input| match input {
            FnArg::Typed(parameter) => Some(parameter),
            FnArg::Receiver(_) => None,
        });
        for parameter in parameters.skip(1) {
            whole &= refuse_attributes(&parameter.attrs, problems);
            let ty = bare(&parameter.ty);
            let before = whole;
            whole = false;
            if let Some(inner) = optional_extractor(ty) {
                let hint = if known_extractor(inner) == Some("Key") {
                    ", whose `as_str()` is `None` where there is none"
                } else {
                    ""
                };
                let inner = owned(inner);
                problems.at(
                    ty,
                    format_args!("an extractor is always there: write `{inner}`{hint}"),
                );
                continue;
            }
            match ty {
                Type::Reference(reference) if known_extractor(&reference.elem).is_some() => {
                    problems.at(
                        reference,
                        format_args!(
                            "a handler takes owned arguments: write `{}`",
                            owned(&reference.elem)
                        ),
                    );
                }
                Type::Reference(reference) => problems.at(
                    reference,
                    format_args!(
                        "a handler takes owned arguments: write `State<{}>`, or another extractor",
                        owned(&reference.elem)
                    ),
                ),
                Type::ImplTrait(generic) => {
                    problems.at(
                        generic,
                        "a handler cannot be generic: write the type of the extractor",
                    );
                }
                _ => {
                    if let Some(span) = borrowed(ty.to_token_stream()) {
                        problems.at_span(
                            span,
                            "an extractor owns what it gives: take a type without borrows",
                        );
                    } else {
                        whole = before;
                    }
                }
            }
            types.push(ty.clone());
        }
        whole.then_some(types)
    }

    /// `Vec<Outcome>` answers a batch.
    fn refuse_lone_outcomes(&self, payload: &Result<Payload, ()>, problems: &mut Problems) {
        if let (Ok(Payload { batch: false, .. }), ReturnType::Type(_, returned)) =
            (payload, &self.sig.output)
        {
            let each = vec_item(bare(returned)).is_some_and(
                |item| matches!(item, Type::Path(path) if path.path.segments.last().is_some_and(|s| s.ident == "Outcome")),
            );
            if each {
                problems.at(
                    returned,
                    "`Vec<Outcome>` answers a batch: return one `Outcome`, or take `Vec<T>` as the payload",
                );
            }
        }
    }
}

/// Whether there are no conditions.
fn refuse_attributes(attrs: &[Attribute], problems: &mut Problems) -> bool {
    let conditions = attrs
        .iter()
        .filter(|attr| attr.path().is_ident("cfg") || attr.path().is_ident("cfg_attr"));
    let before = problems.len();
    for condition in conditions {
        problems.at(
            condition,
            "a parameter of a handler cannot be conditional: write two handlers, each with its own `#[cfg]`",
        );
    }
    problems.len() == before
}

/// Without the invisible groups of `macro_rules!` and without parentheses.
fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => bare(&group.elem),
        Type::Paren(paren) => bare(&paren.elem),
        other => other,
    }
}

/// Of `Vec<T>`, `std::vec::Vec<T>` and `alloc::vec::Vec<T>` the `T`.
fn vec_item(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    if path.qself.is_some() {
        return None;
    }
    let mut segments = path.path.segments.iter().rev();
    let last = segments.next().filter(|last| last.ident == "Vec")?;
    let way: Vec<_> = segments.map(|segment| segment.ident.to_string()).collect();
    let known = matches!(&way[..], [] | [_, _])
        && way.first().is_none_or(|module| module == "vec")
        && way
            .get(1)
            .is_none_or(|root| root == "std" || root == "alloc");
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    match arguments.args.first() {
        Some(GenericArgument::Type(item)) if known && arguments.args.len() == 1 => Some(bare(item)),
        _ => None,
    }
}

fn known_extractor(ty: &Type) -> Option<&'static str> {
    let Type::Path(path) = ty else { return None };
    let mut segments = path.path.segments.iter();
    let (Some(only), None, None) = (segments.next(), segments.next(), &path.qself) else {
        return None;
    };
    let state = only.ident == "State";
    let known = EXTRACTORS.into_iter().find(|name| only.ident == name)?;
    (state != only.arguments.is_none()).then_some(known)
}

/// The extractor in an `Option`.
fn optional_extractor(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path
        .path
        .segments
        .last()
        .filter(|last| last.ident == "Option")?;
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    match arguments.args.first() {
        Some(syn::GenericArgument::Type(inner)) => known_extractor(inner).map(|_| inner),
        _ => None,
    }
}

/// What to write instead of a reference to this.
fn owned(ty: &Type) -> String {
    match bare(ty) {
        Type::Path(path) if path.path.is_ident("str") => "String".to_owned(),
        Type::Slice(slice) => format!("Vec<{}>", plain(&slice.elem)),
        other => plain(other),
    }
}

/// Tokens as people write them.
pub(crate) fn plain(tokens: &impl ToTokens) -> String {
    let mut text = String::new();
    let mut push = |word: &str| {
        let ends_word = text.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let starts_word =
            word.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '\''));
        if text.ends_with([',', ';']) || (ends_word && starts_word) {
            text.push(' ');
        }
        text.push_str(word);
    };
    let printed = tokens.to_token_stream().to_string();
    for word in printed.split_whitespace() {
        push(word);
    }
    text
}

/// The first borrow without a lifetime of its own (`&T`, `'_`) in a type.
fn borrowed(tokens: TokenStream) -> Option<Span> {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '&' => {
                let named =
                    matches!(tokens.peek(), Some(TokenTree::Punct(p)) if p.as_char() == '\'');
                if !named {
                    return Some(punct.span());
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == '\'' => {
                if let Some(TokenTree::Ident(ident)) = tokens.peek()
                    && ident == "_"
                {
                    return Some(ident.span());
                }
            }
            TokenTree::Group(group) => {
                if let Some(span) = borrowed(group.stream()) {
                    return Some(span);
                }
            }
            _ => {}
        }
    }
    None
}

/// The first `'static` in a type.
fn for_ever(tokens: TokenStream) -> Option<Span> {
    let mut tick = false;
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(ident) if tick && ident == "static" => Some(ident.span()),
        TokenTree::Group(group) => for_ever(group.stream()),
        token => {
            tick = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '\'');
            None
        }
    })
}

/// The span of a return type, or of the name where there is none.
pub(crate) fn return_span(sig: &Signature) -> Span {
    match &sig.output {
        ReturnType::Default => sig.ident.span(),
        ReturnType::Type(_, ty) => ty.span(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    #[test]
    fn a_batch_is_a_vec_however_it_is_written() {
        let batches: [Type; 4] = [
            parse_quote!(Vec<Click>),
            parse_quote!(std::vec::Vec<Click>),
            parse_quote!(::alloc::vec::Vec<Click>),
            parse_quote!(Vec<Click<'_>>),
        ];
        for ty in batches {
            assert!(vec_item(&ty).is_some(), "{}", plain(&ty));
        }
        let singles: [Type; 4] = [
            parse_quote!(Json<Vec<Click>>),
            parse_quote!(mine::Vec<Click>),
            parse_quote!(Vec),
            parse_quote!([Click; 2]),
        ];
        for ty in singles {
            assert!(vec_item(&ty).is_none(), "{}", plain(&ty));
        }
    }

    #[test]
    fn types_are_printed_as_people_write_them() {
        let ty: Type = parse_quote!(a::Map<'_, dyn Fn(u8), [Order; 3]>);
        assert_eq!(plain(&ty), "a::Map<'_, dyn Fn(u8), [Order; 3]>");
    }
}
