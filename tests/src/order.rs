//! Whether messages of one key ran one at a time and in order.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::report::{End, Fate, Run};

/// What was out of order.
#[derive(Debug, Default)]
pub(crate) struct Broken {
    pub(crate) disordered: Vec<String>,
    pub(crate) at_once: Vec<String>,
}

/// One place in the order of a key.
#[derive(Debug)]
struct Place {
    id: u32,
    /// When it was started first.
    started: u64,
    /// When it was finished first.
    finished: Option<u64>,
}

/// Checks all runs that have a place in an order; `runs` are in the order of their starts.
///
/// Messages that were never started leave no gap: a producer may have died before it stored them.
pub(crate) fn check<'a>(
    runs: &[Run],
    fates: &HashMap<u32, Fate>,
    dead: &HashSet<u32>,
    word: &impl Fn(u32) -> &'a str,
) -> Broken {
    let mut broken = Broken::default();
    let mut keys: HashMap<u32, BTreeMap<u64, Place>> = HashMap::new();
    let mut busy: HashMap<u32, (&Run, u64)> = HashMap::new();
    for run in runs {
        let Some((key, seq)) = run.order else {
            continue;
        };
        let place = keys.entry(key).or_default().entry(seq).or_insert(Place {
            id: run.id,
            started: run.start,
            finished: None,
        });
        if let End::Finished(at) = run.end {
            place.finished = Some(place.finished.map_or(at, |first| first.min(at)));
        }
        let over = run.over(fates);
        match busy.get(&key) {
            Some((other, until)) if run.start < *until => broken.at_once.push(format!(
                "key {}: {} began at {} while {} was running",
                word(key),
                word(run.id),
                run.start,
                word(other.id)
            )),
            _ => {}
        }
        if busy.get(&key).is_none_or(|(_, until)| over > *until) {
            busy.insert(key, (run, over));
        }
    }
    for (key, places) in &keys {
        for (first, second) in places.values().zip(places.values().skip(1)) {
            let ended =
                first.finished.is_some_and(|at| at <= second.started) || dead.contains(&first.id);
            if !ended {
                broken.disordered.push(format!(
                    "key {}: {} began at {} before {} had ended",
                    word(*key),
                    word(second.id),
                    second.started,
                    word(first.id)
                ));
            }
        }
    }
    broken.disordered.sort_unstable();
    broken
}

#[cfg(test)]
mod tests {
    use crate::{Folder, Ledger, Report};

    fn report(lines: &[&str], driver: &[&str]) -> Report {
        let folder = Folder::new("order");
        let sent: Vec<String> = ["a0", "a1", "a2"]
            .iter()
            .map(|id| format!("0 offer {id}"))
            .collect();
        folder.write("producer.journal", &format!("{}\n", sent.join("\n")));
        folder.write("w.journal", &format!("{}\n", lines.join("\n")));
        if !driver.is_empty() {
            folder.write("driver.journal", &format!("{}\n", driver.join("\n")));
        }
        Ledger::of(folder.path())
            .report()
            .expect("the journals are well formed")
    }

    #[test]
    fn one_after_the_other_is_in_order() {
        let lines = [
            "1 start a0 1 1 a 0",
            "2 finish a0 1 1",
            "3 start a1 1 1 a 1",
            "4 finish a1 1 1",
        ];
        report(&lines, &[]).assert_kept();
    }

    #[test]
    fn an_overtaker_is_found() {
        let lines = [
            "1 start a1 1 1 a 1",
            "2 finish a1 1 1",
            "3 start a0 1 1 a 0",
            "4 finish a0 1 1",
        ];
        let report = report(&lines, &[]);
        assert_eq!(
            (report.disordered.len(), report.at_once.len()),
            (1, 0),
            "{report}"
        );
    }

    #[test]
    fn two_of_a_key_at_once_are_found() {
        let lines = [
            "1 start a0 1 1 a 0",
            "2 start a1 1 1 a 1",
            "3 finish a0 1 1",
            "4 finish a1 1 1",
        ];
        let report = report(&lines, &[]);
        assert_eq!(
            (report.disordered.len(), report.at_once.len()),
            (1, 1),
            "{report}"
        );
    }

    #[test]
    fn keys_do_not_wait_for_each_other() {
        let lines = [
            "1 start a0 1 1 a 0",
            "2 start a1 1 1 b 0",
            "3 finish a0 1 1",
            "4 finish a1 1 1",
        ];
        report(&lines, &[]).assert_kept();
    }

    #[test]
    fn a_failed_message_holds_its_key() {
        let lines = [
            "1 start a0 1 1 a 0",
            "2 return a0 1 1",
            "3 start a1 1 1 a 1",
            "4 finish a1 1 1",
        ];
        let found = report(&lines, &[]);
        assert_eq!(found.disordered.len(), 1, "{found}");
        report(&lines, &["2 dead a0"]).assert_kept();
    }

    #[test]
    fn a_replay_after_a_kill_may_begin_again_further_back() {
        let folder = Folder::new("replay");
        folder.write("producer.journal", "0 offer a0\n0 offer a1\n");
        folder.write(
            "w.journal",
            "1 start a0 1 1 a 0\n2 finish a0 1 1\n3 start a1 1 1 a 1\n",
        );
        folder.write("driver.journal", "4 kill w\n");
        folder.write(
            "v.journal",
            "5 start a0 2 2 a 0\n6 finish a0 2 2\n7 start a1 2 2 a 1\n8 finish a1 2 2\n",
        );
        let report = Ledger::of(folder.path())
            .report()
            .expect("the journals are well formed");
        report.assert_kept();
        assert_eq!((report.repeated, report.doubled), (2, 1));
    }
}
