//! How an end is: made of what the client says, and said once for each change.

use std::sync::Arc;

use rdkafka::types::RDKafkaRespErr as Code;

use crate::engine::HealthState;
use crate::name::Name;

/// Figures come once a second. After so many of them without a leader it is away.
const PATIENCE: u32 = 3;

/// What is known of an end.
#[derive(Debug, Default)]
pub(super) struct State {
    /// There was an assignment, maybe of nothing.
    assigned: bool,
    /// The brokers do not answer, or refuse us.
    away: Option<Arc<str>>,
    /// Topic or group are not to be had.
    refused: Option<Arc<str>>,
    /// The last that was heard of a connection.
    connection: String,
    /// Figures in a row without a leader.
    unled: u32,
    stuck: Option<((i32, i64), Arc<str>)>,
    dead: Option<Arc<str>>,
    now: HealthState,
}

impl State {
    pub(super) fn assigned(&mut self) {
        self.assigned = true;
        self.served();
    }

    pub(super) fn is_assigned(&self) -> bool {
        self.assigned
    }

    /// Records come: what was refused is no longer.
    #[inline]
    pub(super) fn served(&mut self) {
        if self.refused.is_some() {
            self.refused = None;
        }
    }

    /// Whether the leaders of our partitions are connected, or any broker while there are none.
    pub(super) fn brokers(&mut self, led: bool) {
        if led {
            self.unled = 0;
            if self.away.take().is_some() {
                tracing::info!("the Kafka brokers answer again");
            }
            return;
        }
        self.unled += 1;
        if self.unled >= PATIENCE && self.away.is_none() {
            self.is_away(format!(
                "a broker that leads a partition does not answer{}",
                self.because()
            ));
        }
    }

    fn because(&self) -> String {
        if self.connection.is_empty() {
            String::new()
        } else {
            format!(": {}", self.connection)
        }
    }

    fn is_away(&mut self, why: String) {
        if self.away.as_deref() != Some(why.as_str()) {
            tracing::warn!(why, "Kafka is not served");
            self.away = Some(why.into());
        }
    }

    /// Takes an error of the client.
    pub(super) fn error(&mut self, code: Code, text: &str, topic: &Name, group: &Name) {
        let refused = match code {
            Code::RD_KAFKA_RESP_ERR__PARTITION_EOF => return,
            Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN => {
                return self.is_away(format!("no broker answers{}", self.because()));
            }
            Code::RD_KAFKA_RESP_ERR__AUTHENTICATION
            | Code::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED => {
                text.clone_into(&mut self.connection);
                return self.is_away(format!("the brokers refuse these credentials: {text}"));
            }
            Code::RD_KAFKA_RESP_ERR__TRANSPORT
            | Code::RD_KAFKA_RESP_ERR__RESOLVE
            | Code::RD_KAFKA_RESP_ERR__SSL
            | Code::RD_KAFKA_RESP_ERR__TIMED_OUT => {
                tracing::debug!(error = text, "a connection to a Kafka broker ended");
                text.clone_into(&mut self.connection);
                return;
            }
            Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID
            | Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
            | Code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION => {
                format!("topic `{topic}` is not there; it is read as soon as it is")
            }
            Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => format!(
                "the brokers do not allow us to read topic `{topic}`; grant READ and DESCRIBE on it"
            ),
            Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED => {
                format!("the brokers do not allow us to be in group `{group}`; grant READ on it")
            }
            _ => {
                tracing::warn!(%topic, %group, error = text, "the Kafka client says that something is wrong");
                return;
            }
        };
        if self.refused.as_deref() != Some(refused.as_str()) {
            tracing::warn!(why = refused, "Kafka is not served");
            self.refused = Some(refused.into());
        }
    }

