//! What is generated beside the function. It arranges; what it calls is the library's, with tests of its own.
//!
//! Spans: everything has the attribute's, which keeps the user's lints quiet, except for what rustc may complain about on
//! behalf of the user: all uses of one parameter's type have that type's span (equal errors at one span are shown once),
//! the return value has the return type's, and the future has the function's name.
//!
//! Hygiene: paths are absolute, local variables have the macro's own hygiene, and the few items have names that nobody has.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Type, Visibility};

use crate::Side;
use crate::bound::decode;
use crate::function::{Function, Parameters, plain};
use crate::options::{Handle, Options, Place};

/// The function as it is, and beside it its handle, its registration and its producer.
pub(crate) fn expand(
    side: Side,
    function: &Function,
    parameters: Option<&Parameters>,
    options: &Options,
) -> TokenStream {
    let one = Expansion {
        side,
        function,
        options,
        handle: handle(function, options),
        vis: quiet(&function.vis),
    };
    let mut tokens = function.to_token_stream();
    if function.sig.receiver().is_some() {
        // There can be no type in an `impl`.
        return tokens;
    }
    tokens.extend(one.handle_type());
    if let Some(parameters) = parameters {
        tokens.extend(one.producer(parameters));
        if !matches!(options.handle, Handle::Hidden) {
            tokens.extend(one.absent(&parameters.payload.item));
        }
        if parameters.callable {
            tokens.extend(one.registration(parameters));
        }
    }
    tokens
}

pub(crate) struct Expansion<'a> {
    pub(crate) side: Side,
    pub(crate) function: &'a Function,
    pub(crate) options: &'a Options,
    pub(crate) handle: Ident,
    pub(crate) vis: TokenStream,
}

/// The type that stands for the handler. Its span is the attribute's, at the place of the name, so that no lint of the user
/// asks for documentation or another case.
fn handle(function: &Function, options: &Options) -> Ident {
    let name = &function.sig.ident;
    let mut handle = match &options.handle {
        Handle::SameName => name.clone(),
        Handle::Named(given) => given.clone(),
        Handle::Hidden => format_ident!("__go_queue_handle_{}", name),
    };
    handle.set_span(Span::call_site().located_at(handle.span()));
    handle
}

/// The visibility, with the attribute's span.
fn quiet(vis: &Visibility) -> TokenStream {
    vis.to_token_stream()
        .into_iter()
        .map(|mut token| {
            token.set_span(Span::call_site().located_at(token.span()));
            token
        })
        .collect()
}

pub(crate) fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

