//! A consumer group of a topic: its cursors, its members, and who holds which partition.

use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::Notice;

use super::cursor::Cursor;

/// One end of a subscription, as the group sees it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) waker: Option<Waker>,
    /// Whether it could have taken a record when it gave the waker.
    pub(super) room: bool,
    pub(super) notices: Vec<Notice>,
    /// How long it may finish what it has in hand when it must give a partition away.
    pub(super) drain: Duration,
    /// The partition served next.
    pub(super) turn: usize,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) cursors: Vec<Cursor>,
    members: Vec<Option<Member>>,
    /// How many partitions are being given away.
    leaving: usize,
}

impl Group {
    pub(super) fn new(committed: impl Iterator<Item = i64>) -> Self {
        Self {
            cursors: committed.map(Cursor::new).collect(),
            members: Vec::new(),
            leaving: 0,
        }
    }

    pub(super) fn member_mut(&mut self, member: usize) -> Option<&mut Member> {
        self.members.get_mut(member)?.as_mut()
    }

    /// Takes a member in and deals the partitions anew.
    pub(super) fn join(
        &mut self,
        drain: Duration,
        now: Instant,
        epoch: &mut impl FnMut() -> u32,
        wakers: &mut Vec<Waker>,
    ) -> usize {
        let member = Member {
            waker: None,
            room: false,
            notices: Vec::new(),
            drain,
            turn: 0,
        };
        let number = self
            .members
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.members.len());
        if number == self.members.len() {
            self.members.push(Some(member));
        } else {
            self.members[number] = Some(member);
        }
        self.balance(now, epoch, wakers);
        number
    }

    /// Lets a member go: what it has in hand comes again, with others.
    pub(super) fn leave(
        &mut self,
        member: usize,
        now: Instant,
        epoch: &mut impl FnMut() -> u32,
        wakers: &mut Vec<Waker>,
    ) {
        if let Some(place) = self.members.get_mut(member) {
            *place = None;
        }
        for cursor in self
            .cursors
            .iter_mut()
            .filter(|cursor| cursor.owner == Some(member))
        {
            self.leaving -= usize::from(cursor.leaving.is_some());
            cursor.release();
        }
        self.balance(now, epoch, wakers);
    }

    /// Ends what has been given away, or was to be by now. Answers when the next bound is over.
    pub(super) fn hand_over(
        &mut self,
        now: Instant,
        epoch: &mut impl FnMut() -> u32,
        wakers: &mut Vec<Waker>,
    ) -> Option<Instant> {
        if self.leaving == 0 {
            return None;
        }
        let mut ended = false;
        for cursor in &mut self.cursors {
            let Some(until) = cursor.leaving else {
                continue;
            };
            if cursor.out > 0 && until > now {
                continue;
            }
            ended = true;
            self.leaving -= 1;
            if let Some(Some(member)) = cursor.owner.and_then(|owner| self.members.get_mut(owner)) {
                member.notices.push(Notice::Lost(cursor.epoch));
                wakers.extend(member.waker.take());
            }
            cursor.release();
        }
        if ended {
            self.balance(now, epoch, wakers);
        }
        self.cursors
            .iter()
            .filter_map(|cursor| cursor.leaving)
            .min()
    }

    /// Deals the partitions so that no member holds two more than another. A member gives away only what is too much.
    fn balance(&mut self, now: Instant, epoch: &mut impl FnMut() -> u32, wakers: &mut Vec<Waker>) {
        let mut held: Vec<(usize, usize)> = Vec::new();
        for (number, _) in self
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.is_some())
        {
            let keeps = |cursor: &&Cursor| cursor.owner == Some(number) && cursor.leaving.is_none();
            held.push((self.cursors.iter().filter(keeps).count(), number));
        }
        if held.is_empty() {
            return;
        }
        // Who holds most keeps one of the shares that are larger by one.
        held.sort_by_key(|(count, number)| (std::cmp::Reverse(*count), *number));
        let (share, larger) = (
            self.cursors.len() / held.len(),
            self.cursors.len() % held.len(),
        );
        for (rank, &(count, number)) in held.iter().enumerate() {
            let share = share + usize::from(rank < larger);
            for _ in share..count {
                self.start_leaving(number, now);
            }
        }
        // What nobody had in hand is free at once.
        let mut ended = Vec::new();
        for cursor in &mut self.cursors {
            if cursor.leaving.is_some() && cursor.out == 0 {
                self.leaving -= 1;
                ended.extend(cursor.owner.map(|owner| (owner, cursor.epoch)));
                cursor.release();
            }
        }
        for (owner, epoch) in ended {
            if let Some(member) = self.member_mut(owner) {
                member.notices.push(Notice::Lost(epoch));
            }
        }
        for (rank, &(count, number)) in held.iter().enumerate() {
            let share = share + usize::from(rank < larger);
            for _ in count..share {
                let Some(cursor) = self
                    .cursors
                    .iter_mut()
                    .find(|cursor| cursor.owner.is_none())
                else {
                    break;
                };
                cursor.owner = Some(number);
                cursor.epoch = epoch();
            }
        }
        // Rare, and each of them has notices to hear, partitions to read or a bound to watch.
        wakers.extend(
            self.members
                .iter_mut()
                .flatten()
                .filter_map(|member| member.waker.take()),
        );
    }

    fn start_leaving(&mut self, number: usize, now: Instant) {
        let Some(Some(member)) = self.members.get_mut(number) else {
            return;
        };
        let owned = |cursor: &&mut Cursor| cursor.owner == Some(number) && cursor.leaving.is_none();
        if let Some(cursor) = self.cursors.iter_mut().rev().find(owned) {
            cursor.leaving = Some(now + member.drain);
            self.leaving += 1;
            member.notices.push(Notice::Leaving(cursor.epoch));
        }
    }

    /// Ends all holdings at once, as if every member had lost its session; each gets its partitions again.
    pub(super) fn cut(&mut self, epoch: &mut impl FnMut() -> u32, wakers: &mut Vec<Waker>) {
        for cursor in &mut self.cursors {
            let Some(owner) = cursor.owner else { continue };
            let lost = cursor.epoch;
            if cursor.leaving.take().is_some() {
                self.leaving -= 1;
            }
            cursor.release();
            cursor.owner = Some(owner);
            cursor.epoch = epoch();
            if let Some(Some(member)) = self.members.get_mut(owner) {
                member.notices.push(Notice::Lost(lost));
            }
        }
        wakers.extend(
            self.members
                .iter_mut()
                .flatten()
                .filter_map(|member| member.waker.take()),
        );
    }

    /// The waker of the member that holds a partition, if it waits with room.
    pub(super) fn wake_owner(&mut self, partition: usize, wakers: &mut Vec<Waker>) {
        if let Some(owner) = self.cursors.get(partition).and_then(|cursor| cursor.owner)
            && let Some(Some(member)) = self.members.get_mut(owner)
            && member.room
        {
            wakers.extend(member.waker.take());
        }
    }

    /// Whether every partition is held and stays where it is.
    pub(super) fn is_settled(&self) -> bool {
        self.leaving == 0 && self.cursors.iter().all(|cursor| cursor.owner.is_some())
    }
}
