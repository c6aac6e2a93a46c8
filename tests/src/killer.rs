//! Kills at random points. The seed is printed when the test fails, and can be given back.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Process;

/// The environment variable that gives the seed of a run that failed.
pub const SEED_VARIABLE: &str = "GO_QUEUE_TEST_SEED";

/// Chooses when and whom to kill. The same seed makes the same choices; what the system does between them is its own.
#[derive(Debug)]
pub struct Killer {
    random: fastrand::Rng,
    seed: u64,
    kills: usize,
}

impl Killer {
    /// With the seed of [`SEED_VARIABLE`], or a new one.
    ///
    /// # Panics
    /// If the variable is set and is not a number.
    pub fn new() -> Self {
        let given = std::env::var(SEED_VARIABLE).ok();
        let seed = given.map_or_else(new_seed, |text| text.parse().expect("the seed is a number"));
        Self::with_seed(seed)
    }

    /// With this seed.
    pub fn with_seed(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            seed,
            kills: 0,
        }
    }

    /// How often it has killed.
    pub fn kills(&self) -> usize {
        self.kills
    }

    /// A random number, for choices of the test that belong to the seed.
    pub fn choose(&mut self, among: Range<usize>) -> usize {
        self.random.usize(among)
    }

    /// A random time.
    pub fn time(&mut self, between: Range<Duration>) -> Duration {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random.u64(nanos(between.start)..nanos(between.end)))
    }

    /// Waits a random time, then kills one of `processes`, and says which. The places of the list stay as they are: the
    /// caller puts the successor there.
    ///
    /// # Panics
    /// If there is no process.
    pub fn kill_one(&mut self, processes: &mut [Process], after: Range<Duration>) -> usize {
        let pause = self.time(after);
        // The random point is the purpose here, not a condition to wait for.
        std::thread::sleep(pause);
        let victim = self.choose(0..processes.len());
        processes[victim].kill();
        self.kills += 1;
        victim
    }
}

impl Default for Killer {
    fn default() -> Self {
        Self::new()
    }
}

fn new_seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // The low half changes from run to run; that is all that is asked of it.
    u64::from(now.subsec_nanos()) ^ (now.as_secs() << 20)
}

impl Drop for Killer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_seed(self.seed, self.kills);
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "whoever looks at a failed test needs the seed"
)]
fn print_seed(seed: u64, kills: usize) {
    eprintln!("{kills} kills; the same choices again: {SEED_VARIABLE}={seed}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Folder, Journal, Ledger, Process};
    use std::process::Command;

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let choices = |seed| {
            let mut killer = Killer::with_seed(seed);
            (0..50)
                .map(|_| {
                    (
                        killer.choose(0..9),
                        killer.time(Duration::ZERO..Duration::from_secs(1)),
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7), choices(8));
    }

    /// The whole kit on processes that are no workers: a shell that takes numbers off a list, one by one, and dies.
    #[test]
    fn a_shell_that_forgets_its_work_is_found_out() {
        let folder = Folder::new("shell");
        let producer = Journal::open(&folder.join("producer.journal")).expect("a new journal");
        for n in 0..3 {
            producer.offer(n);
            producer.accept(n);
        }
        let script = r#"echo "1 start $1 1 $$" >> $GO_QUEUE_TEST_JOURNAL
            test "$2" = die && exec sleep 1000
            echo "2 finish $1 1 $$" >> $GO_QUEUE_TEST_JOURNAL"#;
        let run = |name: &str, id: &str, how: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script, "worker", id, how]);
            Process::start(folder.path(), name, command)
        };
        run("a", "0", "live").wait_success(Duration::from_secs(30));
        let mut victims = [run("b", "1", "die")];
        let mut ledger = Ledger::of(folder.path());
        crate::until("the start of 1", Duration::from_secs(30), || {
            ledger.update().expect("readable journals");
            !std::fs::read(folder.join("b.journal"))
                .expect("a journal")
                .is_empty()
        });
        let mut killer = Killer::with_seed(1);
        killer.kill_one(&mut victims, Duration::ZERO..Duration::from_millis(5));
        let report = ledger.report().expect("readable journals");
        assert_eq!(report.lost, ["1", "2"], "{report}");
        assert_eq!(
            (report.finished, report.interrupted, report.kills),
            (1, 1, 1),
            "{report}"
        );
    }
}
