//! What the kit has seen of each message, in order: written by the engine under test and by the middleware around the handlers,
//! read by assertions.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::delivery::How;
use crate::engine::{BoxFuture, Outgoing, Published, TaskId};
use crate::handler::Context;
use crate::message::{ContentType, Flags, Id, Message};
use crate::middleware::{Middleware, Next};
use crate::name::{Name, Place};
use crate::outcome::Outcome;
use crate::time::{Clock, WallTime};

use super::handled::SeenState;

/// Which message: a task by its id, a record by where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Task(Name, Id),
    Record(Name, u32, i64),
}

impl Key {
    pub(super) fn of(place: &Place, message: &Message) -> Self {
        match place {
            Place::Tube(tube) => Self::Task(tube.clone(), message.id),
            Place::Topic(topic) => Self::Record(topic.clone(), message.place, message.offset),
        }
    }

    fn of_published(place: &Place, published: &Published) -> Self {
        match place {
            Place::Tube(tube) => Self::Task(tube.clone(), published.id),
            Place::Topic(topic) => {
                Self::Record(topic.clone(), published.partition, published.offset)
            }
        }
    }
}

/// One thing that happened to a message.
#[derive(Clone, Debug)]
pub(super) struct Event {
    at: WallTime,
    /// To whose copy of a record; `None` for tasks, and for what concerns all groups.
    group: Option<Name>,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// Accepted, to run not before this.
    Sent {
        due: WallTime,
    },
    /// Sent again under a name that is known.
    Known,
    Moved {
        due: WallTime,
    },
    Revoked,
    Started {
        handler: Arc<str>,
        attempt: u32,
    },
    Returned(Outcome),
    /// Its future was dropped: a panic, a timeout, an abort.
    Dropped {
        panicked: bool,
    },
    Settled(How),
    /// The worker died before the engine heard of its end.
    Unheard,
    /// The lease was lost.
    Lost,
    /// Delivered once more, by the test.
    Redelivered,
    /// Taken back from the dead letters.
    Replayed,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent { due } if *due == WallTime::EPOCH => f.write_str("sent"),
            Self::Sent { due } => write!(f, "sent, due at {due}"),
            Self::Known => f.write_str("sent again, and known already: nothing was stored"),
            Self::Moved { due } => write!(f, "moved to {due}"),
            Self::Revoked => f.write_str("revoked"),
            Self::Started { handler, attempt } => {
                write!(f, "`{handler}` started, attempt {attempt}")
            }
            Self::Returned(outcome) => match outcome {
                Outcome::Done => f.write_str("returned: done"),
                Outcome::Skip => f.write_str("returned: not wanted"),
                Outcome::Retry { error, .. } => write!(f, "failed: {error}"),
                Outcome::Dead { error } => write!(f, "failed for good: {error}"),
                Outcome::Undecodable { error } => write!(f, "did not decode: {error}"),
                Outcome::Each(each) => write!(f, "returned {} outcomes", each.len()),
            },
            Self::Dropped { panicked: true } => f.write_str("panicked"),
            Self::Dropped { panicked: false } => {
                f.write_str("dropped before its end: timeout, abort, or a lost lease")
            }
            Self::Settled(how) => match how {
                How::Ack => f.write_str("removed"),
                How::Release { .. } => f.write_str("given back, uncounted"),
                How::Retry { after } => write!(f, "runs again after {after:?}"),
                How::Dead { reason, .. } => write!(f, "to the dead letters: {reason}"),
            },
            Self::Unheard => f.write_str("the worker died before the engine heard of the end"),
            Self::Lost => f.write_str("the lease was lost"),
            Self::Redelivered => f.write_str("delivered once more, by the test"),
            Self::Replayed => f.write_str("replayed from the dead letters"),
        }
    }
}

/// One message and everything that happened to it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) message: Message,
    events: Vec<Event>,
}

/// What became of a message so far, for one group or for a tube.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub(super) state: SeenState,
    pub(super) runs: usize,
    /// Runs that failed and were not the last: it ran again, or will.
    pub(super) retries: usize,
}

impl Entry {
    fn events_of<'a>(&'a self, group: Option<&'a Name>) -> impl Iterator<Item = &'a Event> {
        self.events
            .iter()
            .filter(move |event| event.group.is_none() || event.group.as_ref() == group)
    }

    /// Whether somebody was told that it is stored.
    pub(super) fn was_sent(&self) -> bool {
        self.events
            .iter()
            .any(|event| matches!(event.what, What::Sent { .. }))
    }

