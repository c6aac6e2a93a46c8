//! What sender and worker agree on: payloads, and the places where they go. Neither knows the other.

use go_queue::prelude::*;

/// A mail to be sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Mail {
    /// Whom to.
    pub to: String,
    /// What about.
    pub subject: String,
}

/// Mails to be sent, now or later.
pub const MAILS: Tube<Mail> = Tube::new("mails");
