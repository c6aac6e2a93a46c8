//! What a client says besides records.

use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdkafka::bindings as sys;
use rdkafka::types::RDKafkaRespErr;

use super::list::elements;
use super::{Handle, text};

/// What a client says.
#[derive(Debug)]
pub(crate) enum Event {
    /// Partitions come or go; to be answered by [`Client::answer`](super::Client::answer).
    Rebalance(Rebalance),
    /// Offsets were committed, or not: of the whole, and of each partition.
    Committed {
        error: Option<RDKafkaRespErr>,
        partitions: Vec<(i32, i64, Option<RDKafkaRespErr>)>,
    },
    /// Something is wrong. What is fatal ends the client.
    Error {
        code: RDKafkaRespErr,
        fatal: bool,
        text: String,
    },
    /// A line for the log; the level is that of syslog.
    Log {
        level: i32,
        facility: String,
        text: String,
    },
    /// Figures, as JSON.
    Figures(String),
    /// Records that did not go through the queue of their partition.
    Strays(Vec<(i32, i64)>),
    /// Nothing that concerns us.
    Other,
}

/// What is to happen to partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// They come.
    Assign,
    /// They go.
    Revoke,
    /// They are somebody else's already: nothing of them can be committed.
    Lost,
}

/// Partitions that come or go. The group waits until it is answered; dropping it unanswered is left to librdkafka, which lets all go.
#[derive(Debug)]
pub(crate) struct Rebalance {
    /// Given back when the rebalance is answered.
    _event: RawEvent,
    pub(super) change: Change,
    pub(super) partitions: Vec<i32>,
}

impl Rebalance {
    pub(crate) fn change(&self) -> Change {
        self.change
    }

    pub(crate) fn partitions(&self) -> &[i32] {
        &self.partitions
    }
}

/// An event of librdkafka's, given back on drop.
#[derive(Debug)]
pub(super) struct RawEvent {
    pub(super) event: NonNull<sys::rd_kafka_event_t>,
    /// After `event`, which must be gone first.
    pub(super) handle: Arc<Handle>,
}

// SAFETY: an event has one owner, and librdkafka does not care on which thread.
unsafe impl Send for RawEvent {}

impl Drop for RawEvent {
    fn drop(&mut self) {
        // SAFETY: ours, and given back once.
        unsafe { sys::rd_kafka_event_destroy(self.event.as_ptr()) }
    }
}

impl RawEvent {
    fn ptr(&self) -> *mut sys::rd_kafka_event_t {
        self.event.as_ptr()
    }

    pub(super) fn open(self) -> Event {
        let code = self.code();
        // SAFETY: the event is live here and in every call below. Each asks what an event of this kind has; what is answered lives as
        // long as the event and is copied.
        match unsafe { sys::rd_kafka_event_type(self.ptr()) } {
            sys::RD_KAFKA_EVENT_REBALANCE => self.rebalance(code),
            sys::RD_KAFKA_EVENT_OFFSET_COMMIT => {
                let partitions = self.elements().iter();
                Event::Committed {
                    partitions: partitions
                        .map(|of| (of.partition, of.offset, failure(of.err)))
                        .collect(),
                    error: failure(code),
                }
            }
            // SAFETY: see above.
            sys::RD_KAFKA_EVENT_ERROR => unsafe {
                Event::Error {
                    code,
                    fatal: sys::rd_kafka_event_error_is_fatal(self.ptr()) != 0,
                    text: text(sys::rd_kafka_event_error_string(self.ptr())),
                }
            },
            sys::RD_KAFKA_EVENT_LOG => self.log(),
            sys::RD_KAFKA_EVENT_STATS => {
                // SAFETY: see above.
                Event::Figures(unsafe { text(sys::rd_kafka_event_stats(self.ptr())) })
            }
            sys::RD_KAFKA_EVENT_FETCH => self.strays(),
            _ => Event::Other,
        }
    }

    fn code(&self) -> RDKafkaRespErr {
        // SAFETY: the event is live.
        unsafe { sys::rd_kafka_event_error(self.ptr()) }
    }

    fn list(&self) -> *mut sys::rd_kafka_topic_partition_list_t {
        // SAFETY: the event is live; null if it has no list.
        unsafe { sys::rd_kafka_event_topic_partition_list(self.ptr()) }
    }

    fn elements(&self) -> &[sys::rd_kafka_topic_partition_t] {
        // SAFETY: the list belongs to the event, which is borrowed.
        unsafe { elements(self.list()) }
    }

    fn rebalance(self, code: RDKafkaRespErr) -> Event {
        let change = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Change::Assign,
            // SAFETY: the client is live.
            _ if unsafe { sys::rd_kafka_assignment_lost(self.handle.rk()) } != 0 => Change::Lost,
            _ => Change::Revoke,
        };
        Event::Rebalance(Rebalance {
            partitions: self.elements().iter().map(|of| of.partition).collect(),
            change,
            _event: self,
        })
    }

    fn log(&self) -> Event {
        let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the event is live, the three are written to, and the texts live as long as the event.
        unsafe {
            sys::rd_kafka_event_log(self.ptr(), &raw mut facility, &raw mut line, &raw mut level);
            Event::Log {
                level,
                facility: text(facility),
                text: text(line),
            }
        }
    }

    fn strays(&self) -> Event {
        // SAFETY: the event is live and has so many messages; they belong to it.
        let found = unsafe {
            let count = sys::rd_kafka_event_message_count(self.ptr());
            let mut found = vec![ptr::null(); count];
            let count = sys::rd_kafka_event_message_array(self.ptr(), found.as_mut_ptr(), count);
            found.truncate(count);
            found
        };
        let place = found.into_iter().map(|message| {
            // SAFETY: each is a live message of the event.
            unsafe { ((*message).partition, (*message).offset) }
        });
        Event::Strays(place.collect())
    }
}

fn failure(code: RDKafkaRespErr) -> Option<RDKafkaRespErr> {
    (code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(code)
}
