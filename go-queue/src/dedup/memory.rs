//! The dedup store of one process: a shared table, and an end of it for each lane.
//!
//! A claim is *running* until it is settled or its lease ends, then *done* for `keep`. Ends renew what they hold
//! whenever they are polled, at the latest after a third of the lease; an end that is dropped frees its claims at once and
//! their starts stay counted, as if its process had died.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::{Answer, Ask, AskWhat, Claims, Verdict};
use crate::message::Id;

/// Who finds a claim held asks again after this time at the latest, so that it need not wait for the whole lease.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The dedup store of one process. Cloning shares it.
#[derive(Clone)]
pub struct ClaimStore(Arc<Store>);

struct Store {
    keep: Duration,
    lease: Duration,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    claims: HashMap<Id, Claim, foldhash::fast::RandomState>,
    /// When marks may be forgotten. An entry is void if the mark says another time.
    forget: BinaryHeap<Reverse<(Instant, Id)>>,
    tokens: u64,
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    /// How often a run was allowed to start and not abandoned.
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running {
        token: u64,
        until: Instant,
    },
    /// Free; the count is kept.
    Free {
        until: Instant,
    },
    Done {
        until: Instant,
    },
}

impl ClaimStore {
    /// An empty store that knows what is done for `keep`, with leases of 60 seconds.
    pub fn new(keep: Duration) -> Self {
        Self::with_lease(keep, Duration::from_secs(60))
    }

    /// An empty store. An end that was not polled for `lease` loses its claims to who asks for them.
    pub fn with_lease(keep: Duration, lease: Duration) -> Self {
        Self(Arc::new(Store {
            keep,
            lease,
            table: Mutex::default(),
        }))
    }

    /// An end for one lane.
    pub fn end(&self) -> Box<dyn Claims> {
        Box::new(End {
            store: Arc::clone(&self.0),
            held: HashMap::default(),
            renew: None,
        })
    }
}

impl fmt::Debug for ClaimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimStore")
            .field("keep", &self.0.keep)
            .field("lease", &self.0.lease)
            .field("claims", &self.0.lock().claims.len())
            .finish()
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Forgets the marks whose time is over.
    fn forget(&mut self, now: Instant) {
        while let Some(&Reverse((until, id))) = self.forget.peek()
            && until <= now
        {
            self.forget.pop();
            if let Some(Claim {
                state: State::Free { until: end } | State::Done { until: end },
                ..
            }) = self.claims.get(&id)
                && *end == until
            {
                self.claims.remove(&id);
            }
        }
    }

    fn mark(&mut self, id: Id, attempts: u32, state: State) {
        if let State::Free { until } | State::Done { until } = state {
            self.forget.push(Reverse((until, id)));
        }
        self.claims.insert(id, Claim { attempts, state });
    }

    fn claim(&mut self, id: Id, now: Instant, lease: Duration) -> (Verdict, Option<u64>) {
        let attempts = match self.claims.get(&id) {
            None => 0,
            Some(Claim {
                state: State::Done { .. },
                ..
            }) => return (Verdict::Done, None),
            Some(Claim {
                state: State::Running { until, .. },
                ..
            }) if *until > now => {
                return (Verdict::Busy((*until - now).min(ASK_AGAIN)), None);
            }
            Some(claim) => claim.attempts,
        };
        self.tokens += 1;
        let attempt = attempts.saturating_add(1);
        let state = State::Running {
            token: self.tokens,
            until: now + lease,
        };
        self.claims.insert(
            id,
            Claim {
                attempts: attempt,
                state,
            },
        );
        (Verdict::Fresh { attempt }, Some(self.tokens))
    }

    /// The claim, if it is still that of the token.
    fn held(&mut self, id: Id, token: u64) -> Option<&mut Claim> {
        self.claims.get_mut(&id).filter(
            |claim| matches!(claim.state, State::Running { token: now, .. } if now == token),
        )
    }
}

