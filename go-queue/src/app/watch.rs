//! Looks whether lanes still turn. A handler that blocks its thread holds its lane, and nothing inside of the runtime may be left to
//! notice it: so this is a thread of its own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::pipeline::LaneStatus;

/// How often the watch looks.
const LOOK: Duration = Duration::from_millis(500);
/// So many looks in one round of a lane are a stall: three seconds.
const LOOKS: u32 = 6;

/// One lane as the watch knows it.
struct Watched {
    handler: Arc<str>,
    lane: Arc<LaneStatus>,
    round: u64,
    /// Looks since the round began.
    looks: u32,
}

/// Ends the watch when it is dropped.
#[derive(Debug)]
pub(super) struct Watch(Sender<(Arc<str>, Arc<LaneStatus>)>);

impl Watch {
    /// Begins to watch; without a thread to spare nothing is watched.
    pub(super) fn begin() -> Self {
        let (sender, lanes) = channel();
        let spawned = std::thread::Builder::new()
            .name("go-queue-watch".to_owned())
            .spawn(move || watch(&lanes));
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread could be started to watch for handlers that block");
        }
        Self(sender)
    }

    /// One more lane.
    pub(super) fn add(&self, handler: Arc<str>, lane: Arc<LaneStatus>) {
        // Without the thread nobody watches; that was said.
        let _ = self.0.send((handler, lane));
    }
}

fn watch(lanes: &Receiver<(Arc<str>, Arc<LaneStatus>)>) {
    let mut watched: Vec<Watched> = Vec::new();
    loop {
        match lanes.recv_timeout(LOOK) {
            Ok((handler, lane)) => watched.push(Watched {
                handler,
                lane,
                round: 0,
                looks: 0,
            }),
            Err(RecvTimeoutError::Timeout) => watched.iter_mut().for_each(Watched::look),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Watched {
    fn look(&mut self) {
        let round = self.lane.round();
        if round.is_some_and(|round| round == self.round) {
            self.looks += 1;
            if self.looks == LOOKS {
                self.lane.set_stalled(true);
                tracing::error!(
                    handler = %self.handler,
                    "the lane of this handler has stood still for {:?}: a handler blocks its thread, and nothing else of its lane can run or stop; \
                     mark it `blocking`, or move the work to `tokio::task::spawn_blocking`",
                    LOOK * LOOKS,
                );
            }
            return;
        }
        if self.looks >= LOOKS {
            self.lane.set_stalled(false);
            tracing::warn!(handler = %self.handler, "the lane of this handler goes on, after about {:?}", LOOK * self.looks);
        }
        self.looks = 0;
        self.round = round.unwrap_or(0);
    }
}
