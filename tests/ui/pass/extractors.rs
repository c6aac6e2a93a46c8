//! Extractors in any order, the library's and the user's.
use std::sync::Arc;

use go_queue::handler::extract::Rejection;
use go_queue::handler::{Context, Dq, Env, FromContext, Kind, Missing, Registry};
use go_queue::prelude::*;

trait Mailer: Send + Sync {}

struct Tenant(String);

impl<K: Kind> FromContext<K> for Tenant {
    type Plan = Arc<dyn Mailer>;

    fn plan(env: &Env) -> Result<Self::Plan, Missing> {
        env.get::<Arc<dyn Mailer>>().cloned().ok_or_else(|| Missing {
            parameter: "Tenant".into(),
            remedy: "add `.state(mailer)`".into(),
        })
    }

    async fn extract<'a>(_: &'a Self::Plan, cx: &'a Context) -> Result<Self, Rejection> {
        std::future::ready(()).await;
        let headers = cx.message().headers();
        let name = headers.get_str("tenant").ok_or("no tenant")?;
        Ok(Self(name.to_owned()))
    }
}

struct OfTasks;

impl FromContext<Dq> for OfTasks {
    type Plan = u8;

    fn plan(_: &Env) -> Result<u8, Missing> {
        Ok(0)
    }

    async fn extract<'a>(_: &'a u8, _: &'a Context) -> Result<Self, Rejection> {
        Ok(Self)
    }
}

#[dq_handler(tube = "a")]
async fn a(_: Text, tenant: Tenant, _: OfTasks, _: Cancel, State(m): State<Arc<dyn Mailer>>, Key(_): Key, _: Meta) {
    drop((tenant.0, m));
}

#[kq_handler(topic = "b")]
async fn b(
    Json(list): Json<Vec<u8>>,
    Offset(offset): Offset,
    State(_): State<u8>,
    Partition(partition): Partition,
    _: Producer,
    Timestamp(_): Timestamp,
    headers: Headers,
) {
    drop((list, headers.get_str("a"), offset, partition));
}

#[kq_handler(topic = "c")]
async fn c(_: std::vec::Vec<Raw>, _: Vec<Key>, _: Vec<Meta>, _: Vec<Offset>, _: Vec<Headers>) {}

fn main() {
    let registry = Registry::global();
    let batches = registry.iter().filter(|def| def.batch).count();
    assert_eq!((registry.len(), batches), (3, 1));
}
