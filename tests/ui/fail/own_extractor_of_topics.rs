//! An extractor of one's own that is for topics.
use go_queue::handler::extract::Rejection;
use go_queue::handler::{Context, Env, FromContext, Kq, Missing};
use go_queue::prelude::*;

struct Lag(i64);

impl FromContext<Kq> for Lag {
    type Plan = ();

    fn plan(_: &Env) -> Result<(), Missing> {
        Ok(())
    }

    async fn extract<'a>(_: &'a (), cx: &'a Context) -> Result<Self, Rejection> {
        Ok(Self(cx.message().offset))
    }
}

#[dq_handler(tube = "emails")]
async fn send(to: String, Lag(lag): Lag) {
    drop((to, lag));
}

fn main() {}
