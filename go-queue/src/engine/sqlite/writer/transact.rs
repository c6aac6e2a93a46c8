//! One transaction: what is queued, the claims of those who wait, the answers; and what happens when it fails.

use std::sync::Arc;
use std::time::Duration;

use super::{Kind, Sub, Writer};
use crate::engine::MAX_SLICE;
use crate::engine::sqlite::failure::Failure;
use crate::engine::sqlite::instance::Instance;
use crate::engine::sqlite::queue::Request;
use crate::engine::sqlite::sync::Answer;
use crate::engine::sqlite::tube::{self, Acks, Claimed};
use crate::engine::sqlite::tx::{Effects, Tx};
use crate::engine::sqlite::{Durability, group, host, record};
use crate::name::Place;

/// How long a failed transaction waits before it is tried again, first and at most.
pub(super) const BACKOFF: (Duration, Duration) =
    (Duration::from_millis(20), Duration::from_secs(1));

impl Writer {
    /// Runs requests as one transaction, and one by one if that fails.
    pub(super) fn transact(&mut self, batch: &mut Vec<Request>) {
        self.hold_back(batch);
        self.worked_at = host::monotonic();
        match self.attempt(batch, true) {
            Ok(()) => self.succeed(batch),
            Err(failure @ Failure::Busy(_)) => {
                for request in batch.drain(..) {
                    self.fail(request, &failure);
                }
                self.back_off();
            }
            Err(failure) => {
                // Some of them may be all right: a settlement when the quota stops a producer, or without the claim.
                let mut failed = batch.is_empty();
                if failed {
                    tracing::warn!(why = %failure.why(), "a claim failed, it is tried again");
                }
                for request in std::mem::take(batch) {
                    let mut one = vec![request];
                    self.hold_back(&mut one);
                    match self.attempt(&mut one, false) {
                        Ok(()) => self.succeed(&mut one),
                        Err(failure) => {
                            failed |= one.first().is_some_and(Request::must_happen);
                            for request in one {
                                self.fail(request, &failure);
                            }
                        }
                    }
                }
                if failed {
                    self.back_off();
                }
            }
        }
        if self.instance.has_peers() {
            // Another process may have waited for the lock; it takes microseconds to get it.
            std::thread::yield_now();
        }
    }

    /// Requests of an end whose earlier ones wait to be repeated wait behind them.
    fn hold_back(&mut self, batch: &mut Vec<Request>) {
        if self.kept.is_empty() {
            return;
        }
        let kept = &mut self.kept;
        let mut at = 0;
        while at < batch.len() {
            let end = end_of(&batch[at]);
            if end.is_some() && kept.iter().any(|k| end_of(k) == end) {
                kept.push(batch.remove(at));
            } else {
                at += 1;
            }
        }
    }

    fn back_off(&mut self) {
        self.retry_at = host::monotonic() + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        // A claim that failed is tried again with the rest, not at once.
        for sub in &mut self.subs {
            sub.maybe = false;
        }
        self.poll_at = self.poll_at.min(self.retry_at);
        self.data_version = -1;
    }

    /// One try. On an error nothing of it is stored.
    fn attempt(&mut self, batch: &mut [Request], claims: bool) -> Result<(), Failure> {
        if let Some(why) = &self.gone {
            return Err(Failure::Io(why.clone()));
        }
        if self.shared.syncer.is_broken() {
            self.repair()?;
        }
        let outcome = self.attempt_sql(batch, claims);
        let (effects, claimed) = match outcome {
            Ok(done) => done,
            Err(error) => {
                if !self.conn.is_autocommit()
                    && let Err(error) = self.conn.execute_batch("ROLLBACK")
                {
                    tracing::error!(%error, "a failed transaction could not be rolled back");
                }
                self.names.clear();
                return Err(Failure::from(&error));
            }
        };
        for (at, claimed) in claimed {
            let sub = &mut self.subs[at];
            sub.looked(claimed.exhausted, claimed.next_due);
            if !claimed.slice.rows.is_empty() {
                sub.give(claimed.slice);
            }
        }
        self.follow(effects);
        Ok(())
    }

