//! The only module that talks to librdkafka past the rdkafka crate.
//!
//! What the crate does not give: a queue of our own for each partition, drained in batches without waiting; the event queue, so that
//! a rebalance can be held while handlers finish; and callbacks that ring when a queue fills.
//!
//! Why it is sound, in one place:
//!
//! - Everything that came from a client keeps that client alive through an [`Arc`], and is given back in its own `Drop` before that.
//!   `rd_kafka_destroy` waits for whatever is still out, so the order matters to librdkafka; here it cannot be wrong.
//! - librdkafka is safe for use from several threads. Its callbacks run under the lock of their queue. Taking a callback away takes
//!   the same lock, so no callback runs after that, and what it points to may go.
//! - Codes of errors are enums of C. librdkafka is linked statically in the version that the bindings were made from.
#![expect(
    unsafe_code,
    reason = "the crate offers neither queues of partitions with callbacks, nor batches, nor held rebalances"
)]

mod bell;
mod event;
mod list;
mod record;

use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::bindings as sys;
use rdkafka::types::RDKafkaRespErr;

use bell::{Signal, on_filled};
use event::RawEvent;
use list::List;
use record::bytes;

pub(super) use bell::Bell;
pub(super) use event::{Change, Event, Rebalance};
pub(super) use record::{Drained, Record, Room};

/// The most records that one drain brings.
pub(super) const MOST: usize = crate::engine::MAX_SLICE;

/// A client, destroyed when nothing of it is left.
#[derive(Debug)]
struct Handle(NonNull<sys::rd_kafka_t>);

// SAFETY: `rd_kafka_t` may be used from any thread, and from several at once.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    fn rk(&self) -> *mut sys::rd_kafka_t {
        self.0.as_ptr()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Without leaving the group: who wants that has called `Client::leave`, which can be waited for with a bound.
        // SAFETY: the last reference; every queue, event and record of it is gone, because each held an `Arc` or a borrow.
        unsafe {
            sys::rd_kafka_destroy_flags(self.rk(), sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
        }
    }
}

/// Text of librdkafka.
///
/// # Safety
/// `text` is null or ends with a zero byte, and stays as it is during the call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as promised by the caller.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// What librdkafka says of a code.
pub(super) fn describe(code: RDKafkaRespErr) -> String {
    // SAFETY: answers a static text for every code.
    unsafe { text(sys::rd_kafka_err2str(code)) }
}

/// Takes an error object, if it is one.
///
/// # Safety
/// `error` is null or an error that nobody else owns.
unsafe fn take_error(error: *mut sys::rd_kafka_error_t) -> Result<(), String> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: not null, and ours.
    unsafe {
        let said = text(sys::rd_kafka_error_string(error));
        sys::rd_kafka_error_destroy(error);
        Err(said)
    }
}

fn checked(code: RDKafkaRespErr) -> Result<(), String> {
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        Ok(())
    } else {
        Err(describe(code))
    }
}

/// One queue of a client. Its callback sets the signal and rings the bell.
#[derive(Debug)]
pub(super) struct Queue {
    ptr: NonNull<sys::rd_kafka_queue_t>,
    signal: Arc<Signal>,
    /// After `ptr`, which must be gone first.
    handle: Arc<Handle>,
}

