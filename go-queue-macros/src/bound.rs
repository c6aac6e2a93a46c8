//! The part of the expansion that runs: the plans of the extractors, how they are made, and how the function is called.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::Type;
use syn::spanned::Spanned;

use crate::Side;
use crate::expand::{Expansion, local};
use crate::function::{Parameters, return_span};

impl Expansion<'_> {
    /// The extractors' plans, how they are made, and how the function runs with them.
    pub(crate) fn bound(&self, parameters: &Parameters) -> TokenStream {
        let krate = &self.options.krate;
        let kind = match self.side {
            Side::Dq => quote!(#krate::handler::Dq),
            Side::Kq => quote!(#krate::handler::Kq),
        };
        let types = &parameters.extractors;
        let plans: Vec<_> = (0..types.len())
            .map(|n| local(&format!("plan_{n}")))
            .collect();
        let arguments: Vec<_> = (0..types.len())
            .map(|n| local(&format!("argument_{n}")))
            .collect();
        let (env, about, missing) = (local("env"), local("about"), local("missing"));
        let cx = local("cx");
        let blocking = self.options.blocking;

        // Named by parameters, so that only `bind` asks whether a type is an extractor, and says so once.
        let plan_types: Vec<_> = (0..types.len())
            .map(|n| format_ident!("__GoQueuePlan{n}"))
            .collect();
        let made = types.iter().map(|ty| {
            let made = quote_spanned!(ty.span()=> <#ty as #krate::handler::FromContext<#kind>>::plan(#env));
            quote!(#krate::private::plan(#made, &mut #missing))
        });
        let extracted = types.iter().zip(&plans).zip(&arguments).map(|((ty, plan), argument)| {
            let rejection = local("rejection");
            quote! {
                let #argument = match #krate::private::Extracts::<#ty, #kind>::extract(#plan, #cx).await {
                    ::core::result::Result::Ok(#argument) => #argument,
                    ::core::result::Result::Err(#rejection) => return #krate::private::rejected(#rejection),
                };
            }
        });
        let bounds: Vec<_> = types
            .iter()
            .zip(&plan_types)
            .map(|(ty, plan)| quote!(#plan: #krate::private::Extracts<#ty, #kind>))
            .collect();
        let run = self.run(parameters, &arguments);
        let decoded = self.decoded(parameters);
        let erased = quote!(__GoQueueBound { #(#plans,)* }.__go_queue_erase(#about));
        let bind = if plans.is_empty() {
            quote!(::core::result::Result::Ok(#erased))
        } else {
            quote! {
                let mut #missing = ::std::vec::Vec::new();
                match (#(#made,)*) {
                    (#(::core::option::Option::Some(#plans),)*) => ::core::result::Result::Ok(#erased),
                    _ => ::core::result::Result::Err(#missing),
                }
            }
        };
        let name = self.function.sig.ident.span();
        let future = quote_spanned! {name=>
            async move {
                #decoded
                #(#extracted)*
                #run
            }
        };
        // Here rustc says that a future is not `Send`, and why.
        let returned = quote_spanned! {name=>
            impl ::core::future::Future<Output = #krate::outcome::Outcome> + ::core::marker::Send + 'a
        };
        quote! {
            struct __GoQueueBound<#(#plan_types),*> {
                #(#plans: #plan_types,)*
            }

            impl<#(#bounds),*> __GoQueueBound<#(#plan_types),*> {
                fn __go_queue_erase(
                    self,
                    #about: ::std::sync::Arc<#krate::handler::About>,
                ) -> ::std::sync::Arc<dyn #krate::handler::Handle> {
                    #krate::private::erase(self, #about, #blocking)
                }
            }

            impl<#(#bounds),*> #krate::handler::Run for __GoQueueBound<#(#plan_types),*> {
                fn run<'a>(&'a self, #cx: &'a #krate::handler::Context) -> #returned {
                    let Self { #(#plans,)* } = self;
                    #future
                }
            }

            fn __go_queue_bind(
                #env: &#krate::handler::Env,
                #about: ::std::sync::Arc<#krate::handler::About>,
            ) -> ::core::result::Result<
                ::std::sync::Arc<dyn #krate::handler::Handle>,
                ::std::vec::Vec<#krate::handler::Missing>,
            > {
                use #krate::private::EraseNothing as _;
                #bind
            }
        }
    }

    /// Decodes the payload, or answers what it means that it did not.
    fn decoded(&self, parameters: &Parameters) -> TokenStream {
        let krate = &self.options.krate;
        let (cx, payload) = (local("cx"), local("payload"));
        let decode = decode(krate, &parameters.payload.item);
        if parameters.payload.batch {
            let undecoded = local("undecoded");
            quote! {
                let (#payload, #undecoded) = #krate::private::decode_batch(#cx, #decode);
                if #undecoded.is_all() {
                    return #undecoded.join(#krate::outcome::Outcome::Done);
                }
            }
        } else {
            let outcome = local("outcome");
            quote! {
                let #payload = match #krate::private::decoded(#decode(#cx.message())) {
                    ::core::result::Result::Ok(#payload) => #payload,
                    ::core::result::Result::Err(#outcome) => return #outcome,
                };
            }
        }
    }

    /// The call, and what its result means.
    fn run(&self, parameters: &Parameters, arguments: &[Ident]) -> TokenStream {
        let krate = &self.options.krate;
        let sig = &self.function.sig;
        let function = &sig.ident;
        let returned_at = return_span(sig);
        let (payload, called) = (local("payload"), local("called"));
        // With the hygiene of the return type, which is where its errors are shown.
        let returned = Ident::new("__go_queue_returned", returned_at);
        let wait = sig.asyncness.map(|_| quote!(.await));
        // A function that is also used as a value may be `async` without an `await`, says clippy; and rightly.
        let call = quote! {
            let #called = #function;
            let #returned = #called(#payload, #(#arguments),*)#wait;
        };
        let meant = quote_spanned!(returned_at=> (&&&&&#krate::private::kinds::Probe::of(&#returned)).kind().finish(#returned));
        let joined = if parameters.payload.batch {
            let undecoded = local("undecoded");
            quote!(#undecoded.join(#meant))
        } else {
            meant
        };
        quote! {
            #call
            {
                use #krate::private::kinds::{
                    KindClassified as _, KindClassifiedWithSources as _, KindNative as _, KindNope as _,
                    KindShown as _,
                };
                #joined
            }
        }
    }
}

/// All errors about a payload come from this path, with one span: rustc shows equal ones once.
pub(crate) fn decode(krate: &TokenStream, item: &Type) -> TokenStream {
    quote_spanned!(item.span()=> <#item as #krate::handler::payload::Payload<'_>>::decode)
}
