//! The name of a const is checked where it stands.
use go_queue::prelude::*;

const EMAILS: Tube<String> = Tube::new("e-mails!");

fn main() {
    let _ = EMAILS;
}