// SAFETY: queues of librdkafka have a lock of their own.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// Takes a reference that librdkafka has handed out.
    ///
    /// # Safety
    /// `queue` is null or a reference of this client's that nobody else gives back.
    unsafe fn new(
        queue: *mut sys::rd_kafka_queue_t,
        handle: &Arc<Handle>,
        bell: &Arc<Bell>,
    ) -> Option<Self> {
        let signal = Arc::new(Signal {
            // It may have been filled before the callback was there.
            ready: AtomicBool::new(true),
            bell: Arc::clone(bell),
        });
        let queue = Self {
            ptr: NonNull::new(queue)?,
            signal,
            handle: Arc::clone(handle),
        };
        let opaque = Arc::as_ptr(&queue.signal).cast_mut().cast();
        // SAFETY: the queue is live; the signal lives until `Drop` has taken the callback away.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(queue.ptr.as_ptr(), Some(on_filled), opaque);
        }
        Some(queue)
    }

    /// How many entries there are. Zero withdraws the signal, so that the next entry gives it again and rings.
    pub(super) fn len(&self) -> usize {
        if !self.signal.ready.load(Ordering::SeqCst) {
            return 0;
        }
        // Before looking: an entry that comes after the look finds an empty queue, and gives the signal again.
        self.signal.ready.store(false, Ordering::SeqCst);
        // SAFETY: the queue is live.
        let len = unsafe { sys::rd_kafka_queue_length(self.ptr.as_ptr()) };
        if len > 0 {
            self.signal.ready.store(true, Ordering::SeqCst);
        }
        len
    }

    /// Gives the signal if there is something, whatever was rung: so that a ring that librdkafka has left out costs a tick and no more.
    pub(super) fn look(&self) {
        // SAFETY: the queue is live.
        if !self.is_ready() && unsafe { sys::rd_kafka_queue_length(self.ptr.as_ptr()) } > 0 {
            self.signal.ready.store(true, Ordering::SeqCst);
        }
    }

    /// Whether there may be something. One load.
    pub(super) fn is_ready(&self) -> bool {
        self.signal.ready.load(Ordering::SeqCst)
    }

    /// Takes at most `most` entries out, and no more than `room` holds. Does not wait if so many are there.
    pub(super) fn drain<'a>(&'a self, room: &'a mut Room, most: usize) -> Drained<'a> {
        let most = most.min(MOST);
        // SAFETY: the queue is live, and `room` has place for `MOST` pointers.
        let count = unsafe {
            sys::rd_kafka_consume_batch_queue(self.ptr.as_ptr(), 0, room.0.as_mut_ptr(), most)
        };
        let count = usize::try_from(count).unwrap_or(0).min(most);
        Drained {
            records: &room.0[..count],
            queue: PhantomData,
        }
    }

    /// One event, waiting at most so long for it.
    pub(super) fn event(&self, wait: Duration) -> Option<Event> {
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is live. A wait happens on threads of our own only.
        let event = unsafe { sys::rd_kafka_queue_poll(self.ptr.as_ptr(), wait) };
        let event = RawEvent {
            event: NonNull::new(event)?,
            handle: Arc::clone(&self.handle),
        };
        Some(event.open())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is live until the second call. After the first one no callback runs, so the signal may go.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.ptr.as_ptr(), None, ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.ptr.as_ptr());
        }
    }
}

/// A consumer of one topic: the client, and the queue of its events.
#[derive(Debug)]
pub(super) struct Client {
    events: Queue,
    topic: CString,
    bell: Arc<Bell>,
    handle: Arc<Handle>,
}

impl Client {
    /// Makes a client that is in no group yet. Nothing is sent.
    ///
    /// # Errors
    /// What librdkafka says of the settings.
    pub(super) fn open(
        settings: &ClientConfig,
        topic: &str,
        bell: &Arc<Bell>,
    ) -> Result<Self, String> {
        let topic = CString::new(topic).map_err(|error| error.to_string())?;
        let mut settings = settings.clone();
        // Otherwise librdkafka would print to the terminal.
        settings.set("log.queue", "true");
        let native = settings
            .create_native_config()
            .map_err(|error| error.to_string())?;
        let events = sys::RD_KAFKA_EVENT_REBALANCE
            | sys::RD_KAFKA_EVENT_OFFSET_COMMIT
            | sys::RD_KAFKA_EVENT_ERROR
            | sys::RD_KAFKA_EVENT_STATS
            | sys::RD_KAFKA_EVENT_LOG;
        let mut why: [c_char; 512] = [0; 512];
        // SAFETY: the settings are live, and `why` has so many bytes. On success the client owns the settings, so they are forgotten
        // here; else they are still ours.
        let rk = unsafe {
            sys::rd_kafka_conf_set_events(native.ptr(), events);
            sys::rd_kafka_new(
                sys::rd_kafka_type_t::RD_KAFKA_CONSUMER,
                native.ptr(),
                why.as_mut_ptr(),
                why.len(),
            )
        };
        let Some(rk) = NonNull::new(rk) else {
            // SAFETY: librdkafka ends what it writes with a zero byte.
            return Err(unsafe { text(why.as_ptr()) });
        };
        std::mem::forget(native);
        let handle = Arc::new(Handle(rk));
        // SAFETY: the client is live. Logs go to its main queue, and that to the queue of the consumer: one queue for all events.
        let events = unsafe {
            sys::rd_kafka_set_log_queue(rk.as_ptr(), ptr::null_mut());
            sys::rd_kafka_set_log_level(rk.as_ptr(), settings.log_level as i32);
            checked(sys::rd_kafka_poll_set_consumer(rk.as_ptr()))?;
            Queue::new(sys::rd_kafka_queue_get_consumer(rk.as_ptr()), &handle, bell)
        };
        Ok(Self {
            events: events.ok_or("the client has no queue: it has no group")?,
            topic,
            bell: Arc::clone(bell),
            handle,
        })
    }

