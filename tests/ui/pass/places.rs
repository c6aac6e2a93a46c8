//! A handler may stand wherever a function may.
use go_queue::handler::{Registered, Registry};
use go_queue::prelude::*;

/// The same name as below.
#[dq_handler(tube = "outer")]
async fn work(_: ()) {}

mod billing {
    use go_queue::prelude::*;

    #[dq_handler(tube = "billing")]
    pub(crate) async fn work(_: ()) {}

    pub(super) mod deep {
        use go_queue::prelude::*;

        pub struct Secret;

        /// In a module that nothing calls.
        #[kq_handler(topic = "deep")]
        pub(in crate::billing) async fn quiet(_: String) {}

        #[dq_handler(tube = "type")]
        pub(crate) async fn r#type(_: ()) {}
    }
}

mod redis {}

/// With a type of another name, since there is a module of this one.
#[dq_handler(tube = "redis", handle = RedisTask)]
async fn redis(_: ()) {}

fn main() {
    #[dq_handler(tube = "local")]
    async fn work(_: ()) {}

    drop((work::now(()), crate::work::now(()), billing::work::now(())));
    drop((RedisTask::now(()), billing::deep::r#type::now(())));
    let registry = Registry::global();
    let mut places: Vec<_> = registry.iter().map(|def| def.source.names()[0]).collect();
    places.sort_unstable();
    assert_eq!(places, ["billing", "deep", "local", "outer", "redis", "type"]);
    let name = <billing::deep::r#type as Registered>::DEF.name;
    assert_eq!(name, "type");
    let _ = billing::deep::Secret;
}
