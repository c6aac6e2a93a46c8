//! The dedup store on the file.

use super::*;
use crate::dedup::{Ask, AskWhat, Claims, Verdict};

const HOUR: Duration = Duration::from_secs(3600);

async fn ask(end: &mut dyn Claims, id: u128, what: AskWhat) -> Verdict {
    let mut asks = vec![Ask {
        ticket: 7,
        round: 3,
        id: Id(id),
        what,
    }];
    let mut answers = Vec::new();
    let answered = poll_fn(|cx| end.turn(cx, &mut asks, &mut answers));
    tokio::time::timeout(BOUND, answered)
        .await
        .expect("an answer");
    let [answer] = &answers[..] else {
        unreachable!("one: {answers:?}")
    };
    assert_eq!((answer.ticket, answer.round), (7, 3));
    answer.verdict
}

async fn claim(end: &mut dyn Claims, id: u128) -> Verdict {
    ask(end, id, AskWhat::Claim).await
}

#[tokio::test]
async fn what_was_confirmed_is_done_until_keep_is_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = Clock::system();
    let engine = Sqlite::open(config(folder.path()), clock.clone())
        .await
        .expect("opens");
    let mut end = engine.claims("t", HOUR);
    assert_eq!(claim(&mut *end, 1).await, Verdict::Fresh { attempt: 1 });
    assert_eq!(ask(&mut *end, 1, AskWhat::Confirm).await, Verdict::Stored);
    assert_eq!(claim(&mut *end, 1).await, Verdict::Done);
    clock.step(3601 * 1_000_000_000);
    assert_eq!(claim(&mut *end, 1).await, Verdict::Fresh { attempt: 1 });
}

#[tokio::test]
async fn two_processes_never_hold_one_claim_and_two_scopes_do_not_know_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let (here, there) = (open(folder.path()).await, open(folder.path()).await);
    let (mut first, mut second) = (here.claims("t", HOUR), there.claims("t", HOUR));
    assert_eq!(claim(&mut *first, 1).await, Verdict::Fresh { attempt: 1 });
    assert!(matches!(claim(&mut *second, 1).await, Verdict::Busy(_)));
    assert!(matches!(claim(&mut *first, 1).await, Verdict::Busy(_)));
    assert_eq!(ask(&mut *second, 1, AskWhat::Confirm).await, Verdict::Lost);
    assert_eq!(ask(&mut *first, 1, AskWhat::Confirm).await, Verdict::Stored);
    assert_eq!(claim(&mut *second, 1).await, Verdict::Done);
    let mut other_group = there.claims("u", HOUR);
    assert_eq!(
        claim(&mut *other_group, 1).await,
        Verdict::Fresh { attempt: 1 }
    );
}

#[tokio::test]
async fn a_retry_counts_and_an_abandoned_claim_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let mut end = engine.claims("t", HOUR);
    assert_eq!(claim(&mut *end, 1).await, Verdict::Fresh { attempt: 1 });
    let retry = AskWhat::Retry {
        after: Duration::from_secs(5),
    };
    assert_eq!(ask(&mut *end, 1, retry).await, Verdict::Stored);
    assert_eq!(claim(&mut *end, 1).await, Verdict::Fresh { attempt: 2 });
    // Not answered, but in order with the next.
    let mut asks = vec![Ask {
        ticket: 1,
        round: 1,
        id: Id(1),
        what: AskWhat::Abandon,
    }];
    let sent = poll_fn(|cx| Poll::Ready(end.turn(cx, &mut asks, &mut Vec::new()).is_ready())).await;
    assert!(!sent && asks.is_empty());
    assert_eq!(claim(&mut *end, 1).await, Verdict::Fresh { attempt: 2 });
}

#[tokio::test]
async fn a_dead_message_may_run_again_when_it_is_replayed() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path()).await;
    let mut end = engine.claims("t", HOUR);
    assert_eq!(claim(&mut *end, 1).await, Verdict::Fresh { attempt: 1 });
    assert_eq!(ask(&mut *end, 1, AskWhat::Dead).await, Verdict::Stored);
    assert_eq!(claim(&mut *end, 1).await, Verdict::Fresh { attempt: 1 });
}

#[tokio::test]
async fn a_claim_is_free_when_its_end_is_dropped_or_its_process_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (here, there) = (open(folder.path()).await, open(folder.path()).await);
    let (mut first, mut second) = (here.claims("t", HOUR), there.claims("t", HOUR));
    assert_eq!(claim(&mut *first, 1).await, Verdict::Fresh { attempt: 1 });
    assert_eq!(claim(&mut *first, 2).await, Verdict::Fresh { attempt: 1 });
    here.0
        .ask("forget the process", |tx| {
            tx.end_session(first_session(tx)?)
        })
        .await
        .expect("ended");
    assert_eq!(claim(&mut *second, 1).await, Verdict::Fresh { attempt: 2 });
    assert_eq!(ask(&mut *first, 1, AskWhat::Confirm).await, Verdict::Lost);
    assert_eq!(claim(&mut *first, 3).await, Verdict::Fresh { attempt: 1 });
    drop(first);
    let began = Instant::now();
    while claim(&mut *second, 3).await != (Verdict::Fresh { attempt: 2 }) {
        assert!(began.elapsed() < BOUND, "never free");
    }
}

fn first_session(tx: &Tx<'_>) -> rusqlite::Result<i64> {
    tx.conn
        .query_row("SELECT min(id) FROM session", [], |row| row.get(0))
}
