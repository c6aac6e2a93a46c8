//! The writer: one thread for each process and file, the only one that writes.
//!
//! It takes what is queued, runs it as one transaction, and answers. Batches form by themselves while the last
//! transaction runs. Ends of subscriptions leave their demand here, so that a task goes to a waiting end in the very
//! transaction that finds it, however it came: by a put, a due time, a nudge from another process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Durability;
use super::failure::Failure;
use super::group::{self, Member};
use super::instance::Instance;
use super::keep::Keeper;
use super::mailbox::{Mailbox, Slice, Word};
use super::queue::{Queue, Request};
use super::sync::{Answer, Syncer};
use super::tube::{self, Acks, Claimed};
use super::tx::{Effects, Names, Tx};
use super::{Config, host, record};
use crate::delivery::Settlement;
use crate::engine::MAX_SLICE;
use crate::time::{Clock, WallTime};
use std::os::unix::net::UnixDatagram;

/// The most messages of one transaction.
const MAX_WEIGHT: usize = 2048;

/// How long a failed transaction waits before it is tried again, first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long the end waits for settlements that do not go through.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What the writer shares with everybody.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) queue: Queue,
    pub(super) syncer: Syncer,
    /// Names this very store.
    pub(super) store: i64,
    next_sub: AtomicU32,
}

impl Shared {
    pub(super) fn new(config: Config, clock: Clock, queue: Queue, store: i64) -> Self {
        Self { config, clock, queue, syncer: Syncer::default(), store, next_sub: AtomicU32::new(1) }
    }

    /// A number for an end of a subscription.
    pub(super) fn sub(&self) -> u32 {
        self.next_sub.fetch_add(1, Ordering::Relaxed)
    }
}

/// One end of a subscription, as the writer knows it.
#[derive(Debug)]
pub(super) struct Sub {
    pub(super) no: u32,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) session: u32,
    /// Length of its lease in milliseconds.
    pub(super) lease: i64,
    pub(super) label: Arc<str>,
    /// Room for so many more at its end.
    pub(super) credit: usize,
    /// There may be something to hand out.
    pub(super) maybe: bool,
    /// The first due time known.
    pub(super) next_due: Option<WallTime>,
    pub(super) kind: Kind,
    post: Post,
}

/// What an end reads.
#[derive(Debug)]
pub(super) enum Kind {
    Tube(i64),
    Topic(Member),
}

/// What goes to a mailbox after the commit, in one post.
#[derive(Debug, Default)]
struct Post {
    slices: Vec<Slice>,
    words: Vec<Word>,
    committed: u32,
    stale: u64,
    spare: Vec<Vec<Settlement>>,
    /// What a look found: nothing to hand out, and the next due time.
    looked: Option<(bool, Option<WallTime>)>,
}

impl Sub {
    pub(super) fn new(
        no: u32,
        mailbox: Arc<Mailbox>,
        session: u32,
        lease: i64,
        label: Arc<str>,
        kind: Kind,
    ) -> Self {
        Self {
            no,
            mailbox,
            session,
            lease,
            label,
            credit: 0,
            maybe: true,
            next_due: None,
            kind,
            post: Post::default(),
        }
    }

    /// The key by which it is woken: a tube, or minus a topic.
    fn place(&self) -> i64 {
        match &self.kind {
            Kind::Tube(tube) => *tube,
            Kind::Topic(member) => -member.topic,
        }
    }

    /// Adds room, after what was granted before is taken back.
    pub(super) fn grant(&mut self, room: usize, withdraw: bool) {
        if withdraw {
            self.credit = 0;
        }
        if room > 0 && self.credit == 0 {
            self.maybe = true;
        }
        self.credit += room;
    }

    pub(super) fn say(&mut self, word: Word) {
        self.post.words.push(word);
    }

    pub(super) fn give(&mut self, slice: Slice) {
        self.credit = self.credit.saturating_sub(slice.rows.len());
        self.post.slices.push(slice);
    }

    pub(super) fn looked(&mut self, empty: bool, next_due: Option<WallTime>) {
        self.maybe = !empty;
        self.next_due = next_due;
        self.post.looked = Some((empty, next_due));
    }