    /// Joins the group for the topic.
    ///
    /// # Errors
    /// What librdkafka says. That the topic is not there is not among it: that comes as an event.
    pub(super) fn join(&self) -> Result<(), String> {
        let list = List::new(&self.topic, std::iter::once((ANY_PARTITION, NOWHERE)));
        // SAFETY: client and list are live; the list is copied.
        checked(unsafe { sys::rd_kafka_subscribe(self.handle.rk(), list.as_ptr()) })
    }

    /// Where events come.
    pub(super) fn events(&self) -> &Queue {
        &self.events
    }

    /// A queue of its own for a partition. To be made each time that the partition comes, before the answer: it is only then that
    /// librdkafka leaves the partition alone.
    pub(super) fn partition(&self, partition: i32) -> Option<Queue> {
        // SAFETY: client and topic are live; the queue is a reference of ours. Forwarding it to nothing keeps its records in it.
        unsafe {
            let queue =
                sys::rd_kafka_queue_get_partition(self.handle.rk(), self.topic.as_ptr(), partition);
            let queue = Queue::new(queue, &self.handle, &self.bell)?;
            sys::rd_kafka_queue_forward(queue.ptr.as_ptr(), ptr::null_mut());
            Some(queue)
        }
    }

    /// Lets a rebalance happen. Partitions that come begin at these offsets; those without one where they are committed, or where a
    /// new group begins.
    ///
    /// # Errors
    /// What librdkafka says.
    pub(super) fn answer(&self, rebalance: Rebalance, from: &[Commit]) -> Result<(), String> {
        let change = rebalance.change;
        let rk = self.handle.rk();
        let places = rebalance.partitions.iter().map(|partition| {
            let known = from.iter().find(|commit| commit.partition == *partition);
            (*partition, known.map_or(NOWHERE, |commit| commit.offset))
        });
        let all = List::new(&self.topic, places);
        let list = all.as_ptr();
        // SAFETY: client and list are live; the list is copied. The protocol is a static text.
        let answered = unsafe {
            let protocol = sys::rd_kafka_rebalance_protocol(rk);
            let in_steps = !protocol.is_null() && CStr::from_ptr(protocol) == c"COOPERATIVE";
            match (change, in_steps) {
                (Change::Assign, true) => take_error(sys::rd_kafka_incremental_assign(rk, list)),
                (Change::Assign, false) => checked(sys::rd_kafka_assign(rk, list)),
                (_, true) => take_error(sys::rd_kafka_incremental_unassign(rk, list)),
                (_, false) => checked(sys::rd_kafka_assign(rk, ptr::null())),
            }
        };
        // Only now: an event that goes without an answer lets all partitions go.
        drop(rebalance);
        answered
    }

    /// Commits an offset for each partition, and a text beside it. The answer comes as [`Event::Committed`].
    ///
    /// # Errors
    /// What librdkafka says.
    pub(super) fn commit(&self, offsets: &[Commit]) -> Result<(), String> {
        let places = offsets
            .iter()
            .map(|commit| (commit.partition, commit.offset));
        let list = List::new(&self.topic, places);
        list.annotate(self.handle.rk(), offsets);
        // SAFETY: client, list and queue are live. The callback is none, so the answer is an event of the queue.
        checked(unsafe {
            sys::rd_kafka_commit_queue(
                self.handle.rk(),
                list.as_ptr(),
                self.events.ptr.as_ptr(),
                None,
                ptr::null_mut(),
            )
        })
    }

