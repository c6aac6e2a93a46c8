//! For tests: the real app in this process on a clock that the test moves ([`TestApp`]), and the conformance suite for engines.
//!
//! ```
//! use go_queue::prelude::*;
//! use go_queue::testing::TestApp;
//!
//! #[dq_handler(tube = "mails", retry(max = 2))]
//! async fn mail(to: String) -> Result<(), String> {
//!     Err(format!("no mailbox for {to}"))
//! }
//!
//! // #[tokio::test]
//! async fn a_mail_that_cannot_be_sent_is_set_aside() {
//!     let app = TestApp::new(App::new().handlers(handlers![mail]));
//!     let app = app.start().await.expect("the set-up is right");
//!
//!     mail::delay("eve".into(), minutes(15)).send(app.producer()).await.expect("stored");
//!     app.run_due().await;
//!     app.of::<mail>().assert_pending(1).assert_ran(0);
//!
//!     app.advance(hours(1)).await;
//!     app.of::<mail>().assert_ran(3).assert_dead_lettered(1);
//! }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
//! #     .block_on(a_mail_that_cannot_be_sent_is_set_aside());
//! ```
//!
//! How to test handlers, from a plain call to a worker that dies: the [guide](crate::guide::testing).

mod app;
pub mod conformance;
mod handled;
mod ledger;
mod observed;
#[cfg(test)]
mod tests;

pub use app::{TestApp, TestRun};
pub use handled::{Handled, Seen, SeenState};
