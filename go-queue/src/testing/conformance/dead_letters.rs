//! What holds for dead letters, on every side that keeps them.

use std::sync::Arc;

use super::{Consumer, Subject, eventually, publish, record, task};
use crate::delivery::How;
use crate::engine::{DeadLetter, DeadLetters, DeadQuery, Engine, Outgoing, Subscribe};
use crate::message::{Body, ContentType, Flags, Headers, Id};
use crate::name::{Name, Place, Side};
use crate::time::millis;

struct Bench {
    engine: Arc<dyn Engine>,
    dead: Arc<dyn DeadLetters>,
    to: Subscribe,
}

/// A subscription of each side that keeps dead letters.
fn benches(subject: &dyn Subject) -> Vec<Bench> {
    let engine = subject.engine();
    let tube = Subscribe::tube(Name::literal("work"));
    let topic = Subscribe::topic(Name::literal("log"), Name::literal("readers"));
    [(Side::Tasks, tube), (Side::Topics, topic)]
        .into_iter()
        .filter(|(side, _)| subject.capabilities(*side).dead_letter)
        .map(|(_, to)| Bench {
            dead: engine.dead_letters().expect("declared"),
            engine: Arc::clone(&engine),
            to: Subscribe {
                label: "the_handler".into(),
                ..to
            },
        })
        .collect()
}

fn dead(reason: &str, attempts: u32) -> How {
    How::Dead {
        reason: reason.into(),
        attempts,
    }
}

impl Bench {
    fn message(&self, payload: &str) -> Outgoing {
        match &self.to.place {
            Place::Tube(name) => task(name, payload),
            Place::Topic(name) => record(name, "key", payload),
        }
    }

    /// Publishes so many and lets each of them die, with `reason n`.
    async fn bury(&self, count: usize) -> Vec<Id> {
        let slice: Vec<Outgoing> = (0..count).map(|n| self.message(&format!("{n}"))).collect();
        let ids = slice.iter().map(|out| out.id).collect();
        publish(&self.engine, slice).await;
        let mut consumer = Consumer::open(&self.engine, &self.to).await;
        let got = consumer.take(count).await;
        let deaths = got.iter().enumerate();
        consumer
            .settle_all(deaths.map(|(n, one)| (one.receipt, dead(&format!("reason {n}"), 3))))
            .await;
        consumer.close().await;
        ids
    }

    /// All of this place.
    async fn list(&self) -> Vec<DeadLetter> {
        let query = DeadQuery {
            place: Some(self.to.place.clone()),
            limit: 1000,
            ..DeadQuery::default()
        };
        self.dead.list(query).await.expect("listed")
    }
}

/// Everything that is known of it is kept: bytes, key, headers, source, group, handler, attempts, reason, times.
pub async fn dead_letter_keeps_payload_and_reason(subject: &dyn Subject) {
    for bench in benches(subject) {
        let headers: Headers = [("trace", "abc"), ("tenant", "7")].into_iter().collect();
        let headers = headers.encode().expect("within the format");
        let out = Outgoing {
            body: Body::pack(b"the key", &headers, b"\x00payload\xff"),
            flags: Flags::default(),
            content: ContentType::Json,
            ..bench.message("")
        };
        let before = subject.now().saturating_sub(millis(500));
        publish(&bench.engine, vec![out.clone()]).await;
        let mut consumer = Consumer::open(&bench.engine, &bench.to).await;
        let got = consumer.take(1).await;
        consumer
            .settle(got[0].receipt, dead("no such user\\n", 4))
            .await;
        consumer.close().await;
        let list = bench.list().await;
        assert_eq!(list.len(), 1);
        let letter = bench
            .dead
            .show(list[0].cursor)
            .await
            .expect("shown")
            .expect("there");
        for letter in [&list[0], &letter] {
            assert_eq!(letter.id, out.id);
            assert!(
                letter.body.bytes() == out.body.bytes(),
                "the bytes are those sent"
            );
            assert_eq!(
                (letter.body.key(), letter.body.head_len()),
                (&b"the key"[..], headers.len())
            );
            assert_eq!((letter.flags, letter.content), (out.flags, out.content));
            assert_eq!(letter.place, bench.to.place);
            assert_eq!(letter.group, bench.to.group);
            assert_eq!(&*letter.handler, "the_handler");
            assert_eq!((&*letter.reason, letter.attempts), ("no such user\\n", 4));
            assert!(before <= letter.at && letter.at <= letter.died.saturating_add(millis(500)));
            assert!(letter.died <= subject.now().saturating_add(millis(500)));
        }
        let unknown = bench.dead.show(letter.cursor + 1000).await.expect("asked");
        assert!(unknown.is_none());
        let mut later = Consumer::open(&bench.engine, &bench.to).await;
        later.nothing(subject.silence()).await;
        later.close().await;
    }
}

