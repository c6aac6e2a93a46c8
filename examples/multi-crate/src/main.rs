//! Handlers in a library crate.
//!
//! A crate that no line of source names is not linked, and handlers in it are not there. `bin/forgotten.rs` is this program without that
//! line, and is told so at start.

use go_queue::engine::PublishError;
use go_queue::prelude::*;
use multi_crate_handlers::{Guest, greet};
// Only this line is needed to run the handlers; a program that uses something of the crate, as this one does, has it already.
use multi_crate_handlers as _;

#[tokio::main]
async fn main() -> Exit {
    App::new().on_start(invite).run().await.into()
}

/// Sends something to do. The tasks are named, so a second start does not send them again.
async fn invite(producer: Producer) -> Result<(), PublishError> {
    for name in ["ada", "bob"] {
        let guest = Guest { name: name.into() };
        greet::now(guest).id(name).send(&producer).await?;
    }
    Ok(())
}
