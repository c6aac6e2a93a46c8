//! What the attributes generate, without an app: definitions, bound handlers that are run by hand, typed producers.

mod fake;

use std::fmt;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::{Duration, SystemTime};

use go_queue::engine::{BoxFuture, DEFAULT_PRIORITY, Order as Keeps, Start};
use go_queue::handler::extract::Rejection;
use go_queue::handler::options::{Backoff, OnRetry, Rate, Timeout, Undecodable, Unmatched};
use go_queue::handler::{
    About, Context, Env, FromContext, HandlerDef, Kind, Missing, Options, Registered, Registry,
    Source, When,
};
use go_queue::message::{Body, ContentType, Message};
use go_queue::middleware::{Middleware, Next};
use go_queue::name::{Name, Place};
use go_queue::prelude::*;
use go_queue::time::WallTime;

use fake::Fake;

fn def<H: Registered>() -> &'static HandlerDef {
    H::DEF
}

fn message(payload: &[u8]) -> Message {
    Message {
        body: Body::pack(b"key", b"", payload),
        attempt: 2,
        place: 5,
        offset: 9,
        ..Message::default()
    }
}

fn about() -> Arc<About> {
    Arc::new(About {
        handler: "charge".into(),
        source: "orders".into(),
        group: Some("billing".into()),
    })
}

fn run(def: &HandlerDef, env: &Env, messages: &[&[u8]]) -> Outcome {
    let handle = (def.bind)(env, about()).expect("nothing is missing");
    let mut slot = handle.slot();
    for (n, payload) in messages.iter().enumerate() {
        if n == 0 {
            slot.load(message(payload));
        } else {
            slot.add(message(payload));
        }
    }
    let mut cx = task::Context::from_waker(task::Waker::noop());
    match slot.start(&mut cx) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panics("a handler without anything to wait for is ready at once"),
    }
}

#[expect(clippy::panic, reason = "this is how a test fails")]
fn panics(why: &str) -> ! {
    panic!("{why}")
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Order<'a> {
    id: &'a str,
    cents: u32,
}

#[derive(Clone)]
struct Bank(u32);

/// Charges an order, if the bank has as much.
#[kq_handler(
    topic = "orders",
    group = "billing",
    order = partition,
    concurrency = 256,
    waiting = 0,
    lanes = 2,
    timeout = "1m 30s",
    retry(max = 3, backoff = "1s..10m"),
    on_retry = dead_letter,
    undecodable = skip,
    unmatched = skip,
    lease = "45s",
    offset = last,
    rate = "200/s",
    enabled = false,
    when(header = "type", is = "order.created"),
)]
async fn charge(
    order: Order<'_>,
    State(bank): State<Bank>,
    Partition(partition): Partition,
    meta: Meta,
    Key(key): Key,
) -> Result<Outcome, String> {
    assert_eq!(
        (partition, meta.attempt, key.as_deref()),
        (5, 2, Some(&b"key"[..]))
    );
    assert_eq!(
        (&*meta.source, meta.group.as_deref()),
        ("orders", Some("billing"))
    );
    match order {
        Order { id: "unknown", .. } => Ok(Outcome::dead("who?")),
        order if order.cents <= bank.0 => Ok(Outcome::Done),
        order => Err(format!("{} is short of {}", order.id, order.cents - bank.0)),
    }
}

fn bank() -> Env {
    let mut env = Env::new();
    env.insert(Bank(100));
    env
}

#[test]
fn a_definition_says_what_the_attribute_says() {
    let def = def::<charge>();
    assert_eq!(
        (def.name, def.module, def.package),
        ("charge", module_path!(), "go-queue-tests")
    );
    assert_eq!(def.path(), format!("{}::charge", module_path!()));
    assert!(def.location.file.ends_with("main.rs") && def.location.line > 60);
    assert_eq!(
        def.source,
        Source::Topics {
            topics: &["orders"],
            group: Some("billing"),
        }
    );
    assert_eq!(
        def.when,
        Some(When {
            header: "type",
            is: "order.created",
        })
    );
    assert_eq!((def.payload, def.content), ("Order<'_>", ContentType::Json));
    assert!(!def.batch && !def.blocking && def.middleware.is_empty());
    let seconds = Duration::from_secs;
    let want = Options::NONE
        .with_concurrency(256)
        .with_waiting(0)
        .with_lanes(2)
        .with_order(Keeps::Partition)
        .with_timeout(Timeout::After(seconds(90)))
        .with_retry_max(3)
        .with_backoff(Backoff {
            first: seconds(1),
            max: seconds(600),
        })
        .with_on_retry(OnRetry::DeadLetter)
        .with_undecodable(Undecodable::Skip)
        .with_unmatched(Unmatched::Skip)
        .with_lease(seconds(45))
        .with_offset(Start::Last)
        .with_rate(Rate {
            count: 200,
            per: seconds(1),
        })
        .with_enabled(false);
    assert_eq!(def.options, want);
}