    pub(super) fn sent_at(&self) -> Option<WallTime> {
        let sent = self
            .events
            .iter()
            .find(|event| matches!(event.what, What::Sent { .. }));
        sent.map(|event| event.at)
    }

    /// The last time for which it was due.
    pub(super) fn due(&self) -> Option<WallTime> {
        self.events.iter().rev().find_map(|event| match event.what {
            What::Sent { due } if due == WallTime::EPOCH => Some(event.at),
            What::Sent { due } | What::Moved { due } => Some(due),
            _ => None,
        })
    }

    /// Why it is among the dead letters.
    pub(super) fn reason(&self, group: Option<&Name>) -> Option<Arc<str>> {
        let last = self.events_of(group).filter_map(|event| match &event.what {
            What::Settled(How::Dead { reason, .. }) => Some(Arc::clone(reason)),
            _ => None,
        });
        last.last()
    }

    pub(super) fn fate(&self, group: Option<&Name>) -> Fate {
        let mut state = SeenState::Pending;
        let (mut runs, mut failures) = (0, 0);
        let (mut failed, mut unwanted, mut lost) = (false, false, false);
        for event in self.events_of(group) {
            match &event.what {
                What::Started { .. } => {
                    runs += 1;
                    (failed, unwanted, lost) = (false, false, false);
                    state = SeenState::Running;
                }
                What::Returned(outcome) => match outcome {
                    Outcome::Retry { .. } | Outcome::Undecodable { .. } => {
                        unwanted = matches!(outcome, Outcome::Undecodable { .. });
                        failed = true;
                        failures += 1;
                        state = SeenState::Pending;
                    }
                    Outcome::Skip => unwanted = true,
                    Outcome::Done | Outcome::Dead { .. } | Outcome::Each(_) => {}
                },
                What::Dropped { .. } => {
                    // Who lost its lease did not fail.
                    failed = !lost;
                    failures += usize::from(failed);
                    state = SeenState::Pending;
                }
                What::Settled(How::Ack) if unwanted => state = SeenState::Skipped,
                What::Settled(How::Ack) => state = SeenState::Done,
                What::Settled(How::Dead { .. }) => state = SeenState::Dead,
                What::Unheard | What::Lost => {
                    lost = true;
                    state = SeenState::Pending;
                }
                What::Sent { .. }
                | What::Settled(How::Release { .. } | How::Retry { .. })
                | What::Redelivered
                | What::Replayed => state = SeenState::Pending,
                What::Revoked => state = SeenState::Revoked,
                What::Known | What::Moved { .. } => {}
            }
        }
        let is_over = !matches!(state, SeenState::Pending | SeenState::Running);
        Fate {
            state,
            runs,
            retries: failures - usize::from(failed && is_over),
        }
    }

    /// A line for each event, with its time since the start of the app.
    pub(super) fn history(&self, group: Option<&Name>, began: WallTime) -> String {
        let mut text = String::new();
        for event in self.events_of(group) {
            let after = crate::time::format_duration(event.at.since(began));
            let _ =
                fmt::Write::write_fmt(&mut text, format_args!("\n    +{after:<14} {}", event.what));
        }
        text
    }
}

/// All messages, in the order in which they were first seen.
#[derive(Debug, Default)]
struct Entries {
    all: Vec<Entry>,
    index: HashMap<Key, usize>,
}

impl Entries {
    fn at(&mut self, key: Key, make: impl FnOnce() -> Entry) -> &mut Entry {
        let all = &mut self.all;
        let index = *self.index.entry(key).or_insert_with(|| {
            all.push(make());
            all.len() - 1
        });
        &mut all[index]
    }
}

/// Everything that the kit has seen.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) began: WallTime,
    clock: Clock,
    entries: Mutex<Entries>,
    running: AtomicUsize,
    changes: watch::Sender<u64>,
}

impl Ledger {
    pub(super) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            began: clock.now(),
            clock,
            entries: Mutex::default(),
            running: AtomicUsize::new(0),
            changes: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more thing has happened, whatever it is.
    pub(super) fn stir(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// How many things have happened.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Handlers between their start and their end.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// All that was seen, for an assertion.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.lock().all.clone()
    }

