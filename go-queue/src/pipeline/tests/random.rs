//! The pump at random: deliveries, handlers, notices, claims and stops in any order, and what must hold all the same.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Case {
    concurrency: usize,
    waiting: usize,
    batch: Option<(usize, u64)>,
    claims: bool,
    redeliver: bool,
    steps: Vec<Step>,
    ending: Ending,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    /// Everything comes to its end by itself: nothing is stuck.
    Drained,
    Quiet,
    Abort,
}

#[derive(Clone, Debug)]
enum Step {
    /// So many deliveries of random keys, of this epoch.
    Deliver {
        epoch: u32,
        keys: Vec<u8>,
    },
    Leaving(u32),
    Lost(u32),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u32, proptest::collection::vec(0..6_u8, 1..30)).prop_map(|(epoch, keys)| Step::Deliver { epoch, keys }),
        1 => (0..3_u32).prop_map(Step::Leaving),
        1 => (0..3_u32).prop_map(Step::Lost),
        4 => (0..40_u64).prop_map(Step::Pass),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    (
        1..6_usize,
        0..30_usize,
        proptest::option::of((1..8_usize, 0..20_u64)),
        any::<bool>(),
        any::<bool>(),
        proptest::collection::vec(step(), 1..40),
        prop_oneof![
            Just(Ending::Drained),
            Just(Ending::Quiet),
            Just(Ending::Abort)
        ],
    )
        .prop_map(
            |(concurrency, waiting, batch, claims, redeliver, steps, ending)| Case {
                concurrency,
                waiting,
                batch,
                claims,
                redeliver,
                steps,
                ending,
            },
        )
}

#[derive(Default)]
struct Seen {
    running: usize,
    peak: usize,
    /// By key: how many run now, and the tokens in the order of their first start.
    keys: HashMap<u64, (usize, Vec<u64>)>,
    overlaps: usize,
}

/// What a handler does with this message, from its number: ready, yields, sleeps; done, failed, panicked, dead, skipped.
fn script(seen: Arc<Mutex<Seen>>) -> Script {
    Arc::new(move |cx| {
        let all: Vec<(u64, u64, u32)> = cx
            .messages()
            .map(|message| (u64::from(message.place), number(message), message.attempt))
            .collect();
        let seen = seen.clone();
        Box::pin(async move {
            // Also counts down when the future is dropped.
            let running = Running::begin(&seen, &all);
            let (_, token, attempt) = all[0];
            match token % 4 {
                0 => {}
                1 => tokio::task::yield_now().await,
                2 => tokio::time::sleep(Duration::from_millis(token % 7)).await,
                _ => tokio::time::sleep(Duration::from_millis(token % 50)).await,
            }
            drop(running);
            let outcome = |token: u64| match token % 13 {
                0 if attempt < 3 => Outcome::retry("again"),
                1 => Outcome::dead("no"),
                2 => Outcome::Skip,
                _ => Outcome::Done,
            };
            if token % 17 == 5 && attempt == 1 {
                std::panic::panic_any("boom");
            }
            if all.len() > 1 {
                Outcome::Each(all.iter().map(|(_, token, _)| outcome(*token)).collect())
            } else {
                outcome(token)
            }
        })
    })
}

struct Running(Arc<Mutex<Seen>>, Vec<u64>);

impl Running {
    fn begin(seen: &Arc<Mutex<Seen>>, all: &[(u64, u64, u32)]) -> Self {
        let mut keys: Vec<u64> = all
            .iter()
            .map(|(key, ..)| *key)
            .filter(|key| *key != 0)
            .collect();
        keys.dedup();
        let mut state = seen.lock().expect("unpoisoned");
        state.running += 1;
        state.peak = state.peak.max(state.running);
        for key in &keys {
            let entry = state.keys.entry(*key).or_default();
            entry.0 += 1;
            let twice = entry.0 > 1;
            for (_, token, _) in all.iter().filter(|(k, ..)| k == key) {
                if !entry.1.contains(token) {
                    entry.1.push(*token);
                }
            }
            state.overlaps += usize::from(twice);
        }
        drop(state);
        Self(seen.clone(), keys)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.lock().expect("unpoisoned");
        state.running -= 1;
        for key in &self.1 {
            if let Some(entry) = state.keys.get_mut(key) {
                entry.0 -= 1;
            }
        }
    }
}