#[test]
fn a_bound_handler_decodes_extracts_and_says_what_it_meant() {
    let (def, env) = (def::<charge>(), bank());
    assert_eq!(run(def, &env, &[br#"{"id":"a","cents":7}"#]), Outcome::Done);
    assert_eq!(
        run(def, &env, &[br#"{"id":"a","cents":107}"#]),
        Outcome::retry("a is short of 7")
    );
    assert_eq!(
        run(def, &env, &[br#"{"id":"unknown","cents":1}"#]),
        Outcome::dead("who?")
    );
    let undecodable = run(def, &env, &[b"{"]);
    assert!(
        matches!(undecodable, Outcome::Undecodable { .. }),
        "{undecodable:?}"
    );
}

#[test]
fn a_slot_is_used_again_and_again() {
    let handle = (def::<charge>().bind)(&bank(), about()).expect("nothing is missing");
    let mut slot = handle.slot();
    let mut cx = task::Context::from_waker(task::Waker::noop());
    for cents in 1..=3 {
        slot.load(message(
            format!(r#"{{"id":"a","cents":{cents}}}"#).as_bytes(),
        ));
        assert_eq!(slot.start(&mut cx), Poll::Ready(Outcome::Done));
    }
}

#[test]
fn check_tells_whether_a_payload_would_decode() {
    let check = def::<charge>().check;
    assert_eq!(check(&message(br#"{"id":"a","cents":7}"#)), Ok(()));
    let why = check(&message(br#"{"id":"a"}"#)).expect_err("cents are missing");
    assert!(why.contains("missing field `cents`"), "{why}");
}

#[tokio::test]
async fn the_function_stays_a_function() {
    let order = Order { id: "a", cents: 1 };
    let partition = Partition(5);
    let mut meta = Meta::default();
    (meta.attempt, meta.source, meta.group) = (2, "orders".into(), Some("billing".into()));
    let key = Key(Some("key".into()));
    let outcome = charge(order, State(Bank(1)), partition, meta, key).await;
    assert_eq!(outcome, Ok(Outcome::Done));
}

#[dq_handler(tube = "mails", handle = Mails, priority = 7, max_late = "1h", timeout = none, retry = none)]
async fn mails(
    mail: Text,
    _: State<Bank>,
    meta: Meta,
    _: State<Arc<str>>,
    _: Producer,
) -> anyhow::Result<()> {
    anyhow::ensure!(meta.attempt < 2, "{} was the {}th", mail.0, meta.attempt);
    Ok(())
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let missing = (def::<Mails>().bind)(&bank(), about()).expect_err("two are missing");
    let parameters: Vec<_> = missing.iter().map(|one| one.parameter.as_str()).collect();
    assert_eq!(parameters, ["State<Arc<str>>", "Producer"]);
}

#[test]
fn none_is_said_too() {
    let want = Options::NONE
        .with_priority(7)
        .with_max_late(Duration::from_secs(3600))
        .with_timeout(Timeout::None)
        .with_retry_max(0);
    assert_eq!(def::<Mails>().options, want);
    assert_eq!(def::<Mails>().content, ContentType::Text);
}

#[test]
fn an_error_keeps_its_text() {
    let mut env = bank();
    env.insert::<Arc<str>>("x".into());
    env.insert(Fake::default().producer());
    let outcome = run(def::<Mails>(), &env, &[b"hello"]);
    assert_eq!(outcome, Outcome::retry("hello was the 2th"));
}

#[derive(Deserialize)]
struct Click<'a> {
    page: std::borrow::Cow<'a, str>,
}

#[kq_handler(topic = "clicks", batch = 500, linger = "50ms", producer = false)]
async fn clicks(batch: Vec<Click<'_>>, all: Vec<Meta>) -> Vec<Outcome> {
    assert!(batch.len() <= all.len());
    let skip = |click: Click<'_>| match &*click.page {
        "/" => Outcome::Skip,
        _ => Outcome::Done,
    };
    batch.into_iter().map(skip).collect()
}

#[test]
fn a_batch_answers_for_each_and_for_what_did_not_decode() {
    let def = def::<clicks>();
    assert!(def.batch);
    assert_eq!(def.payload, "Vec<Click<'_>>");
    let want = Options::NONE
        .with_batch(500)
        .with_linger(Duration::from_millis(50));
    assert_eq!(def.options, want);
    let payloads = [&br#"{"page":"/"}"#[..], b"?", br#"{"page":"/a"}"#];
    let Outcome::Each(each) = run(def, &Env::new(), &payloads) else {
        panics("a batch answers for each");
    };
    assert!(
        matches!(
            each[..],
            [Outcome::Skip, Outcome::Undecodable { .. }, Outcome::Done]
        ),
        "{each:?}"
    );
}

#[test]
fn a_batch_of_which_nothing_decodes_does_not_reach_the_handler() {
    #[dq_handler(tube = "never")]
    async fn never(_: Vec<u8>) {
        panics("nothing has decoded")
    }
    let Outcome::Each(each) = run(def::<never>(), &Env::new(), &[b"?", b"!"]) else {
        panics("a batch answers for each");
    };
    assert!(
        matches!(
            each[..],
            [Outcome::Undecodable { .. }, Outcome::Undecodable { .. }]
        ),
        "{each:?}"
    );
}

#[test]
fn the_bounds_of_numbers_are_those_of_the_configuration() {
    use go_queue::config;
    #[kq_handler(
        topic = "most",
        concurrency = 1_000_000,
        waiting = 10_000_000,
        lanes = 256,
        batch = 65_536,
        lease = "1s"
    )]
    async fn most(_: Vec<u8>) {}
    let want = Options::NONE
        .with_concurrency(config::MAX_CONCURRENCY)
        .with_waiting(config::MAX_WAITING)
        .with_lanes(config::MAX_LANES)
        .with_batch(config::MAX_BATCH)
        .with_lease(config::MIN_LEASE);
    assert_eq!(def::<most>().options, want);
}

/// Fails as it is told.
struct Fickle;

#[derive(Debug)]
struct OnlyShown;

impl fmt::Display for OnlyShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only shown")
    }
}

impl<K: Kind> FromContext<K> for Fickle {
    type Plan = ();

    fn plan(_: &Env) -> Result<(), Missing> {
        Ok(())
    }

    async fn extract<'a>((): &'a (), cx: &'a Context) -> Result<Self, Rejection> {
        match cx.message().body.payload() {
            b"1" => Err("not now".into()),
            b"2" => Err(Rejection::dead("never")),
            _ => Ok(Self),
        }
    }
}

#[dq_handler(tube = "fickle")]
async fn fickle(_: u8, _: Fickle) -> Result<(), OnlyShown> {
    Err(OnlyShown)
}

#[test]
fn an_extractor_that_fails_counts_as_the_handler_unless_it_says_dead() {
    let def = def::<fickle>();
    assert_eq!(run(def, &Env::new(), &[b"1"]), Outcome::retry("not now"));
    assert_eq!(run(def, &Env::new(), &[b"2"]), Outcome::dead("never"));
    assert_eq!(run(def, &Env::new(), &[b"3"]), Outcome::retry("only shown"));
}

#[test]
fn a_blocking_function_needs_no_async() {
    #[dq_handler(tube = "sums", blocking, middleware = [Doubles, Doubles])]
    fn sums(numbers: Json<Vec<u32>>) -> Outcome {
        Outcome::dead(numbers.0.into_iter().sum::<u32>())
    }
    let def = def::<sums>();
    assert!(def.blocking && !def.batch);
    assert_eq!(def.middleware.len(), 2);
    let handle = (def.bind)(&Env::new(), about()).expect("nothing is missing");
    let layers = def.middleware.iter().map(|make| make()).collect();
    let handle = go_queue::middleware::chain(handle, layers, about(), false);
    let context = Context::with_message(about(), message(b"[1,2]"));
    let mut call = handle.call(&context);
    let mut cx = task::Context::from_waker(task::Waker::noop());
    assert_eq!(
        call.as_mut().poll(&mut cx),
        Poll::Ready(Outcome::dead("3 twice twice"))
    );
}

struct Doubles;

impl Middleware for Doubles {
    fn call<'a>(&'a self, cx: &'a Context, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            match next.run(cx).await {
                Outcome::Dead { error } => Outcome::dead(format_args!("{error} twice")),
                other => other,
            }
        })
    }
}

const REMINDERS: Tube<String> = Tube::new("reminders");
const EVENTS: Topic<u64> = Topic::new("events");

#[dq_handler(tube = REMINDERS)]
async fn remind(text: String) {
    drop(text);
}

#[kq_handler(topic = ["audit", EVENTS])]
async fn audit(_: u64) {}

#[test]
fn a_const_names_the_place() {
    assert_eq!(def::<remind>().source, Source::Tube("reminders"));
    let topics = &["audit", "events"];
    assert_eq!(
        def::<audit>().source,
        Source::Topics {
            topics,
            group: None,
        }
    );
}

#[test]
fn nothing_to_say_is_a_payload_too() {
    #[dq_handler(tube = "nightly")]
    async fn nightly((): ()) {}
    assert_eq!(
        run(def::<nightly>(), &Env::new(), &[b"null"]),
        Outcome::Done
    );
}

#[tokio::test]
async fn the_constructors_of_a_tube_make_tasks() {
    let (fake, now) = (Fake::default(), SystemTime::now());
    let producer = fake.producer();

    let id = remind::now("tea".to_owned())
        .send(&producer)
        .await
        .expect("sent");
    let sent = fake.take();
    assert_eq!(sent.place, Place::Tube(Name::literal("reminders")));
    assert_eq!((sent.id, sent.content), (id.id(), ContentType::Json));
    assert_eq!(sent.body.payload(), br#""tea""#);
    assert_eq!(
        (sent.due, sent.priority),
        (WallTime::EPOCH, DEFAULT_PRIORITY)
    );

    let delayed = remind::delay("tea".to_owned(), minutes(15)).id("tea");
    delayed.send(&producer).await.expect("sent");
    let (sent, least) = (fake.take(), WallTime::from_system(now + minutes(15)));
    assert!(Some(sent.due) >= least && sent.named, "{sent:?}");

    let at = now + hours(1);
    let task = remind::at("tea".to_owned(), at);
    task.send(&producer).await.expect("sent");
    assert_eq!(Some(fake.take().due), WallTime::from_system(at));

    let mail = Mails::delay(Text("hi".into()), seconds(1));
    mail.send(&producer).await.expect("sent");
    let sent = fake.take();
    assert_eq!((sent.priority, sent.content), (7, ContentType::Text));
    assert_eq!(sent.body.payload(), b"hi");
}

#[tokio::test]
async fn the_constructor_of_a_topic_makes_records() {
    let fake = Fake::default();
    let order = Order { id: "a", cents: 1 };
    let pushed = charge::push(order).key("a").send(&fake.producer()).await;
    let (pushed, sent) = (pushed.expect("sent"), fake.take());
    assert_eq!(sent.place, Place::Topic(Name::literal("orders")));
    assert_eq!(
        (pushed.id, pushed.partition, pushed.offset),
        (sent.id, 3, 7)
    );
    assert_eq!(sent.body.payload(), br#"{"id":"a","cents":1}"#);
    assert_eq!(sent.body.key(), b"a");
}

mod conditional {
    use go_queue::prelude::*;

    #[dq_handler(tube = "off")]
    #[cfg(any())]
    pub(crate) async fn off(_: NothingLikeThis) {}

    #[dq_handler(tube = "on")]
    #[cfg(not(any()))]
    pub(crate) async fn on((): ()) {}
}

#[test]
fn all_handlers_are_in_the_registry_also_those_in_functions_but_none_that_is_configured_out() {
    #[dq_handler(tube = "inner")]
    async fn inner((): ()) {}
    let registry = Registry::global();
    let names: Vec<_> = registry.iter().map(|def| def.name).collect();
    for name in ["charge", "mails", "remind", "inner", "on", "never"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    assert!(!names.contains(&"off"));
}

#[test]
fn handlers_are_chosen_by_name() {
    let chosen = handlers![remind, conditional::on, Mails];
    let names: Vec<_> = chosen.iter().map(|def| def.name).collect();
    assert_eq!(names, ["mails", "on", "remind"]);
    assert!(chosen.is_explicit());
}