    /// Puts what is there into the mailbox.
    fn deliver(&mut self) {
        let post = &mut self.post;
        let news = !post.slices.is_empty() || !post.words.is_empty() || post.committed > 0;
        if !news && post.looked.is_none() {
            return;
        }
        self.mailbox.post_if(|inbox| {
            let mut wake = news;
            inbox.slices.extend(post.slices.drain(..));
            inbox.words.extend(post.words.drain(..));
            inbox.committed = inbox.committed.wrapping_add(std::mem::take(&mut post.committed));
            inbox.stale += std::mem::take(&mut post.stale);
            inbox.spare.append(&mut post.spare);
            inbox.spare.truncate(4);
            if let Some((empty, next_due)) = post.looked.take() {
                wake |= inbox.empty != empty || inbox.next_due != next_due;
                inbox.empty = empty;
                inbox.next_due = next_due;
            }
            wake |= inbox.down.take().is_some();
            wake
        });
    }
}

/// The thread's state.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) conn: Connection,
    checkpointer: Option<Connection>,
    pub(super) instance: Instance,
    bell: UnixDatagram,
    path: PathBuf,
    soft_pages: i64,
    pub(super) subs: Vec<Sub>,
    names: Names,
    turn: u32,
    acks: Acks,
    /// Requests that must happen and failed; tried again, in order, before all others of the same end.
    kept: Vec<Request>,
    retry_at: Instant,
    backoff: Duration,
    answers: Vec<Answer>,
    pub(super) next_epoch: u32,
    /// The transaction under way must be on the disk before it is answered.
    sync_next: bool,
    /// Others wrote: look again.
    foreign: bool,
    data_version: i64,
    poll_at: Instant,
    sweep_at: Instant,
    beat_at: Instant,
    /// Leases of others are not ended before this: after a pause of this very process they had none to renew them.
    expire_from: Instant,
    last_tick: Instant,
    /// Wall minus boot time in milliseconds: a jump of it is a step of the clock.
    drift: i64,
    /// The next time a partition must be given up.
    pub(super) deadline: Option<Instant>,
    keeper: Keeper,
}

impl Writer {
    #[expect(clippy::too_many_arguments, reason = "called once, by the opening of the engine")]
    pub(super) fn new(
        shared: Arc<Shared>,
        conn: Connection,
        checkpointer: Option<Connection>,
        instance: Instance,
        bell: UnixDatagram,
        path: PathBuf,
        soft_pages: i64,
    ) -> Self {
        let now = Instant::now();
        let drift = shared.clock.now().as_millis() - host::boot_millis();
        let keeper = Keeper::new(now);
        Self {
            shared,
            conn,
            checkpointer,
            instance,
            bell,
            path,
            soft_pages,
            subs: Vec::new(),
            names: Names::default(),
            turn: 0,
            acks: Vec::new(),
            kept: Vec::new(),
            retry_at: now,
            backoff: BACKOFF.0,
            answers: Vec::new(),
            next_epoch: 1,
            sync_next: false,
            foreign: true,
            data_version: 0,
            poll_at: now,
            sweep_at: now,
            beat_at: now,
            expire_from: now,
            last_tick: now,
            drift,
            deadline: None,
            keeper,
        }
    }

