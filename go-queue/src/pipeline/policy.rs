//! From outcome to decision: pure functions.

use std::sync::Arc;
use std::time::Duration;

use crate::delivery::How;
use crate::handler::options::{OnRetry, Undecodable};
use crate::message::Message;
use crate::outcome::Outcome;
use crate::time::WallTime;

use super::plan::Plan;

/// When a failed message runs again, and when no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often it runs again after the first time.
    pub max: u32,
    /// Upper bound of the first wait.
    pub first: Duration,
    /// Upper bound of every wait.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    /// Eight times, 1 s to 10 min.
    fn default() -> Self {
        Self {
            max: 8,
            first: Duration::from_secs(1),
            cap: Duration::from_secs(600),
        }
    }
}

impl RetryPolicy {
    /// The wait after this attempt (from 1): exponential with full jitter. `chance` is from 0 to 1.
    pub fn wait(&self, attempt: u32, chance: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let bound = self.first.saturating_mul(1 << doublings).min(self.cap);
        bound.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// Whether a message may be started for the `attempt`th time.
    pub fn allows(&self, attempt: u32) -> bool {
        attempt <= self.max.saturating_add(1)
    }
}

/// What happens to one message after its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Settle it so.
    Settle(How),
    /// Removed without having been wanted.
    Skip,
    /// Keep it and its key, and run it again after this time: the engine does not redeliver.
    Backoff(Duration),
    /// Take it elsewhere first: the engine keeps no dead letters.
    Divert(How),
}

/// Decides. `chance` is the jitter, from 0 to 1.
pub fn decide(plan: &Plan, outcome: &Outcome, attempt: u32, chance: f64) -> Decision {
    match outcome {
        Outcome::Done => Decision::Settle(How::Ack),
        Outcome::Skip => Decision::Skip,
        Outcome::Dead { error } => dead(plan, error.clone(), attempt),
        Outcome::Retry { after, error } => retry(plan, *after, error, attempt, chance),
        Outcome::Undecodable { error } => match plan.undecodable {
            Undecodable::DeadLetter => dead(
                plan,
                crate::outcome::reason(format_args!("undecodable: {error}")),
                attempt,
            ),
            Undecodable::Skip => Decision::Skip,
            Undecodable::Retry => retry(plan, None, error, attempt, chance),
        },
        // For a single message one outcome stands for it; anything else is a mistake of the handler.
        Outcome::Each(each) => match each.as_slice() {
            [one] if !matches!(one, Outcome::Each(_)) => decide(plan, one, attempt, chance),
            _ => {
                let wrong = crate::outcome::wrong_length(each.len(), 1);
                decide(plan, &wrong, attempt, chance)
            }
        },
    }
}

fn retry(
    plan: &Plan,
    after: Option<Duration>,
    error: &Arc<str>,
    attempt: u32,
    chance: f64,
) -> Decision {
    if !plan.retry.allows(attempt.saturating_add(1)) {
        return dead(plan, error.clone(), attempt);
    }
    let after = after.unwrap_or_else(|| plan.retry.wait(attempt, chance));
    if plan.capabilities.redeliver {
        return Decision::Settle(How::Retry { after });
    }
    match plan.on_retry {
        OnRetry::Block => Decision::Backoff(after),
        OnRetry::DeadLetter => dead(plan, error.clone(), attempt),
    }
}

fn dead(plan: &Plan, reason: Arc<str>, attempts: u32) -> Decision {
    let how = How::Dead { reason, attempts };
    if plan.capabilities.dead_letter {
        Decision::Settle(how)
    } else {
        Decision::Divert(how)
    }
}

/// What is decided without a run. `None`: it may start.
#[inline]
pub fn preflight(
    plan: &Plan,
    message: &Message,
    now: impl FnOnce() -> WallTime,
) -> Option<Outcome> {
    // What is true of almost every message, on its own: the rest is far away.
    if plan.max_late.is_none() && !message.is_malformed() && plan.retry.allows(message.attempt) {
        return None;
    }
    stopped(plan, message, now)
}

