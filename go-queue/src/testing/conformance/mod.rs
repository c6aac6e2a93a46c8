//! What every engine owes the framework, as one suite: [`engine_conformance!`](crate::engine_conformance) stamps a test
//! for each case.
//!
//! An engine's author writes a [`Subject`]: a fresh, isolated engine and what it declares. Cases for an ability run only
//! where it is declared, and the first case pins the declaration, so nothing is skipped in silence.
//!
//! ```
//! use go_queue::testing::conformance::InMemory;
//!
//! go_queue::engine_conformance!(memory, InMemory::fresh());
//! # fn main() {}
//! ```
#![expect(
    clippy::missing_panics_doc,
    reason = "a case panics when the engine breaks the contract; that is its result"
)]

pub mod bodies;
mod consumer;
pub mod dead_letters;
pub mod members;
pub mod model;
pub mod names;
pub mod revocation;
pub mod tasks;
pub mod topics;
pub mod turns;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::memory::{Memory, MemoryConfig};
use crate::engine::{BoxFuture, Capabilities, Engine, TopicConfig};
use crate::name::{Name, Place, Side};
use crate::time::{Clock, WallTime};

pub use consumer::{Consumer, eventually, publish, record, settle_down, task};

/// How long the subject keeps ids of named tasks after they are done.
pub const KEEP: Duration = Duration::from_secs(4);

/// The topics that the subject must be configured with; all others are kept as [`TopicConfig::default`] says.
pub fn topic_configs() -> Vec<(Name, TopicConfig)> {
    let age = Some(Duration::from_secs(1));
    let short = TopicConfig {
        partitions: 1,
        age,
        size: None,
        drop_unread: false,
    };
    vec![
        (
            SINGLE,
            TopicConfig {
                partitions: 1,
                ..TopicConfig::default()
            },
        ),
        (SHORT, short.clone()),
        (
            DROPPING,
            TopicConfig {
                drop_unread: true,
                ..short.clone()
            },
        ),
        (
            SMALL,
            TopicConfig {
                age: None,
                size: Some(10_000),
                ..short
            },
        ),
    ]
}

/// A topic of one partition.
pub const SINGLE: Name = Name::literal("single");
/// A topic of one partition whose records are kept for a second.
pub const SHORT: Name = Name::literal("short");
/// As [`SHORT`], read or not.
pub const DROPPING: Name = Name::literal("dropping");
/// A topic of one partition that keeps about 10,000 bytes.
pub const SMALL: Name = Name::literal("small");

/// An engine under test: fresh, alone with its store, configured with [`topic_configs`] and [`Subject::keep`].
pub trait Subject: Send + Sync + fmt::Debug {
    /// The engine.
    fn engine(&self) -> Arc<dyn Engine>;

    /// Another handle on the same store, as another process would have it. An engine for one process gives the same.
    fn another(&self) -> BoxFuture<'_, Arc<dyn Engine>> {
        Box::pin(std::future::ready(self.engine()))
    }

    /// What the engine must declare.
    fn capabilities(&self, side: Side) -> Capabilities;

    /// The wall time that due times are measured by.
    fn now(&self) -> WallTime;

    /// How long what is done stays known. Longer where a replica may come late.
    fn keep(&self) -> Duration {
        KEEP
    }

    /// Takes all consumers' leases of a place away, as a cut connection would. False if that cannot be done here.
    fn cut(&self, place: &Place) -> bool {
        let _ = place;
        false
    }

    /// Why a case does not hold for this subject, if it cannot: a promise that this set-up does not make. It is printed.
    fn lacks(&self, case: &str) -> Option<&'static str> {
        let _ = case;
        None
    }

    /// Long enough for a message that should not come to come, and for a new member of a group to be served.
    fn silence(&self) -> Duration {
        Duration::from_millis(300)
    }

    /// How many random sequences [`model`] runs: fewer where each takes long.
    fn sequences(&self) -> u32 {
        16
    }
}

/// The memory engine under tokio's paused clock.
#[derive(Debug)]
pub struct InMemory {
    engine: Arc<Memory>,
    clock: Clock,
}

impl InMemory {
    /// An empty engine. Pauses the clock of the runtime, which must have one thread.
    pub fn fresh() -> Self {
        tokio::time::pause();
        let clock = Clock::following_tokio(WallTime::from_millis(1_700_000_000_000));
        let config = MemoryConfig {
            topics: topic_configs().into_iter().collect(),
            keep: KEEP,
            ..MemoryConfig::new(clock.clone())
        };
        Self {
            engine: Arc::new(Memory::with(config)),
            clock,
        }
    }
}

impl Subject for InMemory {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine) as Arc<dyn Engine>
    }

    fn capabilities(&self, side: Side) -> Capabilities {
        let tasks = side == Side::Tasks;
        Capabilities {
            supported: true,
            redeliver: tasks,
            dead_letter: true,
            delayed: tasks,
            priority: tasks,
            log: !tasks,
            durable: false,
            fenced: true,
        }
    }

    fn now(&self) -> WallTime {
        self.clock.now()
    }

    fn cut(&self, place: &Place) -> bool {
        self.engine.cut(place);
        true
    }

    fn sequences(&self) -> u32 {
        256
    }
}