/// Pages follow each other by cursor, name every letter once, and have at most what was asked.
pub async fn dead_letters_are_listed_in_pages(subject: &dyn Subject) {
    for bench in benches(subject) {
        bench.bury(25).await;
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let query = DeadQuery {
                place: Some(bench.to.place.clone()),
                group: bench.to.group.clone(),
                after,
                limit: 10,
            };
            let page = bench.dead.list(query).await.expect("listed");
            assert!(page.len() <= 10);
            let Some(last) = page.last() else { break };
            after = Some(last.cursor);
            seen.extend(
                page.iter()
                    .map(|letter| (letter.cursor, letter.reason.to_string())),
            );
        }
        assert!(seen.is_sorted_by_key(|(cursor, _)| *cursor));
        let mut found: Vec<String> = seen.into_iter().map(|(_, reason)| reason).collect();
        let mut reasons: Vec<String> = (0..25).map(|n| format!("reason {n}")).collect();
        // Those that died in one turn have no order among them.
        found.sort_unstable();
        reasons.sort_unstable();
        assert_eq!(found, reasons);
        let nobody = Name::literal("nobody");
        let query = DeadQuery {
            group: Some(nobody),
            limit: 10,
            ..DeadQuery::default()
        };
        assert!(bench.dead.list(query).await.expect("listed").is_empty());
    }
}

/// The same id and the same bytes, attempt 1; and it may die again.
pub async fn a_replayed_dead_letter_runs_as_if_it_were_new(subject: &dyn Subject) {
    for bench in benches(subject) {
        let ids = bench.bury(3).await;
        let mut consumer = Consumer::open(&bench.engine, &bench.to).await;
        consumer.nothing(millis(50)).await;
        let list = bench.list().await;
        let cursors = list.iter().map(|letter| letter.cursor).collect();
        assert_eq!(bench.dead.replay(cursors).await.expect("replayed"), 3);
        assert!(bench.list().await.is_empty());
        let mut got = consumer.take(3).await;
        got.sort_by_key(|delivery| ids.iter().position(|id| *id == delivery.message.id));
        for (n, delivery) in got.iter().enumerate() {
            assert_eq!(delivery.message.id, ids[n]);
            assert_eq!(delivery.message.body.payload(), format!("{n}").as_bytes());
            assert_eq!(delivery.message.attempt, 1);
        }
        consumer.ack(&got[..2]).await;
        consumer.settle(got[2].receipt, dead("again", 1)).await;
        eventually("it is dead again", async || {
            consumer.idle(millis(5)).await;
            bench.list().await.len() == 1
        })
        .await;
        let again = bench.list().await;
        assert_eq!((again[0].id, &*again[0].reason), (ids[2], "again"));
        consumer.nothing(subject.silence()).await;
        consumer.close().await;
    }
}

/// Two people press the button at once.
pub async fn two_replays_bring_it_back_once(subject: &dyn Subject) {
    for bench in benches(subject) {
        bench.bury(1).await;
        let cursor = bench.list().await[0].cursor;
        let other = subject.another().await.dead_letters().expect("declared");
        let (one, two) = tokio::join!(
            bench.dead.replay(vec![cursor, cursor]),
            other.replay(vec![cursor])
        );
        assert_eq!(one.expect("replayed") + two.expect("replayed"), 1);
        let mut consumer = Consumer::open(&bench.engine, &bench.to).await;
        let got = consumer.take(1).await;
        consumer.ack(&got).await;
        consumer.nothing(subject.silence()).await;
        consumer.close().await;
    }
}

/// Purged is gone: not listed, not replayed, and a name is free again.
pub async fn a_purged_dead_letter_is_gone(subject: &dyn Subject) {
    for bench in benches(subject) {
        let named = Outgoing {
            id: Id::named("work", b"a"),
            named: true,
            ..bench.message("x")
        };
        publish(&bench.engine, vec![named.clone()]).await;
        let mut consumer = Consumer::open(&bench.engine, &bench.to).await;
        let got = consumer.take(1).await;
        consumer.settle(got[0].receipt, dead("why", 1)).await;
        eventually("it is dead", async || {
            consumer.idle(millis(5)).await;
            bench.list().await.len() == 1
        })
        .await;
        let cursor = bench.list().await[0].cursor;
        assert_eq!(bench.dead.purge(vec![cursor]).await.expect("purged"), 1);
        assert_eq!(bench.dead.purge(vec![cursor]).await.expect("purged"), 0);
        assert_eq!(bench.dead.replay(vec![cursor]).await.expect("replayed"), 0);
        assert!(bench.list().await.is_empty());
        consumer.nothing(subject.silence()).await;
        let again = publish(&bench.engine, vec![named]).await;
        assert!(!again[0].existed);
        consumer.take(1).await;
        consumer.close().await;
    }
}

/// All, and those of one place.
pub async fn dead_letters_are_counted_by_place(subject: &dyn Subject) {
    let benches = benches(subject);
    let mut all = 0;
    for (n, bench) in (2..).zip(&benches) {
        bench.bury(n).await;
        all += n as u64;
        let here = bench
            .dead
            .count(Some(bench.to.place.clone()))
            .await
            .expect("counted");
        assert_eq!(here, n as u64);
        assert_eq!(bench.dead.count(None).await.expect("counted"), all);
        let nowhere = Some(Place::Tube(Name::literal("nowhere")));
        assert_eq!(bench.dead.count(nowhere).await.expect("counted"), 0);
    }
}

/// It lies in the store, not in the consumer that gave it up.
pub async fn a_dead_letter_survives_its_consumer(subject: &dyn Subject) {
    for bench in benches(subject) {
        let ids = bench.bury(1).await;
        let other = subject.another().await;
        let query = DeadQuery {
            place: Some(bench.to.place.clone()),
            limit: 10,
            ..DeadQuery::default()
        };
        let list = other
            .dead_letters()
            .expect("declared")
            .list(query)
            .await
            .expect("listed");
        assert_eq!(list.iter().map(|letter| letter.id).collect::<Vec<_>>(), ids);
    }
}