    /// Who can ask what is committed, on a thread that may wait.
    pub(super) fn asker(&self) -> Asker {
        Asker {
            topic: self.topic.clone(),
            handle: Arc::clone(&self.handle),
        }
    }

    /// Behind which offset each partition has been drained, records for transactions counted too. `None`: nothing was drained.
    pub(super) fn positions(&self, partitions: &[i32]) -> Vec<(i32, Option<i64>)> {
        let asked = partitions.iter().map(|partition| (*partition, NOWHERE));
        let list = List::new(&self.topic, asked);
        // SAFETY: client and list are live; the offsets are filled in.
        unsafe { sys::rd_kafka_position(self.handle.rk(), list.as_ptr()) };
        let of = list.elements().iter();
        of.map(|of| (of.partition, (of.offset >= 0).then_some(of.offset)))
            .collect()
    }

    /// Goes back or forth in partitions. What was fetched ahead of them is dropped. Does not wait.
    ///
    /// # Errors
    /// What librdkafka says.
    pub(super) fn seek(&self, offsets: &[(i32, i64)]) -> Result<(), String> {
        let list = List::new(&self.topic, offsets.iter().copied());
        // SAFETY: client and list are live.
        unsafe {
            take_error(sys::rd_kafka_seek_partitions(
                self.handle.rk(),
                list.as_ptr(),
                0,
            ))
        }
    }

    /// Begins to leave the group. Events come on until [`Client::has_left`]; the rebalance among them is to be answered.
    ///
    /// # Errors
    /// What librdkafka says, for example that it was fenced: then there is nothing to leave.
    pub(super) fn leave(&self) -> Result<(), String> {
        // SAFETY: client and queue are live; it is the queue to which the events of the group go already.
        unsafe {
            take_error(sys::rd_kafka_consumer_close_queue(
                self.handle.rk(),
                self.events.ptr.as_ptr(),
            ))
        }
    }

    /// Whether everything is committed and the group was left.
    pub(super) fn has_left(&self) -> bool {
        // SAFETY: the client is live.
        unsafe { sys::rd_kafka_consumer_closed(self.handle.rk()) != 0 }
    }
}

/// What is committed for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) partition: i32,
    /// The first offset that is not finished.
    pub(super) offset: i64,
    /// What is said beside it.
    pub(super) text: String,
}

/// Asks the brokers what is committed.
#[derive(Debug)]
pub(super) struct Asker {
    topic: CString,
    handle: Arc<Handle>,
}

impl Asker {
    /// What is committed for these partitions; one without a commit is left out. Waits for the brokers, at most so long.
    ///
    /// # Errors
    /// What librdkafka says.
    pub(super) fn committed(
        &self,
        partitions: &[i32],
        within: Duration,
    ) -> Result<Vec<Commit>, String> {
        let asked = partitions.iter().map(|partition| (*partition, NOWHERE));
        let list = List::new(&self.topic, asked);
        let within = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: client and list are live; the list is filled in.
        checked(unsafe { sys::rd_kafka_committed(self.handle.rk(), list.as_ptr(), within) })?;
        for of in list.elements() {
            checked(of.err)?;
        }
        let known = list.elements().iter().filter(|of| of.offset >= 0);
        let known = known.map(|of| Commit {
            partition: of.partition,
            offset: of.offset,
            // SAFETY: the text belongs to the list, and has so many bytes.
            text: unsafe { bytes(of.metadata, of.metadata_size) }
                .map(|text| String::from_utf8_lossy(text).into_owned())
                .unwrap_or_default(),
        });
        Ok(known.collect())
    }
}

/// All partitions of a topic.
const ANY_PARTITION: i32 = -1;
/// No offset.
const NOWHERE: i64 = -1001;

#[cfg(test)]
mod tests;
