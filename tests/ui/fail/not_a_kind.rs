//! An extractor for something that is no kind of handler.
use go_queue::handler::extract::Rejection;
use go_queue::handler::{Context, Env, FromContext, Missing};

struct Tenant;
struct Everything;

impl FromContext<Everything> for Tenant {
    type Plan = ();

    fn plan(_: &Env) -> Result<(), Missing> {
        Ok(())
    }

    async fn extract<'a>(_: &'a (), _: &'a Context) -> Result<Self, Rejection> {
        Ok(Self)
    }
}

fn main() {}
