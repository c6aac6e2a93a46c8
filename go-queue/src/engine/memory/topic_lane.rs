//! One end of a subscription to a topic: a member of its group.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use crate::delivery::{How, Settlement};
use crate::engine::{DeadLetter, EngineError, HealthState, Receive, Subscribe, Turn};
use crate::message::Message;
use crate::name::{Name, Place};
use crate::time::WallTime;

use super::Shared;
use super::alarm::Alarm;
use super::cursor::{Cursor, End, Met};
use super::dead::Home;
use super::order::Ordering;
use super::topic::{Log, Partition, Topic};

#[derive(Debug)]
pub(super) struct TopicLane {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    place: Place,
    name: Name,
    label: Arc<str>,
    group: usize,
    member: usize,
    ordering: Ordering,
    alarm: Alarm,
    /// Kept for its memory.
    wakers: Vec<Waker>,
}

impl TopicLane {
    pub(super) fn open(shared: Arc<Shared>, topic: Arc<Topic>, name: Name, to: &Subscribe) -> Self {
        let mut wakers = Vec::new();
        let (group, member) = {
            let mut log = topic.lock();
            let group = log.group(&name, to.start);
            let mut epoch = || shared.next_epoch();
            let member = log.groups[group].join(to.drain, Instant::now(), &mut epoch, &mut wakers);
            (group, member)
        };
        super::wake(wakers);
        Self {
            alarm: Alarm::new(shared.config.look),
            ordering: Ordering::new(to.order, shared.hash.clone(), true),
            shared,
            topic,
            place: to.place.clone(),
            name,
            label: Arc::clone(&to.label),
            group,
            member,
            wakers: Vec::new(),
        }
    }

    /// Takes one settlement; false if it is stale.
    fn settle(
        &self,
        log: &mut Log,
        Settlement { receipt, how }: Settlement,
        now: WallTime,
    ) -> bool {
        let partition = receipt.group as usize;
        let Some(cursor) = log.groups[self.group].cursors.get_mut(partition) else {
            return false;
        };
        if cursor.owner != Some(self.member) || cursor.epoch != receipt.epoch {
            return false;
        }
        let end = match how {
            How::Ack | How::Dead { .. } => End::Done,
            // A log does not redeliver later; it comes again rather than being lost.
            How::Release { .. } | How::Retry { .. } => End::Back,
        };
        // Before the settlement: what is committed may be removed.
        let record = match how {
            How::Dead { .. } => log.partitions[partition].record(receipt.token.cast_signed()),
            _ => None,
        };
        let message = match cursor.settle(receipt.token, end) {
            Met::Stale => return false,
            Met::Record => record.cloned(),
            Met::Replayed(message) => Some(message),
        };
        if let (How::Dead { reason, attempts }, Some(message)) = (how, message) {
            self.keep_dead(message, reason, attempts, now);
        }
        true
    }

    fn keep_dead(&self, message: Message, reason: Arc<str>, attempts: u32, now: WallTime) {
        let letter = DeadLetter {
            cursor: 0,
            place: self.place.clone(),
            group: Some(self.name.clone()),
            handler: Arc::clone(&self.label),
            id: message.id,
            body: message.body.clone(),
            flags: message.flags,
            content: message.content,
            attempts,
            reason,
            at: message.at,
            died: now,
        };
        self.shared.dead.keep(
            letter,
            Home::Topic(Arc::clone(&self.topic), Box::new(message)),
        );
    }

    /// Serves the partitions in turn. One that has enough fills the turn alone.
    fn deliver(&self, log: &mut Log, room: usize, turn: &mut Turn) {
        let group = &mut log.groups[self.group];
        let Some(from) = group.member_mut(self.member).map(|member| member.turn) else {
            return;
        };
        let count = group.cursors.len();
        let limit = turn.deliver.len() + room;
        for step in 0..count {
            let number = (from + step) % count;
            let cursor = &mut group.cursors[number];
            if cursor.owner != Some(self.member) || cursor.leaving.is_some() {
                continue;
            }
            let partition = &log.partitions[number];
            let before = turn.deliver.len();
            cursor.deliver(
                u32::try_from(number).unwrap_or(u32::MAX),
                limit - before,
                partition.end(),
                |offset| partition.record(offset),
                |message| self.ordering.of(message),
                &mut turn.deliver,
            );
            if turn.deliver.len() > before
                && let Some(member) = group.member_mut(self.member)
            {
                member.turn = number + 1;
            }
            if turn.deliver.len() == limit {
                return;
            }
        }
    }

    /// One look at the topic. Ready if there is something to say to the pump.
    fn exchange(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<()> {
        let room = if turn.open { turn.free } else { 0 };
        let mut instant = turn.now;
        loop {
            let now = self.shared.config.clock.now();
            let topic = Arc::clone(&self.topic);
            let mut log = topic.lock();
            for settlement in turn.settle.drain(..) {
                if !self.settle(&mut log, settlement, now) {
                    turn.health.stale += 1;
                }
            }
            log.retain(now);
            let bound = log.groups[self.group].hand_over(
                instant,
                &mut || self.shared.next_epoch(),
                &mut self.wakers,
            );
            let before = turn.deliver.len();
            if room > 0 {
                self.deliver(&mut log, room, turn);
            }
            let said = self.report(&mut log, cx, room, turn) || turn.deliver.len() > before;
            drop(log);
            self.wakers.drain(..).for_each(Waker::wake);
            if said {
                return Poll::Ready(());
            }
            match bound {
                Some(bound) if self.alarm.poll_instant(cx, bound) => instant = Instant::now(),
                _ => return Poll::Pending,
            }
        }
    }

    /// Notices and health; registers the waker. True if there are notices.
    fn report(&self, log: &mut Log, cx: &Context<'_>, room: usize, turn: &mut Turn) -> bool {
        let group = &mut log.groups[self.group];
        let is_read = |(cursor, partition): (&Cursor, &Partition)| {
            cursor.owner != Some(self.member) || cursor.is_read(partition.end())
        };
        turn.health.state = HealthState::Up;
        turn.health.empty =
            group.is_settled() && group.cursors.iter().zip(&log.partitions).all(is_read);
        turn.health.next_due = None;
        let Some(member) = group.member_mut(self.member) else {
            return false;
        };
        let said = !member.notices.is_empty();
        turn.notice.append(&mut member.notices);
        member.room = room > 0;
        if member
            .waker
            .as_ref()
            .is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            member.waker = Some(cx.waker().clone());
        }
        said
    }
}

impl Receive for TopicLane {
    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.exchange(cx, turn).map(Ok)
    }

    fn close(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        // Everything is confirmed as soon as it is taken.
        let open = std::mem::replace(&mut turn.open, false);
        let _ = self.exchange(cx, turn);
        turn.open = open;
        Poll::Ready(Ok(()))
    }
}

impl Drop for TopicLane {
    fn drop(&mut self) {
        let mut log = self.topic.lock();
        let mut epoch = || self.shared.next_epoch();
        log.groups[self.group].leave(self.member, Instant::now(), &mut epoch, &mut self.wakers);
        drop(log);
        self.wakers.drain(..).for_each(Waker::wake);
    }
}
