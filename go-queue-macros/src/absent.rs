//! Constructors that a handler does not have. They are there for their compile errors: whoever calls `charge::delay(..)` of a topic reads
//! why there is none, and what to write.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::Type;

use crate::Side;
use crate::expand::Expansion;

impl Expansion<'_> {
    /// All that it does not have.
    pub(crate) fn absent(&self, item: &Type) -> TokenStream {
        let (krate, handle, vis) = (&self.options.krate, &self.handle, &self.vis);
        let cfgs = self.function.cfgs();
        let absent = |name: &str, builder: &str, why: &str| {
            let (name, builder, why) = (
                format_ident!("{name}"),
                format_ident!("{builder}"),
                format_ident!("{why}"),
            );
            let time = (name != "now" && name != "push").then(|| quote!(, _: __GoQueueTime));
            let of_time = time.is_some().then(|| quote!(<__GoQueueTime>));
            quote! {
                #[doc(hidden)]
                #vis fn #name #of_time (_: #item #time) -> #krate::producer::#builder
                where
                    for<'a> #krate::private::absent::Here<'a>: #krate::private::absent::#why,
                {
                    #krate::private::absent::nothing()
                }
            }
        };
        let tasks = |why| ["now", "delay", "at"].map(|name| absent(name, "Enqueue", why));
        let silent = !self.options.producer;
        let functions: Vec<_> = match self.side {
            Side::Dq if silent => tasks("Constructors").into(),
            Side::Dq => vec![absent("push", "Push", "RecordsOfTubes")],
            Side::Kq => {
                let push = if silent {
                    Some("Constructors")
                } else {
                    (self.options.places.len() > 1).then_some("OneTopic")
                };
                let push = push.map(|why| absent("push", "Push", why));
                tasks("TasksOfTopics").into_iter().chain(push).collect()
            }
        };
        quote! {
            #(#cfgs)*
            impl #handle {
                #(#functions)*
            }
        }
    }
}
