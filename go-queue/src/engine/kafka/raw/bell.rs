//! How a thread of librdkafka wakes ours.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use rdkafka::bindings as sys;

/// Wakes whoever waits for any queue of one end.
#[derive(Debug)]
pub(crate) struct Bell {
    /// Somebody waits: the next ring wakes him.
    armed: AtomicBool,
    waker: Mutex<Waker>,
}

impl Bell {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            armed: AtomicBool::new(false),
            waker: Mutex::new(Waker::noop().clone()),
        })
    }

    /// From now on a ring wakes this waker, once. Look at the signals after this: what rang before did not wake.
    pub(crate) fn arm(&self, waker: &Waker) {
        {
            let mut kept = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            if !kept.will_wake(waker) {
                kept.clone_from(waker);
            }
        }
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Wakes who waits. Runs on threads of librdkafka, under the lock of a queue: it only wakes.
    pub(crate) fn ring(&self) {
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
pub(super) struct Signal {
    pub(super) ready: AtomicBool,
    pub(super) bell: Arc<Bell>,
}

/// Called by librdkafka when an empty queue gets something.
///
/// # Safety
/// `opaque` is the [`Signal`] of the queue, which outlives the callback.
pub(super) unsafe extern "C" fn on_filled(_: *mut sys::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: `Queue::new` passed a pointer into an `Arc<Signal>`, which `Queue` keeps until it has taken the callback away.
    let signal = unsafe { &*opaque.cast::<Signal>() };
    signal.ready.store(true, Ordering::SeqCst);
    signal.bell.ring();
}
