//! The options of the attributes: what may be written, with the same names as in YAML.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{Expr, Ident, LitStr, Path, Type};

use crate::Side;
use crate::entries::{self, Entry, Value};
use crate::problems::{Problems, nearest};
use crate::values;

mod advice;
mod value;

use advice::{advice, foreign};

/// What an attribute says, checked. Where something was wrong there is a stand-in, so that the rest can be generated and
/// checked too.
pub(crate) struct Options {
    /// The path of the library.
    pub(crate) krate: TokenStream,
    /// One tube, or topics.
    pub(crate) places: Vec<Place>,
    pub(crate) group: Option<LitStr>,
    pub(crate) when: Option<(LitStr, LitStr)>,
    /// `.with_concurrency(64)` and so on, for the const `Options` of the definition.
    pub(crate) setters: TokenStream,
    pub(crate) priority: Option<u32>,
    pub(crate) blocking: bool,
    pub(crate) middleware: Vec<Expr>,
    pub(crate) producer: bool,
    pub(crate) handle: Handle,
    /// The options that only a batch has.
    pub(crate) of_batch: Vec<Ident>,
    /// The option that only a `when` has.
    unmatched: Option<Ident>,
    /// Whether somebody tried to say `when`.
    tells_apart: bool,
}

/// A tube or topic.
pub(crate) enum Place {
    Literal(LitStr),
    /// A `Tube<T>` or `Topic<T>`.
    Const(Path),
}

/// The type that stands for the handler.
pub(crate) enum Handle {
    /// Has the name of the function.
    SameName,
    Named(Ident),
    Hidden,
}

const BOTH: [&str; 16] = [
    "concurrency",
    "waiting",
    "lanes",
    "timeout",
    "retry",
    "undecodable",
    "batch",
    "linger",
    "lease",
    "rate",
    "enabled",
    "blocking",
    "middleware",
    "producer",
    "handle",
    "crate",
];
const TUBES: [&str; 3] = ["tube", "max_late", "priority"];
const TOPICS: [&str; 7] = [
    "topic",
    "group",
    "order",
    "on_retry",
    "unmatched",
    "offset",
    "when",
];

impl Options {
    /// Reads the tokens between the parentheses. `function` is the name of the marked function.
    pub(crate) fn read(
        side: Side,
        function: &str,
        tokens: TokenStream,
        problems: &mut Problems,
    ) -> Self {
        let entries = entries::read(tokens, &[side.source()], problems);
        let mut reader = Reader {
            side,
            function,
            problems,
            names_source: entries.names_source,
            options: Self {
                krate: quote!(::go_queue),
                places: Vec::new(),
                group: None,
                when: None,
                setters: TokenStream::new(),
                priority: None,
                blocking: false,
                middleware: Vec::new(),
                producer: true,
                handle: Handle::SameName,
                of_batch: Vec::new(),
                unmatched: None,
                tells_apart: false,
            },
        };
        // The path comes first: the others are written with it.
        let (path, others): (Vec<_>, Vec<_>) = entries
            .all
            .into_iter()
            .partition(|entry| entry.key == "crate");
        for entry in path.iter().chain(&others) {
            reader.option(entry);
        }
        reader.finish()
    }
}

struct Reader<'a> {
    side: Side,
    function: &'a str,
    problems: &'a mut Problems,
    /// Whether somebody tried to say which tube or topic.
    names_source: bool,
    options: Options,
}

