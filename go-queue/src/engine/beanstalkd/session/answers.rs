//! What each answer of a node means for the connection and for the jobs in hand there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Session, State, Tide, Word};
use crate::delivery::Receipt;
use crate::engine::beanstalkd::codec::{Answer, Command, stat};
use crate::engine::beanstalkd::hold::Parcel;
use crate::engine::beanstalkd::link::LinkError;
use crate::engine::beanstalkd::receive::{Desk, Framing};
use crate::engine::{DEFAULT_PRIORITY, Turn};
use crate::message::envelope::{self, Closed, OpenError, Opened};
use crate::message::go_queue::open as open_go_queue;
use crate::message::{Flags, Id, Message};
use crate::time::WallTime;

/// The most reserves under way on one connection.
const LARGEST_BATCH: usize = 128;

/// After so many jobs in a row a tube that runs dry had a backlog.
const BACKLOG: usize = 16;

/// A task that comes so long before its time is not held: it goes back to the server for the rest.
const LONGEST_HOLD: Duration = Duration::from_secs(3);

/// After so many first starts in a row the history of a job is asked only if it comes out of order.
const TRUST_AFTER: u32 = 64;

/// How long an envelope of a later version is left to newer workers, in seconds.
const NEWER_AFTER: u32 = 30;

impl Session {
    pub(super) fn hear(
        &mut self,
        word: Word,
        answer: Answer,
        tide: &mut Tide,
        desk: &mut Desk,
        turn: &mut Turn,
    ) -> Result<(), LinkError> {
        match (word, answer) {
            (Word::Reserve | Word::Wait, answer) => {
                self.reserves -= 1;
                if matches!(word, Word::Wait) {
                    self.waits = false;
                }
                match answer {
                    Answer::Reserved { id, body } => {
                        tide.dry = false;
                        tide.batch = (tide.batch + 1).min(LARGEST_BATCH);
                        self.arrived(id, body, tide, desk, turn);
                    }
                    Answer::DeadlineSoon => {
                        // It does not say of which job. Asking again at once would be answered the same at once.
                        if !self.touch_older(Duration::from_millis(300), desk.now) {
                            self.hushed = Some(desk.now + Duration::from_millis(100));
                        }
                    }
                    Answer::OutOfMemory => return Err(Self::refused()),
                    _ => {
                        if tide.batch >= BACKLOG {
                            tide.ended = Some(desk.now);
                        }
                        tide.dry = true;
                        tide.batch = 1;
                    }
                }
            }
            // The disk of the node is full, so that it cannot note the change. The connection's end gives everything back.
            (_, Answer::OutOfMemory) => return Err(Self::refused()),
            (Word::Returned { id }, Answer::Buried) => {
                // No memory to keep it ready: nobody would ever see it again.
                self.push(&Command::KickJob(id), Word::Kicked);
            }
            (Word::Settled | Word::Returned { .. }, answer) => {
                self.unconfirmed -= 1;
                if answer == Answer::NotFound {
                    desk.stale += 1;
                }
            }
            (Word::Kicked, _) => self.unconfirmed -= 1,
            (Word::Touched(receipt), Answer::NotFound) => self.lose(receipt, desk, turn),
            (Word::History(receipt), answer) => self.learn(receipt, &answer, tide, desk, turn),
            (Word::Body(receipt), answer) => self.bequeath(receipt, answer, desk, turn),
            (Word::Delayed, Answer::Found { body, .. }) => {
                tide.next_due = open(desk.source.framing, body)
                    .ok()
                    .map(|opened| opened.message.due);
            }
            (Word::Delayed, _) => tide.next_due = None,
            (Word::Ready, answer) => tide.dry = answer == Answer::NotFound,
            (Word::Touched(_), _) => {}
        }
        Ok(())
    }

    fn refused() -> LinkError {
        LinkError::Io {
            what: "change a job",
            why: Arc::new(std::io::Error::new(
                std::io::ErrorKind::OutOfMemory,
                "the server has no room in memory or on its disk",
            )),
        }
    }

    /// The time to run of a job is over: somebody else has it, or will.
    fn lose(&mut self, receipt: Receipt, desk: &mut Desk, turn: &mut Turn) {
        let Some(job) = self.drop_job(receipt) else {
            return;
        };
        match job.state {
            State::Out => {
                let before = self.line.len();
                self.line.retain(|(parcel, _)| parcel.receipt != receipt);
                if self.line.len() == before {
                    desk.forget_one(receipt, turn);
                }
            }
            State::Paused => {
                desk.hold.forget_one(receipt);
                desk.stale += 1;
            }
            State::Dying { .. } => {
                self.dying -= 1;
                desk.stale += 1;
            }
        }
    }

