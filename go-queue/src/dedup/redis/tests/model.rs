//! The machines of several ends against a model of Redis, with time, lost answers and lost requests chosen at random.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::command::{Command, End, Step};
use super::super::link::Reply;
use super::super::machine::{Machine, Now, Purpose};
use super::super::value::{Standing, Value, owner};
use super::super::wire::millis;
use super::ask;
use crate::dedup::{Answer, AskWhat, Verdict};
use crate::message::Id;

const LEASE: Duration = Duration::from_secs(6);

/// What the scripts and commands of `wire.rs` do.
#[derive(Default)]
struct Model {
    keys: HashMap<Id, Vec<u8>>,
}

impl Model {
    fn run(&mut self, command: &Command, nonce: &str, now: u64) -> Reply {
        let me = owner(nonce, command.seq);
        let until = now + millis(LEASE);
        let found = self.keys.get(&command.id).cloned();
        let stored = |value| {
            let generation = 0;
            Standing { generation, value }.to_vec()
        };
        let running = |attempt| {
            stored(Value::Running {
                attempt,
                owner: &me,
                until,
            })
        };
        match &command.step {
            Step::Acquire => found.map_or_else(
                || {
                    self.keys.insert(command.id, running(1));
                    Reply::Nil
                },
                Reply::Text,
            ),
            Step::Take { old, attempt } => match found {
                Some(value) if value == *old => {
                    self.keys.insert(command.id, running(*attempt));
                    Reply::Int(1)
                }
                other => Reply::Text(other.unwrap_or_default()),
            },
            Step::Done { .. } => {
                self.keys.insert(command.id, b"D".to_vec());
                Reply::Ok
            }
            Step::Renew { attempt } => self.settle(command.id, &me, Some(running(*attempt))),
            Step::End { attempt, end, .. } | Step::Free { attempt, end, .. } => {
                let value = match end {
                    End::Gone => None,
                    End::Wait { after } => Some(Value::Waiting {
                        attempt: *attempt,
                        owner: &me,
                        not_before: now + millis(*after),
                    }),
                    End::Dying { within } => Some(Value::Dying {
                        attempt: *attempt,
                        owner: &me,
                        until: now + millis(*within),
                    }),
                };
                self.settle(command.id, &me, value.map(stored))
            }
        }
    }

    fn settle(&mut self, id: Id, me: &str, new: Option<Vec<u8>>) -> Reply {
        let needle = format!(":{me}:");
        if let Some(value) = self.keys.get(&id)
            && !String::from_utf8_lossy(value).contains(&needle)
        {
            return Reply::Text(value.clone());
        }
        match new {
            Some(new) => self.keys.insert(id, new),
            None => self.keys.remove(&id),
        };
        Reply::Int(1)
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Claim(usize, u128),
    Confirm(usize, usize),
    Retry(usize, usize, u64),
    Abandon(usize, usize),
    /// Requests of an end go out: all well, the answers are lost, or they never arrive.
    Exchange(usize, Fate),
    Pass(u64),
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Well,
    AnswersLost,
    NeverArrives,
}

fn act() -> impl Strategy<Value = Act> {
    let fate = prop_oneof![8 => Just(Fate::Well), 1 => Just(Fate::AnswersLost), 1 => Just(Fate::NeverArrives)];
    prop_oneof![
        4 => (0..3usize, 0..3u128).prop_map(|(end, id)| Act::Claim(end, id)),
        2 => (0..3usize, 0..4usize).prop_map(|(end, run)| Act::Confirm(end, run)),
        1 => (0..3usize, 0..4usize, 0..3000u64).prop_map(|(end, run, after)| Act::Retry(end, run, after)),
        1 => (0..3usize, 0..4usize).prop_map(|(end, run)| Act::Abandon(end, run)),
        6 => (0..3usize, fate).prop_map(|(end, fate)| Act::Exchange(end, fate)),
        2 => (1..1500u64).prop_map(Act::Pass),
    ]
}

/// One end with what its pump would know.
struct Subject {
    machine: Machine,
    nonce: Arc<str>,
    /// Tickets that wait for an answer, and for what.
    asked: HashMap<u32, (Id, AskWhat)>,
    /// Tickets of claims that were granted: such a one may be taken back once.
    granted: HashSet<u32>,
    /// Runs that were allowed and have not ended.
    runs: Vec<Id>,
    next: u32,
}

struct World {
    model: Model,
    ends: Vec<Subject>,
    now: Now,
    done: HashSet<Id>,
    starts: HashMap<Id, u32>,
    /// Whether anything was lost, so that leases may end under a run.
    clean: bool,
}

impl World {
    fn new() -> Self {
        let ends = (0..3)
            .map(|n| {
                let nonce: Arc<str> = format!("{n:016x}").into();
                let purpose = Purpose {
                    lease: LEASE,
                    keep: Duration::from_secs(3600),
                    names: true,
                    replicas: true,
                };
                Subject {
                    machine: Machine::new(purpose, Arc::clone(&nonce)),
                    nonce,
                    asked: HashMap::new(),
                    granted: HashSet::new(),
                    runs: Vec::new(),
                    next: 0,
                }
            })
            .collect();
        Self {
            model: Model::default(),
            ends,
            now: Now {
                at: Instant::now(),
                wall: 1_800_000_000_000,
            },
            done: HashSet::new(),
            starts: HashMap::new(),
            clean: true,
        }
    }

