//! What the brokers are told of what is finished, and when.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::types::RDKafkaRespErr as Code;
use tokio::time::Instant;

use super::super::raw::{Commit, describe};
use super::track::Track;
use super::{TICK, TopicEnd};

/// A commit that has no answer after so long is made again.
const NO_ANSWER: Duration = Duration::from_secs(20);

impl TopicEnd {
    pub(super) fn not_committed(&mut self, error: Code) {
        if error == Code::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE
            && std::mem::take(&mut self.texts)
        {
            tracing::warn!(
                topic = %self.topic, group = %self.group,
                "the brokers refuse the text beside an offset: after a crash more records run twice; raise `offset.metadata.max.bytes` to 4096"
            );
        }
        self.say_not_committed(&describe(error));
    }

    pub(super) fn say_not_committed(&self, error: &str) {
        tracing::debug!(
            topic = %self.topic, group = %self.group, error,
            "offsets were not committed; that is done again"
        );
    }

    /// Tells the brokers up to where each partition is done, once in an interval.
    pub(super) fn tell(&mut self, now: Instant) {
        let passed = |since: Option<Instant>, time| {
            since.is_none_or(|since| now.saturating_duration_since(since) >= time)
        };
        if passed(self.looked, TICK) {
            self.looked = Some(now);
            self.pass_what_is_no_record();
        }
        if passed(self.told, self.interval) {
            self.commit(now);
        }
    }

    /// Commits what is new. One commit is under way at a time, so that none overtakes another.
    pub(super) fn commit(&mut self, now: Instant) {
        if let Some(since) = self.committing {
            if now.saturating_duration_since(since) < NO_ANSWER {
                return;
            }
            self.untell();
        }
        self.told = Some(now);
        let news = self.tracks.iter_mut().flatten().filter_map(Track::news);
        let news: Vec<Commit> = news.collect();
        let news = self.texts_or_not(news);
        let Some(client) = self.client.as_ref().filter(|_| !news.is_empty()) else {
            return;
        };
        match client.commit(&news) {
            Ok(()) => self.committing = Some(now),
            Err(error) => {
                self.say_not_committed(&error);
                self.untell();
            }
        }
    }

    pub(super) fn texts_or_not(&self, mut commits: Vec<Commit>) -> Vec<Commit> {
        if !self.texts {
            for commit in &mut commits {
                commit.text.clear();
            }
        }
        commits
    }

    /// What was told may not have been heard: it is told again.
    pub(super) fn untell(&mut self) {
        self.committing = None;
        self.tracks.iter_mut().flatten().for_each(Track::untold);
    }

    /// What lies behind the last record and is none (the end of a transaction) is done when the client has passed it.
    pub(super) fn pass_what_is_no_record(&mut self) {
        let Some(client) = &self.client else { return };
        let drained = |track: &&mut Track| !track.doubt && !track.queue.is_ready();
        let asked: Vec<i32> = self
            .tracks
            .iter_mut()
            .flatten()
            .filter(drained)
            .filter_map(|track| std::mem::take(&mut track.touched).then_some(track.partition))
            .collect();
        if asked.is_empty() {
            return;
        }
        let positions: HashMap<i32, Option<i64>> = client.positions(&asked).into_iter().collect();
        for track in self.tracks.iter_mut().flatten() {
            if let Some(Some(position)) = positions.get(&track.partition) {
                track.pass(*position);
            }
        }
    }
}
