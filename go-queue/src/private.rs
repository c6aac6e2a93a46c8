//! What generated code may name. Not public API: it may change in any release.

pub use inventory;

use std::sync::Arc;
use std::time::Duration;

use crate::handler::context::About;
use crate::handler::extract::Rejection;
use crate::handler::payload::Payload;
use crate::handler::{Context, FromContext, Handle, Kind, Missing, Run};
use crate::message::{ContentType, Message};
use crate::outcome::{BoxError, ErrorClass, Outcome, wrong_length};

pub use crate::handler::payload::Produce;
pub use crate::handler::registry::Registration;

/// Erases a bound handler. `blocking` runs it on a thread of its own.
pub fn erase<H: Run>(handler: H, about: Arc<About>, blocking: bool) -> Arc<dyn Handle> {
    crate::handler::slot::erase(handler, about, blocking)
}

/// Stands behind the generated method of the same name, which is there only if all parameters are extractors. What is not
/// one is reported where its plan is made, at the parameter; without this it would be reported again where it is erased.
pub trait EraseNothing {
    /// Never called: what finds it does not compile.
    fn __go_queue_erase(&self, about: Arc<About>) -> Arc<dyn Handle>;
}

impl<H> EraseNothing for H {
    fn __go_queue_erase(&self, _: Arc<About>) -> Arc<dyn Handle> {
        unreachable!("a handler with a parameter that is no extractor does not compile")
    }
}

/// Collects what is missing.
pub fn plan<P>(made: Result<P, Missing>, missing: &mut Vec<Missing>) -> Option<P> {
    made.map_err(|one| missing.push(one)).ok()
}

/// A plan of the extractor `T`.
///
/// The attributes bind plans by this, from the plan to the extractor and not the other way, so that the one place where
/// `T: FromContext<K>` is asked for is where the plan is made: what is no extractor is reported once.
pub trait Extracts<T, K: Kind>: Send + Sync + 'static {
    /// Fills the parameter in.
    fn extract<'a>(
        &'a self,
        cx: &'a Context,
    ) -> impl Future<Output = Result<T, Rejection>> + Send + 'a;
}

impl<T: FromContext<K, Plan = P>, K: Kind, P: Send + Sync + 'static> Extracts<T, K> for P {
    fn extract<'a>(
        &'a self,
        cx: &'a Context,
    ) -> impl Future<Output = Result<T, Rejection>> + Send + 'a {
        T::extract(self, cx)
    }
}

/// What it means that a payload did not decode.
pub fn decoded<T>(payload: Result<T, BoxError>) -> Result<T, Outcome> {
    payload.map_err(|error| Outcome::undecodable(chain(&error)))
}

/// Decodes the payloads of a batch; what does not decode is left out and remembered by position.
pub fn decode_batch<'a, T>(
    cx: &'a Context,
    decode: impl Fn(&'a Message) -> Result<T, BoxError>,
) -> (Vec<T>, Undecoded) {
    let mut batch = Vec::with_capacity(cx.messages().len());
    let mut undecoded = Undecoded {
        errors: Vec::new(),
        len: cx.messages().len(),
    };
    for (position, message) in cx.messages().enumerate() {
        match decoded(decode(message)) {
            Ok(payload) => batch.push(payload),
            Err(outcome) => undecoded.errors.push((position, outcome)),
        }
    }
    (batch, undecoded)
}

/// The messages of a batch that did not decode.
#[derive(Debug)]
pub struct Undecoded {
    errors: Vec<(usize, Outcome)>,
    len: usize,
}

impl Undecoded {
    /// Whether none did decode, so that the handler must not be called.
    pub fn is_all(&self) -> bool {
        self.errors.len() == self.len
    }

    /// Joins the handler's outcome with what did not decode: one for each message, in order.
    pub fn join(self, outcome: Outcome) -> Outcome {
        if self.errors.is_empty() {
            return outcome;
        }
        let decoded = self.len - self.errors.len();
        let mut given = match outcome {
            Outcome::Each(each) if each.len() == decoded => each,
            Outcome::Each(each) => vec![wrong_length(each.len(), decoded); decoded],
            one => vec![one; decoded],
        }
        .into_iter();
        let mut errors = self.errors.into_iter().peekable();
        let each =
            (0..self.len).filter_map(|position| match errors.next_if(|(at, _)| *at == position) {
                Some((_, error)) => Some(error),
                None => given.next(),
            });
        Outcome::Each(each.collect())
    }
}

