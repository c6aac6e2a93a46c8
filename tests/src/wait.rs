//! Waiting for a condition instead of sleeping for luck.

use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(5);

/// Waits until `condition` is true.
///
/// # Panics
/// If it is not after `within`; the message names `what` was waited for.
#[track_caller]
pub fn until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    until_some(what, within, || condition().then_some(()));
}

/// Waits until `condition` has a value.
///
/// # Panics
/// If it has none after `within`; the message names `what` was waited for.
#[track_caller]
pub fn until_some<T>(what: &str, within: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < within, "{what}: not within {within:?}");
        std::thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut left = 3;
        until("three tries", Duration::from_secs(10), || {
            left -= 1;
            left == 0
        });
    }

    #[test]
    #[should_panic(expected = "the moon: not within")]
    fn a_condition_that_stays_false_says_what_was_waited_for() {
        until("the moon", Duration::from_millis(20), || false);
    }
}
