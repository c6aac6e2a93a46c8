//! An app as the test kit runs it: everything on one engine in memory, nothing outside of the process.

use std::sync::Arc;

use crate::app::{App, AppError, ConfigSource};
use crate::config::{Config, DedupConfig, DedupStore};
use crate::engine::Engine;
use crate::engine::memory::MemoryConfig;
use crate::middleware::Middleware;
use crate::name::Side;
use crate::time::{Clock, days};

use super::{keep, keeps, topics};

impl App {
    /// The same app on the engine that `engine` makes of its configuration. `config` replaces that of the app; without one, a file
    /// that lies in the working directory by chance is not read. `observer` runs around all other middleware.
    ///
    /// # Errors
    /// [`AppError::Setup`] with every problem of the configuration.
    pub(crate) fn rehearse(
        mut self,
        clock: Clock,
        config: Option<Config>,
        observer: Arc<dyn Middleware>,
        engine: impl FnOnce(MemoryConfig) -> Arc<dyn Engine>,
    ) -> Result<Self, AppError> {
        let mut config = match (config, &self.config) {
            (Some(config), _) => config,
            (None, ConfigSource::Found) => Config::default(),
            (None, ConfigSource::File(_) | ConfigSource::Given(_)) => self.load()?,
        };
        keep_marks_here(&mut config);
        let engine = engine(MemoryConfig {
            topics: topics(&config),
            keeps: keeps(&config),
            keep: keep(config.dq.dedup.as_ref()),
            // Nobody steps the clock of a test, and a test may move it by years.
            look: days(1),
            ..MemoryConfig::new(clock.clone())
        });
        self.clock = clock;
        self.engines = vec![(Side::Tasks, engine.clone()), (Side::Topics, engine)];
        self.middleware.insert(0, observer);
        self.config = ConfigSource::Given(Box::new(config));
        Ok(self)
    }
}

/// A dedup store on a server or in a file is one in memory while it is rehearsed.
fn keep_marks_here(config: &mut Config) {
    let tubes = config.tubes.iter_mut().map(|tube| &mut tube.dedup);
    let topics = config.topics.iter_mut().map(|topic| &mut topic.dedup);
    for dedup in tubes.chain(topics).chain([&mut config.dq.dedup]) {
        if let Some(DedupConfig {
            store: Some(store), ..
        }) = dedup
            && store.value != DedupStore::Off
        {
            store.value = DedupStore::Memory;
        }
    }
}
