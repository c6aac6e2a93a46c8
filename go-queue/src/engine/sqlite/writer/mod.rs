//! The writer: one thread for each process and file, the only one that writes.
//!
//! It takes what is queued, runs it as one transaction, and answers. Batches form by themselves while the last
//! transaction runs. Ends of subscriptions leave their demand here, so that a task goes to a waiting end in the very
//! transaction that finds it, however it came: by a put, a due time, a nudge from another process.

mod rounds;
mod sub;
mod transact;

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::failure::Failure;
use super::instance::Instance;
use super::keep::Keeper;
use super::queue::{Queue, Request};
use super::sync::{Answer, Syncer};
use super::tube::{self, Acks};
use super::tx::{Names, Tx};
use super::{Config, host, record};
use crate::time::Clock;
pub(super) use sub::{Kind, Sub};
use transact::{BACKOFF, refuse};

/// The most messages of one transaction.
const MAX_WEIGHT: usize = 2048;

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
    /// When the leases of this process were last renewed, in milliseconds since boot.
    pub(super) renewed: AtomicI64,
}

impl Shared {
    pub(super) fn new(config: Config, clock: Clock, queue: Queue, store: i64) -> Self {
        Self {
            config,
            clock,
            queue,
            syncer: Syncer::default(),
            store,
            next_sub: AtomicU32::new(1),
            renewed: AtomicI64::new(host::boot_millis()),
        }
    }

    /// How long ago the leases of this process were renewed, in milliseconds. Suspended time and a stop by a signal count.
    pub(super) fn lease_age(&self) -> i64 {
        // Nothing else is read by it: which leases are gone is said through the mailbox.
        host::boot_millis() - self.renewed.load(Ordering::Relaxed)
    }

    /// A number for an end of a subscription.
    pub(super) fn sub(&self) -> u32 {
        self.next_sub.fetch_add(1, Ordering::Relaxed)
    }
}

/// The thread's state.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) conn: Connection,
    checkpointer: Option<Connection>,
    pub(super) instance: Instance,
    bell: UnixDatagram,
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
    /// Device and number of the file as it was opened.
    home: Option<(u64, u64)>,
    /// The file is no longer where it was: what is written now would be found by nobody.
    gone: Option<Arc<str>>,
    /// The next time a partition must be given up.
    pub(super) deadline: Option<Instant>,
    keeper: Keeper,
    /// The last transaction that somebody asked for.
    worked_at: Instant,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        conn: Connection,
        checkpointer: Option<Connection>,
        instance: Instance,
        bell: UnixDatagram,
        soft_pages: i64,
    ) -> Self {
        let now = host::monotonic();
        let drift = shared.clock.now().as_millis() - host::boot_millis();
        let keeper = Keeper::new(now);
        let home = host::file_number(&shared.config.path);
        Self {
            shared,
            conn,
            checkpointer,
            instance,
            bell,
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
            home,
            gone: None,
            deadline: None,
            keeper,
            worked_at: now,
        }
    }

    /// Enters the tables and gives back what the dead of an earlier time held.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        let mut id = 0;
        let (shared, instance) = (self.shared.clone(), &mut self.instance);
        let tick = host::boot_millis();
        let mut names = Names::default();
        let mut turn = 0;
        self.conn
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|e| Failure::from(&e))?;
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
        self.sweep(host::monotonic());
        Ok(())
    }

    /// Works until the engine is closed.
    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        let mut closing: Option<Instant> = None;
        loop {
            let more = self.shared.queue.take(&mut batch, MAX_WEIGHT);
            self.hear();
            let now = host::monotonic();
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

    /// The last thing: leaves the tables. The rest is done by the drop.
    fn end(mut self, rest: Vec<Request>) {
        for request in rest {
            refuse(request, &Failure::Closed);
        }
        let left = self.small(|tx, instance| instance.leave(tx));
        if let Err(failure) = left {
            tracing::warn!(why = %failure.why(), "the session could not be ended in the tables; others will notice by its lock");
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
        self.subs
            .iter()
            .any(|sub| sub.credit > 0 && sub.maybe && matches!(sub.kind, Kind::Topic(_)))
    }

    fn deliver(&mut self) {
        for sub in &mut self.subs {
            sub.deliver();
        }
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
        let woken = {
            let mut fds = vec![PollFd::new(&self.bell, PollFlags::IN)];
            if let Some(ear) = &self.instance.ear {
                fds.push(PollFd::new(ear, PollFlags::IN));
            }
            // Interrupted is as good as woken.
            let _ = poll(&mut fds, Some(&timeout));
            !fds[0].revents().is_empty()
        };
        if woken {
            let mut rings = [0; 8];
            while self.bell.recv(&mut rings).is_ok() {}
        }
    }
}

impl Drop for Writer {
    /// Tells everybody who still waits, also when the thread ends by a panic: nobody hangs, and what was leased goes back
    /// with the lock.
    fn drop(&mut self) {
        let rest = self.shared.queue.end(true).unwrap_or_default();
        for request in self.kept.drain(..).chain(rest) {
            refuse(request, &Failure::Closed);
        }
        for sub in &self.subs {
            sub.mailbox.post(|inbox| inbox.closed = true);
        }
        self.shared.syncer.close();
    }
}
