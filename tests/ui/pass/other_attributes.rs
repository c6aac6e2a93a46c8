//! Other attributes stand above and below.
use go_queue::handler::Registry;
use go_queue::prelude::*;

#[tracing::instrument(skip_all)]
#[dq_handler(tube = "above")]
async fn above(text: String, State(number): State<u8>) -> anyhow::Result<()> {
    drop((text, number));
    Ok(())
}

#[dq_handler(tube = "below")]
#[tracing::instrument(skip_all, err)]
async fn below(text: String) -> anyhow::Result<()> {
    drop(text);
    Ok(())
}

/// Documented.
#[must_use]
#[inline]
#[kq_handler(topic = "more")]
#[allow(clippy::unused_async)]
async fn more(#[allow(unused)] text: String) -> Outcome {
    Outcome::Done
}

#[cfg(any())]
#[dq_handler(tube = "off")]
async fn off(_: Nothing) {}

#[kq_handler(topic = "off")]
#[cfg(any())]
async fn off_too(_: Nothing) {}

fn main() {
    assert_eq!(Registry::global().len(), 3);
    drop((above::now(String::new()), below::now(String::new()), more::push(String::new())));
}
