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

use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::bindings as sys;
use rdkafka::types::RDKafkaRespErr;

/// The most records that one drain brings.
pub(super) const MOST: usize = crate::engine::MAX_SLICE;

/// Wakes whoever waits for any queue of one end.
#[derive(Debug)]
pub(super) struct Bell {
    /// Somebody waits: the next ring wakes him.
    armed: AtomicBool,
    waker: Mutex<Waker>,
}

impl Bell {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            armed: AtomicBool::new(false),
            waker: Mutex::new(Waker::noop().clone()),
        })
    }

    /// From now on a ring wakes this waker, once. Look at the signals after this: what rang before did not wake.
    pub(super) fn arm(&self, waker: &Waker) {
        {
            let mut kept = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            if !kept.will_wake(waker) {
                kept.clone_from(waker);
            }
        }
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Wakes who waits. Runs on threads of librdkafka, under the lock of a queue: it only wakes.
    pub(super) fn ring(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.waker
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .wake_by_ref();
        }
    }
}

/// Whether one queue may have something, and the bell that it rings.
#[derive(Debug)]
struct Signal {
    ready: AtomicBool,
    bell: Arc<Bell>,
}

/// Called by librdkafka when an empty queue gets something.
///
/// # Safety
/// `opaque` is the [`Signal`] of the queue, which outlives the callback.
unsafe extern "C" fn on_filled(_: *mut sys::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: `Queue::new` passed a pointer into an `Arc<Signal>`, which `Queue` keeps until it has taken the callback away.
    let signal = unsafe { &*opaque.cast::<Signal>() };
    signal.ready.store(true, Ordering::SeqCst);
    signal.bell.ring();
}

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

/// A list of partitions of librdkafka's.
struct List(NonNull<sys::rd_kafka_topic_partition_list_t>);

impl List {
    fn new(topic: &CStr, partitions: impl ExactSizeIterator<Item = (i32, i64)>) -> Self {
        let room = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        // SAFETY: makes a list, and ends the process if there is no memory.
        let list = unsafe { sys::rd_kafka_topic_partition_list_new(room) };
        let list = Self(NonNull::new(list).expect("librdkafka ends the process without memory"));
        for (partition, offset) in partitions {
            // SAFETY: the list is live, the topic ends with a zero byte and is copied; the element lies in the list until the next
            // one is added.
            unsafe {
                let element = sys::rd_kafka_topic_partition_list_add(
                    list.0.as_ptr(),
                    topic.as_ptr(),
                    partition,
                );
                (*element).offset = offset;
            }
        }
        list
    }

    /// Puts the texts of commits into the list, which has an element for each, in order.
    fn annotate(&self, rk: *mut sys::rd_kafka_t, commits: &[Commit]) {
        for (at, commit) in commits.iter().enumerate() {
            let len = commit.text.len();
            if len == 0 || at >= self.elements().len() {
                continue;
            }
            // SAFETY: `at` is within the list, which is ours. It gives its texts back with the memory of the C library, from where
            // this one comes, with room for all of its bytes.
            unsafe {
                let text = sys::rd_kafka_mem_malloc(rk, len);
                if text.is_null() {
                    continue;
                }
                ptr::copy_nonoverlapping(commit.text.as_ptr(), text.cast(), len);
                let element = (*self.0.as_ptr()).elems.add(at);
                (*element).metadata = text;
                (*element).metadata_size = len;
            }
        }
    }

    fn elements(&self) -> &[sys::rd_kafka_topic_partition_t] {
        // SAFETY: `self` owns the list.
        unsafe { elements(self.0.as_ptr()) }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: made in `new`, and nobody else's.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) }
    }
}

/// The elements of a list.
///
/// # Safety
/// `list` is null or a list that stays as it is for `'a`.
unsafe fn elements<'a>(
    list: *const sys::rd_kafka_topic_partition_list_t,
) -> &'a [sys::rd_kafka_topic_partition_t] {
    if list.is_null() {
        return &[];
    }
    // SAFETY: a live list has `cnt` elements behind `elems`, which may be null when there are none.
    unsafe {
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        if count == 0 || (*list).elems.is_null() {
            return &[];
        }
        std::slice::from_raw_parts((*list).elems, count)
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

/// Where drained records lie: made once, used again.
#[derive(Debug)]
pub(super) struct Room(Box<[*mut sys::rd_kafka_message_t; MOST]>);

// SAFETY: between drains the pointers are never looked at.
unsafe impl Send for Room {}

impl Room {
    pub(super) fn new() -> Self {
        Self(Box::new([ptr::null_mut(); MOST]))
    }
}

/// Records out of one queue. Given back to librdkafka on drop.
#[derive(Debug)]
pub(super) struct Drained<'a> {
    records: &'a [*mut sys::rd_kafka_message_t],
    /// Keeps the client.
    queue: PhantomData<&'a Queue>,
}

impl Drained<'_> {
    /// One after the other, in the order of the queue. Errors of the partition are among them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Record<'_>> + Clone {
        self.records.iter().map(|record| {
            // SAFETY: librdkafka has filled in live messages, which are ours until `drop`.
            Record(unsafe { &**record })
        })
    }
}

impl Drop for Drained<'_> {
    fn drop(&mut self) {
        for record in self.records {
            // SAFETY: each is ours, is given back once, and nobody borrows from it any more.
            unsafe { sys::rd_kafka_message_destroy(*record) }
        }
    }
}

