//! The typed slot: one place for one run, whose future is made in place, so that starting a handler allocates nothing.
//!
//! One count up and down for each run gives the future its context, handler, plans and state together, and leaves the
//! message with the slot for a detour after a panic.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use crate::engine::BoxFuture;
use crate::message::Message;
use crate::outcome::Outcome;

use super::blocking::OwnThread;
use super::context::About;
use super::{Context, Handle, Run, Slot};

/// Erases a bound handler. `blocking` runs it on a thread of its own.
pub fn erase<H: Run>(handler: H, about: Arc<About>, blocking: bool) -> Arc<dyn Handle> {
    Arc::new(Erased {
        handler: Arc::new(handler),
        about,
        blocking,
    })
}

struct Erased<H> {
    handler: Arc<H>,
    about: Arc<About>,
    blocking: bool,
}

impl<H: Run> Handle for Erased<H> {
    fn slot(self: Arc<Self>) -> Box<dyn Slot> {
        let frame = Arc::new(Frame {
            cx: Context::new(self.about.clone()),
            handler: self.handler.clone(),
        });
        if self.blocking {
            let thread = Arc::new(OwnThread::default());
            Box::new(TypedSlot::new(frame, move |frame| {
                on_its_own_thread(thread.clone(), frame)
            }))
        } else {
            Box::new(TypedSlot::new(frame, |frame: Arc<Frame<H>>| async move {
                frame.handler.run(&frame.cx).await
            }))
        }
    }

    fn call<'a>(&'a self, cx: &'a Context) -> BoxFuture<'a, Outcome> {
        Box::pin(self.handler.run(cx))
    }
}

/// Dropping this future leaves the thread running: it cannot be stopped, only asked to (`Cancel`).
async fn on_its_own_thread<H: Run>(thread: Arc<OwnThread>, frame: Arc<Frame<H>>) -> Outcome {
    let runtime = tokio::runtime::Handle::current();
    let run = move || runtime.block_on(frame.handler.run(&frame.cx));
    match thread.run(run).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => panicked(&*panic),
        Err(error) => Outcome::retry(format_args!("no thread for a blocking handler: {error}")),
    }
}

struct Frame<H> {
    cx: Context,
    handler: Arc<H>,
}

struct TypedSlot<H, F, M> {
    frame: Arc<Frame<H>>,
    make: M,
    future: Pin<Box<Option<F>>>,
}

impl<H: Run, F, M> TypedSlot<H, F, M>
where
    F: Future<Output = Outcome> + Send,
    M: Fn(Arc<Frame<H>>) -> F + Send,
{
    fn new(frame: Arc<Frame<H>>, make: M) -> Self {
        Self {
            frame,
            make,
            future: Box::pin(None),
        }
    }

    /// The frame, alone. If user code has kept a clone alive (a thread that outlived its run), there is a new one.
    fn own_frame(&mut self) -> &mut Frame<H> {
        // There are no weak references, so one strong one is ours alone; a load is cheaper than `get_mut`, which locks.
        if Arc::strong_count(&self.frame) != 1 {
            let fresh = Frame {
                cx: Context::new(self.frame.cx.about().clone()),
                handler: self.frame.handler.clone(),
            };
            self.frame = Arc::new(fresh);
        }
        Arc::get_mut(&mut self.frame).expect("nobody else has a frame that was just made")
    }

    #[cold]
    fn end_in_panic(&mut self, panic: Box<dyn Any + Send>) -> Poll<Outcome> {
        let outcome = panicked(&*panic);
        drop_quietly(panic);
        self.drop_future();
        Poll::Ready(outcome)
    }

    fn drop_future(&mut self) {
        let future = &mut self.future;
        if catch_unwind(AssertUnwindSafe(|| future.set(None))).is_err() {
            // Its destructor panicked half-way: leave the memory alone for ever and take a new place.
            std::mem::forget(std::mem::replace(&mut self.future, Box::pin(None)));
        }
    }
}

