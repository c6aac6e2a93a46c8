//! Lists of partitions with their offsets, as librdkafka takes and gives them.

use std::ffi::CStr;
use std::ptr::{self, NonNull};

use rdkafka::bindings as sys;

use super::Commit;

/// A list of partitions of librdkafka's.
pub(super) struct List(NonNull<sys::rd_kafka_topic_partition_list_t>);

impl List {
    pub(super) fn new(topic: &CStr, partitions: impl ExactSizeIterator<Item = (i32, i64)>) -> Self {
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
    pub(super) fn annotate(&self, rk: *mut sys::rd_kafka_t, commits: &[Commit]) {
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

    pub(super) fn as_ptr(&self) -> *mut sys::rd_kafka_topic_partition_list_t {
        self.0.as_ptr()
    }

    pub(super) fn elements(&self) -> &[sys::rd_kafka_topic_partition_t] {
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
pub(super) unsafe fn elements<'a>(
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