/// A record, or an error of its partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a>(&'a sys::rd_kafka_message_t);

impl<'a> Record<'a> {
    /// `None` for a record.
    pub(super) fn error(self) -> Option<RDKafkaRespErr> {
        (self.0.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(self.0.err)
    }

    /// What librdkafka says of the error.
    pub(super) fn error_text(self) -> String {
        // SAFETY: the message is live; the text is its payload or static.
        unsafe { text(sys::rd_kafka_message_errstr(self.0)) }
    }

    pub(super) fn offset(self) -> i64 {
        self.0.offset
    }

    /// `None` is not the same as empty.
    pub(super) fn key(self) -> Option<&'a [u8]> {
        // SAFETY: the message is live for `'a`, and has so many bytes there.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    /// `None` for a tombstone.
    pub(super) fn payload(self) -> Option<&'a [u8]> {
        // SAFETY: as above.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    /// Milliseconds since the Unix epoch, or -1 if it has none.
    pub(super) fn timestamp(self) -> i64 {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is live, and `kind` is written to.
        unsafe { sys::rd_kafka_message_timestamp(self.0, &raw mut kind) }
    }

    /// Whether it has no headers, seen without asking: librdkafka makes a list of them first, which costs as much as all the rest of
    /// a record. False where only asking tells.
    #[inline]
    fn is_bare(self) -> bool {
        // SAFETY: answers a number.
        let known = matches!(unsafe { sys::rd_kafka_version() } >> 16, 0x020c);
        // SAFETY: the message is live.
        let in_batch = known && unsafe { sys::rd_kafka_message_leader_epoch(self.0) } >= 0;
        if !in_batch || self.0.payload.is_null() || self.0.len == 0 {
            return false;
        }
        // SAFETY: only records of batches (format 2) have an epoch. There the number of headers follows the value, and that it is there
        // was checked when the record was read. Versions 2.12 of librdkafka hand out values where they lie in the batch, which is one
        // piece of memory that the message keeps; other versions are asked. A test runs this under valgrind.
        unsafe { *self.0.payload.cast::<u8>().add(self.0.len) == 0 }
    }

    /// Its headers, in order. A value may be null.
    pub(super) fn headers(self) -> Option<RawHeaders<'a>> {
        if self.is_bare() {
            return None;
        }
        let mut headers = ptr::null_mut();
        // SAFETY: the message is live; the headers are parsed into it and live as long.
        let code = unsafe { sys::rd_kafka_message_headers(self.0, &raw mut headers) };
        let found = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
        Some(RawHeaders {
            headers: NonNull::new(headers).filter(|_| found)?,
            next: 0,
            record: PhantomData,
        })
    }
}

/// Bytes of a message.
///
/// # Safety
/// `start` is null, or has `len` bytes that stay as they are for `'a`.
unsafe fn bytes<'a>(start: *const c_void, len: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: as promised by the caller.
    Some(unsafe { std::slice::from_raw_parts(start.cast(), len) })
}

/// Headers of one record: names and values.
#[derive(Clone, Debug)]
pub(super) struct RawHeaders<'a> {
    headers: NonNull<sys::rd_kafka_headers_t>,
    next: usize,
    record: PhantomData<&'a ()>,
}

impl<'a> Iterator for RawHeaders<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the headers live as long as their record, so for `'a`; the three are written to.
        let code = unsafe {
            sys::rd_kafka_header_get_all(
                self.headers.as_ptr(),
                self.next,
                &raw mut name,
                &raw mut value,
                &raw mut size,
            )
        };
        if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return None;
        }
        self.next += 1;
        // SAFETY: the name ends with a zero byte, the value has `size` bytes; both live as long as the record.
        unsafe { Some((CStr::from_ptr(name).to_bytes(), bytes(value, size))) }
    }
}

/// What a client says.
#[derive(Debug)]
pub(super) enum Event {
    /// Partitions come or go; to be answered by [`Client::answer`].
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
pub(super) enum Change {
    /// They come.
    Assign,
    /// They go.
    Revoke,
    /// They are somebody else's already: nothing of them can be committed.
    Lost,
}

/// Partitions that come or go. The group waits until it is answered; dropping it unanswered is left to librdkafka, which lets all go.
#[derive(Debug)]
pub(super) struct Rebalance {
    /// Given back when the rebalance is answered.
    _event: RawEvent,
    change: Change,
    partitions: Vec<i32>,
}

impl Rebalance {
    pub(super) fn change(&self) -> Change {
        self.change
    }

    pub(super) fn partitions(&self) -> &[i32] {
        &self.partitions
    }
}

/// An event of librdkafka's, given back on drop.
#[derive(Debug)]
struct RawEvent {
    event: NonNull<sys::rd_kafka_event_t>,
    /// After `event`, which must be gone first.
    handle: Arc<Handle>,
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

    fn open(self) -> Event {
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
        checked(unsafe { sys::rd_kafka_subscribe(self.handle.rk(), list.0.as_ptr()) })
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
        let list = all.0.as_ptr();
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
                list.0.as_ptr(),
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
        unsafe { sys::rd_kafka_position(self.handle.rk(), list.0.as_ptr()) };
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
                list.0.as_ptr(),
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
        checked(unsafe { sys::rd_kafka_committed(self.handle.rk(), list.0.as_ptr(), within) })?;
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