    /// How the end is, with the record that a partition waits for, and why dead letters cannot be written.
    pub(super) fn now(
        &mut self,
        stuck: Option<(i32, i64)>,
        key: impl FnOnce() -> Option<Vec<u8>>,
        dead: Option<Arc<str>>,
    ) -> &HealthState {
        if stuck != self.stuck.as_ref().map(|(place, _)| *place) {
            self.stuck = stuck.map(|place| (place, waits_for(place, key())));
        }
        self.dead = dead;
        let down = self
            .away
            .as_ref()
            .or(self.refused.as_ref())
            .or(self.dead.as_ref())
            .or(self.stuck.as_ref().map(|(_, said)| said));
        let same = match (&self.now, down) {
            (HealthState::Down(said), Some(down)) => Arc::ptr_eq(said, down),
            (HealthState::Up, None) => self.assigned,
            (HealthState::Starting, None) => !self.assigned,
            _ => false,
        };
        if !same {
            self.now = match down {
                Some(down) => HealthState::Down(Arc::clone(down)),
                None if self.assigned => HealthState::Up,
                None => HealthState::Starting,
            };
        }
        &self.now
    }
}

/// Says which record holds a partition up.
fn waits_for((partition, offset): (i32, i64), key: Option<Vec<u8>>) -> Arc<str> {
    let key = key.map_or_else(String::new, |key| {
        let shown: String = String::from_utf8_lossy(&key)
            .chars()
            .flat_map(char::escape_default)
            .take(80)
            .collect();
        format!(" (key `{shown}`)")
    });
    let why = format!(
        "partition {partition} waits for the record at offset {offset}{key}, which has not ended; what was handed out reaches {} offsets beyond it",
        super::track::SPAN
    );
    tracing::error!(why, "a partition has stopped");
    why.into()
}

/// A line of the client, under the level that it has there.
pub(super) fn log(level: i32, facility: &str, line: &str) {
    match level {
        ..=3 => tracing::error!(target: "librdkafka", facility, "{line}"),
        4 => tracing::warn!(target: "librdkafka", facility, "{line}"),
        5 | 6 => tracing::info!(target: "librdkafka", facility, "{line}"),
        _ => tracing::debug!(target: "librdkafka", facility, "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Name = Name::literal("orders");
    const GROUP: Name = Name::literal("billing");

    fn said(state: &mut State) -> HealthState {
        state.now(None, || None, None).clone()
    }

    fn down(state: &mut State) -> String {
        match said(state) {
            HealthState::Down(why) => why.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn brokers_that_are_away_are_said_with_the_reason_until_they_answer() {
        let mut state = State::default();
        assert_eq!(said(&mut state), HealthState::Starting);
        state.error(
            Code::RD_KAFKA_RESP_ERR__TRANSPORT,
            "a:1: refused",
            &TOPIC,
            &GROUP,
        );
        assert_eq!(said(&mut state), HealthState::Starting);
        state.error(
            Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN,
            "1/1 down",
            &TOPIC,
            &GROUP,
        );
        assert_eq!(down(&mut state), "no broker answers: a:1: refused");
        state.brokers(true);
        state.assigned();
        assert_eq!(said(&mut state), HealthState::Up);
        for _ in 0..PATIENCE {
            assert_eq!(said(&mut state), HealthState::Up);
            state.brokers(false);
        }
        assert!(down(&mut state).contains("does not answer"));
    }

    #[test]
    fn wrong_credentials_and_missing_rights_are_said_as_such() {
        let mut state = State::default();
        state.error(
            Code::RD_KAFKA_RESP_ERR__AUTHENTICATION,
            "bad password",
            &TOPIC,
            &GROUP,
        );
        assert!(down(&mut state).contains("refuse these credentials: bad password"));
        state.brokers(true);
        state.error(
            Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
            "",
            &TOPIC,
            &GROUP,
        );
        assert!(down(&mut state).contains("group `billing`"));
        state.assigned();
        assert_eq!(said(&mut state), HealthState::Up);
    }

    #[test]
    fn the_record_that_holds_a_partition_up_is_named() {
        let mut state = State::default();
        state.assigned();
        let HealthState::Down(why) = state.now(Some((3, 42)), || Some(b"user\n7".to_vec()), None)
        else {
            panic!("it is stuck");
        };
        assert!(
            why.contains("partition 3") && why.contains("offset 42") && why.contains(r"`user\n7`"),
            "{why}"
        );
        assert_eq!(said(&mut state), HealthState::Up);
    }
}