impl Expansion<'_> {
    fn handle_type(&self) -> TokenStream {
        let (handle, vis, cfgs) = (&self.handle, &self.vis, self.function.cfgs());
        quote! {
            #(#cfgs)*
            #[doc(hidden)]
            #vis struct #handle {}
        }
    }

    /// The name of a place as an expression of type `&'static str`.
    fn name_of(&self, place: &Place, item: &Type) -> TokenStream {
        let krate = &self.options.krate;
        match place {
            Place::Literal(name) => quote!(#name),
            Place::Const(path) => {
                let typed = match self.side {
                    Side::Dq => quote!(Tube),
                    Side::Kq => quote!(Topic),
                };
                let place = local("place");
                // With the const's own span, a payload of another type is reported there.
                quote_spanned! {path.span()=> {
                    let #place: #krate::producer::#typed<#item> = #path;
                    #place.name()
                }}
            }
        }
    }

    fn producer(&self, parameters: &Parameters) -> TokenStream {
        // With several topics nobody knows which one is meant.
        let [place] = &self.options.places[..] else {
            return TokenStream::new();
        };
        if !self.options.producer || matches!(self.options.handle, Handle::Hidden) {
            return TokenStream::new();
        }
        let (krate, handle, vis) = (&self.options.krate, &self.handle, &self.vis);
        let item = &parameters.payload.item;
        let name = self.name_of(place, item);
        let payload = local("payload");
        // Where rustc says "defined here", it is the function and its parameter.
        let named = |name: &str| {
            Ident::new(
                name,
                Span::call_site().located_at(self.function.sig.ident.span()),
            )
        };
        let cfgs = self.function.cfgs();
        let (builder, shown) = match self.side {
            Side::Dq => (quote!(Enqueue), "tube"),
            Side::Kq => (quote!(Push), "topic"),
        };
        let new = quote_spanned! {item.span()=>
            #krate::producer::#builder::new::<#item>(#name, &#payload)
        };
        let (to, by) = (shown_place(place), plain(&self.function.sig.ident));
        let constructors = match self.side {
            Side::Dq => {
                let priority = self.options.priority.map(|n| quote!(.usual_priority(#n)));
                let (delay, at) = (local("delay"), local("at"));
                let (new_now, new_delay, new_at) = (named("now"), named("delay"), named("at"));
                let now = format!(
                    "A task for {shown} {to}, to run as soon as possible; `{by}` handles it."
                );
                let later =
                    format!("A task for {shown} {to}, to run after this time; `{by}` handles it.");
                let on_time = format!(
                    "A task for {shown} {to}, to run at this time; in the past means now. `{by}` handles it."
                );
                quote! {
                    #[doc = #now]
                    #vis fn #new_now(#payload: #item) -> #krate::producer::Enqueue {
                        #new #priority
                    }

                    #[doc = #later]
                    #vis fn #new_delay(
                        #payload: #item,
                        #delay: ::core::time::Duration,
                    ) -> #krate::producer::Enqueue {
                        Self::now(#payload).after(#delay)
                    }

                    #[doc = #on_time]
                    #vis fn #new_at(
                        #payload: #item,
                        #at: ::std::time::SystemTime,
                    ) -> #krate::producer::Enqueue {
                        Self::now(#payload).not_before(#at)
                    }
                }
            }
            Side::Kq => {
                let new_push = named("push");
                let push = format!("A record for the end of {shown} {to}; `{by}` handles it.");
                quote! {
                    #[doc = #push]
                    #vis fn #new_push(#payload: #item) -> #krate::producer::Push {
                        #new
                    }
                }
            }
        };
        quote! {
            #(#cfgs)*
            impl #handle {
                #constructors
            }
        }
    }

    fn registration(&self, parameters: &Parameters) -> TokenStream {
        let (krate, handle) = (&self.options.krate, &self.handle);
        let cfgs = self.function.cfgs();
        let cfgs_again = self.function.cfgs();
        let bound = self.bound(parameters);
        let definition = self.definition(parameters);
        // The call to a deprecated handler is ours and not the user's.
        let deprecated = self
            .function
            .attrs
            .iter()
            .any(|attr| attr.path().is_ident("deprecated"));
        let quiet = deprecated.then(|| quote!(#[allow(deprecated)]));
        quote! {
            #(#cfgs)*
            #quiet
            impl #krate::handler::Registered for #handle {
                const DEF: &'static #krate::handler::HandlerDef = {
                    #bound
                    #definition
                };
            }

            #(#cfgs_again)*
            const _: () = {
                #krate::private::inventory::submit! {
                    #krate::private::Registration(<#handle as #krate::handler::Registered>::DEF)
                }
            };
        }
    }

    fn definition(&self, parameters: &Parameters) -> TokenStream {
        let options = self.options;
        let krate = &options.krate;
        let payload = &parameters.payload;
        let item = &payload.item;
        let written = plain(&payload.written);
        let name = syn::ext::IdentExt::unraw(&self.function.sig.ident).to_string();
        let (batch, blocking, setters) = (payload.batch, options.blocking, &options.setters);
        let names: Vec<_> = options
            .places
            .iter()
            .map(|place| self.name_of(place, item))
            .collect();
        let source = match self.side {
            // Without a name there was an error; the stand-in lets the rest be checked.
            Side::Dq => {
                let name = names.first().cloned().unwrap_or_else(|| quote!("unknown"));
                quote!(Tube(#name))
            }
            Side::Kq => {
                let group = some(options.group.as_ref().map(ToTokens::to_token_stream));
                quote!(Topics { topics: __GO_QUEUE_TOPICS, group: #group })
            }
        };
        let topics = (self.side == Side::Kq)
            .then(|| quote!(const __GO_QUEUE_TOPICS: &[&::core::primitive::str] = &[#(#names),*];));
        let when = some(
            options
                .when
                .as_ref()
                .map(|(header, is)| quote!(#krate::handler::When { header: #header, is: #is })),
        );
        let middleware = options.middleware.iter().map(|layer| {
            quote_spanned! {layer.span()=>
                || ::std::sync::Arc::new(#layer) as ::std::sync::Arc<dyn #krate::middleware::Middleware>
            }
        });
        let message = local("message");
        let decode = decode(krate, item);
        let content = quote_spanned!(item.span()=> #krate::private::content(#decode));
        let errors = self.errors(parameters);
        quote! {
            #topics
            const __GO_QUEUE_MIDDLEWARE: &[fn() -> ::std::sync::Arc<dyn #krate::middleware::Middleware>] =
                &[#(#middleware),*];

            fn __go_queue_check(
                #message: &#krate::message::Message,
            ) -> ::core::result::Result<(), ::std::sync::Arc<::core::primitive::str>> {
                #krate::private::check(#decode(#message))
            }

            &#krate::handler::HandlerDef {
                name: #name,
                module: ::core::module_path!(),
                package: ::core::env!("CARGO_PKG_NAME"),
                location: #krate::handler::Location {
                    file: ::core::file!(),
                    line: ::core::line!(),
                },
                source: #krate::handler::Source::#source,
                when: #when,
                batch: #batch,
                blocking: #blocking,
                options: #krate::handler::Options::NONE #setters,
                payload: #written,
                content: #content,
                errors: #errors,
                middleware: __GO_QUEUE_MIDDLEWARE,
                bind: __go_queue_bind,
                check: __go_queue_check,
            }
        }
    }

    /// What the errors of the function ask for. Its return type is found out by a call that is never made: named a second time, a
    /// type that is not there would be told twice.
    fn errors(&self, parameters: &Parameters) -> TokenStream {
        let krate = &self.options.krate;
        let function = &self.function.sig.ident;
        let call =
            (0..=parameters.extractors.len()).map(|_| quote!(#krate::private::kinds::argument()));
        let awaited = self.function.sig.asyncness.map(|_| quote!(.awaited()));
        quote! {
            || {
                use #krate::private::kinds::{NoCases as _, SaysCases as _};
                (&#krate::private::kinds::Cases::of(|| #function(#(#call),*))#awaited).cases()
            }
        }
    }
}

fn some(value: Option<TokenStream>) -> TokenStream {
    value.map_or_else(
        || quote!(::core::option::Option::None),
        |value| quote!(::core::option::Option::Some(#value)),
    )
}

fn shown_place(place: &Place) -> String {
    match place {
        Place::Literal(name) => format!("`{}`", name.value()),
        Place::Const(path) => format!("`{}`", plain(path)),
    }
}
