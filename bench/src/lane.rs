//! One lane over one end of a subscription, until so many messages are settled: through the pump, or by hand.

use std::sync::Arc;
use std::task::{Context, Poll};

use go_queue::delivery::{How, Settlement};
use go_queue::engine::{Engine, EngineError, MAX_SLICE, Receive, Subscribe, Turn};
use go_queue::handler::Registered;
use go_queue::handler::context::{About, Env};
use go_queue::middleware::{Middleware, chain};
use go_queue::pipeline::{Control, Plan, Pump};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::figures::{Figures, Stopwatch};

/// Passes everything through, and says quiet when the last settlement has gone by.
struct UntilSettled {
    engine: Box<dyn Receive>,
    left: u64,
    control: Arc<Control>,
}

impl Receive for UntilSettled {
    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.left = self.left.saturating_sub(turn.settle.len() as u64);
        if self.left == 0 {
            self.control.quiet();
        }
        self.engine.turn(cx, turn)
    }

    fn close(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), EngineError>> {
        self.engine.close(cx, turn)
    }
}

/// What anybody has to do: take a slice, decode each payload, acknowledge; in the end wait until all of it is confirmed.
pub(crate) async fn floor<T: DeserializeOwned>(
    end: Box<dyn Receive>,
    messages: u64,
) -> Result<Figures, String> {
    drain(end, messages, |payload| {
        // The quickest way to owned texts that serde_json has: all of it is checked for UTF-8 at once.
        let text = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
        let payload: T = serde_json::from_str(text).map_err(|error| error.to_string())?;
        std::hint::black_box(&payload);
        Ok(())
    })
    .await
}

/// Take a slice, do this with each payload, acknowledge; in the end wait until all of it is confirmed.
pub(crate) async fn drain(
    mut end: Box<dyn Receive>,
    messages: u64,
    mut each: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<Figures, String> {
    let watch = Stopwatch::start();
    let mut turn = Turn::new(Instant::now());
    let mut done = 0;
    std::future::poll_fn(|cx| {
        loop {
            turn.now = Instant::now();
            turn.free = MAX_SLICE;
            let polled = end.turn(cx, &mut turn);
            for delivery in turn.deliver.drain(..) {
                if let Err(error) = each(delivery.message.body.payload()) {
                    return Poll::Ready(Err(error));
                }
                done += 1;
                turn.settle.push(Settlement {
                    receipt: delivery.receipt,
                    how: How::Ack,
                });
            }
            if done == messages && turn.settle.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match polled {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.to_string())),
                Poll::Pending if turn.settle.is_empty() => return Poll::Pending,
                _ => {}
            }
        }
    })
    .await?;
    turn.open = false;
    std::future::poll_fn(|cx| end.close(cx, &mut turn))
        .await
        .map_err(|error| error.to_string())?;
    Ok(watch.figures(done))
}

/// The same through the pump, with the handler `H`; `shape` changes the defaults of the plan.
pub(crate) async fn pump<H: Registered>(
    engine: &dyn Engine,
    to: &Subscribe,
    end: Box<dyn Receive>,
    messages: u64,
    layers: Vec<Arc<dyn Middleware>>,
    shape: impl FnOnce(&mut Plan),
) -> Result<Figures, String> {
    let about = Arc::new(About::default());
    let bound =
        (H::DEF.bind)(&Env::new(), Arc::clone(&about)).map_err(|missing| format!("{missing:?}"))?;
    let handle = chain(bound, layers, Arc::clone(&about), false);
    let mut plan = Plan::new(about, handle, engine.capabilities(to.place.side()));
    shape(&mut plan);
    let control = Control::new();
    let end = Box::new(UntilSettled {
        engine: end,
        left: messages,
        control: Arc::clone(&control),
    });
    let mut pump = Pump::new(Arc::new(plan), end, None, control);
    let status = pump.status();
    let watch = Stopwatch::start();
    pump.run().await.map_err(|error| error.to_string())?;
    let figures = watch.figures(messages);
    let counts = status.counts();
    if counts.done == messages {
        Ok(figures)
    } else {
        Err(format!("{messages} messages, but {counts:?}"))
    }
}