/// One end of the store.
struct End {
    store: Arc<Store>,
    held: HashMap<Id, u64, foldhash::fast::RandomState>,
    /// When the claims are to be renewed.
    renew: Option<Pin<Box<Sleep>>>,
}

impl End {
    /// Takes one ask; answers unless it is `Abandon`.
    fn take(&mut self, table: &mut Table, ask: &Ask, now: Instant) -> Option<Verdict> {
        let (keep, lease) = (self.store.keep, self.store.lease);
        let id = ask.id;
        if ask.what == AskWhat::Claim {
            let (verdict, token) = table.claim(id, now, lease);
            if let Some(token) = token {
                self.held.insert(id, token);
            }
            return Some(verdict);
        }
        let claim = self
            .held
            .remove(&id)
            .and_then(|token| table.held(id, token))
            .copied();
        let Some(Claim { attempts, .. }) = claim else {
            return (ask.what != AskWhat::Abandon).then_some(Verdict::Lost);
        };
        match ask.what {
            AskWhat::Claim => {}
            AskWhat::Confirm => table.mark(id, attempts, State::Done { until: now + keep }),
            AskWhat::Retry { after } => {
                table.mark(
                    id,
                    attempts,
                    State::Free {
                        until: now + after + keep,
                    },
                );
            }
            AskWhat::Dead => drop(table.claims.remove(&id)),
            AskWhat::Abandon => {
                match attempts - 1 {
                    0 => drop(table.claims.remove(&id)),
                    before => table.mark(id, before, State::Free { until: now + keep }),
                }
                return None;
            }
        }
        Some(Verdict::Stored)
    }

    /// Renews what is held and arms the timer for the next time.
    fn renew(&mut self, table: &mut Table, cx: &mut Context<'_>, now: Instant) {
        let lease = self.store.lease;
        while !self.held.is_empty() {
            let due = now + lease / 3;
            let sleep = self
                .renew
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if sleep.as_mut().poll(cx).is_pending() {
                return;
            }
            self.held.retain(|id, token| {
                table.held(*id, *token).is_some_and(|claim| {
                    claim.state = State::Running {
                        token: *token,
                        until: now + lease,
                    };
                    true
                })
            });
            self.renew = None;
        }
        self.renew = None;
    }
}