    fn ask(&mut self, end: usize, id: Id, what: AskWhat) -> Result<(), TestCaseError> {
        let subject = &mut self.ends[end];
        subject.next += 1;
        let ticket = subject.next;
        if what != AskWhat::Abandon {
            subject.asked.insert(ticket, (id, what.clone()));
        }
        let mut answers = Vec::new();
        let asked = ask(ticket, id.0, what);
        subject.machine.ask(&asked, self.now.at, &mut answers);
        self.hear(end, &answers)
    }

    fn run_of(&mut self, end: usize, run: usize) -> Option<Id> {
        let runs = &mut self.ends[end].runs;
        (run < runs.len()).then(|| runs.remove(run))
    }

    fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        match act {
            Act::Claim(end, id) => self.ask(end, Id(id), AskWhat::Claim),
            Act::Confirm(end, run) => match self.run_of(end, run) {
                Some(id) => {
                    self.done.insert(id);
                    self.ask(end, id, AskWhat::Confirm)
                }
                None => Ok(()),
            },
            Act::Retry(end, run, after) => match self.run_of(end, run) {
                Some(id) => {
                    let after = Duration::from_millis(after);
                    self.ask(end, id, AskWhat::Retry { after })
                }
                None => Ok(()),
            },
            Act::Abandon(end, run) => match self.run_of(end, run) {
                Some(id) => {
                    *self.starts.entry(id).or_default() -= 1;
                    self.ask(end, id, AskWhat::Abandon)
                }
                None => Ok(()),
            },
            Act::Exchange(end, fate) => self.exchange(end, fate),
            Act::Pass(ms) => {
                self.now.at += Duration::from_millis(ms);
                self.now.wall += ms;
                for end in 0..3 {
                    let mut answers = Vec::new();
                    self.ends[end].machine.pass(self.now.at, &mut answers);
                    self.hear(end, &answers)?;
                    // Renewals go out at once, as the timer of a lane makes them.
                    if self.clean {
                        self.exchange(end, Fate::Well)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn exchange(&mut self, end: usize, fate: Fate) -> Result<(), TestCaseError> {
        for _ in 0..4 {
            let subject = &mut self.ends[end];
            let commands = std::mem::take(subject.machine.commands());
            if commands.is_empty() {
                break;
            }
            let mut answers = Vec::new();
            for command in commands {
                let reply = match fate {
                    Fate::NeverArrives => None,
                    _ => Some(self.model.run(&command, &subject.nonce, self.now.wall)),
                };
                if let (Some(reply), Fate::Well) = (reply, fate) {
                    subject
                        .machine
                        .reply(command, reply, self.now, &mut answers);
                } else {
                    self.clean = false;
                    let after = Duration::from_millis(100);
                    subject
                        .machine
                        .failed(command, after, self.now.at, &mut answers);
                }
            }
            self.hear(end, &answers)?;
        }
        Ok(())
    }

    fn hear(&mut self, end: usize, answers: &[Answer]) -> Result<(), TestCaseError> {
        for answer in answers {
            let asked = self.ends[end].asked.remove(&answer.ticket);
            let Some((id, what)) = asked else {
                if answer.verdict == Verdict::Lost
                    && !self.clean
                    && self.ends[end].granted.remove(&answer.ticket)
                {
                    continue;
                }
                return Err(TestCaseError::fail(format!("answered twice: {answer:?}")));
            };
            match (&what, answer.verdict) {
                (AskWhat::Claim, Verdict::Fresh { attempt }) => {
                    prop_assert!(attempt >= 1);
                    if self.clean {
                        prop_assert!(!self.done.contains(&id), "{id} ran after it was done");
                        for other in &self.ends {
                            prop_assert!(!other.runs.contains(&id), "{id} runs twice");
                        }
                        let starts = self.starts.entry(id).or_default();
                        *starts += 1;
                        prop_assert_eq!(attempt, *starts, "every start counts, and nothing else");
                    } else {
                        *self.starts.entry(id).or_default() += 1;
                    }
                    self.ends[end].runs.push(id);
                    self.ends[end].granted.insert(answer.ticket);
                }
                (AskWhat::Claim, Verdict::Done) => {
                    prop_assert!(self.done.contains(&id), "{id} was never done: it is lost");
                }
                (AskWhat::Claim, Verdict::Busy(_) | Verdict::Down(_))
                | (AskWhat::Confirm | AskWhat::Retry { .. }, Verdict::Stored) => {}
                (AskWhat::Confirm | AskWhat::Retry { .. }, Verdict::Down(_)) => {
                    self.ask(end, id, what)?;
                }
                (AskWhat::Retry { .. }, Verdict::Lost) if !self.clean => {}
                (what, verdict) => {
                    return Err(TestCaseError::fail(format!(
                        "{what:?} answered {verdict:?}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// All goes well from here on: every ask is answered, every task can be done.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            for end in 0..3 {
                self.exchange(end, Fate::Well)?;
            }
            self.act(Act::Pass(100))?;
            for end in 0..3 {
                while let Some(id) = self.run_of(end, 0) {
                    self.done.insert(id);
                    self.ask(end, id, AskWhat::Confirm)?;
                }
            }
        }
        for (n, end) in self.ends.iter().enumerate() {
            prop_assert!(
                end.asked.is_empty(),
                "end {} never answers {:?}",
                n,
                end.asked
            );
            prop_assert_eq!(
                end.machine.held(),
                0,
                "end {} holds on to what has ended",
                n
            );
        }
        Ok(())
    }
}

/// Found by the test below: one that was silent beyond its lease, and lost its claim by that, ends while another replica asks anew.
#[test]
fn who_asks_while_a_run_that_lost_its_claim_ends_is_answered() {
    use Act::{Claim, Exchange, Pass};
    let acts = [
        Claim(0, 0),
        Exchange(0, Fate::AnswersLost),
        Claim(0, 0),
        Exchange(0, Fate::Well),
        Pass(336),
        Claim(0, 0),
        Pass(1441),
        Pass(712),
        Claim(2, 0),
        Claim(0, 0),
        Pass(1442),
        Pass(793),
        Pass(1276),
        Exchange(2, Fate::Well),
        Exchange(0, Fate::Well),
        Claim(0, 0),
    ];
    let mut world = World::new();
    for act in acts {
        world.act(act).expect("as the store promises");
    }
    world.settle().expect("everybody is answered");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn one_runs_at_a_time_and_every_start_counts(acts in prop::collection::vec(act(), 1..80)) {
        let mut world = World::new();
        for act in acts {
            let act = match act {
                Act::Exchange(end, _) => Act::Exchange(end, Fate::Well),
                other => other,
            };
            world.act(act)?;
        }
        world.settle()?;
    }

    #[test]
    fn whatever_is_lost_on_the_way_every_ask_is_answered_once_and_every_task_can_end(
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let mut world = World::new();
        for act in acts {
            world.act(act)?;
        }
        world.settle()?;
        // What nobody has finished yet can still be run by somebody.
        for id in 0..3 {
            if world.done.contains(&Id(id)) {
                continue;
            }
            for _ in 0..40 {
                world.ask(0, Id(id), AskWhat::Claim)?;
                world.settle()?;
                if world.done.contains(&Id(id)) {
                    break;
                }
            }
            prop_assert!(world.done.contains(&Id(id)), "{id} can never run again");
        }
    }
}
