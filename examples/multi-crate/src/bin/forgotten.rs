//! The trap: the handlers' crate is among the dependencies, but no line names it. The program ends with exit code 2 and says what is
//! missing.

use go_queue::prelude::*;

#[tokio::main]
async fn main() -> Exit {
    App::new().run().await.into()
}
