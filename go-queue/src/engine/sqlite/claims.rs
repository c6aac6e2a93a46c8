//! The dedup store on the same file.
//!
//! A running claim belongs to a session, as a lease does: the process renews it by being alive, and it is free once the
//! session is gone. What is done stays known for `keep`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::failure::Failure;
use super::queue::{Job, Request};
use super::tube::millis_up;
use super::tx::Tx;
use super::{Handle, Sqlite};
use crate::dedup::{Answer, Ask, AskWhat, Claims, Verdict};

/// Who finds a claim held, or the store away, asks again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The lease of a session of claims in milliseconds.
const LEASE: i64 = 60_000;

/// States of a row, as stored.
const RUNNING: i64 = 1;
const FREE: i64 = 2;
const DONE: i64 = 3;

impl Sqlite {
    /// An end of the dedup store on this file, for one lane. Ids are told apart within a scope: a tube, or a topic with its
    /// group.
    pub fn claims(&self, scope: &str, keep: Duration) -> Box<dyn Claims> {
        Box::new(End {
            handle: self.0.clone(),
            scope: Arc::from(scope),
            keep,
            pending: VecDeque::new(),
            inbox: Arc::default(),
        })
    }
}

/// What an end and its requests share.
#[derive(Default)]
struct Inbox {
    /// The session; zero before the first request.
    owner: u32,
    /// Requests under way.
    asked: u32,
    answers: Vec<Answer>,
    /// What could not be stored and nobody waits for: it is asked again.
    again: Vec<Ask>,
    waker: Option<Waker>,
}

fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

struct End {
    handle: Arc<Handle>,
    scope: Arc<str>,
    keep: Duration,
    pending: VecDeque<Ask>,
    inbox: Arc<Mutex<Inbox>>,
}