impl<H: Run, F, M> Slot for TypedSlot<H, F, M>
where
    F: Future<Output = Outcome> + Send,
    M: Fn(Arc<Frame<H>>) -> F + Send,
{
    fn load(&mut self, message: Message) {
        self.own_frame().cx.load(message);
    }

    fn add(&mut self, message: Message) {
        self.own_frame().cx.add(message);
    }

    fn start(&mut self, cx: &mut task::Context<'_>) -> Poll<Outcome> {
        let (frame, make, future) = (self.frame.clone(), &self.make, &mut self.future);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future.set(Some(make(frame)));
            poll_in_place(future, cx)
        }));
        polled.unwrap_or_else(|panic| self.end_in_panic(panic))
    }

    fn poll(&mut self, cx: &mut task::Context<'_>) -> Poll<Outcome> {
        let future = &mut self.future;
        let polled = catch_unwind(AssertUnwindSafe(|| poll_in_place(future, cx)));
        polled.unwrap_or_else(|panic| self.end_in_panic(panic))
    }

    fn clear(&mut self) {
        self.drop_future();
    }

    fn context(&self) -> &Context {
        &self.frame.cx
    }
}

/// Polls the run and drops it when it is over. Without one it was a wake for a run that is over.
#[inline]
fn poll_in_place<F: Future<Output = Outcome>>(
    future: &mut Pin<Box<Option<F>>>,
    cx: &mut task::Context<'_>,
) -> Poll<Outcome> {
    let polled = match future.as_mut().as_pin_mut() {
        Some(run) => run.poll(cx),
        None => return Poll::Pending,
    };
    if polled.is_ready() {
        future.set(None);
    }
    polled
}

/// The outcome of a panic: an error, like any other.
fn panicked(panic: &(dyn Any + Send)) -> Outcome {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text");
    Outcome::retry(format_args!("panic: {text}"))
}

/// A panic's value may panic when it is dropped.
fn drop_quietly(panic: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Scripted {
        runs: Arc<AtomicUsize>,
    }

    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                std::panic::panic_any("drop");
            }
        }
    }

    impl Run for Scripted {
        async fn run<'a>(&'a self, cx: &'a Context) -> Outcome {
            self.runs.fetch_add(1, Ordering::Relaxed);
            match cx.message().body.payload() {
                b"panic" => std::panic::panic_any("boom"),
                b"hang" => std::future::pending().await,
                b"hang, then panic on drop" => {
                    let _guard = PanicsOnDrop;
                    std::future::pending().await
                }
                _ => Outcome::Done,
            }
        }
    }

    fn message(payload: &[u8]) -> Message {
        Message {
            body: crate::message::Body::pack(b"", b"", payload),
            ..Message::default()
        }
    }

    #[test]
    fn a_slot_survives_panics_hangs_and_panics_on_drop() {
        let runs = Arc::new(AtomicUsize::new(0));
        let handler = Scripted { runs: runs.clone() };
        let mut slot = erase(handler, Arc::default(), false).slot();
        let mut cx = task::Context::from_waker(task::Waker::noop());
        for _ in 0..3 {
            slot.load(message(b"panic"));
            assert_eq!(
                slot.start(&mut cx),
                Poll::Ready(Outcome::retry("panic: boom"))
            );
            slot.load(message(b"hang"));
            assert_eq!(slot.start(&mut cx), Poll::Pending);
            slot.clear();
            assert_eq!(slot.poll(&mut cx), Poll::Pending, "a late wake is harmless");
            slot.load(message(b"hang, then panic on drop"));
            assert_eq!(slot.start(&mut cx), Poll::Pending);
            slot.clear();
            slot.load(message(b"fine"));
            assert_eq!(slot.start(&mut cx), Poll::Ready(Outcome::Done));
        }
        assert_eq!(runs.load(Ordering::Relaxed), 12);
    }

    #[tokio::test]
    async fn a_blocking_handler_runs_on_another_thread_and_its_panic_is_an_error() {
        struct Blocks;
        impl Run for Blocks {
            async fn run<'a>(&'a self, cx: &'a Context) -> Outcome {
                if cx.message().body.payload() == b"panic" {
                    std::panic::panic_any(String::from("boom"));
                }
                Outcome::dead(std::thread::current().name().unwrap_or_default())
            }
        }
        let mut slot = erase(Blocks, Arc::default(), true).slot();
        slot.load(message(b"panic"));
        let mut started = false;
        let mut run = |slot: &mut Box<dyn Slot>, cx: &mut task::Context<'_>| {
            if std::mem::replace(&mut started, true) {
                slot.poll(cx)
            } else {
                slot.start(cx)
            }
        };
        let outcome = std::future::poll_fn(|cx| run(&mut slot, cx)).await;
        assert_eq!(outcome, Outcome::retry("panic: boom"));
    }
}