/// How a payload is encoded, from the function that decodes it: errors about it are the same as those of the other uses.
pub const fn content<'a, P: Payload<'a>>(_: fn(&'a Message) -> Result<P, BoxError>) -> ContentType {
    P::CONTENT
}

/// Why a payload would not decode.
pub fn check<T>(payload: Result<T, BoxError>) -> Result<(), Arc<str>> {
    payload
        .map(drop)
        .map_err(|error| crate::outcome::reason(chain(&error)))
}

/// A field that `#[retry(after = field)]` names.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a time to wait",
    label = "not a time to wait",
    note = "`#[retry(after = ..)]` names a field of type `Duration` or `Option<Duration>`"
)]
pub trait Wait {
    /// After this time, or by the handler's policy.
    fn class(&self) -> ErrorClass;
}

#[diagnostic::do_not_recommend]
impl Wait for Duration {
    fn class(&self) -> ErrorClass {
        ErrorClass::RetryAfter(*self)
    }
}

#[diagnostic::do_not_recommend]
impl Wait for Option<Duration> {
    fn class(&self) -> ErrorClass {
        self.map_or(ErrorClass::Retry, ErrorClass::RetryAfter)
    }
}

/// What an extractor's error means.
#[expect(
    clippy::needless_pass_by_value,
    reason = "generated code has no use for it afterwards"
)]
pub fn rejected(rejection: Rejection) -> Outcome {
    let error = chain(&rejection.error);
    if rejection.dead {
        Outcome::dead(error)
    } else {
        Outcome::retry(error)
    }
}

fn chain(error: &BoxError) -> crate::outcome::Chain<'_> {
    crate::outcome::Chain(&**error)
}

/// Turns what a handler returned into an outcome, by steps of autoref: `(&&&&&Probe::of(&out)).kind().finish(out)`.
///
/// First errors that say what they ask for, then what converts by itself ([`IntoOutcome`](crate::outcome::IntoOutcome), `Result` with an error that converts into a
/// boxed one, which keeps its sources), then any error that displays, then a step that exists to give the good error.
pub mod kinds {
    use std::fmt::Display;
    use std::marker::PhantomData;

    use crate::outcome::{BoxError, Chain, ClassifyError, ErrorCase, IntoOutcome, Outcome};

    /// The type of a returned value.
    #[derive(Debug)]
    pub struct Probe<R>(PhantomData<fn(R)>);

    impl<R> Probe<R> {
        /// Of this value.
        pub fn of(_: &R) -> Self {
            Self(PhantomData)
        }
    }

    /// Step 0: the error says itself what it asks for.
    #[derive(Debug)]
    pub struct Classified;
    /// Step 0, of an error that converts into a boxed one, which has its sources.
    #[derive(Debug)]
    pub struct ClassifiedWithSources;
    /// Step 1: no error, or one that converts into a boxed one.
    #[derive(Debug)]
    pub struct Native;
    /// Step 2: an error that displays.
    #[derive(Debug)]
    pub struct Shown;
    /// Step 3: neither.
    #[derive(Debug)]
    pub struct Nope;

    /// Step 0, with sources.
    pub trait KindClassifiedWithSources {
        /// The step.
        fn kind(&self) -> ClassifiedWithSources {
            ClassifiedWithSources
        }
    }
    impl<T: IntoOutcome, E: ClassifyError + Into<BoxError>> KindClassifiedWithSources
        for &&&&Probe<Result<T, E>>
    {
    }
    impl ClassifiedWithSources {
        /// The outcome.
        pub fn finish<T, E>(self, out: Result<T, E>) -> Outcome
        where
            T: IntoOutcome,
            E: ClassifyError + Into<BoxError>,
        {
            match out {
                Ok(value) => value.into_outcome(),
                Err(error) => error.classify().outcome(Chain(&*error.into())),
            }
        }
    }

    /// Step 0.
    pub trait KindClassified {
        /// The step.
        fn kind(&self) -> Classified {
            Classified
        }
    }
    impl<T: IntoOutcome, E: ClassifyError> KindClassified for &&&Probe<Result<T, E>> {}
    impl Classified {
        /// The outcome.
        pub fn finish<T: IntoOutcome, E: ClassifyError>(self, out: Result<T, E>) -> Outcome {
            match out {
                Ok(value) => value.into_outcome(),
                Err(error) => error.classify().outcome(error),
            }
        }
    }