impl Claims for End {
    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        asks: &mut Vec<Ask>,
        answers: &mut Vec<Answer>,
    ) -> Poll<()> {
        self.pending.extend(asks.drain(..));
        let (came, free) = {
            let mut inbox = lock(&self.inbox);
            inbox.waker = Some(cx.waker().clone());
            self.pending.extend(inbox.again.drain(..));
            let came = !inbox.answers.is_empty();
            answers.append(&mut inbox.answers);
            (came, inbox.asked < super::line::UNDER_WAY)
        };
        if free && !self.pending.is_empty() {
            let slice: Vec<Ask> = self.pending.drain(..).collect();
            lock(&self.inbox).asked += 1;
            self.send(slice, false);
        }
        if came { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl End {
    fn send(&self, asks: Vec<Ask>, end: bool) {
        let slice = Slice {
            asks,
            answers: Vec::new(),
            owner: 0,
            end,
            scope: self.scope.clone(),
            keep: self.keep,
            inbox: self.inbox.clone(),
        };
        if let Err(Request::Job(job)) = self.handle.shared.queue.push(Request::Job(Box::new(slice)))
        {
            job.finish(Err(Failure::Closed));
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let rest = self.pending.drain(..).collect();
        self.send(rest, true);
    }
}

/// Asks of one end, as one request.
struct Slice {
    asks: Vec<Ask>,
    answers: Vec<Answer>,
    owner: u32,
    /// The end is gone: its claims are free, their starts stay counted.
    end: bool,
    scope: Arc<str>,
    keep: Duration,
    inbox: Arc<Mutex<Inbox>>,
}

impl Job for Slice {
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.answers.clear();
        self.owner = lock(&self.inbox).owner;
        if self.owner == 0 || !tx.has_session(self.owner)? {
            // A session that others have ended took its claims with it; they answer `Lost` below.
            self.owner = if self.asks.is_empty() {
                0
            } else {
                tx.new_session(0, 0, LEASE)?
            };
        }
        for ask in &self.asks {
            let verdict = take(tx, &self.scope, self.keep, self.owner, ask)?;
            if ask.what != AskWhat::Abandon {
                self.answers.push(Answer {
                    ticket: ask.ticket,
                    round: ask.round,
                    verdict,
                });
            }
        }
        if self.end && self.owner != 0 {
            tx.end_session(i64::from(self.owner))?;
        }
        tx.effects.sync |= self.asks.iter().any(|ask| ask.what != AskWhat::Claim);
        Ok(())
    }

    fn finish(self: Box<Self>, end: Result<(), Failure>) {
        let waker = {
            let mut inbox = lock(&self.inbox);
            inbox.asked = inbox.asked.saturating_sub(1);
            match end {
                Ok(()) => {
                    inbox.owner = self.owner;
                    inbox.answers.extend(self.answers);
                }
                Err(_) => {
                    for ask in self.asks {
                        if ask.what == AskWhat::Abandon {
                            inbox.again.push(ask);
                        } else {
                            let verdict = Verdict::Down(ASK_AGAIN);
                            inbox.answers.push(Answer {
                                ticket: ask.ticket,
                                round: ask.round,
                                verdict,
                            });
                        }
                    }
                }
            }
            inbox.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A claim as it is stored.
struct Row {
    state: i64,
    owner: u32,
    attempts: u32,
    until: i64,
}

fn find(tx: &Tx<'_>, scope: &str, uid: &[u8]) -> rusqlite::Result<Option<Row>> {
    tx.conn
        .prepare_cached(
            "SELECT state, owner, attempts, until FROM claim WHERE scope=?1 AND uid=?2",
        )?
        .query_row(params![scope, uid], |row| {
            Ok(Row {
                state: row.get(0)?,
                owner: row.get(1)?,
                attempts: row.get(2)?,
                until: row.get(3)?,
            })
        })
        .optional()
}

fn write(tx: &Tx<'_>, scope: &str, uid: &[u8], row: &Row) -> rusqlite::Result<()> {
    tx.conn
        .prepare_cached(
            "INSERT INTO claim(scope, uid, state, owner, attempts, until) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT(scope, uid) DO UPDATE SET state=?3, owner=?4, attempts=?5, until=?6",
        )?
        .execute(params![scope, uid, row.state, row.owner, row.attempts, row.until])?;
    Ok(())
}

fn forget(tx: &Tx<'_>, scope: &str, uid: &[u8; 16]) -> rusqlite::Result<()> {
    tx.conn
        .prepare_cached("DELETE FROM claim WHERE scope=?1 AND uid=?2")?
        .execute(params![scope, &uid[..]])?;
    Ok(())
}

/// Takes one ask.
fn take(
    tx: &Tx<'_>,
    scope: &str,
    keep: Duration,
    owner: u32,
    ask: &Ask,
) -> rusqlite::Result<Verdict> {
    let uid = ask.id.0.to_be_bytes();
    let found = find(tx, scope, &uid)?;
    let until = |after: Duration| millis_up(tx.wall.saturating_add(after));
    if ask.what == AskWhat::Claim {
        let attempts = match found {
            Some(Row {
                state: DONE, until, ..
            }) if until > tx.now_ms() => return Ok(Verdict::Done),
            Some(Row { state: DONE, .. }) | None => 0,
            Some(Row {
                state: RUNNING,
                owner,
                ..
            }) if tx.has_session(owner)? => {
                return Ok(Verdict::Busy(ASK_AGAIN));
            }
            Some(Row { attempts, .. }) => attempts,
        };
        let attempt = attempts.saturating_add(1);
        write(
            tx,
            scope,
            &uid,
            &Row {
                state: RUNNING,
                owner,
                attempts: attempt,
                until: 0,
            },
        )?;
        return Ok(Verdict::Fresh { attempt });
    }
    let Some(row) = found.filter(|row| row.state == RUNNING && row.owner == owner) else {
        return Ok(Verdict::Lost);
    };
    let attempts = row.attempts;
    let next = match ask.what {
        AskWhat::Claim => row,
        AskWhat::Confirm => Row {
            state: DONE,
            owner: 0,
            attempts,
            until: until(keep),
        },
        AskWhat::Retry { after } => Row {
            state: FREE,
            owner: 0,
            attempts,
            until: until(after.saturating_add(keep)),
        },
        AskWhat::Dead => {
            forget(tx, scope, &uid)?;
            return Ok(Verdict::Stored);
        }
        AskWhat::Abandon => {
            let attempts = attempts.saturating_sub(1);
            if attempts == 0 {
                forget(tx, scope, &uid)?;
                return Ok(Verdict::Stored);
            }
            Row {
                state: FREE,
                owner: 0,
                attempts,
                until: until(keep),
            }
        }
    };
    write(tx, scope, &uid, &next)?;
    Ok(Verdict::Stored)
}