#[cold]
fn stopped(plan: &Plan, message: &Message, now: impl FnOnce() -> WallTime) -> Option<Outcome> {
    if message.is_malformed() {
        return Some(Outcome::undecodable(
            "the envelope of the message does not open",
        ));
    }
    if !plan.retry.allows(message.attempt) {
        return Some(Outcome::dead(format_args!(
            "given up before start {}: its earlier runs did not end, their workers or leases did",
            message.attempt
        )));
    }
    if let Some(max_late) = plan.max_late {
        let late = now().since(message.due);
        if late > max_late {
            return Some(Outcome::dead(format_args!(
                "late: met {} after it was due",
                crate::time::format_duration(Duration::from_secs(late.as_secs()))
            )));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Capabilities;
    use crate::handler::{Context, Run};
    use proptest::prelude::*;

    struct Nothing;
    impl Run for Nothing {
        async fn run<'a>(&'a self, _: &'a Context) -> Outcome {
            Outcome::Done
        }
    }

    fn plan(redeliver: bool, dead_letter: bool) -> Plan {
        let capabilities = Capabilities {
            redeliver,
            dead_letter,
            ..Capabilities::default()
        };
        let about = Arc::default();
        Plan::new(
            Arc::clone(&about),
            crate::handler::slot::erase(Nothing, about, false),
            capabilities,
        )
    }

    #[test]
    fn a_failed_message_is_retried_max_times_and_then_dead() {
        let plan = plan(true, true);
        let failed = Outcome::retry("no");
        for attempt in 1..=8 {
            let decision = decide(&plan, &failed, attempt, 1.0);
            assert!(
                matches!(decision, Decision::Settle(How::Retry { .. })),
                "{attempt}: {decision:?}"
            );
        }
        let dead = How::Dead {
            reason: "no".into(),
            attempts: 9,
        };
        assert_eq!(decide(&plan, &failed, 9, 1.0), Decision::Settle(dead));
    }

    #[test]
    fn without_redelivery_a_failed_message_keeps_its_key_or_is_dead() {
        let mut plan = plan(false, false);
        let failed = Outcome::retry_after(Duration::from_secs(3), "no");
        assert_eq!(
            decide(&plan, &failed, 1, 1.0),
            Decision::Backoff(Duration::from_secs(3))
        );
        plan.on_retry = OnRetry::DeadLetter;
        assert!(matches!(
            decide(&plan, &failed, 1, 1.0),
            Decision::Divert(How::Dead { .. })
        ));
    }

    #[test]
    fn the_undecodable_policy_is_obeyed() {
        let mut plan = plan(true, true);
        let bad = Outcome::undecodable("line 1");
        let Decision::Settle(How::Dead { reason, .. }) = decide(&plan, &bad, 1, 1.0) else {
            unreachable!("the default is a dead letter")
        };
        assert_eq!(&*reason, "undecodable: line 1");
        plan.undecodable = Undecodable::Skip;
        assert_eq!(decide(&plan, &bad, 1, 1.0), Decision::Skip);
        plan.undecodable = Undecodable::Retry;
        assert!(matches!(
            decide(&plan, &bad, 1, 1.0),
            Decision::Settle(How::Retry { .. })
        ));
    }

    #[test]
    fn a_task_that_is_too_late_is_dead_without_a_run() {
        let mut plan = plan(true, true);
        plan.max_late = Some(Duration::from_secs(3600));
        let message = Message {
            attempt: 1,
            due: WallTime::from_millis(1),
            ..Message::default()
        };
        assert_eq!(
            preflight(&plan, &message, || WallTime::from_millis(3_600_001)),
            None
        );
        let outcome = preflight(&plan, &message, || WallTime::from_millis(3_601_001));
        assert!(matches!(outcome, Some(Outcome::Dead { error }) if error.starts_with("late")));
    }

    #[test]
    fn a_message_that_outlived_its_attempts_does_not_start() {
        let message = Message {
            attempt: 10,
            ..Message::default()
        };
        let outcome = preflight(&plan(true, true), &message, WallTime::default);
        assert!(matches!(outcome, Some(Outcome::Dead { .. })));
    }

    proptest! {
        #[test]
        fn a_wait_is_never_beyond_its_bounds(attempt in 0_u32..u32::MAX, chance in -1.0..2.0_f64) {
            let policy = RetryPolicy::default();
            let wait = policy.wait(attempt, chance);
            prop_assert!(wait <= policy.cap);
            if attempt <= 1 { prop_assert!(wait <= policy.first); }
        }
    }
}
