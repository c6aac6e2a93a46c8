//! Records where librdkafka holds them.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use rdkafka::bindings as sys;
use rdkafka::types::RDKafkaRespErr;

use super::{MOST, Queue, text};

/// Where drained records lie: made once, used again.
#[derive(Debug)]
pub(crate) struct Room(pub(super) Box<[*mut sys::rd_kafka_message_t; MOST]>);

// SAFETY: between drains the pointers are never looked at.
unsafe impl Send for Room {}

impl Room {
    pub(crate) fn new() -> Self {
        Self(Box::new([ptr::null_mut(); MOST]))
    }
}

/// Records out of one queue. Given back to librdkafka on drop.
#[derive(Debug)]
pub(crate) struct Drained<'a> {
    pub(super) records: &'a [*mut sys::rd_kafka_message_t],
    /// Keeps the client.
    pub(super) queue: PhantomData<&'a Queue>,
}

impl Drained<'_> {
    /// One after the other, in the order of the queue. Errors of the partition are among them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Record<'_>> + Clone {
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
pub(crate) struct Record<'a>(&'a sys::rd_kafka_message_t);

impl<'a> Record<'a> {
    /// `None` for a record.
    pub(crate) fn error(self) -> Option<RDKafkaRespErr> {
        (self.0.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(self.0.err)
    }

    /// What librdkafka says of the error.
    pub(crate) fn error_text(self) -> String {
        // SAFETY: the message is live; the text is its payload or static.
        unsafe { text(sys::rd_kafka_message_errstr(self.0)) }
    }

    pub(crate) fn offset(self) -> i64 {
        self.0.offset
    }

    /// Bytes of key and payload.
    pub(crate) fn size(self) -> usize {
        self.0.key_len + self.0.len
    }

    /// `None` is not the same as empty.
    pub(crate) fn key(self) -> Option<&'a [u8]> {
        // SAFETY: the message is live for `'a`, and has so many bytes there.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    /// `None` for a tombstone.
    pub(crate) fn payload(self) -> Option<&'a [u8]> {
        // SAFETY: as above.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    /// Milliseconds since the Unix epoch, or -1 if it has none.
    pub(crate) fn timestamp(self) -> i64 {
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
    pub(crate) fn headers(self) -> Option<RawHeaders<'a>> {
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
pub(super) unsafe fn bytes<'a>(start: *const c_void, len: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: as promised by the caller.
    Some(unsafe { std::slice::from_raw_parts(start.cast(), len) })
}

/// Headers of one record: names and values.
#[derive(Clone, Debug)]
pub(crate) struct RawHeaders<'a> {
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