impl Reader<'_> {
    fn option(&mut self, entry: &Entry) {
        let key = entry.key.to_string();
        if matches!(&*key, "tube" | "topic") {
            self.names_source = true;
        }
        let (own, other) = match self.side {
            Side::Dq => (&TUBES[..], &TOPICS[..]),
            Side::Kq => (&TOPICS[..], &TUBES[..]),
        };
        if other.contains(&&*key) {
            let why = foreign(self.side, &key);
            self.problems.at(&entry.key, why);
        } else if BOTH.contains(&&*key) || own.contains(&&*key) {
            self.known(&key, entry);
        } else {
            self.unknown(&key, entry, own);
        }
    }

    fn known(&mut self, key: &str, entry: &Entry) {
        let krate = self.options.krate.clone();
        match key {
            "tube" => self.tube(entry),
            "topic" => self.topics(entry),
            "group" => {
                self.options.group = self.text(entry, "billing").filter(|text| self.name(text));
            }
            "concurrency" | "waiting" | "lanes" | "batch" | "priority" => self.number(key, entry),
            "timeout" => self.timeout(entry),
            "retry" => self.retry(entry),
            "rate" => self.rate(entry),
            "linger" | "max_late" | "lease" => self.bounded(key, entry),
            "order" => {
                let words = [("none", "None"), ("key", "Key"), ("partition", "Partition")];
                self.choice(key, entry, &quote!(#krate::engine::Order), &words);
            }
            "offset" => {
                let words = [("first", "First"), ("last", "Last")];
                self.choice(key, entry, &quote!(#krate::engine::Start), &words);
            }
            "on_retry" => {
                let words = [("block", "Block"), ("dead_letter", "DeadLetter")];
                self.choice(
                    key,
                    entry,
                    &quote!(#krate::handler::options::OnRetry),
                    &words,
                );
            }
            "undecodable" => {
                let words = [
                    ("dead_letter", "DeadLetter"),
                    ("skip", "Skip"),
                    ("retry", "Retry"),
                ];
                self.choice(
                    key,
                    entry,
                    &quote!(#krate::handler::options::Undecodable),
                    &words,
                );
            }
            "unmatched" => {
                self.options.unmatched = Some(entry.key.clone());
                let words = [("dead_letter", "DeadLetter"), ("skip", "Skip")];
                self.choice(
                    key,
                    entry,
                    &quote!(#krate::handler::options::Unmatched),
                    &words,
                );
            }
            "enabled" => {
                if let Some(enabled) = self.boolean(entry) {
                    self.set(key, &quote!(#enabled));
                }
            }
            "blocking" => {
                self.options.blocking =
                    matches!(entry.value, Value::Flag) || self.boolean(entry).unwrap_or(true);
            }
            "producer" => self.options.producer = self.boolean(entry).unwrap_or(true),
            "when" => {
                self.options.tells_apart = true;
                self.when(entry);
            }
            "middleware" => self.middleware(entry),
            "handle" => self.handle(entry),
            _ => self.krate(entry),
        }
    }

    fn unknown(&mut self, key: &str, entry: &Entry, own: &[&'static str]) {
        let known = || own.iter().chain(&BOTH).copied();
        let number = entry.whole_number();
        let message = if let Some(hint) = advice(key, self.side, self.function, number) {
            hint
        } else if let Some(meant) = nearest(key, known()) {
            self.names_source |= meant == self.side.source();
            format!("unknown option `{key}`: did you mean `{meant}`?")
        } else {
            let all: Vec<_> = known().collect();
            format!("unknown option `{key}`; there are {}", all.join(", "))
        };
        self.names_source |= key == "queue";
        self.problems.at(&entry.key, message);
    }

    fn tube(&mut self, entry: &Entry) {
        if let Some(place) = self
            .is(entry, "emails")
            .and_then(|value| self.place(value, "Tube"))
        {
            self.options.places.push(place);
        }
    }

    fn topics(&mut self, entry: &Entry) {
        let Some(value) = self.is(entry, "orders") else {
            return;
        };
        let Ok(list) = syn::parse2::<syn::ExprArray>(value.clone()) else {
            let place = self.place(value, "Topic");
            return self.options.places.extend(place);
        };
        if list.elems.is_empty() {
            self.problems
                .at(&list, "a handler reads at least one topic");
        }
        let mut seen = Vec::new();
        for topic in list.elems {
            let tokens = topic.to_token_stream();
            let text = tokens.to_string();
            if seen.contains(&text) {
                self.problems.at(&topic, "this topic is there already");
            } else {
                let place = self.place(tokens, "Topic");
                self.options.places.extend(place);
            }
            seen.push(text);
        }
    }

    fn place(&mut self, value: TokenStream, constant: &str) -> Option<Place> {
        if let Ok(text) = syn::parse2::<LitStr>(value.clone()) {
            return self.name(&text).then_some(Place::Literal(text));
        }
        if let Ok(path) = syn::parse2::<Path>(value.clone()) {
            if let Some(word) = path.get_ident().filter(|word| is_small(word)) {
                self.problems.at(
                    word,
                    format_args!(
                        "a name stands in quotes: write `\"{word}\"` (is this a `{constant}<T>`? then write its path, as in `self::{word}`)"
                    ),
                );
                return None;
            }
            return Some(Place::Const(path));
        }
        self.problems.at(
            value,
            format_args!(
                "write a name in quotes, or the path of a `const` of type `{constant}<T>`"
            ),
        );
        None
    }

    fn name(&mut self, text: &LitStr) -> bool {
        let checked = values::name(&text.value());
        if let Err(why) = &checked {
            self.problems.at(text, why);
        }
        checked.is_ok()
    }

    fn number(&mut self, key: &str, entry: &Entry) {
        let Some(value) = self.is(entry, "") else {
            return;
        };
        // The bounds of the configuration file.
        let bounds = match key {
            "concurrency" => 1..=1_000_000,
            "waiting" => 0..=10_000_000,
            "lanes" => 1..=256,
            "batch" => 1..=65_536,
            _ => 0..=u32::MAX,
        };
        let number = syn::parse2::<syn::LitInt>(value.clone())
            .ok()
            .filter(|int| matches!(int.suffix(), "" | "u32"))
            .and_then(|int| int.base10_parse::<u32>().ok())
            .filter(|number| bounds.contains(number));
        if let Some(number) = number {
            self.set(key, &quote!(#number));
            if key == "priority" {
                self.options.priority = Some(number);
            }
        } else {
            let (least, most) = bounds.into_inner();
            let message = format_args!("`{key}` is a whole number from {least} to {most}");
            self.problems.at(value, message);
        }
        if key == "batch" {
            self.options.of_batch.push(entry.key.clone());
        }
    }

    /// `linger`, `max_late` and `lease`, with the bounds of the configuration file.
    fn bounded(&mut self, key: &str, entry: &Entry) {
        if key == "linger" {
            self.options.of_batch.push(entry.key.clone());
        }
        if key == "max_late" && entry.is_word("none") {
            return;
        }
        let Some(time) = self.duration(entry, "10s") else {
            return;
        };
        let why = match key {
            "linger" if time > Duration::from_secs(3600) => "a batch waits at most `1h`",
            "lease" if time < Duration::from_secs(1) => {
                "a lease lasts at least `1s`: what renews it needs time to travel"
            }
            "lease" if time > Duration::from_secs(86_400) => "a lease lasts at most `1d`",
            "max_late" if time.is_zero() => {
                "no task is ever met in time for `0s`: write more, or leave `max_late` out"
            }
            _ => return self.set(key, &duration_tokens(time)),
        };
        self.problems.at(entry.value_tokens(), why);
    }

    fn timeout(&mut self, entry: &Entry) {
        let krate = self.options.krate.clone();
        let timeout = quote!(#krate::handler::options::Timeout);
        if entry.is_text("none") {
            let text = "write `timeout = none`, without quotes";
            self.problems.at(entry.value_tokens(), text);
        } else if entry.is_word("none") {
            self.set("timeout", &quote!(#timeout::None));
        } else if let Some(time) = self.duration(entry, "30s") {
            if time.is_zero() {
                let text =
                    "a handler needs some time; `timeout = none` lets it run as long as it likes";
                self.problems.at(entry.value_tokens(), text);
            }
            let time = duration_tokens(time);
            self.set("timeout", &quote!(#timeout::After(#time)));
        }
    }

    fn retry(&mut self, entry: &Entry) {
        const HOW: &str = "write `retry(max = 8, backoff = \"1s..10m\")` or `retry = none`";
        if entry.is_word("none") {
            return self.set("retry_max", &quote!(0));
        }
        let Value::Of(inside) = &entry.value else {
            return self.problems.at(entry.value_tokens(), HOW);
        };
        if inside.is_empty() {
            return self.problems.at(&entry.key, HOW);
        }
        let entries = entries::read(inside.clone(), &["max", "backoff"], self.problems);
        for entry in entries.all {
            match &*entry.key.to_string() {
                "max" => {
                    let Some(value) = self.is(&entry, "") else {
                        continue;
                    };
                    match syn::parse2::<syn::LitInt>(value.clone())
                        .and_then(|int| int.base10_parse::<u32>())
                    {
                        Ok(max) => self.set("retry_max", &quote!(#max)),
                        Err(_) => self.problems.at(
                            value,
                            "`max` is how often it runs again, a whole number such as 8",
                        ),
                    }
                }
                "backoff" => {
                    let Some(text) = self.text(&entry, "1s..10m") else {
                        continue;
                    };
                    match values::backoff(&text.value()) {
                        Ok((first, max)) => {
                            let krate = self.options.krate.clone();
                            let (first, max) = (duration_tokens(first), duration_tokens(max));
                            let backoff = quote!(#krate::handler::options::Backoff { first: #first, max: #max });
                            self.set("backoff", &backoff);
                        }
                        Err(why) => self.problems.at(text, why),
                    }
                }
                other => {
                    let hint = nearest(other, ["max", "backoff"]).map_or_else(
                        || format!("; {HOW}"),
                        |meant| format!(": did you mean `{meant}`?"),
                    );
                    self.problems.at(
                        &entry.key,
                        format_args!("unknown option `{other}` of `retry`{hint}"),
                    );
                }
            }
        }
    }

    fn rate(&mut self, entry: &Entry) {
        if entry.is_word("none") {
            return;
        }
        let Some(text) = self.text(entry, "200/s") else {
            return;
        };
        match values::rate(&text.value()) {
            Ok((count, per)) => {
                let krate = self.options.krate.clone();
                let per = duration_tokens(per);
                self.set(
                    "rate",
                    &quote!(#krate::handler::options::Rate { count: #count, per: #per }),
                );
            }
            Err(why) => self.problems.at(text, why),
        }
    }

    fn when(&mut self, entry: &Entry) {
        const HOW: &str = "write `when(header = \"type\", is = \"order.created\")`";
        let Value::Of(inside) = &entry.value else {
            return self.problems.at(entry.value_tokens(), HOW);
        };
        let (mut header, mut is, mut whole) = (None, None, true);
        for entry in entries::read(inside.clone(), &["header", "is"], self.problems).all {
            let slot = match &*entry.key.to_string() {
                "header" => &mut header,
                "is" => &mut is,
                other => {
                    let hint = nearest(other, ["header", "is"]).map_or_else(
                        || format!("; {HOW}"),
                        |meant| format!(": did you mean `{meant}`?"),
                    );
                    self.problems.at(
                        &entry.key,
                        format_args!("unknown option `{other}` of `when`{hint}"),
                    );
                    whole = false;
                    continue;
                }
            };
            *slot = self.text(&entry, "..");
            whole &= slot.is_some();
        }
        if let Some(name) = &header
            && (name.value().is_empty() || name.value().len() > 255)
        {
            self.problems
                .at(name, "the name of a header has 1 to 255 bytes");
        }
        match (header, is) {
            (Some(header), Some(is)) => self.options.when = Some((header, is)),
            _ if whole => self.problems.at(&entry.key, HOW),
            _ => {}
        }
    }

    fn middleware(&mut self, entry: &Entry) {
        let Some(value) = self.is(entry, "") else {
            return;
        };
        match syn::parse2::<Expr>(value.clone()) {
            Ok(Expr::Array(list)) => self.options.middleware.extend(list.elems),
            Ok(one @ (Expr::Path(_) | Expr::Call(_) | Expr::MethodCall(_))) => self.options.middleware.push(one),
            _ => self.problems.at(
                value,
                "write the path of a middleware, `middleware = Audit`, or several, outermost first: `middleware = [Audit, Trace]`",
            ),
        }
    }

    fn handle(&mut self, entry: &Entry) {
        let Some(value) = self.is(entry, "") else {
            return;
        };
        self.options.handle = if let Ok(name) = syn::parse2::<Ident>(value.clone()) {
            Handle::Named(name)
        } else if let Ok(syn::LitBool { value: false, .. }) = syn::parse2(value.clone()) {
            Handle::Hidden
        } else {
            let text = "write a name for the type that stands for the handler, `handle = SendEmail`, or `handle = false` for none";
            self.problems.at(value, text);
            Handle::SameName
        };
    }

    fn krate(&mut self, entry: &Entry) {
        let Some(value) = self.is(entry, "") else {
            return;
        };
        match syn::parse2::<Path>(value.clone()) {
            Ok(path) => self.options.krate = path.into_token_stream(),
            Err(_) => self.problems.at(
                value,
                "write the path of the library, for example `crate = my_queue::go_queue`",
            ),
        }
    }

    fn set(&mut self, option: &str, value: &TokenStream) {
        let setter = Ident::new(&format!("with_{option}"), Span::call_site());
        self.options.setters.extend(quote!(.#setter(#value)));
    }

    fn finish(self) -> Options {
        if !self.names_source {
            let (source, attribute) = (self.side.source(), self.side.attribute());
            self.problems.at_span(
                Span::call_site(),
                format_args!("`{source}` is missing: write `#[{attribute}({source} = \"..\")]`"),
            );
        }
        self.options
    }
}

impl Options {
    /// What no `when` matches, where there is none.
    pub(crate) fn refuse_unmatched_alone(&self, problems: &mut Problems) {
        if let Some(key) = self.unmatched.as_ref().filter(|_| !self.tells_apart) {
            problems.at(
                key,
                "`unmatched` is for records that no `when` matches: add `when(header = \"..\", is = \"..\")`, or remove it",
            );
        }
    }

    /// Options that only a batch has, on a handler of single messages.
    pub(crate) fn refuse_batch_options(&self, payload: &Type, problems: &mut Problems) {
        for key in &self.of_batch {
            problems.at(
                key,
                format_args!(
                    "`{key}` is for batches: take `Vec<{}>` as the first parameter, or remove it",
                    crate::function::plain(payload)
                ),
            );
        }
    }
}

/// Whether the word has no capital letter, as no const has it.
fn is_small(word: &Ident) -> bool {
    !word.to_string().contains(char::is_uppercase)
}

pub(crate) fn duration_tokens(time: Duration) -> TokenStream {
    let (seconds, nanos) = (time.as_secs(), time.subsec_nanos());
    quote!(::core::time::Duration::new(#seconds, #nanos))
}