    fn attempt_sql(
        &mut self,
        batch: &mut [Request],
        claims: bool,
    ) -> rusqlite::Result<(Effects, Vec<(usize, Claimed)>)> {
        let Self {
            conn,
            shared,
            instance,
            subs,
            names,
            turn,
            acks,
            soft_pages,
            ..
        } = self;
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut tx = Tx::new(
            conn,
            &shared.config,
            instance.id,
            shared.clock.now(),
            host::boot_millis(),
            *soft_pages,
            names,
            turn,
        );
        for request in batch {
            run(&mut tx, request, subs, acks)?;
        }
        let mut claimed = Vec::new();
        if claims {
            for (at, sub) in subs.iter_mut().enumerate() {
                let Kind::Tube(tube) = sub.kind else { continue };
                sub.maybe |= tx.effects.woken.contains(&tube);
                if sub.credit == 0 || !sub.maybe || !tx.has_session(sub.session)? {
                    continue;
                }
                let found = tube::claim(&mut tx, sub.session, tube, sub.credit.min(MAX_SLICE))?;
                claimed.push((at, found));
            }
        }
        tx.finish()?;
        let effects = std::mem::take(&mut tx.effects);
        drop(tx);
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok((effects, claimed))
    }

    /// A transaction of the engine's own.
    pub(in crate::engine::sqlite) fn small<T>(
        &mut self,
        work: impl FnOnce(&mut Tx<'_>, &Instance) -> rusqlite::Result<T>,
    ) -> Result<T, Failure> {
        let Self {
            conn,
            shared,
            instance,
            names,
            turn,
            soft_pages,
            ..
        } = self;
        let done = (|| {
            conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            let mut tx = Tx::new(
                conn,
                &shared.config,
                instance.id,
                shared.clock.now(),
                host::boot_millis(),
                *soft_pages,
                names,
                turn,
            );
            let value = work(&mut tx, instance)?;
            tx.finish()?;
            let effects = std::mem::take(&mut tx.effects);
            drop(tx);
            conn.prepare_cached("COMMIT")?.execute([])?;
            Ok((value, effects))
        })();
        match done {
            Ok((value, effects)) => {
                self.follow(effects);
                Ok(value)
            }
            Err(error) => {
                if !self.conn.is_autocommit() {
                    // Nothing else can be done about it; the next BEGIN says what is wrong.
                    let _ = self.conn.execute_batch("ROLLBACK");
                }
                self.names.clear();
                Err(Failure::from(&error))
            }
        }
    }

    /// What follows from a commit: ends that begin, ends that are woken, other processes that are nudged.
    fn follow(&mut self, mut effects: Effects) {
        if !effects.joined.is_empty() {
            self.subs.append(&mut effects.joined);
            self.beat_soon();
        }
        for sub in &mut self.subs {
            sub.maybe |= effects.woken.contains(&sub.place());
            if effects.moved
                && let Kind::Topic(member) = &mut sub.kind
            {
                member.check = true;
            }
        }
        if effects.moved {
            effects.woken.push(0);
        }
        self.instance.nudge(&effects.woken);
        if effects.sync {
            self.keeper.wrote();
        }
        self.sync_next |= effects.sync;
    }

    /// Answers requests whose transaction is committed.
    fn succeed(&mut self, batch: &mut Vec<Request>) {
        let sync = std::mem::take(&mut self.sync_next)
            && self.shared.config.durability == Durability::Power;
        let mut answers = std::mem::take(&mut self.answers);
        for request in batch.drain(..) {
            self.answer(request, &mut answers);
        }
        // What was claimed leaves before the sync: a claim that a power cut undoes is a task that waits again.
        self.deliver();
        if sync {
            self.shared.syncer.push(&mut answers);
        } else {
            for answer in answers.drain(..) {
                answer.send(Ok(()));
            }
        }
        self.answers = answers;
        if self.kept.is_empty() {
            self.backoff = BACKOFF.0;
        }
    }

    fn answer(&mut self, request: Request, answers: &mut Vec<Answer>) {
        match request {
            Request::Put(put) => answers.push(Answer::Put(put.reply, put.slice, put.answers)),
            Request::Job(job) => answers.push(Answer::Job(job)),
            Request::Tube(mut turn) => {
                let Some(at) = self.subs.iter().position(|sub| sub.no == turn.sub) else {
                    return;
                };
                let sub = &mut self.subs[at];
                sub.post.committed += 1;
                sub.post.stale += turn.stale;
                turn.settle.clear();
                sub.post.spare.push(turn.settle);
                answers.push(Answer::Confirm(sub.mailbox.clone(), 1));
                if turn.end {
                    sub.deliver();
                    self.subs.swap_remove(at);
                }
            }
            Request::Topic(turn) => {
                let Some(at) = self.subs.iter().position(|sub| sub.no == turn.sub) else {
                    return;
                };
                group::done(&mut self.subs[at], &turn);
                let sub = &mut self.subs[at];
                sub.post.committed += 1;
                sub.post.stale += turn.stale;
                answers.push(Answer::Confirm(sub.mailbox.clone(), 1));
                if turn.end {
                    sub.deliver();
                    self.subs.swap_remove(at);
                }
            }
        }
    }

    /// A request whose transaction failed: the producer is told; a settlement is kept and tried again.
    fn fail(&mut self, request: Request, failure: &Failure) {
        if !request.must_happen() {
            refuse(request, failure);
            return;
        }
        let end = end_of(&request);
        if let Some(sub) = self.subs.iter().find(|sub| Some(sub.no) == end) {
            let why = failure.why();
            sub.mailbox.post(|inbox| inbox.down = Some(why));
        }
        if self.kept.is_empty() {
            tracing::warn!(why = %failure.why(), "settlements could not be stored; they are kept and tried again");
        }
        self.kept.push(request);
    }

    /// After a failed sync: puts all pages into the database, which syncs it, and begins the log anew.
    fn repair(&mut self) -> Result<(), Failure> {
        let busy: i64 = self
            .conn
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|e| Failure::from(&e))?;
        if busy != 0 {
            return Err(Failure::Unsynced(Arc::from(
                "the disk failed to sync, and the log is in use",
            )));
        }
        self.shared.syncer.repaired();
        tracing::info!("the log was written into the database after a failed sync");
        Ok(())
    }
}