impl Claims for End {
    fn turn(
        &mut self,
        cx: &mut Context<'_>,
        asks: &mut Vec<Ask>,
        answers: &mut Vec<Answer>,
    ) -> Poll<()> {
        let now = Instant::now();
        let store = Arc::clone(&self.store);
        let mut table = store.lock();
        table.forget(now);
        let before = answers.len();
        for ask in asks.drain(..) {
            if let Some(verdict) = self.take(&mut table, &ask, now) {
                answers.push(Answer {
                    ticket: ask.ticket,
                    round: ask.round,
                    verdict,
                });
            }
        }
        self.renew(&mut table, cx, now);
        if answers.len() > before {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut table = self.store.lock();
        for (id, token) in self.held.drain() {
            if let Some(attempts) = table.held(id, token).map(|claim| claim.attempts) {
                table.mark(
                    id,
                    attempts,
                    State::Free {
                        until: now + self.store.keep,
                    },
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::time::{hours, seconds};

    fn ask(end: &mut dyn Claims, id: u128, what: AskWhat) -> Option<Verdict> {
        let mut answers = Vec::new();
        let mut asks = vec![Ask {
            ticket: 7,
            round: 3,
            id: Id(id),
            what,
        }];
        let polled = end.turn(
            &mut Context::from_waker(Waker::noop()),
            &mut asks,
            &mut answers,
        );
        assert!(asks.is_empty());
        assert_eq!(polled.is_ready(), !answers.is_empty());
        assert!(
            answers
                .iter()
                .all(|answer| (answer.ticket, answer.round) == (7, 3))
        );
        answers.pop().map(|answer| answer.verdict)
    }

    fn claim(end: &mut dyn Claims, id: u128) -> Verdict {
        ask(end, id, AskWhat::Claim).expect("a claim is answered")
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_confirmed_is_done_until_keep_is_over() {
        let store = ClaimStore::new(hours(1));
        let mut end = store.end();
        assert_eq!(claim(&mut *end, 1), Verdict::Fresh { attempt: 1 });
        assert_eq!(ask(&mut *end, 1, AskWhat::Confirm), Some(Verdict::Stored));
        assert_eq!(claim(&mut *end, 1), Verdict::Done);
        tokio::time::advance(hours(1)).await;
        assert_eq!(claim(&mut *end, 1), Verdict::Fresh { attempt: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn two_ends_never_hold_one_claim() {
        let store = ClaimStore::new(hours(1));
        let (mut first, mut second) = (store.end(), store.end());
        assert_eq!(claim(&mut *first, 1), Verdict::Fresh { attempt: 1 });
        assert_eq!(claim(&mut *second, 1), Verdict::Busy(seconds(1)));
        assert_eq!(claim(&mut *first, 1), Verdict::Busy(seconds(1)));
        assert_eq!(ask(&mut *second, 1, AskWhat::Confirm), Some(Verdict::Lost));
        assert_eq!(ask(&mut *first, 1, AskWhat::Confirm), Some(Verdict::Stored));
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_counts_and_an_abandoned_claim_does_not() {
        let store = ClaimStore::new(hours(1));
        let mut end = store.end();
        assert_eq!(claim(&mut *end, 1), Verdict::Fresh { attempt: 1 });
        assert_eq!(
            ask(&mut *end, 1, AskWhat::Retry { after: seconds(5) }),
            Some(Verdict::Stored)
        );
        assert_eq!(claim(&mut *end, 1), Verdict::Fresh { attempt: 2 });
        assert_eq!(ask(&mut *end, 1, AskWhat::Abandon), None);
        assert_eq!(claim(&mut *end, 1), Verdict::Fresh { attempt: 2 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_message_may_run_again_when_it_is_replayed() {
        let store = ClaimStore::new(hours(1));
        let mut end = store.end();
        assert_eq!(claim(&mut *end, 1), Verdict::Fresh { attempt: 1 });
        assert_eq!(ask(&mut *end, 1, AskWhat::Dead), Some(Verdict::Stored));
        assert_eq!(claim(&mut *end, 1), Verdict::Fresh { attempt: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_renewed_while_its_end_is_polled_and_expires_when_it_is_not() {
        let store = ClaimStore::with_lease(hours(1), seconds(30));
        let (mut first, mut second) = (store.end(), store.end());
        assert_eq!(claim(&mut *first, 1), Verdict::Fresh { attempt: 1 });
        for _ in 0..10 {
            let nothing =
                std::future::poll_fn(|cx| first.turn(cx, &mut Vec::new(), &mut Vec::new()));
            assert!(tokio::time::timeout(seconds(15), nothing).await.is_err());
            assert!(matches!(claim(&mut *second, 1), Verdict::Busy(_)));
        }
        tokio::time::advance(seconds(30)).await;
        assert_eq!(claim(&mut *second, 1), Verdict::Fresh { attempt: 2 });
        assert_eq!(ask(&mut *first, 1, AskWhat::Confirm), Some(Verdict::Lost));
        assert_eq!(
            ask(&mut *second, 1, AskWhat::Confirm),
            Some(Verdict::Stored)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_dropped_frees_its_claims_and_their_starts_stay_counted() {
        let store = ClaimStore::new(hours(1));
        let (mut first, mut second) = (store.end(), store.end());
        assert_eq!(claim(&mut *first, 1), Verdict::Fresh { attempt: 1 });
        drop(first);
        assert_eq!(claim(&mut *second, 1), Verdict::Fresh { attempt: 2 });
    }
}
