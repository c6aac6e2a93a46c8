//! Claims against a real server that is well.

use std::time::Duration;

use super::server::{Server, there_is_redis};
use super::*;
use crate::time::{millis, seconds};

const KEY: &str = "gq:tube:00000000000000000000000000000001";

#[tokio::test]
async fn what_is_confirmed_is_done_and_kept_for_its_time() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let (one, other) = (store(&server), store(&server));
    let (mut lane, mut twin) = (Lane::new(&one), Lane::new(&other));
    assert_eq!(lane.claim(1).await, FIRST);
    assert_eq!(lane.ask(1, AskWhat::Confirm).await, Verdict::Stored);
    assert_eq!(server.get(KEY).await.as_deref(), Some("D"));
    let left = server.ttl(KEY).await;
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
    assert_eq!(twin.claim(1).await, Verdict::Done);
    assert_eq!(lane.claim(1).await, Verdict::Done);
}

#[tokio::test]
async fn of_two_owners_one_runs_and_the_other_learns_when_it_is_done() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let (one, other) = (store(&server), store(&server));
    let (mut lane, mut twin) = (Lane::new(&one), Lane::new(&other));
    for id in 1..=50 {
        let (a, b) = (lane.tell(id, AskWhat::Claim).await, id);
        twin.tell(b, AskWhat::Claim).await;
        // One answers at once, the other looks again until there is something to say.
        let (first, second) = tokio::select! {
            answers = lane.answers() => (answers, true),
            answers = twin.answers() => (answers, false),
        };
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].verdict, FIRST, "{a}");
        let (winner, loser) = if second {
            (&mut lane, &mut twin)
        } else {
            (&mut twin, &mut lane)
        };
        assert_eq!(winner.ask(id, AskWhat::Confirm).await, Verdict::Stored);
        let told = loser.answers().await;
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].verdict, Verdict::Done);
    }
}

#[tokio::test]
async fn who_waits_for_a_long_run_elsewhere_is_sent_away_for_a_while() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let (one, other) = (store(&server), store(&server));
    let (mut lane, mut twin) = (Lane::new(&one), Lane::new(&other));
    assert_eq!(lane.claim(1).await, FIRST);
    let Verdict::Busy(after) = twin.claim(1).await else {
        panic!("somebody runs it");
    };
    assert!(after > seconds(1) && after <= seconds(5), "{after:?}");
}

#[tokio::test]
async fn twins_of_one_lane_wait_for_its_run_without_asking_redis() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let mut lane = Lane::new(&store);
    assert_eq!(lane.claim(1).await, FIRST);
    let asked = commands(&server).await;
    let second = lane.tell(1, AskWhat::Claim).await;
    let third = lane.tell(1, AskWhat::Claim).await;
    let run = lane.tell(1, AskWhat::Confirm).await;
    let told = lane.answers().await;
    let verdicts: Vec<_> = told
        .iter()
        .map(|told| (told.ticket, told.verdict))
        .collect();
    assert_eq!(
        verdicts,
        [
            (run, Verdict::Stored),
            (second, Verdict::Done),
            (third, Verdict::Done)
        ]
    );
    // And one that comes later.
    lane.next += 1;
    let mut answers = Vec::new();
    let mut asks = vec![ask(lane.next, 1, AskWhat::Claim)];
    poll_fn(|cx| lane.end.turn(cx, &mut asks, &mut answers)).await;
    assert_eq!(answers[0].verdict, Verdict::Done);
    // The confirmation, and what this test itself asks: its `INFO` and the connection for it.
    let own = commands(&server).await - asked;
    assert!(own <= 4, "{own} commands");
}

async fn commands(server: &Server) -> u64 {
    let info: String =
        redis::from_redis_value(server.command(&["INFO", "commandstats"]).await).expect("a text");
    info.lines()
        .filter(|line| !line.contains("_info") && !line.contains("_client"))
        .filter_map(|line| {
            line.split_once("calls=")?
                .1
                .split(',')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum()
}

#[tokio::test]
async fn a_twin_of_a_long_run_is_sent_away_and_the_run_goes_on() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let mut lane = Lane::new(&store);
    assert_eq!(lane.claim(1).await, FIRST);
    lane.tell(1, AskWhat::Claim).await;
    let told = lane.answers().await;
    assert_eq!(told[0].verdict, Verdict::Busy(seconds(1)));
    assert_eq!(lane.ask(1, AskWhat::Confirm).await, Verdict::Stored);
}

#[tokio::test]
async fn a_retry_counts_waits_and_tells_the_twins_when() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let (one, other) = (store(&server), store(&server));
    let (mut lane, mut elsewhere) = (Lane::new(&one), Lane::new(&other));
    assert_eq!(lane.claim(1).await, FIRST);
    let twin = lane.tell(1, AskWhat::Claim).await;
    let after = millis(700);
    lane.tell(1, AskWhat::Retry { after }).await;
    let told = lane.answers().await;
    assert_eq!(told[0].verdict, Verdict::Stored);
    assert_eq!(
        (told[1].ticket, told[1].verdict),
        (twin, Verdict::Busy(after))
    );
    let Verdict::Busy(rest) = elsewhere.claim(1).await else {
        panic!("it is not due");
    };
    // Its end is told by the latest reading of the clock, what is left of it by the earliest.
    assert!(rest <= after + seconds(1), "{rest:?}");
    tokio::time::sleep(rest).await;
    assert_eq!(elsewhere.claim(1).await, SECOND);
}