    /// Step 1a: a value.
    pub trait KindNative {
        /// The step.
        fn kind(&self) -> Native {
            Native
        }
    }
    impl<R: NativeOutcome> KindNative for &&Probe<R> {}

    /// A value, or a result whose error converts into a boxed one.
    pub trait NativeOutcome {
        /// The outcome.
        fn native(self) -> Outcome;
    }
    #[diagnostic::do_not_recommend]
    impl<R: IntoOutcome> NativeOutcome for R {
        fn native(self) -> Outcome {
            self.into_outcome()
        }
    }
    #[diagnostic::do_not_recommend]
    impl<T: IntoOutcome, E: Into<BoxError>> NativeOutcome for Result<T, E> {
        fn native(self) -> Outcome {
            match self {
                Ok(value) => value.into_outcome(),
                Err(error) => Outcome::retry(Chain(&*error.into())),
            }
        }
    }
    impl Native {
        /// The outcome.
        pub fn finish<R: NativeOutcome>(self, out: R) -> Outcome {
            out.native()
        }
    }

    /// Step 2.
    pub trait KindShown {
        /// The step.
        fn kind(&self) -> Shown {
            Shown
        }
    }
    impl<T: IntoOutcome, E: Display> KindShown for &Probe<Result<T, E>> {}
    impl Shown {
        /// The outcome.
        pub fn finish<T: IntoOutcome, E: Display>(self, out: Result<T, E>) -> Outcome {
            match out {
                Ok(value) => value.into_outcome(),
                Err(error) => Outcome::retry(error),
            }
        }
    }

    /// The type that a handler returns, of which nobody has a value yet. `(&Cases::of(..)).cases()` is what its errors ask for.
    #[derive(Debug)]
    pub struct Cases<R>(PhantomData<fn(R)>);

    impl<R> Cases<R> {
        /// Of what the call would return. It is not called.
        pub fn of(_: impl FnOnce() -> R) -> Self {
            Self(PhantomData)
        }
    }

    impl<F: Future> Cases<F> {
        /// Of what the future would give.
        pub fn awaited(self) -> Cases<F::Output> {
            Cases(PhantomData)
        }
    }

    /// An argument for a call that is never made, of whatever type the call wants.
    pub fn argument<T>() -> T {
        unreachable!("a call that is only looked at is not made")
    }

    /// A return type whose errors say what they ask for.
    pub trait SaysCases {
        /// What that is.
        fn cases(&self) -> &'static [ErrorCase];
    }
    impl<T, E: ClassifyError> SaysCases for Cases<Result<T, E>> {
        fn cases(&self) -> &'static [ErrorCase] {
            E::CASES
        }
    }

    /// Any other return type.
    pub trait NoCases {
        /// Nothing.
        fn cases(&self) -> &'static [ErrorCase] {
            &[]
        }
    }
    impl<R> NoCases for &Cases<R> {}

    /// Step 3.
    pub trait KindNope {
        /// The step.
        fn kind(&self) -> Nope {
            Nope
        }
    }
    impl<R> KindNope for Probe<R> {}
    impl Nope {
        /// Exists to raise the error "cannot be returned from a handler".
        pub fn finish<R: IntoOutcome>(self, out: R) -> Outcome {
            out.into_outcome()
        }
    }
}

/// Constructors that a handler does not have, for their compile errors. `Here<'a>` is nothing, with a lifetime: a bound with
/// `for<'a>` is looked at where a function is called, and not where it stands.
pub mod absent {
    use std::marker::PhantomData;

