//! An app on either engine, a trail of what its handlers did, and waiting without luck.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use go_queue::app::{App, Running};
use go_queue::config::Config;
use go_queue::engine::memory::{Memory, MemoryConfig};
use go_queue::engine::sqlite::{self, Sqlite};
use go_queue::engine::{DeadLetter, DeadQuery, Engine, TopicConfig};
use go_queue::handler::Registry;
use go_queue::name::{Name, Side};
use go_queue::time::{Clock, WallTime};
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

/// Nothing here takes so long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Topics that are not cut into eight. On SQLite the app's configuration says so; the memory engine is given to the app as it is.
const PARTITIONS: [(&str, u32); 3] = [("bills", 1), ("ledger", 1), ("clicks", 2)];

/// The engine under an app. Outlives the app, as a server or a file does.
pub(crate) struct Stage {
    engine: Kind,
    pub(crate) clock: Clock,
}

enum Kind {
    Memory(Memory),
    /// The file, and another process's look at it.
    Sqlite {
        folder: TempDir,
        view: Sqlite,
    },
}

impl Stage {
    /// In memory, on tokio's clock.
    pub(crate) fn memory() -> Self {
        let now = WallTime::from_system(SystemTime::now()).expect("now is a time");
        let clock = Clock::following_tokio(now);
        let mut config = MemoryConfig::new(clock.clone());
        for (topic, partitions) in PARTITIONS {
            let kept = TopicConfig {
                partitions,
                ..TopicConfig::default()
            };
            config.topics.insert(Name::literal(topic), kept);
        }
        Self {
            engine: Kind::Memory(Memory::with(config)),
            clock,
        }
    }

    /// On a file of its own, on the system's clock.
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::system();
        let mut config = sqlite::Config::new(path_in(folder.path()));
        config.durability = sqlite::Durability::Process;
        let view = Sqlite::open(config, clock.clone())
            .await
            .expect("a new file opens");
        Self {
            engine: Kind::Sqlite { folder, view },
            clock,
        }
    }

    /// An app with these handlers.
    pub(crate) fn app(&self, handlers: Registry) -> App {
        self.app_with(handlers, "")
    }

    /// An app with these handlers and this configuration.
    pub(crate) fn app_with(&self, handlers: Registry, yaml: &str) -> App {
        let app = App::new().clock(self.clock.clone()).handlers(handlers);
        match &self.engine {
            Kind::Memory(memory) => app
                .engine(Side::Tasks, memory.clone())
                .engine(Side::Topics, memory.clone())
                .config(config(yaml)),
            Kind::Sqlite { folder, .. } => {
                let path = path_in(folder.path());
                let own = format!(
                    "name: apptests\nsqlite: {{ path: {}, durability: process }}\n",
                    path.display()
                );
                app.config(config(&(own + yaml)))
            }
        }
    }

    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.engine, Kind::Memory(_))
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        match &self.engine {
            Kind::Memory(memory) => memory,
            Kind::Sqlite { view, .. } => view,
        }
    }

    /// The wall clock so far from now.
    pub(crate) fn later(&self, delay: Duration) -> SystemTime {
        self.clock.now().saturating_add(delay).to_system()
    }

    /// The wall clock so long ago.
    pub(crate) fn ago(&self, time: Duration) -> SystemTime {
        self.clock.now().saturating_sub(time).to_system()
    }

    /// Waits until there are so many dead letters, and no more.
    pub(crate) async fn dead(&self, count: usize) -> Vec<DeadLetter> {
        let letters = self
            .engine()
            .dead_letters()
            .expect("both engines keep them");
        let query = || DeadQuery {
            limit: 1000,
            ..DeadQuery::default()
        };
        let until = Instant::now() + PATIENCE;
        loop {
            let found = letters.list(query()).await.expect("they can be listed");
            if found.len() == count {
                return found;
            }
            assert!(
                found.len() < count && Instant::now() < until,
                "{count} dead letters were expected, these are there: {found:?}"
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Replays one.
    pub(crate) async fn replay(&self, letter: &DeadLetter) {
        let letters = self
            .engine()
            .dead_letters()
            .expect("both engines keep them");
        let replayed = letters.replay(vec![letter.cursor]).await;
        assert_eq!(replayed.expect("it can be replayed"), 1);
    }
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join("app.db")
}

/// A configuration that is right.
pub(crate) fn config(yaml: &str) -> Config {
    Config::from_yaml(yaml, "app.yaml", &|_| None).unwrap_or_else(|errors| unreachable!("{errors}"))
}

/// Stops an app that has nothing left to do, and sees that it has not.
pub(crate) async fn stop(running: Running) {
    settled(&running).await;
    running
        .stop(Duration::from_secs(10))
        .await
        .expect("it stops cleanly");
}

/// Waits until nothing is in hand.
pub(crate) async fn settled(running: &Running) {
    until("nothing is in hand", || {
        running
            .handlers()
            .iter()
            .all(|handler| handler.in_hand == 0)
    })
    .await;
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// What handlers write down, in order.
#[derive(Clone)]
pub(crate) struct Trail(Arc<watch::Sender<Vec<String>>>);

impl Trail {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }

    pub(crate) fn add(&self, line: impl Display) {
        self.0.send_modify(|lines| lines.push(line.to_string()));
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.sort();
        lines
    }

    /// Waits for so many lines, and answers them.
    pub(crate) async fn reach(&self, count: usize) -> Vec<String> {
        let mut changes = self.0.subscribe();
        let reached = changes.wait_for(|lines| lines.len() >= count);
        match timeout(PATIENCE, reached).await {
            Ok(lines) => lines.expect("the trail is alive").clone(),
            Err(_) => unreachable!("{count} lines were expected, there are {:?}", self.lines()),
        }
    }
}

/// Holds handlers until the test lets them go, one for each permit.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(crate) fn open(&self, count: usize) {
        self.0.add_permits(count);
    }

    pub(crate) async fn pass(&self) {
        self.0.acquire().await.expect("it is never closed").forget();
    }
}

/// Stamps a case for the memory engine with paused time, and for SQLite.
macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[tokio::test(start_paused = true)]
            async fn on_memory() {
                super::$name($crate::stage::Stage::memory()).await;
            }

            #[tokio::test]
            async fn on_sqlite() {
                super::$name($crate::stage::Stage::sqlite().await).await;
            }
        }
    )*};
}
pub(crate) use on_both_engines;
