//! From a plain call to a worker that dies.

use go_queue::prelude::*;
use go_queue::testing::{TestApp, TestRun};

use super::{Ledger, Order, app, book, remind};

async fn start() -> (TestRun, Ledger) {
    let ledger = Ledger::default();
    let app = TestApp::new(app(ledger.clone())).start().await;
    (app.expect("the set-up is right"), ledger)
}

fn order(id: &str) -> Order {
    Order {
        id: id.into(),
        cents: 2450,
    }
}

#[tokio::test]
async fn a_handler_is_a_function() {
    let ledger = Ledger::default();
    remind("o-1".into(), State(ledger))
        .await
        .expect("nothing is open");
}

#[tokio::test]
async fn an_order_is_booked_and_reminded_of_after_a_week() {
    let (app, ledger) = start().await;
    book::push(order("o-1"))
        .send(app.producer())
        .await
        .expect("stored");
    app.run_due().await;
    app.of::<book>().assert_done(1);
    assert_eq!(ledger.total(), 2450);

    // It is sent, and not yet run.
    let reminder = app.of::<remind>().only();
    assert_eq!(
        (reminder.payload::<String>(), reminder.due_in()),
        ("o-1".to_owned(), days(7))
    );

    app.advance(days(7)).await;
    app.of::<remind>().assert_done(1);
    app.assert_all_done();
}

#[tokio::test]
async fn a_reminder_that_fails_three_times_is_set_aside_and_can_be_replayed() {
    let (app, ledger) = start().await;
    ledger.set_closed(true);
    remind::now("o-1".into())
        .send(app.producer())
        .await
        .expect("stored");
    app.advance(hours(1)).await;
    app.of::<remind>()
        .assert_ran(3)
        .assert_retried(2)
        .assert_dead_lettered(1);
    assert_eq!(
        app.of::<remind>().only().reason().as_deref(),
        Some("the ledger is closed")
    );

    ledger.set_closed(false);
    app.replay_dead_letters().await.expect("they are there");
    app.of::<remind>().assert_done(1).assert_dead_lettered(0);
}

#[tokio::test]
async fn booking_twice_is_booking_once() {
    let (app, ledger) = start().await;
    for id in ["o-1", "o-2"] {
        book::push(order(id))
            .send(app.producer())
            .await
            .expect("stored");
    }
    app.advance(seconds(1)).await;
    assert_eq!(app.redeliver_all().await, 2);
    app.of::<book>().assert_ran(4).assert_done(2);
    assert_eq!(ledger.total(), 4900);
    app.of::<remind>().assert_sent(2);
}

#[tokio::test]
async fn wherever_the_worker_dies_the_books_are_right() {
    for runs in 1..=4 {
        let (app, ledger) = start().await;
        app.crash_after(runs);
        for id in ["o-1", "o-2", "o-3"] {
            book::push(order(id))
                .send(app.producer())
                .await
                .expect("stored");
        }
        app.advance(days(7)).await;
        app.assert_all_done();
        assert_eq!(ledger.total(), 3 * 2450, "after {runs} runs");
        app.of::<remind>().assert_sent(3).assert_done(3);
    }
}

#[tokio::test]
async fn an_order_that_cannot_send_its_reminder_is_tried_again() {
    let (app, ledger) = start().await;
    book::push(order("o-1"))
        .send(app.producer())
        .await
        .expect("stored");
    app.engine_down(minutes(1));
    app.advance(minutes(10)).await;
    app.of::<book>().assert_done(1);
    app.of::<remind>().assert_sent(1);
    assert_eq!(ledger.total(), 2450);
}
