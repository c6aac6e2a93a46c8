//! What the writer does by time: look for foreign commits, take back what the dead held, renew what is in hand.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::{Kind, Writer};
use crate::engine::sqlite::instance::Instance;
use crate::engine::sqlite::keep::Keeper;
use crate::engine::sqlite::mailbox::Word;
use crate::engine::sqlite::{group, host};

impl Writer {
    /// Reads the nudges of other processes.
    pub(super) fn hear(&mut self) {
        let Self {
            instance,
            subs,
            foreign,
            ..
        } = self;
        instance.hear(|place| {
            *foreign |= place == 0;
            for sub in subs
                .iter_mut()
                .filter(|sub| place == 0 || sub.place() == place)
            {
                sub.maybe = true;
            }
        });
    }

    /// What is done by time: look for foreign commits, sweep the dead, renew, keep house.
    pub(super) fn tick(&mut self, now: Instant) {
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
            self.watch_file();
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
        self.conn
            .prepare_cached("PRAGMA data_version")?
            .query_row([], |row| row.get(0))
    }

    /// Deleted or moved under us: nothing that is written now would be found again, so nothing is accepted any more.
    fn watch_file(&mut self) {
        if self.gone.is_some() || host::file_number(&self.shared.config.path) == self.home {
            return;
        }
        tracing::error!(
            path = %self.shared.config.path.display(),
            "the database file was moved or deleted while it is in use: nothing is accepted or settled any more; put it back and start again"
        );
        self.gone = Some(std::sync::Arc::from(
            "the database file was moved or deleted while it is in use; put it back with its -wal file and start again",
        ));
        for sub in &mut self.subs {
            sub.maybe = true;
        }
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
    pub(super) fn sweep(&mut self, now: Instant) {
        self.sweep_at = now + self.shared.config.sweep;
        let found = self
            .instance
            .sweep(&self.conn, host::boot_millis(), now >= self.expire_from);
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
                if returned > 0 {
                    tracing::info!(
                        returned,
                        "took back what processes had in hand that have died, or have not renewed their leases"
                    );
                }
                self.instance.remove_files(&gone);
                self.foreign = true;
            }
            Err(failure) => {
                tracing::warn!(why = %failure.why(), "could not take back what processes had in hand that are gone");
            }
        }
    }

    /// Renews the leases of everything in hand here: one row for all.
    fn beat(&mut self, now: Instant) {
        let shortest = self
            .subs
            .iter()
            .map(|sub| sub.lease)
            .min()
            .unwrap_or(60_000);
        let every = u64::try_from(shortest / 3).unwrap_or(0).clamp(50, 20_000);
        self.beat_at = now + Duration::from_millis(every);
        if let Err(error) = self.instance.hold_again() {
            tracing::warn!(%error, "the lock file of this process is gone and cannot be made anew; others take it for dead");
        }
        let (tick, age) = (host::boot_millis(), self.shared.lease_age());
        let renewed = self.small(|tx, instance| instance.beat(tx));
        if renewed.is_ok() {
            self.go_on(tick, age >= shortest);
        }
        if let Err(failure) = renewed {
            // Soon again: the lease is three times as long.
            self.beat_at = now + Duration::from_millis(every.min(1000));
            tracing::warn!(why = %failure.why(), "could not renew the leases of this process");
        }
    }

    /// After a renewal: ends that held back what came ahead, because nobody knew whether it is still theirs, hand it out again.
    fn go_on(&mut self, tick: i64, was_over: bool) {
        // What was lost meanwhile is said before the rest is handed out.
        if was_over && !self.find_lost() {
            return;
        }
        self.shared.renewed.store(tick, Ordering::Relaxed);
        if was_over {
            for sub in &mut self.subs {
                sub.deliver();
                sub.mailbox.post(|_| ());
            }
        }
    }

    /// Makes sure that the lease is counted from now on, for an end that is new.
    pub(super) fn beat_soon(&mut self) {
        self.beat_at = host::monotonic();
    }

    /// Ends whose session others have ended: their lease was over. Answers whether all is known.
    fn find_lost(&mut self) -> bool {
        let mut sure = true;
        for at in 0..self.subs.len() {
            let session = self.subs[at].session;
            let known = self
                .conn
                .prepare_cached("SELECT 1 FROM session WHERE id=?1")
                .and_then(|mut statement| statement.exists([session]));
            sure &= match known {
                Ok(true) => true,
                Ok(false) => self.renew_session(at),
                Err(_) => false,
            };
        }
        sure
    }

    fn renew_session(&mut self, at: usize) -> bool {
        let sub = &self.subs[at];
        let (tube, grp) = match &sub.kind {
            Kind::Tube(tube) => (*tube, 0),
            Kind::Topic(member) => (0, member.group),
        };
        let (lease, old) = (sub.lease, sub.session);
        if let Err(error) = self.instance.hold_again() {
            tracing::warn!(%error, "the lock file of this process is gone and cannot be made anew; others take it for dead");
        }
        let session = match self.small(|tx, instance| {
            instance.beat(tx)?;
            tx.effects.moved = true;
            tx.new_session(tube, grp, lease)
        }) {
            Ok(session) => session,
            Err(failure) => {
                tracing::warn!(why = %failure.why(), "a lost session could not be begun again, trying on");
                self.foreign = true;
                return false;
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
        true
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

    /// When somebody last asked for something.
    pub(in crate::engine::sqlite) fn worked_at(&self) -> Instant {
        self.worked_at
    }

    /// The second connection, for checkpoints, where SQLite must not make them by itself.
    pub(in crate::engine::sqlite) fn checkpointer(&self) -> Option<&Connection> {
        self.checkpointer.as_ref()
    }
}
