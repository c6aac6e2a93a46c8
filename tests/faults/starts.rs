//! Several processes that start at once on a file that is not there yet.

use std::time::Duration;

use go_queue_tests::Process;

use crate::site::Site;

#[test]
fn processes_that_start_at_once_on_a_new_file_all_work() {
    for _ in 0..6 {
        let mut site = Site::new("start-race", "");
        let mut workers = [site.worker(), site.worker()];
        let mut producers: Vec<Process> = (0..2)
            .map(|n| site.tasks(&format!("p{n}"), 50, 0, 0))
            .collect();
        for producer in &mut producers {
            producer.wait_success(Duration::from_secs(60));
        }
        site.until("both workers are ready", |ledger| {
            ledger.marks("ready") >= 4
        });
        let report = site.settle(&mut workers);
        report.assert_kept();
        assert_eq!(
            (report.accepted, report.finished, report.repeated),
            (100, 100, 0),
            "{report}"
        );
    }
}