    pub(super) fn sent(&self, out: &Outgoing, published: &Published) {
        let key = Key::of_published(&out.place, published);
        let event = self.event(
            None,
            if published.existed {
                What::Known
            } else {
                What::Sent { due: out.due }
            },
        );
        let mut entries = self.lock();
        let entry = entries.at(key, || {
            let message = Message {
                id: published.id,
                body: out.body.clone(),
                flags: out.flags,
                content: out.content,
                place: published.partition,
                offset: published.offset,
                ..Message::default()
            };
            Entry {
                place: out.place.clone(),
                message,
                events: Vec::new(),
            }
        });
        entry.events.push(event);
        drop(entries);
        self.stir();
    }

    /// What happened to a message that an end has, or had, in hand.
    pub(super) fn note(&self, place: &Place, group: Option<&Name>, message: &Message, what: What) {
        let event = self.event(group.cloned(), what);
        let mut entries = self.lock();
        let entry = entries.at(Key::of(place, message), || Entry {
            place: place.clone(),
            message: message.clone(),
            events: Vec::new(),
        });
        entry.events.push(event);
        drop(entries);
        self.stir();
    }

    /// What happened to a task that waits.
    pub(super) fn note_task(&self, task: &TaskId, what: What) {
        self.note_id(&Place::Tube(task.tube().clone()), None, task.id(), what);
    }

    /// What happened to the messages of this id.
    pub(super) fn note_id(&self, place: &Place, group: Option<&Name>, id: Id, what: What) {
        let event = self.event(group.cloned(), what);
        let mut entries = self.lock();
        let of_id = |entry: &&mut Entry| entry.place == *place && entry.message.id == id;
        for entry in entries.all.iter_mut().filter(of_id) {
            entry.events.push(event.clone());
        }
        drop(entries);
        self.stir();
    }

    fn event(&self, group: Option<Name>, what: What) -> Event {
        Event {
            at: self.clock.now(),
            group,
            what,
        }
    }
}

/// Stands around every handler and writes down what it does.
pub(super) struct Observer(pub(super) Arc<Ledger>);

impl Middleware for Observer {
    fn call<'a>(&'a self, cx: &'a Context, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let run = Observation::begin(&self.0, cx);
            let outcome = next.run(cx).await;
            run.end(&outcome);
            outcome
        })
    }
}

/// One run under observation. Dropped before its end, it was dropped.
struct Observation<'a> {
    ledger: &'a Ledger,
    cx: &'a Context,
    place: Place,
    group: Option<Name>,
    ended: bool,
}

impl<'a> Observation<'a> {
    fn begin(ledger: &'a Ledger, cx: &'a Context) -> Self {
        let about = cx.about();
        let name = |text: &str| Name::new(text).unwrap_or(Name::literal("unknown"));
        let group = about.group.as_deref().map(name);
        let place = match group {
            Some(_) => Place::Topic(name(&about.source)),
            None => Place::Tube(name(&about.source)),
        };
        let run = Self {
            ledger,
            cx,
            place,
            group,
            ended: false,
        };
        ledger.running.fetch_add(1, Ordering::AcqRel);
        run.note(|_, message| What::Started {
            handler: about.handler.clone(),
            attempt: message.attempt,
        });
        run
    }

    fn end(mut self, outcome: &Outcome) {
        self.ended = true;
        self.note(|index, _| {
            What::Returned(match outcome {
                Outcome::Each(each) => each.get(index).cloned().unwrap_or_else(|| outcome.clone()),
                one => one.clone(),
            })
        });
    }

    fn note(&self, what: impl Fn(usize, &Message) -> What) {
        for (index, message) in self.cx.messages().enumerate() {
            let what = what(index, message);
            (self.ledger).note(&self.place, self.group.as_ref(), message, what);
        }
    }
}

impl Drop for Observation<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let panicked = std::thread::panicking();
            self.note(|_, _| What::Dropped { panicked });
        }
        self.ledger.running.fetch_sub(1, Ordering::AcqRel);
        self.ledger.stir();
    }
}

/// The payload as a failed assertion shows it: it is the test's own.
pub(super) fn shown(message: &Message) -> String {
    const LONGEST: usize = 160;
    let readable = matches!(message.content, ContentType::Json | ContentType::Text);
    if message.flags.contains(Flags::NULL_PAYLOAD) {
        return "no payload".to_owned();
    }
    let payload = message.body.payload();
    match std::str::from_utf8(payload) {
        Ok(text) if readable => {
            let short: String = text.chars().take(LONGEST).collect();
            let more = if short.len() < text.len() { "…" } else { "" };
            let shown: String = short.chars().filter(|c| !c.is_control()).collect();
            format!("{shown}{more}")
        }
        _ => format!("{} bytes", payload.len()),
    }
}
