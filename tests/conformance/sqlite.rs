//! The SQLite engine as a subject: each case has a file of its own.

use std::sync::Arc;

use go_queue::engine::sqlite::{Config, Sqlite};
use go_queue::engine::{BoxFuture, Capabilities, Engine};
use go_queue::name::Side;
use go_queue::testing::conformance::{KEEP, Subject, topic_configs};
use go_queue::time::{Clock, WallTime};

/// An engine on a file that goes with it.
#[derive(Debug)]
pub(crate) struct OnFile {
    engine: Sqlite,
    config: Config,
    clock: Clock,
    _folder: tempfile::TempDir,
}

impl OnFile {
    /// An empty one.
    pub(crate) async fn fresh() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the file");
        let clock = Clock::system();
        let config = Config {
            topics: topic_configs().into_iter().collect(),
            keep: KEEP,
            ..Config::new(folder.path().join("queue.db"))
        };
        let engine = Sqlite::open(config.clone(), clock.clone())
            .await
            .expect("a new file opens");
        Self {
            engine,
            config,
            clock,
            _folder: folder,
        }
    }
}

impl Subject for OnFile {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine.clone())
    }

    fn another(&self) -> BoxFuture<'_, Arc<dyn Engine>> {
        Box::pin(async {
            let another = Sqlite::open(self.config.clone(), self.clock.clone()).await;
            Arc::new(another.expect("the file opens twice")) as Arc<dyn Engine>
        })
    }

    fn capabilities(&self, side: Side) -> Capabilities {
        let tasks = side == Side::Tasks;
        Capabilities {
            supported: true,
            redeliver: tasks,
            dead_letter: true,
            delayed: tasks,
            priority: tasks,
            log: !tasks,
            durable: true,
            fenced: true,
        }
    }

    fn now(&self) -> WallTime {
        self.clock.now()
    }
}
