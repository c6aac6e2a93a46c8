//! The pump on scripted ends.

use super::*;

#[tokio::test(start_paused = true)]
async fn leaving_gives_back_what_has_not_started_and_the_running_one_is_acked() {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let end = FakeEnd::default();
    end.add(
        (0..4)
            .map(|n| delivery(7, n, 1))
            .chain([delivery(8, 10, 2)]),
    );
    let mut plan = plan(TASKS, gate(&go));
    plan.concurrency = 1;
    plan.waiting = 10;
    let lane = Lane::over(plan, Box::new(end.clone()), None);
    lane.until("five in hand", |status| status.in_hand() == 5)
        .await;
    end.notice(Notice::Leaving(7));
    lane.until("three are back", |status| status.in_hand() == 2)
        .await;
    let back: Vec<u64> = end.settled().iter().map(|s| s.receipt.token).collect();
    assert_eq!(back, [1, 2, 3]);
    assert!(end.settled().iter().all(|s| s.how == How::RELEASE));
    go.add_permits(2);
    lane.until("the others are done", |status| status.counts().done == 2)
        .await;
    lane.stop().await;
    assert_eq!(
        end.settled().iter().filter(|s| s.how == How::Ack).count(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_epoch_is_forgotten_its_runs_are_cancelled_and_nothing_is_settled() {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let end = FakeEnd::default();
    end.add([
        delivery(1, 0, 5),
        delivery(1, 1, 5),
        delivery(1, 2, 6),
        delivery(2, 3, 5),
        delivery(2, 4, 0),
    ]);
    let mut plan = plan(TASKS, gate(&go));
    plan.concurrency = 2;
    plan.waiting = 10;
    let lane = Lane::over(plan, Box::new(end.clone()), None);
    lane.until("five in hand", |status| status.in_hand() == 5)
        .await;
    end.notice(Notice::Lost(1));
    // Two ran and have a grace; one was queued and is gone.
    lane.until("four in hand", |status| status.in_hand() == 4)
        .await;
    // The grace ends, the key passes to the message of the other epoch.
    lane.until("only epoch two", |status| {
        status.in_hand() == 2 && status.running() == 2
    })
    .await;
    go.add_permits(2);
    lane.until("done", |status| status.counts().done == 2).await;
    lane.stop().await;
    let settled: Vec<u64> = end.settled().iter().map(|s| s.receipt.token).collect();
    assert_eq!(settled.len(), 2, "{settled:?}");
    assert!(settled.contains(&3) && settled.contains(&4));
}

#[tokio::test(start_paused = true)]
async fn claims_travel_in_slices_and_known_messages_are_acked_without_a_run() {
    let end = FakeEnd::default();
    end.add((0..1000).map(|n| delivery(1, n, 0)));
    let (claims, log, turns) = scribe(|ask| match ask.what {
        AskWhat::Claim if ask.id.0 % 100 == 5 => Some(Verdict::Done),
        AskWhat::Claim => Some(Verdict::Fresh { attempt: 1 }),
        _ => Some(Verdict::Stored),
    });
    let script: Script = Arc::new(|_| Box::pin(async { Outcome::Done }));
    let mut plan = plan(TASKS, script);
    plan.concurrency = 250;
    plan.waiting = 250;
    let lane = Lane::over(plan, Box::new(end.clone()), Some(claims));
    lane.until("all settled", |status| {
        status.counts().done + status.counts().duplicates == 1000
    })
    .await;
    let counts = lane.status.counts();
    lane.stop().await;
    assert_eq!(
        (counts.done, counts.duplicates, counts.started),
        (990, 10, 990)
    );
    assert!(end.settled().iter().all(|s| s.how == How::Ack));
    assert_eq!(end.settled().len(), 1000);
    let confirms = log
        .lock()
        .expect("unpoisoned")
        .iter()
        .filter(|(_, w)| *w == AskWhat::Confirm)
        .count();
    assert_eq!(confirms, 990);
    assert!(turns.load(Ordering::SeqCst) < 40, "{turns:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_granted_in_one_turn_starts_in_the_order_in_which_it_came() {
    let end = FakeEnd::default();
    end.add((0..100).map(|n| delivery(1, n, 0)));
    let (claims, _, _) = scribe(|ask| match ask.what {
        AskWhat::Claim => Some(Verdict::Fresh { attempt: 1 }),
        _ => Some(Verdict::Stored),
    });
    let script: Script = Arc::new(|_| Box::pin(async { Outcome::Done }));
    let mut plan = plan(TASKS, script);
    plan.concurrency = 1;
    plan.waiting = 100;
    let lane = Lane::over(plan, Box::new(end.clone()), Some(claims));
    lane.until("all done", |status| status.counts().done == 100)
        .await;
    lane.stop().await;
    let order: Vec<u64> = end.settled().iter().map(|s| s.receipt.token).collect();
    assert_eq!(order, (0..100).collect::<Vec<u64>>());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_delays_and_never_drops() {
    let end = FakeEnd::default();
    end.add((0..20).map(|n| delivery(1, n, n % 3)));
    let outage = tokio::time::Instant::now() + Duration::from_secs(30);
    let (claims, log, _) = scribe(move |ask| {
        if ask.what == AskWhat::Abandon {
            None
        } else if tokio::time::Instant::now() < outage {
            Some(Verdict::Down(Duration::from_secs(1)))
        } else if ask.what == AskWhat::Claim {
            Some(Verdict::Fresh { attempt: 1 })
        } else {
            Some(Verdict::Stored)
        }
    });
    let script: Script = Arc::new(|_| Box::pin(async { Outcome::Done }));
    let mut plan = plan(TASKS, script);
    plan.concurrency = 4;
    plan.waiting = 40;
    let lane = Lane::over(plan, Box::new(end.clone()), Some(claims));
    lane.until("all done", |status| status.counts().done == 20)
        .await;
    assert!(tokio::time::Instant::now() >= outage);
    lane.stop().await;
    assert_eq!(end.settled().len(), 20);
    assert!(
        log.lock()
            .expect("unpoisoned")
            .iter()
            .all(|(_, what)| *what != AskWhat::Abandon)
    );
}

/// Grants everything. When one is done, somebody else has taken over the message with id 2.
#[derive(Default)]
struct TakenOver {
    lost: Option<(u32, u32)>,
}

impl Claims for TakenOver {
    fn turn(
        &mut self,
        _: &mut TaskContext<'_>,
        asks: &mut Vec<Ask>,
        answers: &mut Vec<Answer>,
    ) -> Poll<()> {
        if asks.is_empty() {
            return Poll::Pending;
        }
        for ask in asks.drain(..) {
            let mut tell = |(ticket, round), verdict| {
                answers.push(Answer {
                    ticket,
                    round,
                    verdict,
                });
            };
            let asker = (ask.ticket, ask.round);
            match ask.what {
                AskWhat::Claim => {
                    if ask.id.0 == 2 {
                        self.lost = Some(asker);
                    }
                    tell(asker, Verdict::Fresh { attempt: 1 });
                }
                AskWhat::Confirm => {
                    tell(asker, Verdict::Stored);
                    if let Some(lost) = self.lost.take() {
                        tell(lost, Verdict::Lost);
                    }
                }
                _ => {}
            }
        }
        Poll::Ready(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_claim_was_taken_over_while_it_waited_for_a_place_does_not_start() {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let end = FakeEnd::default();
    end.add((0..3).map(|n| delivery(1, n, 0)));
    let mut plan = plan(TASKS, gate(&go));
    plan.concurrency = 1;
    plan.waiting = 2;
    let lane = Lane::over(
        plan,
        Box::new(end.clone()),
        Some(Box::new(TakenOver::default())),
    );
    lane.until("three in hand", |status| {
        status.in_hand() == 3 && status.running() == 1
    })
    .await;
    go.add_permits(1);
    lane.until("one has gone back", |status| {
        status.counts().released == 1 && status.in_hand() == 1
    })
    .await;
    go.add_permits(1);
    lane.until("the others are done", |status| status.counts().done == 2)
        .await;
    assert_eq!(lane.status.counts().started, 2);
    lane.stop().await;
    let settled = end.settled();
    let lost = settled.iter().find(|settled| settled.receipt.token == 2);
    assert!(
        matches!(lost.expect("settled").how, How::Release { .. }),
        "{settled:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn quiet_abandons_the_claims_of_what_was_ready_and_hands_back_what_was_claiming() {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let end = FakeEnd::default();
    end.add((0..20).map(|n| delivery(1, n, 0)));
    // Ten are answered, ten are not yet.
    let held: Arc<Mutex<Vec<Ask>>> = Arc::default();
    let (claims, log, _) = scribe({
        let held = held.clone();
        move |ask| match ask.what {
            AskWhat::Claim if ask.id.0 < 10 => Some(Verdict::Fresh { attempt: 1 }),
            AskWhat::Claim => {
                held.lock().expect("unpoisoned").push(ask.clone());
                Some(Verdict::Down(Duration::from_secs(5)))
            }
            AskWhat::Abandon => None,
            _ => Some(Verdict::Stored),
        }
    });
    let mut plan = plan(TASKS, gate(&go));
    plan.concurrency = 2;
    plan.waiting = 18;
    let lane = Lane::over(plan, Box::new(end.clone()), Some(claims));
    lane.until("two run", |status| {
        status.running() == 2 && status.in_hand() == 20
    })
    .await;
    lane.control.quiet();
    lane.until("the rest is back", |status| status.in_hand() == 2)
        .await;
    assert_eq!(end.settled().len(), 18);
    assert!(end.settled().iter().all(|s| s.how == How::RELEASE));
    let abandoned = log
        .lock()
        .expect("unpoisoned")
        .iter()
        .filter(|(_, w)| *w == AskWhat::Abandon)
        .count();
    assert_eq!(abandoned, 8);
    go.add_permits(2);
    lane.stop().await;
    let confirmed = log
        .lock()
        .expect("unpoisoned")
        .iter()
        .filter(|(_, w)| *w == AskWhat::Confirm)
        .count();
    assert_eq!(confirmed, 2);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_the_engine_cannot_keep_is_written_before_the_key_goes_on() {
    struct Slow(Arc<Mutex<Vec<u128>>>);
    impl crate::pipeline::detour::Detour for Slow {
        fn divert(&self, message: &Message, how: How) -> crate::engine::BoxFuture<'static, How> {
            assert!(matches!(how, How::Dead { .. }));
            let (log, id) = (self.0.clone(), message.id.0);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                log.lock().expect("unpoisoned").push(id);
                How::Ack
            })
        }
    }
    let written: Arc<Mutex<Vec<u128>>> = Arc::default();
    let end = FakeEnd::default();
    end.add([delivery(1, 1, 9), delivery(1, 2, 9)]);
    let script: Script = Arc::new({
        let written = written.clone();
        move |cx| {
            let first = cx.message().id.0 == 1;
            let written = written.lock().expect("unpoisoned").len();
            assert!(
                first || written == 1,
                "the second began before the first was written"
            );
            Box::pin(async move {
                if first {
                    Outcome::dead("poison")
                } else {
                    Outcome::Done
                }
            })
        }
    });
    let mut plan = plan(
        Capabilities {
            dead_letter: false,
            redeliver: false,
            ..TASKS
        },
        script,
    );
    plan.waiting = 4;
    plan.detour = Some(Arc::new(Slow(written.clone())));
    let lane = Lane::over(plan, Box::new(end.clone()), None);
    lane.until("both", |status| {
        status.counts().done == 1 && status.in_hand() == 0
    })
    .await;
    lane.stop().await;
    assert_eq!(end.settled().len(), 2);
    assert!(end.settled().iter().all(|s| s.how == How::Ack));
}