    /// Enters the tables and gives back what the dead of an earlier time held.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        let mut id = 0;
        let (shared, instance) = (self.shared.clone(), &mut self.instance);
        let tick = host::boot_millis();
        let mut names = Names::default();
        let mut turn = 0;
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(|e| Failure::from(&e))?;
        let tx = Tx::new(
            &self.conn,
            &shared.config,
            0,
            shared.clock.now(),
            tick,
            i64::MAX,
            &mut names,
            &mut turn,
        );
        let entered = instance.enter(&tx).and_then(|()| {
            id = instance.id;
            self.conn.execute_batch("COMMIT")
        });
        entered.map_err(|e| Failure::from(&e))?;
        self.sweep(Instant::now());
        Ok(())
    }

    /// Works until the engine is closed.
    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        let mut closing: Option<Instant> = None;
        loop {
            let more = self.shared.queue.take(&mut batch, MAX_WEIGHT);
            self.hear();
            let now = Instant::now();
            self.tick(now);
            if !self.kept.is_empty() && now >= self.retry_at {
                batch.splice(0..0, self.kept.drain(..));
            }
            let claims = self.look(!batch.is_empty());
            if !batch.is_empty() || claims {
                self.transact(&mut batch);
                self.fetch();
                self.deliver();
                continue;
            }
            self.fetch();
            self.deliver();
            if more || self.unread() {
                continue;
            }
            if self.shared.queue.is_closed() {
                let by = *closing.get_or_insert(now + LAST_WORDS);
                if self.kept.is_empty() || now >= by {
                    if let Some(rest) = self.shared.queue.end(now >= by) {
                        self.end(rest);
                        return;
                    }
                    continue;
                }
            }
            self.sleep(now);
        }
    }

    /// The last thing: leaves the tables, and tells everybody who still waits.
    fn end(mut self, rest: Vec<Request>) {
        for request in self.kept.drain(..).chain(rest) {
            refuse(request, &Failure::Closed);
        }
        let left = self.small(|tx, instance| instance.leave(tx));
        if let Err(failure) = left {
            tracing::warn!(why = %failure.why(), "the session could not be ended in the tables; others will notice by its lock");
        }
        for sub in &self.subs {
            sub.mailbox.post(|inbox| inbox.closed = true);
        }
        self.shared.syncer.close();
    }

    /// Reads the nudges of other processes.
    fn hear(&mut self) {
        let Self { instance, subs, foreign, .. } = self;
        instance.hear(|place| {
            *foreign |= place == 0;
            for sub in subs.iter_mut().filter(|sub| place == 0 || sub.place() == place) {
                sub.maybe = true;
            }
        });
    }

    /// What is done by time: look for foreign commits, sweep the dead, renew, keep house.
    fn tick(&mut self, now: Instant) {
        if now.duration_since(self.last_tick) > Duration::from_secs(1) {
            self.expire_from = now + Duration::from_secs(1);
        }
        self.last_tick = now;
        if now >= self.poll_at {
            self.poll_at = now + self.poll_every();
            match self.read_data_version() {
                Ok(version) => {
                    self.foreign |= version != self.data_version;
                    self.data_version = version;
                }
                // Busy is no answer: what was known stays known.
                Err(error) => tracing::debug!(%error, "could not look for foreign commits"),
            }
            self.watch_clock();
            for sub in self.subs.iter_mut().filter(|sub| sub.credit == 0) {
                sub.maybe = true;
            }
        }
        if self.foreign {
            self.foreign = false;
            for sub in &mut self.subs {
                sub.maybe = true;
                if let Kind::Topic(member) = &mut sub.kind {
                    member.check = true;
                }
            }
            if let Err(error) = self.instance.find_peers(&self.conn) {
                tracing::debug!(%error, "could not read who else uses the file");
            }
            self.find_lost();
        }
        if now >= self.sweep_at {
            self.sweep(now);
        }
        if now >= self.beat_at {
            self.beat(now);
        }
        if self.deadline.is_some_and(|at| now >= at) {
            group::give_up(self, now);
        }
        group::balance(self, now);
        self.keeper_turn(now);
    }

    fn poll_every(&self) -> Duration {
        if self.instance.ear.is_some() {
            self.shared.config.poll
        } else {
            self.shared.config.poll.min(Duration::from_millis(20))
        }
    }

    fn read_data_version(&self) -> rusqlite::Result<i64> {
        self.conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }

    fn watch_clock(&mut self) {
        let drift = self.shared.clock.now().as_millis() - host::boot_millis();
        let step = drift - self.drift;
        if step.abs() > 2000 {
            tracing::warn!(
                step_ms = step,
                "the wall clock was stepped: what waits for its due time comes as much earlier or later; leases are not touched"
            );
            self.drift = drift;
            for sub in &mut self.subs {
                sub.maybe = true;
            }
        }
    }

    /// Gives back what dead or hung processes hold.
    fn sweep(&mut self, now: Instant) {
        self.sweep_at = now + self.shared.config.sweep;
        let found = self.instance.sweep(&self.conn, host::boot_millis(), now >= self.expire_from);
        let gone = match found {
            Ok(gone) if gone.is_empty() => return,
            Ok(gone) => gone,
            Err(error) => {
                tracing::debug!(%error, "could not look for dead processes");
                return;
            }
        };
        match self.small(|tx, _| Instance::bury(tx, &gone)) {
            Ok(returned) => {
                tracing::info!(returned, "took back what a dead process had in hand");
                self.instance.remove_files(&gone);
                self.foreign = true;
            }
            Err(failure) => tracing::warn!(why = %failure.why(), "could not take back what a dead process had in hand"),
        }
    }

    /// Renews the leases of everything in hand here: one row for all.
    fn beat(&mut self, now: Instant) {
        let shortest = self.subs.iter().map(|sub| sub.lease).min().unwrap_or(60_000);
        let every = u64::try_from(shortest / 3).unwrap_or(0).clamp(50, 20_000);
        self.beat_at = now + Duration::from_millis(every);
        let renewed = self.small(|tx, instance| {
            tx.conn
                .prepare_cached("UPDATE instance SET seen=?2 WHERE id=?1")?
                .execute([instance.id, tx.tick])
        });
        if let Err(failure) = renewed {
            // Soon again: the lease is three times as long.
            self.beat_at = now + Duration::from_millis(every.min(1000));
            tracing::warn!(why = %failure.why(), "could not renew the leases of this process");
        }
    }

    /// Makes sure that the lease is counted from now on, for an end that is new.
    pub(super) fn beat_soon(&mut self) {
        self.beat_at = Instant::now();
    }

    /// Ends whose session others have ended: their lease was over.
    fn find_lost(&mut self) {
        for at in 0..self.subs.len() {
            let session = self.subs[at].session;
            let known = self
                .conn
                .prepare_cached("SELECT 1 FROM session WHERE id=?1")
                .and_then(|mut statement| statement.exists([session]));
            if matches!(known, Ok(false)) {
                self.renew_session(at);
            }
        }
    }

    fn renew_session(&mut self, at: usize) {
        let sub = &self.subs[at];
        let (tube, grp) = match &sub.kind {
            Kind::Tube(tube) => (*tube, 0),
            Kind::Topic(member) => (0, member.group),
        };
        let (lease, old) = (sub.lease, sub.session);
        let session = match self.small(|tx, _| {
            tx.effects.moved = true;
            tx.new_session(tube, grp, lease)
        }) {
            Ok(session) => session,
            Err(failure) => {
                tracing::warn!(why = %failure.why(), "a lost session could not be begun again, trying on");
                self.foreign = true;
                return;
            }
        };
        tracing::warn!(label = %self.subs[at].label, "the lease of a subscription was lost, for example because this process was stopped; others have its messages");
        let sub = &mut self.subs[at];
        sub.session = session;
        sub.maybe = true;
        match &mut sub.kind {
            Kind::Tube(_) => sub.say(Word::Lost { epoch: old }),
            Kind::Topic(member) => {
                member.check = true;
                let lost: Vec<u32> = member.held.drain(..).map(|held| held.epoch).collect();
                for epoch in lost {
                    sub.say(Word::Lost { epoch });
                }
            }
        }
    }

    /// Whether some end would get something from a claim. Without other work, looks before the write lock is taken.
    fn look(&mut self, has_work: bool) -> bool {
        let now = self.shared.clock.now();
        let mut any = false;
        let Self { subs, conn, .. } = self;
        for sub in subs.iter_mut() {
            let Kind::Tube(tube) = sub.kind else { continue };
            if sub.next_due.is_some_and(|at| at <= now) {
                sub.maybe = true;
            }
            if !sub.maybe || (has_work && sub.credit == 0) {
                continue;
            }
            if has_work {
                any = true;
                continue;
            }
            let seen = tube::has_ready(conn, tube)
                .and_then(|ready| tube::next_due(conn, tube).map(|due| (ready, due)));
            match seen {
                Ok((false, due)) if due.is_none_or(|at| at > now) => sub.looked(true, due),
                // Without room it is only said; looked at again when something changes, or at the next poll.
                Ok((_, due)) if sub.credit == 0 => {
                    sub.looked(false, due.filter(|at| *at > now));
                    sub.maybe = false;
                }
                Ok(_) => any = true,
                Err(error) => {
                    tracing::debug!(%error, "could not look into a tube");
                    any = true;
                }
            }
        }
        any
    }

    /// Runs requests as one transaction, and one by one if that fails.
    fn transact(&mut self, batch: &mut Vec<Request>) {
        self.hold_back(batch);
        match self.attempt(batch, true) {
            Ok(()) => self.succeed(batch),
            Err(failure @ Failure::Busy(_)) => {
                for request in batch.drain(..) {
                    self.fail(request, &failure);
                }
                self.back_off();
            }
            Err(failure) if batch.len() <= 1 => {
                match batch.pop() {
                    Some(request) => self.fail(request, &failure),
                    None => tracing::warn!(why = %failure.why(), "a claim failed"),
                }
                self.back_off();
            }
            Err(_) => {
                // Some of them may be all right: a settlement when the quota stops a producer.
                let mut failed = false;
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
        self.retry_at = Instant::now() + self.backoff;
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
        let Self { conn, shared, instance, subs, names, turn, acks, soft_pages, .. } = self;
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
    pub(super) fn small<T>(
        &mut self,
        work: impl FnOnce(&mut Tx<'_>, &Instance) -> rusqlite::Result<T>,
    ) -> Result<T, Failure> {
        let Self { conn, shared, instance, names, turn, soft_pages, .. } = self;
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
                let Some(at) = self.subs.iter().position(|sub| sub.no == turn.sub) else { return };
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
                let Some(at) = self.subs.iter().position(|sub| sub.no == turn.sub) else { return };
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
            return Err(Failure::Unsynced(Arc::from("the disk failed to sync, and the log is in use")));
        }
        self.shared.syncer.repaired();
        tracing::info!("the log was written into the database after a failed sync");
        Ok(())
    }

    /// Hands out records.
    fn fetch(&mut self) {
        let Self { subs, conn, .. } = self;
        for sub in subs.iter_mut() {
            if matches!(sub.kind, Kind::Topic(_))
                && sub.maybe
                && let Err(error) = record::fetch(conn, sub)
            {
                tracing::warn!(%error, "records could not be read, trying on");
                sub.maybe = false;
                self.data_version = -1;
            }
        }
    }

    /// Whether some end has room for records that were not read yet.
    fn unread(&self) -> bool {
        self.subs.iter().any(|sub| sub.credit > 0 && sub.maybe && matches!(sub.kind, Kind::Topic(_)))
    }

    fn deliver(&mut self) {
        for sub in &mut self.subs {
            sub.deliver();
        }
    }

    fn keeper_turn(&mut self, now: Instant) {
        if !self.keeper.is_due(now) {
            return;
        }
        // Moved out for the call, so that it can use the rest.
        let mut keeper = std::mem::replace(&mut self.keeper, Keeper::new(now));
        keeper.work(self, now);
        self.keeper = keeper;
    }

    /// The path of the database and the second connection, for checkpoints.
    pub(super) fn checkpoint_parts(&self) -> (&PathBuf, Option<&Connection>) {
        (&self.path, self.checkpointer.as_ref())
    }

    /// Sleeps until a request, a nudge, or the next thing that is done by time.
    fn sleep(&mut self, now: Instant) {
        let mut until = self.sweep_at.min(self.keeper.due());
        until = until.min(self.beat_at);
        if !self.subs.is_empty() {
            until = until.min(self.poll_at);
        }
        if !self.kept.is_empty() {
            until = until.min(self.retry_at);
        }
        if let Some(deadline) = self.deadline {
            until = until.min(deadline);
        }
        let mut pause = until.saturating_duration_since(now);
        let wall = self.shared.clock.now();
        for sub in self.subs.iter().filter(|sub| sub.credit > 0) {
            if let Some(at) = sub.next_due {
                pause = pause.min(at.since(wall));
            }
        }
        if pause.is_zero() || !self.shared.queue.doze() {
            return;
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(pause.subsec_nanos()),
        };
        let rung = {
            let mut fds = vec![PollFd::new(&self.bell, PollFlags::IN)];
            if let Some(ear) = &self.instance.ear {
                fds.push(PollFd::new(ear, PollFlags::IN));
            }
            // Interrupted is as good as woken.
            let _ = poll(&mut fds, Some(&timeout));
            !fds[0].revents().is_empty()
        };
        if rung {
            let mut ring = [0; 8];
            while self.bell.recv(&mut ring).is_ok() {}
        }
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
fn refuse(request: Request, failure: &Failure) {
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
fn run(tx: &mut Tx<'_>, request: &mut Request, subs: &mut [Sub], acks: &mut Acks) -> rusqlite::Result<()> {
    match request {
        Request::Put(put) => {
            put.answers.clear();
            for part in put.slice.chunk_by(|a, b| a.place == b.place) {
                match &part[0].place {
                    crate::name::Place::Tube(name) => tube::put(tx, name, part, &mut put.answers)?,
                    crate::name::Place::Topic(name) => record::append(tx, name, part, &mut put.answers)?,
                }
            }
            Ok(())
        }
        Request::Tube(turn) => {
            let Some(sub) = subs.iter_mut().find(|sub| sub.no == turn.sub) else { return Ok(()) };
            let Kind::Tube(tube) = sub.kind else { return Ok(()) };
            sub.grant(std::mem::take(&mut turn.credit), std::mem::take(&mut turn.withdraw) || turn.quiet);
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
            let Some(sub) = subs.iter_mut().find(|sub| sub.no == turn.sub) else { return Ok(()) };
            group::settle(tx, turn, sub)
        }
        Request::Job(job) => job.run(tx),
    }
}