/// Whether the subject says that it cannot keep this promise; says so on standard error.
#[expect(clippy::print_stderr, reason = "a case that is left out must be seen")]
pub fn is_lacking(subject: &dyn Subject, case: &str) -> bool {
    let why = subject.lacks(case);
    if let Some(why) = why {
        eprintln!("LEFT OUT: {case}: {why}");
    }
    why.is_some()
}

/// Runs one case on a runtime of its own.
pub fn run(case: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of one thread needs only what every test has");
    runtime.block_on(case);
}

/// Stamps one test for each case of the suite into a module of the given name. The expression makes a fresh
/// [`Subject`](crate::testing::conformance::Subject); it is evaluated inside a runtime, once for each test, and may
/// `.await`.
///
/// `if CONDITION` behind it is for engines whose servers may not be installed: where it is false the tests end at once. The condition
/// says so loudly, and fails where nothing may be skipped.
#[macro_export]
macro_rules! engine_conformance {
    ($engine:ident, $subject:expr) => {
        $crate::engine_conformance!($engine, $subject, if true);
    };
    ($engine:ident, $subject:expr, if $ready:expr) => {
        mod $engine {
            #[allow(unused_imports, reason = "the expression may name what stands around it")]
            use super::*;

            $crate::engine_conformance! { @cases $subject, $ready;
                bodies {
                    keeps_headers_and_bytes_exactly
                    oversize_is_refused_before_storing
                    a_slice_is_answered_in_order
                    what_is_enqueued_is_stored_once_and_in_order
                }
                turns {
                    capabilities_are_as_declared
                    delivers_what_was_published
                    places_do_not_mix
                    turn_never_exceeds_free
                    turn_takes_all_settlements_at_free_zero
                    pending_turn_wakes_on_arrival
                    closed_intake_hands_out_nothing_and_holds_nothing_back
                    two_consumers_never_hold_one_message
                    ack_removes_for_good
                    release_makes_it_deliverable_again
                    release_does_not_count
                    dropped_consumer_is_redelivered
                    stale_settlement_is_dropped_and_counted
                    cut_connection_gives_lost
                    acks_out_of_order_lose_nothing
                    close_confirms_everything
                    health_knows_when_nothing_waits
                    in_hand_longer_than_the_lease_runs_once
                    producers_and_consumers_at_once_lose_nothing
                }
                tasks {
                    first_in_first_out
                    lower_priority_goes_first
                    a_released_task_is_next
                    retry_counts
                    retry_is_not_early
                    release_after_is_not_early_and_does_not_count
                    a_crash_counts_as_a_start
                    delayed_tasks_are_never_early_and_all_come
                    pending_turn_wakes_for_a_task_that_is_due_earlier
                    a_due_time_in_the_past_is_now
                    health_knows_what_is_due_next
                }
                names {
                    a_named_task_is_stored_once
                    a_named_task_is_known_until_keep_is_over
                    the_same_name_in_another_tube_is_another_task
                }
                revocation {
                    a_revoked_task_never_starts
                    revoke_tells_the_truth
                    a_task_waiting_for_its_retry_can_be_revoked
                    a_revoked_name_can_be_sent_again
                    a_task_id_finds_its_task_after_a_round_trip_as_text
                    reschedule_moves_a_task_both_ways
                    reschedule_tells_the_truth
                    a_revocation_races_the_run_and_one_wins
                }
                dead_letters {
                    dead_letter_keeps_payload_and_reason
                    dead_letters_are_listed_in_pages
                    a_replayed_dead_letter_runs_as_if_it_were_new
                    two_replays_bring_it_back_once
                    a_purged_dead_letter_is_gone
                    dead_letters_are_counted_by_place
                    a_dead_letter_survives_its_consumer
                }
                topics {
                    order_within_key_is_kept
                    equal_order_values_mean_equal_keys
                    partitions_are_those_of_kafka
                    offsets_count_from_zero
                    records_without_a_key_use_every_partition
                    two_groups_each_see_everything
                    a_group_starts_first_or_last
                    a_group_goes_on_where_it_was
                    a_record_cannot_be_delayed
                    a_dead_letter_is_replayed_to_its_group_only
                    a_full_partition_does_not_starve_the_others
                    retention_removes_what_is_old_and_read
                    retention_never_removes_unread
                    retention_drops_unread_where_it_is_said
                    retention_by_size_keeps_the_newest
                }
                members {
                    two_members_share
                    a_member_that_closes_hands_over
                    a_member_that_crashes_hands_over
                    leaving_then_lost_loses_nothing
                    a_member_that_does_not_finish_is_bounded
                    more_members_than_partitions_wait_their_turn
                    members_come_and_go_and_nothing_is_lost
                }
            }

            #[test]
            fn random_operations_agree_with_the_model() {
                if !$ready {
                    return;
                }
                $crate::testing::conformance::model::run(async || $subject);
            }
        }
    };
    (@cases $subject:expr, $ready:expr; $($module:ident { $($case:ident)* })*) => {
        $crate::engine_conformance! { @pairs $subject, $ready; $($($module $case)*)* }
    };
    (@pairs $subject:expr, $ready:expr; $($module:ident $case:ident)*) => {
        $(
            #[test]
            fn $case() {
                if !$ready {
                    return;
                }
                $crate::testing::conformance::run(async {
                    let subject = $subject;
                    if $crate::testing::conformance::is_lacking(&subject, stringify!($case)) {
                        return;
                    }
                    $crate::testing::conformance::$module::$case(&subject).await;
                });
            }
        )*
    };
}
