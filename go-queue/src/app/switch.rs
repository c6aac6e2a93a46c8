//! Several handlers on one topic and group: a header decides, before the payload is decoded.

use std::sync::Arc;

use crate::handler::context::About;
use crate::handler::options::Unmatched;
use crate::handler::slot::erase;
use crate::handler::{Context, Handle, Run, When};
use crate::message::headers;
use crate::outcome::Outcome;

/// One of the handlers, and what it takes.
pub(super) struct Case {
    pub(super) when: Option<When>,
    pub(super) handle: Arc<dyn Handle>,
}

/// The handle of all of them. One without a `when` is itself.
pub(super) fn join(
    mut cases: Vec<Case>,
    unmatched: Unmatched,
    about: Arc<About>,
    blocking: bool,
) -> Option<Arc<dyn Handle>> {
    if let [Case { when: None, .. }] = cases[..] {
        return cases.pop().map(|case| case.handle);
    }
    if cases.is_empty() {
        return None;
    }
    Some(erase(Switch { cases, unmatched }, about, blocking))
}

struct Switch {
    cases: Vec<Case>,
    unmatched: Unmatched,
}

impl Run for Switch {
    async fn run<'a>(&'a self, cx: &'a Context) -> Outcome {
        let raw = cx.message().body.raw_headers();
        let matching = self.cases.iter().find(|case| {
            case.when.is_none_or(|when| {
                headers::iter(raw).any(|(name, value)| {
                    name == when.header.as_bytes() && value == when.is.as_bytes()
                })
            })
        });
        match (matching, self.unmatched) {
            (Some(case), _) => case.handle.call(cx).await,
            (None, Unmatched::Skip) => Outcome::Skip,
            (None, Unmatched::DeadLetter) => {
                Outcome::dead("unmatched: no handler's `when` takes this record")
            }
        }
    }
}
