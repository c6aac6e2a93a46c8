//! What is read out of the figures that the client gives once a second: whether the brokers are there, and whether a partition is read
//! to its end. There is no other word of either: an idle client says nothing when a broker comes back.

use std::collections::HashMap;

use serde::Deserialize;

/// The part of the figures that is of use.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Figures {
    #[serde(default)]
    brokers: HashMap<String, Broker>,
    #[serde(default)]
    topics: HashMap<String, Topic>,
}

#[derive(Debug, Deserialize)]
struct Broker {
    nodeid: i32,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Topic {
    #[serde(default)]
    partitions: HashMap<String, Partition>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Partition {
    /// The broker that leads it; -1 if none does.
    leader: i32,
    /// Where the next request for records begins.
    next_offset: i64,
    /// The broker's end of the partition, as the last answer said it.
    hi_offset: i64,
}

impl Partition {
    /// Whether the broker has nothing that was not fetched.
    pub(super) fn is_fetched(self) -> bool {
        self.hi_offset >= 0 && self.next_offset >= self.hi_offset
    }
}

impl Figures {
    /// Reads them. What cannot be read is as if nothing was said.
    pub(super) fn read(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }

    /// One partition.
    pub(super) fn partition(&self, topic: &str, partition: i32) -> Option<Partition> {
        let partitions = &self.topics.get(topic)?.partitions;
        partitions.get(&partition.to_string()).copied()
    }

    /// Whether any broker is connected.
    pub(super) fn has_broker(&self) -> bool {
        self.brokers.values().any(|broker| broker.state == "UP")
    }

    /// Whether the leader of a partition is connected.
    pub(super) fn is_led(&self, partition: Partition) -> bool {
        let mut brokers = self.brokers.values();
        brokers.any(|broker| broker.nodeid == partition.leader && broker.state == "UP")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = r#"{"name":"x","brokers":{
        "a:1/1":{"name":"a:1/1","nodeid":1,"state":"UP","toppars":{}},
        "b:1/2":{"name":"b:1/2","nodeid":2,"state":"CONNECT"}},
        "topics":{"t":{"topic":"t","partitions":{
        "0":{"partition":0,"leader":1,"next_offset":5,"hi_offset":5,"app_offset":5},
        "1":{"partition":1,"leader":2,"next_offset":4,"hi_offset":5},
        "2":{"partition":2,"leader":-1,"next_offset":-1001,"hi_offset":-1001},
        "-1":{"partition":-1,"leader":-1,"next_offset":0,"hi_offset":-1001}}}}}"#;

    #[test]
    fn a_partition_is_read_when_the_broker_has_no_more() {
        let figures = Figures::read(SAID);
        let fetched = |n| figures.partition("t", n).map(Partition::is_fetched);
        assert_eq!(
            [fetched(0), fetched(1), fetched(2), fetched(3)],
            [Some(true), Some(false), Some(false), None]
        );
        assert!(figures.partition("u", 0).is_none());
    }

    #[test]
    fn a_partition_without_a_connected_leader_is_not_led() {
        let figures = Figures::read(SAID);
        let led = |n| figures.partition("t", n).map(|one| figures.is_led(one));
        assert_eq!(
            [led(0), led(1), led(2)],
            [Some(true), Some(false), Some(false)]
        );
        assert!(figures.has_broker());
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        assert!(!Figures::read("{").has_broker());
    }
}
