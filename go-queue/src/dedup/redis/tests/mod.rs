//! The store against a real Redis, and the machine against a model of one.

mod claims;
mod faults;
mod kinds;
mod marks;
mod model;
pub(crate) mod server;

use std::future::poll_fn;
use std::time::Duration;

use tokio::time::timeout;

use super::{RedisConfig, RedisScope, RedisStore};
use crate::dedup::redis::KeyForm;
use crate::dedup::{Answer, Ask, AskWhat, Claims, Verdict};
use crate::message::Id;
use server::Server;

/// Generous: what takes so long never comes.
const LONG: Duration = Duration::from_secs(20);

const HOUR: Duration = Duration::from_secs(3600);

fn config(server: &Server) -> RedisConfig {
    RedisConfig::node(server.address())
}

fn store(server: &Server) -> RedisStore {
    RedisStore::open(config(server)).expect("the configuration is good")
}

fn scope() -> RedisScope {
    RedisScope {
        scope: "tube".to_owned(),
        form: KeyForm::Native,
        keep: HOUR,
        replicas: true,
    }
}

/// An end with its tickets.
struct Lane {
    end: Box<dyn Claims>,
    next: u32,
}

impl Lane {
    fn new(store: &RedisStore) -> Self {
        Self::of(store, &scope())
    }

    fn of(store: &RedisStore, scope: &RedisScope) -> Self {
        Self {
            end: store.end(scope),
            next: 0,
        }
    }

    /// Gives one ask to the end; answers its ticket.
    async fn tell(&mut self, id: u128, what: AskWhat) -> u32 {
        self.next += 1;
        let ticket = self.next;
        let mut asks = vec![ask(ticket, id, what)];
        let mut answers = Vec::new();
        poll_fn(|cx| {
            let _ = self.end.turn(cx, &mut asks, &mut answers);
            std::task::Poll::Ready(())
        })
        .await;
        assert!(
            answers.is_empty(),
            "answered before Redis could: {answers:?}"
        );
        ticket
    }

    /// The next answers.
    async fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        let turn = poll_fn(|cx| self.end.turn(cx, &mut Vec::new(), &mut answers));
        timeout(LONG, turn).await.expect("the end answers");
        answers
    }

    /// Drives the end for so long, and nothing may be answered.
    async fn idle(&mut self, time: Duration) {
        let mut answers = Vec::new();
        let turn = poll_fn(|cx| self.end.turn(cx, &mut Vec::new(), &mut answers));
        assert!(timeout(time, turn).await.is_err(), "{answers:?}");
    }

    /// One ask and its answer.
    async fn ask(&mut self, id: u128, what: AskWhat) -> Verdict {
        self.next += 1;
        let ticket = self.next;
        let mut asks = vec![ask(ticket, id, what)];
        let mut answers = Vec::new();
        let turn = poll_fn(|cx| self.end.turn(cx, &mut asks, &mut answers));
        timeout(LONG, turn).await.expect("the end answers");
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!((answers[0].ticket, answers[0].round), (ticket, 7));
        answers[0].verdict
    }

    async fn claim(&mut self, id: u128) -> Verdict {
        self.ask(id, AskWhat::Claim).await
    }

    /// Asks until the store is there again.
    async fn insist(&mut self, id: u128, what: AskWhat) -> Verdict {
        let asking = async {
            loop {
                match self.ask(id, what.clone()).await {
                    Verdict::Down(after) => tokio::time::sleep(after).await,
                    verdict => return verdict,
                }
            }
        };
        timeout(LONG, asking).await.expect("the store comes back")
    }

    async fn abandon(&mut self, id: u128) {
        self.tell(id, AskWhat::Abandon).await;
    }
}

fn ask(ticket: u32, id: u128, what: AskWhat) -> Ask {
    Ask {
        ticket,
        round: 7,
        id: Id(id),
        what,
    }
}

const FIRST: Verdict = Verdict::Fresh { attempt: 1 };
const SECOND: Verdict = Verdict::Fresh { attempt: 2 };
