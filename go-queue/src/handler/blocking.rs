//! Threads for handlers that say `blocking`: one for each place that has needed it.
//!
//! Plain threads, not the runtime's: a runtime waits for its own when it is dropped, and a handler that does not end would
//! keep the process alive beyond its shutdown deadline.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The thread of one place. A run that was given up keeps its thread until it ends; the next run gets a new one.
#[derive(Debug, Default)]
pub(super) struct OwnThread(Mutex<Option<Worker>>);

#[derive(Debug)]
struct Worker {
    jobs: mpsc::Sender<Job>,
    idle: Arc<AtomicBool>,
}

impl OwnThread {
    /// Runs the work and answers with what it returns or with its panic.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the thread running: it cannot be stopped, only asked to.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<std::thread::Result<T>> {
        let (said, outcome) = oneshot::channel();
        self.hand_over(|idle| {
            Box::new(move || {
                let result = catch_unwind(AssertUnwindSafe(work));
                // Idle before the answer: whoever reads the answer may start the next run.
                idle.store(true, Ordering::Release);
                // Nobody waits for a run that was given up.
                let _ = said.send(result);
            })
        })?;
        outcome.await.map_err(io::Error::other)
    }

    fn hand_over(&self, job: impl FnOnce(Arc<AtomicBool>) -> Job) -> io::Result<()> {
        let mut worker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Worker { jobs, idle }) = &*worker
            && idle.swap(false, Ordering::Acquire)
        {
            return jobs.send(job(idle.clone())).map_err(|_| gone());
        }
        let (jobs, todo) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("go-queue-blocking".to_owned())
            .spawn(move || todo.into_iter().for_each(|job| job()))?;
        let idle = Arc::new(AtomicBool::new(false));
        jobs.send(job(idle.clone())).map_err(|_| gone())?;
        // The sender of an earlier worker is dropped here, and its thread ends with its run.
        *worker = Some(Worker { jobs, idle });
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread has ended")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_thread_is_reused_and_survives_a_panic() {
        let thread = OwnThread::default();
        let id = || std::thread::current().id();
        let first = thread.run(id).await.expect("a thread").expect("no panic");
        let panicked = thread
            .run(|| std::panic::panic_any("boom"))
            .await
            .expect("a thread");
        assert!(panicked.is_err());
        assert_eq!(
            thread.run(id).await.expect("a thread").expect("no panic"),
            first
        );
    }

    #[tokio::test]
    async fn a_run_that_was_given_up_does_not_hold_the_next() {
        let thread = OwnThread::default();
        let (release, held) = mpsc::channel::<()>();
        let stuck = thread.run(move || held.recv());
        assert!(
            tokio::time::timeout(Duration::from_millis(20), stuck)
                .await
                .is_err()
        );
        let next = tokio::time::timeout(Duration::from_secs(30), thread.run(|| 7)).await;
        assert_eq!(
            next.expect("at once").expect("a thread").expect("no panic"),
            7
        );
        drop(release);
    }
}
