//! Topics that change under their readers: deleted and created again, grown, written in transactions.

use go_queue_tests::Journal;
use go_queue_tests::servers::RawRecord;

use crate::cluster::assert_nothing_lost;
use crate::kafka::{GROUP, KafkaSetup, OnKafka, TOPIC};
use crate::site::PATIENCE;

/// New partitions and new topics are looked for this often.
const WATCHFUL: &[(&str, &str)] = &[("topic.metadata.refresh.interval.ms", "1000")];

/// A record as the worker reads it, noted as offered and, if it is to count, as accepted.
fn step(journal: &Journal, key: &str, seq: u64, counts: bool) -> RawRecord {
    let id = format!("{key}-{seq}");
    journal.offer(&id);
    if counts {
        journal.accept(&id);
    }
    let payload = serde_json::json!({ "id": id, "key": key, "seq": seq, "micros": 0 });
    RawRecord::new(key, payload.to_string())
}

/// Workers have run 600 records when the topic is deleted and created again, and the first 120 of the new one after that.
fn create_again(on: &mut OnKafka) {
    on.records("before", 10, 60, 0).wait_success(PATIENCE);
    on.site
        .until("all have run", |ledger| ledger.finished_so_far() >= 600);
    on.raw.delete(TOPIC);
    on.raw.create(TOPIC, 8);
    on.records("after", 2, 60, 0).wait_success(PATIENCE);
    on.site.until("those of the new topic have run", |ledger| {
        ledger.finished_so_far() >= 720
    });
}

#[test]
fn a_kafka_topic_that_is_deleted_and_created_again_is_read_from_its_start() {
    let setup = KafkaSetup {
        properties: WATCHFUL,
        ..KafkaSetup::default()
    };
    let Some(mut on) = OnKafka::start("kafka-recreated", &setup) else {
        return;
    };
    let mut workers = [on.ready_worker(), on.ready_worker()];
    create_again(&mut on);
    on.records("later", 20, 60, 0).wait_success(PATIENCE);
    let report = on.settle(&mut workers);
    // What a member has read of the new topic before all know that it is another one may run again.
    assert_nothing_lost(&report);
    assert_eq!(report.finished, 1920, "{report}");
}

#[test]
fn a_worker_that_ends_after_its_kafka_topic_was_created_again_leaves_a_position_within_the_new_one()
{
    let setup = KafkaSetup {
        properties: WATCHFUL,
        ..KafkaSetup::default()
    };
    let Some(mut on) = OnKafka::start("kafka-recreated-shorter", &setup) else {
        return;
    };
    let mut first = on.ready_worker();
    create_again(&mut on);
    // A second member makes the first one stop and go on, with the position that its client believes in.
    let mut second = on.ready_worker();
    on.site.until("the partitions are shared", |_| {
        let said = second.log();
        said.lines()
            .any(|line| line.contains("change=Assign") && !line.contains("partitions=[]"))
    });
    for worker in [&mut first, &mut second] {
        worker.terminate();
        worker.wait_success(PATIENCE);
    }
    let committed = on.raw.committed(GROUP, TOPIC);
    for (at, (_, end)) in committed.iter().zip(on.raw.ends(TOPIC)) {
        let at = at.expect("every partition has records");
        assert!(
            at <= end,
            "the position stands at {at}, and the log ends at {end}"
        );
    }
    // Now the new log grows beyond where the old one was read.
    on.records("later", 20, 60, 0).wait_success(PATIENCE);
    let mut third = [on.ready_worker()];
    let report = on.settle(&mut third);
    assert_nothing_lost(&report);
    assert_eq!(report.finished, 1920, "{report}");
}

#[test]
fn partitions_that_are_added_to_a_kafka_topic_are_read() {
    let setup = KafkaSetup {
        partitions: 4,
        properties: WATCHFUL,
        ..KafkaSetup::default()
    };
    let Some(mut on) = OnKafka::start("kafka-grows", &setup) else {
        return;
    };
    on.raw.grow("steps-dlt", 12);
    let mut workers = [on.ready_worker(), on.ready_worker()];
    on.records("before", 5, 60, 0).wait_success(PATIENCE);
    on.raw.grow(TOPIC, 12);
    // Keys move when a topic grows, as on every Kafka, so these are others.
    on.records("after", 5, 120, 0).wait_success(PATIENCE);
    let report = on.settle(&mut workers);
    report.assert_kept();
    assert_eq!((report.finished, report.repeated), (900, 0), "{report}");
    let ends = on.raw.ends(TOPIC);
    let fresh = ends[4..].iter().filter(|(_, end)| *end > 0).count();
    assert!(fresh > 4, "nothing came into the new partitions: {ends:?}");
}

#[test]
fn aborted_transactions_on_kafka_are_not_run_and_do_not_stop_the_position() {
    let Some(mut on) = OnKafka::start("kafka-transactions", &KafkaSetup::default()) else {
        return;
    };
    let journal = Journal::open(&on.site.folder.join("producer.journal")).expect("a new journal");
    let writer = on.raw.transactional("writer");
    for round in 0..40 {
        let committed = round % 3 != 1;
        let records = (0..25).map(|n| {
            let (key, seq) = (format!("key{n}"), round);
            if committed {
                step(&journal, &key, seq, true)
            } else {
                // Nobody may ever see it, so it is not offered, and whoever runs it is found out.
                let payload = serde_json::json!({
                    "id": format!("aborted-{key}-{seq}"), "key": key, "seq": seq, "micros": 0,
                });
                RawRecord::new(key, payload.to_string())
            }
        });
        writer.produce(TOPIC, records, committed);
    }
    let mut workers = [on.ready_worker(), on.ready_worker()];
    let report = on.settle(&mut workers);
    report.assert_kept();
    assert_eq!((report.accepted, report.repeated), (27 * 25, 0), "{report}");
    // The last round is committed, so behind the last record of each partition stands nothing but its marker.
    let committed = on.raw.committed(GROUP, TOPIC);
    for (at, (_, end)) in committed.iter().zip(on.raw.ends(TOPIC)) {
        let at = at.expect("every partition has records");
        assert!(at >= end - 1, "the position stands at {at} of {end}");
    }
}
