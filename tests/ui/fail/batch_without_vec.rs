//! Options of a batch for single messages.
use go_queue::prelude::*;

#[derive(Serialize, Deserialize)]
struct Click {
    page: String,
}

#[kq_handler(topic = "clicks", batch = 500, linger = "50ms")]
async fn clicks(click: Click) {
    drop(click.page);
}

fn main() {}