    /// Nothing.
    #[derive(Debug)]
    pub struct Here<'a>(PhantomData<&'a ()>);

    /// Implemented by nothing.
    #[diagnostic::on_unimplemented(
        message = "the records of a topic are read at once: they have no delay and no time",
        label = "not for topics",
        note = "append a record with `::push(payload)`; what shall run later is a task of a `#[dq_handler(tube = \"..\")]`"
    )]
    pub trait TasksOfTopics {}

    /// Implemented by nothing.
    #[diagnostic::on_unimplemented(
        message = "a tube has tasks, and records are pushed to topics",
        label = "not for tubes",
        note = "send a task with `::now(payload)`, `::delay(payload, minutes(15))` or `::at(payload, time)`"
    )]
    pub trait RecordsOfTubes {}

    /// Implemented by nothing.
    #[diagnostic::on_unimplemented(
        message = "of several topics nobody knows which one is meant",
        label = "there are several topics",
        note = "name the one: `const ORDERS: Topic<Order> = Topic::new(\"orders\");`, then `ORDERS.push(payload)`"
    )]
    pub trait OneTopic {}

    /// Implemented by nothing.
    #[diagnostic::on_unimplemented(
        message = "this handler has no constructors",
        label = "no constructors",
        note = "its attribute says `producer = false`: remove that, or send from where the payload is made"
    )]
    pub trait Constructors {}

    /// What such a constructor returns: never reached.
    pub fn nothing<T>() -> T {
        unreachable!("what calls this does not compile")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_decode_is_joined_by_position() {
        let bad = |position| (position, Outcome::undecodable("bad"));
        let undecoded = Undecoded {
            errors: vec![bad(0), bad(2)],
            len: 4,
        };
        let joined = undecoded.join(Outcome::Each(vec![Outcome::Done, Outcome::Skip]));
        let want = vec![
            Outcome::undecodable("bad"),
            Outcome::Done,
            Outcome::undecodable("bad"),
            Outcome::Skip,
        ];
        assert_eq!(joined, Outcome::Each(want));
    }

    #[test]
    fn a_wrong_number_of_outcomes_is_an_error_for_all_that_decoded() {
        let undecoded = Undecoded {
            errors: vec![(1, Outcome::undecodable("bad"))],
            len: 3,
        };
        let Outcome::Each(each) = undecoded.join(Outcome::Each(vec![Outcome::Done])) else {
            unreachable!("a join of a batch answers for each")
        };
        assert!(matches!(
            &each[..],
            [
                Outcome::Retry { .. },
                Outcome::Undecodable { .. },
                Outcome::Retry { .. }
            ]
        ));
    }

    #[test]
    fn every_documented_return_type_is_taken() {
        use kinds::{
            KindClassified as _, KindClassifiedWithSources as _, KindNative as _, KindShown as _,
            Probe,
        };
        macro_rules! outcome {
            ($value:expr) => {{
                let out = $value;
                (&&&&&Probe::of(&out)).kind().finish(out)
            }};
        }
        struct OnlyDisplay;
        impl std::fmt::Display for OnlyDisplay {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("shown")
            }
        }
        struct Says(ErrorClass);
        impl std::fmt::Display for Says {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("says")
            }
        }
        impl crate::outcome::ClassifyError for Says {
            fn classify(&self) -> ErrorClass {
                self.0
            }
        }
        #[derive(Debug, thiserror::Error)]
        #[error("top")]
        struct SaysWithSource(#[source] std::io::Error);
        impl crate::outcome::ClassifyError for SaysWithSource {
            fn classify(&self) -> ErrorClass {
                ErrorClass::Dead
            }
        }
        assert_eq!(outcome!(()), Outcome::Done);
        assert_eq!(outcome!(Outcome::Skip), Outcome::Skip);
        assert_eq!(
            outcome!(vec![Outcome::Done]),
            Outcome::Each(vec![Outcome::Done])
        );
        assert_eq!(outcome!(Err::<(), _>("text")), Outcome::retry("text"));
        assert_eq!(
            outcome!(Err::<(), _>(String::from("text"))),
            Outcome::retry("text")
        );
        assert_eq!(
            outcome!(Err::<Outcome, _>(std::io::Error::other("io"))),
            Outcome::retry("io")
        );
        assert_eq!(outcome!(Err::<(), _>(OnlyDisplay)), Outcome::retry("shown"));
        assert_eq!(
            outcome!(Err::<(), Box<dyn std::error::Error>>("boxed".into())),
            Outcome::retry("boxed")
        );
        assert_eq!(
            outcome!(Err::<(), _>(Says(ErrorClass::Skip))),
            Outcome::Skip
        );
        assert_eq!(
            outcome!(Err::<Outcome, _>(Says(ErrorClass::Retry))),
            Outcome::retry("says")
        );
        let sourced = SaysWithSource(std::io::Error::other("root"));
        assert_eq!(outcome!(Err::<(), _>(sourced)), Outcome::dead("top: root"));
        let with_source = anyhow::anyhow!("root").context("top");
        assert_eq!(
            outcome!(Err::<(), _>(with_source)),
            Outcome::retry("top: root")
        );
    }
}