/// A store that answers anything that it may answer.
fn moody_store() -> Box<dyn Claims> {
    let mut n = 0_u64;
    let (claims, ..) = scribe(move |ask| {
        n += 1;
        match (&ask.what, n % 11) {
            (AskWhat::Abandon, _) => None,
            (_, 3) => Some(Verdict::Down(Duration::from_millis(n % 20))),
            (AskWhat::Claim, 5) => Some(Verdict::Busy(Duration::from_millis(n % 15))),
            (AskWhat::Claim, 7) => Some(Verdict::Done),
            (AskWhat::Claim, _) => Some(Verdict::Fresh { attempt: 1 }),
            (_, 9) => Some(Verdict::Lost),
            _ => Some(Verdict::Stored),
        }
    });
    claims
}

async fn play(case: Case) {
    let end = FakeEnd::default();
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let capabilities = Capabilities {
        redeliver: case.redeliver,
        ..TASKS
    };
    let mut plan = plan(capabilities, script(seen.clone()));
    plan.concurrency = case.concurrency;
    plan.waiting = case.waiting;
    plan.retry = quick_retry(4);
    plan.batch = case.batch.map(|(size, linger)| Batch {
        size,
        linger: Duration::from_millis(linger),
    });
    let claims = case.claims.then(moody_store);
    let lane = Lane::over(plan, Box::new(end.clone()), claims);
    // Epochs that were lost are not used again: the number of a new one is its slot plus its generation.
    let mut generation = [0_u32; 3];
    let mut sent: HashMap<u64, (u32, u64)> = HashMap::new();
    let mut lost: Vec<u32> = Vec::new();
    let mut next = 0;
    for step in case.steps.clone() {
        match step {
            Step::Deliver { epoch, keys } => {
                let epoch = epoch + 3 * generation[epoch as usize];
                let deliveries: Vec<Delivery> = keys
                    .iter()
                    .map(|key| {
                        let key = u64::from(*key);
                        next += 1;
                        sent.insert(next, (epoch, key));
                        let mut one = delivery(epoch, next, key);
                        one.message.place = u32::try_from(key).expect("small");
                        one
                    })
                    .collect();
                end.add(deliveries);
            }
            Step::Leaving(epoch) => {
                end.notice(Notice::Leaving(epoch + 3 * generation[epoch as usize]));
            }
            Step::Lost(slot) => {
                let epoch = slot + 3 * generation[slot as usize];
                generation[slot as usize] += 1;
                lost.push(epoch);
                // What the end still holds of a lost epoch it never hands out.
                end.drop_epoch(epoch);
                end.notice(Notice::Lost(epoch));
            }
            Step::Pass(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
        let in_hand = lane.status.in_hand();
        assert!(
            in_hand <= case.concurrency + case.waiting,
            "{in_hand} in hand"
        );
    }
    match case.ending {
        Ending::Drained => {
            lane.until("everything ends", |status| {
                status.in_hand() == 0 && end.left().is_empty()
            })
            .await;
            lane.control.quiet();
        }
        Ending::Quiet => lane.control.quiet(),
        Ending::Abort => lane.control.abort(),
    }
    let ended = tokio::time::timeout(Duration::from_secs(3600), lane.end).await;
    ended
        .expect("the lane ends")
        .expect("without a panic")
        .expect("cleanly");
    judge(&case, &lane.status, &end, &sent, &lost, &seen);
}

/// What must hold at the end.
fn judge(
    case: &Case,
    status: &LaneStatus,
    end: &FakeEnd,
    sent: &HashMap<u64, (u32, u64)>,
    lost: &[u32],
    seen: &Mutex<Seen>,
) {
    assert_eq!((status.in_hand(), status.running()), (0, 0));
    let mut settled: HashMap<u64, Vec<How>> = HashMap::new();
    for settlement in end.settled() {
        settled
            .entry(settlement.receipt.token)
            .or_default()
            .push(settlement.how);
    }
    let left = end.left();
    for (token, (epoch, _)) in sent {
        let times = settled.get(token).map_or(0, Vec::len);
        if left.contains(token) {
            assert_eq!(times, 0, "{token} was never delivered");
        } else if lost.contains(epoch) {
            assert!(
                times <= 1,
                "{token} of a lost epoch was settled {times} times"
            );
        } else {
            assert_eq!(times, 1, "{token} was settled as {:?}", settled.get(token));
        }
    }
    let seen = seen.lock().expect("unpoisoned");
    assert!(seen.peak <= case.concurrency, "{} ran at a time", seen.peak);
    assert_eq!(seen.overlaps, 0, "a key ran twice at a time");
    if case.redeliver || case.claims {
        // Messages of a key may then come back later, by release; within one stay they are in order.
        return;
    }
    for (key, (_, tokens)) in &seen.keys {
        let kept: Vec<u64> = tokens
            .iter()
            .copied()
            .filter(|t| !lost.contains(&sent[t].0))
            .collect();
        assert!(kept.is_sorted(), "key {key} started as {kept:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_stuck_whatever_happens(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(play(case));
    }
}