#[tokio::test]
async fn what_did_not_start_is_not_counted() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let mut lane = Lane::new(&store);
    assert_eq!(lane.claim(1).await, FIRST);
    lane.abandon(1).await;
    assert_eq!(lane.claim(1).await, FIRST);
    assert_eq!(
        lane.ask(
            1,
            AskWhat::Retry {
                after: Duration::ZERO
            }
        )
        .await,
        Verdict::Stored
    );
    assert_eq!(lane.claim(1).await, SECOND);
    lane.abandon(1).await;
    assert_eq!(lane.claim(1).await, SECOND);
}

#[tokio::test]
async fn a_lease_that_ends_is_taken_over_and_its_start_stays_counted() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let mut short = config(&server);
    short.lease = millis(600);
    let (one, other) = (
        RedisStore::open(short.clone()).unwrap(),
        RedisStore::open(short).unwrap(),
    );
    let (mut lane, mut heir) = (Lane::new(&one), Lane::new(&other));
    assert_eq!(lane.claim(1).await, FIRST);
    // While it is driven it renews.
    lane.idle(millis(1500)).await;
    assert!(matches!(heir.claim(1).await, Verdict::Busy(_)));
    // From here on it is not.
    tokio::time::sleep(millis(700)).await;
    assert_eq!(heir.claim(1).await, SECOND);
    assert_eq!(
        lane.ask(
            1,
            AskWhat::Retry {
                after: Duration::ZERO
            }
        )
        .await,
        Verdict::Lost
    );
    assert_eq!(heir.ask(1, AskWhat::Confirm).await, Verdict::Stored);
}

#[tokio::test]
async fn an_end_that_is_dropped_frees_its_claims_and_their_starts_stay_counted() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let (one, other) = (store(&server), store(&server));
    let mut lane = Lane::new(&one);
    assert_eq!(lane.claim(1).await, FIRST);
    assert_eq!(lane.claim(2).await, FIRST);
    assert_eq!(lane.ask(2, AskWhat::Confirm).await, Verdict::Stored);
    drop(lane);
    assert!(one.close(LONG).await, "all was said");
    let mut heir = Lane::new(&other);
    assert_eq!(heir.claim(1).await, SECOND);
    assert_eq!(heir.claim(2).await, Verdict::Done);
    assert!(matches!(Lane::new(&one).claim(3).await, Verdict::Down(_)));
}

#[tokio::test]
async fn keys_of_the_go_library_are_met_and_made() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let go = RedisScope {
        form: KeyForm::GoQueue,
        keep: seconds(1),
        ..scope()
    };
    let mut lane = Lane::of(&store, &go);
    let (mine, theirs) = (
        0x7738_a7b9_4f1f_d27f_9ea7_d0c0_5bcd_d423_u128,
        0xe5a5_5d20_7ba2_508f_2951_ba9d_a3ce_ff6e_u128,
    );
    server
        .command(&[
            "SET",
            "e5a55d207ba2508f2951ba9da3ceff6e",
            "wGfNigJUK7NKQINV",
        ])
        .await;
    assert_eq!(lane.claim(theirs).await, Verdict::Done);
    assert_eq!(lane.claim(mine).await, FIRST);
    assert_eq!(lane.ask(mine, AskWhat::Confirm).await, Verdict::Stored);
    let left = server.ttl("7738a7b94f1fd27f9ea7d0c05bcdd423").await;
    assert!((3_590_000..=3_600_500).contains(&left), "{left}");
}

#[tokio::test]
async fn a_thousand_asks_of_one_turn_are_answered() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let mut lane = Lane::new(&store);
    for what in [AskWhat::Claim, AskWhat::Confirm] {
        let mut asks: Vec<_> = (0..1000)
            .map(|n| ask(n, u128::from(n), what.clone()))
            .collect();
        let mut answers = Vec::new();
        while answers.len() < 1000 {
            let turn = poll_fn(|cx| lane.end.turn(cx, &mut asks, &mut answers));
            timeout(LONG, turn).await.expect("the end answers");
        }
        let want = if what == AskWhat::Claim {
            FIRST
        } else {
            Verdict::Stored
        };
        assert!(answers.iter().all(|answer| answer.verdict == want));
    }
}

#[tokio::test]
async fn a_redis_before_seven_is_asked_through_a_script() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    // What its error to `SET .. NX GET` makes of the store.
    store.0.link.no_get();
    let mut lane = Lane::new(&store);
    assert_eq!(lane.claim(1).await, FIRST);
    assert_eq!(
        lane.ask(
            1,
            AskWhat::Retry {
                after: Duration::ZERO
            }
        )
        .await,
        Verdict::Stored
    );
    assert_eq!(lane.claim(1).await, SECOND);
    assert_eq!(lane.ask(1, AskWhat::Confirm).await, Verdict::Stored);
    assert_eq!(Lane::new(&store).claim(1).await, Verdict::Done);
}

#[tokio::test]
async fn an_error_of_redis_to_one_command_is_an_outage_of_that_claim() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let mut lane = Lane::new(&store);
    // A key of another type, as only somebody else could leave it.
    server.command(&["LPUSH", KEY, "x"]).await;
    assert!(matches!(lane.claim(1).await, Verdict::Down(_)));
    assert_eq!(lane.claim(2).await, FIRST);
    server.command(&["DEL", KEY]).await;
    assert_eq!(lane.claim(1).await, FIRST);
}