/// The end that a request comes from.
fn end_of(request: &Request) -> Option<u32> {
    match request {
        Request::Tube(turn) => Some(turn.sub),
        Request::Topic(turn) => Some(turn.sub),
        Request::Put(_) | Request::Job(_) => None,
    }
}

/// Answers a request that will not be done.
pub(super) fn refuse(request: Request, failure: &Failure) {
    match request {
        Request::Put(put) => {
            let answers = put.slice.iter().map(|_| Err(failure.publish())).collect();
            // Whoever asked may have gone.
            let _ = put.reply.send((put.slice, answers));
        }
        Request::Job(job) => job.finish(Err(failure.clone())),
        // Void: the leases go back with the session.
        Request::Tube(_) | Request::Topic(_) => {}
    }
}

/// Does one request inside of a transaction.
fn run(
    tx: &mut Tx<'_>,
    request: &mut Request,
    subs: &mut [Sub],
    acks: &mut Acks,
) -> rusqlite::Result<()> {
    match request {
        Request::Put(put) => {
            put.answers.clear();
            for part in put.slice.chunk_by(|a, b| a.place == b.place) {
                match &part[0].place {
                    Place::Tube(name) => tube::put(tx, name, part, &mut put.answers)?,
                    Place::Topic(name) => record::append(tx, name, part, &mut put.answers)?,
                }
            }
            Ok(())
        }
        Request::Tube(turn) => {
            let Some(sub) = subs.iter_mut().find(|sub| sub.no == turn.sub) else {
                return Ok(());
            };
            let Kind::Tube(tube) = sub.kind else {
                return Ok(());
            };
            sub.grant(
                std::mem::take(&mut turn.credit),
                std::mem::take(&mut turn.withdraw) || turn.quiet,
            );
            if turn.end {
                // What the end never collected was never started.
                for slice in sub.mailbox.lock().slices.drain(..) {
                    turn.back.extend(slice.receipts());
                }
            }
            tube::settle(tx, turn, sub.session, tube, &sub.label, acks)?;
            if turn.end {
                tx.end_session(i64::from(sub.session))?;
            }
            Ok(())
        }
        Request::Topic(turn) => {
            let Some(sub) = subs.iter_mut().find(|sub| sub.no == turn.sub) else {
                return Ok(());
            };
            group::settle(tx, turn, sub)
        }
        Request::Job(job) => job.run(tx),
    }
}
