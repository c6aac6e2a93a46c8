//! The attributes of go-queue, `#[dq_handler]` and `#[kq_handler]`: read the options, check the function, print what
//! belongs beside it. And `#[derive(Outcome)]` for their errors. Use them through `go_queue`, which documents them.
//!
//! All do everything in one pass and go on after a mistake, so that one build shows all mistakes of a handler, each at its
//! own token. Whatever is wrong, the function itself is always there.

mod absent;
mod bound;
mod entries;
mod expand;
mod function;
mod options;
mod outcome;
mod problems;
mod values;

use proc_macro::TokenStream;

use function::Function;
use options::Options;
use problems::Problems;

/// See `go_queue::dq_handler`.
#[proc_macro_attribute]
pub fn dq_handler(options: TokenStream, item: TokenStream) -> TokenStream {
    handler(Side::Dq, options.into(), item.into()).into()
}

/// See `go_queue::kq_handler`.
#[proc_macro_attribute]
pub fn kq_handler(options: TokenStream, item: TokenStream) -> TokenStream {
    handler(Side::Kq, options.into(), item.into()).into()
}

/// See `go_queue::outcome::Outcome`.
#[proc_macro_derive(Outcome, attributes(retry, dead, skip, transparent, outcome))]
pub fn outcome(item: TokenStream) -> TokenStream {
    outcome::derive(item.into()).into()
}

/// Which attribute it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Dq,
    Kq,
}

impl Side {
    fn attribute(self) -> &'static str {
        match self {
            Self::Dq => "dq_handler",
            Self::Kq => "kq_handler",
        }
    }

    fn source(self) -> &'static str {
        match self {
            Self::Dq => "tube",
            Self::Kq => "topic",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Dq => Self::Kq,
            Self::Kq => Self::Dq,
        }
    }
}

fn handler(
    side: Side,
    options: proc_macro2::TokenStream,
    item: proc_macro2::TokenStream,
) -> proc_macro2::TokenStream {
    let mut function: Function = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(error) => {
            let mut problems = Problems::default();
            problems.at_span(
                error.span(),
                format_args!(
                    "`#[{}]` stands on an `async fn` outside of any `impl` or `trait`: {error}",
                    side.attribute()
                ),
            );
            return [item, problems.into_tokens()].into_iter().collect();
        }
    };
    let mut problems = Problems::default();
    let name = function.sig.ident.to_string();
    let options = Options::read(side, &name, options, &mut problems);
    let mut parameters = function.check(&mut problems);
    if function.sig.asyncness.is_none() && !options.blocking {
        let future = function.returns_opaque();
        problems.at(
            function.sig.fn_token,
            if future {
                "a handler is an `async fn`: write `async fn`, and what the future gives as the return type"
            } else {
                "a handler is an `async fn`; for one that blocks its thread write `blocking` in the attribute"
            },
        );
        if let Some(parameters) = &mut parameters {
            // That a future is no return type is no second mistake.
            parameters.callable &= !future;
        }
    }
    if let Some(parameters) = parameters.as_ref().filter(|found| !found.payload.batch) {
        options.refuse_batch_options(&parameters.payload.item, &mut problems);
    }
    options.refuse_unmatched_alone(&mut problems);
    let mut tokens = expand::expand(side, &function, parameters.as_ref(), &options);
    tokens.extend(problems.into_tokens());
    tokens
}