    fn arrived(&mut self, id: u64, body: Bytes, tide: &mut Tide, desk: &mut Desk, turn: &mut Turn) {
        let framing = desk.source.framing;
        let late = match framing {
            Framing::GoQueue { late: Some(late) } => Some((late, body.clone())),
            _ => None,
        };
        let opened = match open(framing, body) {
            Ok(opened) => opened,
            Err(Closed {
                why: OpenError::Newer { .. },
                ..
            }) => {
                desk.newer_seen = Some(desk.now);
                let receipt = self.take(id, DEFAULT_PRIORITY, desk);
                self.give_back(receipt, NEWER_AFTER, desk);
                return;
            }
            Err(Closed { raw, .. }) => malformed(raw, desk.wall),
        };
        let Opened {
            mut message,
            parked_attempt,
            priority,
        } = opened;
        let receipt = self.take(id, priority, desk);
        if desk.quiet {
            self.give_back(receipt, 0, desk);
            return;
        }
        message.place = self.node;
        message.attempt = 1 + u32::from(parked_attempt);
        if let Some((late, raw)) = late
            && desk.letters.are_kept()
            && desk.wall.since(message.due) > late
        {
            self.too_late(receipt, raw, message.attempt - 1, desk);
            return;
        }
        let parcel = Parcel { message, receipt };
        if desk.source.claimed {
            self.place(parcel, desk, turn);
            return;
        }
        // Jobs come in the order of their numbers. One that comes out of order was delayed, or has been in somebody's hands.
        let suspect = id <= tide.highest || tide.fresh < TRUST_AFTER;
        tide.highest = tide.highest.max(id);
        if suspect {
            self.push(&Command::StatsJob(id), Word::History(receipt));
            self.line.push_back((parcel, true));
        } else if self.line.is_empty() {
            self.place(parcel, desk, turn);
        } else {
            self.line.push_back((parcel, false));
        }
    }

    /// Hands a message out, now or when it is due.
    fn place(&mut self, parcel: Parcel, desk: &mut Desk, turn: &mut Turn) {
        let due = parcel.message.due;
        if due <= desk.wall {
            desk.hand_out(parcel, turn);
            return;
        }
        let rest = due.since(desk.wall);
        if rest <= LONGEST_HOLD {
            desk.hold.keep(parcel);
        } else {
            // Made ready before its time: by an operator, or by another clock.
            let seconds = u32::try_from(rest.as_secs()).unwrap_or(u32::MAX);
            self.give_back(parcel.receipt, seconds, desk);
        }
    }

    /// The counters of a job: how often it was started before.
    fn learn(
        &mut self,
        receipt: Receipt,
        answer: &Answer,
        tide: &mut Tide,
        desk: &mut Desk,
        turn: &mut Turn,
    ) {
        let asked = self
            .line
            .iter_mut()
            .find(|(parcel, _)| parcel.receipt == receipt);
        if let Some((parcel, waits)) = asked {
            *waits = false;
            if let Answer::Stats(text) = answer {
                let field = |name| stat(text, name).and_then(|text| text.parse::<u32>().ok());
                let reserves = field("reserves").unwrap_or(1);
                let starts = reserves.saturating_sub(field("kicks").unwrap_or(0)).max(1);
                // It was 1 plus what was parked.
                parcel.message.attempt += starts - 1;
                tide.fresh = if starts == 1 { tide.fresh + 1 } else { 0 };
            }
        }
        while let Some((_, false)) = self.line.front() {
            if let Some((parcel, _)) = self.line.pop_front() {
                self.place(parcel, desk, turn);
            }
        }
    }

    /// The body of a job that is given up goes into its letter.
    fn bequeath(&mut self, receipt: Receipt, answer: Answer, desk: &mut Desk, turn: &mut Turn) {
        let node = self.node;
        let Some(job) = self.job(receipt) else {
            return;
        };
        match (answer, &job.state) {
            (Answer::Found { id, body }, State::Dying { reason, attempts }) => {
                let mut letter = desk.letter(node, id, Arc::clone(reason), *attempts);
                letter.body = body;
                desk.letters.add(receipt, letter);
            }
            _ => self.lose(receipt, desk, turn),
        }
    }

    /// A task of the Go library that is later than its tube allows.
    fn too_late(&mut self, receipt: Receipt, raw: Bytes, attempts: u32, desk: &mut Desk) {
        let reason: Arc<str> = Arc::from("late");
        let mut letter = desk.letter(self.node, receipt.token, Arc::clone(&reason), attempts);
        letter.body = raw;
        if let Some(job) = self.job(receipt) {
            job.state = State::Dying { reason, attempts };
            self.dying += 1;
            desk.letters.add(receipt, letter);
        }
    }
}

fn open(framing: Framing, body: Bytes) -> Result<Opened, Closed> {
    match framing {
        Framing::Native => envelope::open(body),
        Framing::GoQueue { .. } => open_go_queue(body),
    }
}

/// A body that nothing here wrote: its handler does not start, its policy decides.
fn malformed(raw: Bytes, wall: WallTime) -> Opened {
    let id = Id::of_raw_body(&raw);
    Opened {
        message: Message {
            id,
            body: crate::message::Body::new(raw, 0, 0),
            at: wall,
            flags: Flags::MALFORMED.with(Flags::NULL_KEY),
            ..Message::default()
        },
        parked_attempt: 0,
        priority: DEFAULT_PRIORITY,
    }
}
