//! One end of the store, for one lane: the machine, and its exchange with Redis. Nothing here waits, and nothing is shared with
//! other lanes but the connection.

use std::future::Future;
use std::mem::take;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use redis::Pipeline;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

use super::Shared;
use super::command::{Command, unsaid};
use super::link::{Access, Outage, Reading, RedisClock, Reply};
use super::machine::{Machine, Now};
use super::wire::Encoder;
use crate::dedup::{Answer, Ask, Claims};

/// Requests under way. The second goes out while the first is answered; what comes then gathers for the next.
const UNDER_WAY: usize = 2;

/// Commands in one request.
const MOST_COMMANDS: usize = 512;

/// How often the last words of an end are said, and the pause between.
const LAST_WORDS: u32 = 3;
const LAST_WORDS_PAUSE: Duration = Duration::from_millis(250);

type Answers = Pin<Box<dyn Future<Output = Result<Vec<Reply>, Outage>> + Send>>;

/// A request under way.
struct Flight {
    commands: Vec<Command>,
    clock: RedisClock,
    answers: Answers,
}

pub(super) struct RedisEnd {
    store: Arc<Shared>,
    encoder: Encoder,
    machine: Machine,
    flights: Vec<Flight>,
    /// A request has failed, or there was no connection for one.
    was_away: bool,
    /// The first connection is being made.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// What the timer is set to, if it has not gone off.
    armed: Option<Instant>,
}

impl RedisEnd {
    pub(super) fn new(store: Arc<Shared>, encoder: Encoder, machine: Machine) -> Self {
        Self {
            store,
            encoder,
            machine,
            flights: Vec::with_capacity(UNDER_WAY),
            was_away: false,
            waiting: None,
            sleep: None,
            armed: None,
        }
    }

    /// Takes the answers that have come.
    fn land(&mut self, cx: &mut Context<'_>, answers: &mut Vec<Answer>) {
        let mut at = 0;
        while at < self.flights.len() {
            let Poll::Ready(result) = self.flights[at].answers.as_mut().poll(cx) else {
                at += 1;
                continue;
            };
            let Flight {
                commands, clock, ..
            } = self.flights.remove(at);
            let now = Now {
                at: Instant::now(),
                wall: clock.read().earliest,
            };
            match result {
                Ok(replies) => {
                    for (command, reply) in commands.into_iter().zip(replies) {
                        if reply == Reply::NoGet {
                            self.store.link.no_get();
                        }
                        self.machine.reply(command, reply, now, answers);
                    }
                }
                Err(outage) => self.fail(commands, outage.after, answers),
            }
        }
    }

    fn fail(&mut self, commands: Vec<Command>, after: Duration, answers: &mut Vec<Answer>) {
        self.was_away = true;
        let now = Instant::now();
        for command in commands {
            self.machine.failed(command, after, now, answers);
        }
    }

    /// Sends what is to be sent. Answers whether anything changed that is to be polled.
    fn take_off(&mut self, cx: &mut Context<'_>, answers: &mut Vec<Answer>) -> bool {
        if self.machine.commands().is_empty() || self.flights.len() >= UNDER_WAY {
            return false;
        }
        match self.store.link.access() {
            Access::Up(up) => {
                if take(&mut self.was_away) {
                    self.machine.back(Instant::now());
                }
                let all = self.machine.commands();
                let commands = if all.len() > MOST_COMMANDS {
                    all.drain(..MOST_COMMANDS).collect()
                } else {
                    take(all)
                };
                let clock = up.clock();
                let pipeline = self.encode(&commands, clock.read());
                self.flights.push(Flight {
                    commands,
                    clock,
                    answers: Box::pin(self.store.link.send(up, pipeline)),
                });
                true
            }
            Access::Wait => {
                let waiting = self
                    .waiting
                    .get_or_insert_with(|| Box::pin(self.store.link.settled()));
                let settled = waiting.as_mut().poll(cx).is_ready();
                if settled {
                    self.waiting = None;
                }
                settled
            }
            Access::Down(outage) => {
                let commands = take(self.machine.commands());
                self.fail(commands, outage.after, answers);
                false
            }
        }
    }

    fn encode(&self, commands: &[Command], now: Reading) -> Pipeline {
        let get = self.store.link.takes_get.load(Ordering::Relaxed);
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            self.encoder.encode(command, now, get, &mut pipeline);
        }
        pipeline
    }

    /// Whether the timer has gone off.
    fn rang(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(at) = self.machine.wake() else {
            return false;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        // One that is set too early is left alone: it rings once for nothing, which costs less than to set it each turn.
        if self.armed.is_none_or(|armed| at < armed) {
            sleep.as_mut().reset(at);
            self.armed = Some(at);
        }
        let rang = sleep.as_mut().poll(cx).is_ready();
        if rang {
            self.armed = None;
        }
        rang
    }
}

impl Claims for RedisEnd {
    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        asks: &mut Vec<Ask>,
        answers: &mut Vec<Answer>,
    ) -> Poll<()> {
        let before = answers.len();
        if !asks.is_empty() {
            let now = Instant::now();
            for ask in asks.drain(..) {
                self.machine.ask(&ask, now, answers);
            }
        }
        loop {
            self.land(cx, answers);
            if self.take_off(cx, answers) {
                continue;
            }
            if !self.rang(cx) {
                break;
            }
            self.machine.pass(Instant::now(), answers);
        }
        if answers.len() > before {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for RedisEnd {
    fn drop(&mut self) {
        let commands = self.machine.farewell(Instant::now());
        let flights = take(&mut self.flights);
        if commands.is_empty() && flights.is_empty() {
            return;
        }
        // Without a runtime the leases end by themselves.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (store, encoder) = (Arc::clone(&self.store), self.encoder.clone());
        let words = async move {
            let mut commands = commands;
            for flight in flights {
                let replies = flight.answers.await.unwrap_or_default();
                commands.extend(unsaid(flight.commands, &replies));
            }
            for chunk in commands.chunks(MOST_COMMANDS) {
                for _ in 0..LAST_WORDS {
                    let build = |now| {
                        let mut pipeline = Pipeline::with_capacity(chunk.len());
                        for command in chunk {
                            encoder.encode(command, now, true, &mut pipeline);
                        }
                        pipeline
                    };
                    if store.link.request(build).await.is_ok() {
                        break;
                    }
                    tokio::time::sleep(LAST_WORDS_PAUSE).await;
                }
            }
        };
        self.store.link.farewells.spawn_on(words, &runtime);
    }
}
