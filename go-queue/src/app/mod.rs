//! The app: configuration and handlers become running subscriptions.
//!
//! ```no_run
//! use go_queue::app::{App, Exit};
//!
//! #[tokio::main]
//! async fn main() -> Exit {
//!     App::new().run().await.into()
//! }
//! ```

mod command;
mod plan;
mod report;
mod running;
mod signals;
mod switch;
mod table;
mod terminal;
mod watch;
mod wiring;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, ConfigError, ConfigErrors, LoadFrom};
use crate::engine::{BoxFuture, Engine};
use crate::handler::{Env, Registry};
use crate::middleware::Middleware;
use crate::name::Side;
use crate::outcome::BoxError;
use crate::producer::Producer;
use crate::time::Clock;

pub use report::{AppError, Exit, Problem};
pub use running::{HandlerStatus, Running};

use command::Command;
use plan::AppPlan;
use running::StopHook;
use signals::Signals;

type StartHook = Box<dyn FnOnce(Producer) -> BoxFuture<'static, Result<(), BoxError>> + Send>;

/// A worker: handlers, their state, and the configuration. Nothing happens before [`App::run`] or [`App::start`].
#[must_use = "nothing runs until `.run().await`"]
pub struct App {
    config: ConfigSource,
    set: Vec<String>,
    registry: Option<Registry>,
    env: Env,
    doubled: Vec<&'static str>,
    middleware: Vec<Arc<dyn Middleware>>,
    engines: Vec<(Side, Arc<dyn Engine>)>,
    start_hooks: Vec<StartHook>,
    stop_hooks: Vec<StopHook>,
    clock: Clock,
}

/// Where the configuration of an [`App`] comes from.
#[derive(Debug, Default)]
pub enum ConfigSource {
    /// `-f`, `GO_QUEUE_CONFIG`, or `config.yaml` if it is there.
    #[default]
    Found,
    /// This file.
    File(PathBuf),
    /// As it is.
    Given(Box<Config>),
}

impl From<&str> for ConfigSource {
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

impl From<PathBuf> for ConfigSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<Config> for ConfigSource {
    fn from(config: Config) -> Self {
        Self::Given(Box::new(config))
    }
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("registry", &self.registry)
            .field("state", &self.env)
            .field("middleware", &self.middleware.len())
            .finish_non_exhaustive()
    }
}

impl App {
    /// All handlers of all linked crates, with the configuration that is found.
    pub fn new() -> Self {
        Self {
            config: ConfigSource::Found,
            set: Vec::new(),
            registry: None,
            env: Env::new(),
            doubled: Vec::new(),
            middleware: Vec::new(),
            engines: Vec::new(),
            start_hooks: Vec::new(),
            stop_hooks: Vec::new(),
            clock: Clock::system(),
        }
    }

    /// Another configuration: a path, or a [`Config`]. `-f` on the command line still wins over a path.
    pub fn config(mut self, from: impl Into<ConfigSource>) -> Self {
        self.config = from.into();
        self
    }

    /// A value for handlers that take `State<T>`. One of each type.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        if self.env.insert(value) {
            self.doubled.push(std::any::type_name::<T>());
        }
        self
    }

    /// These handlers and no others: `.handlers(handlers![charge, remind])`.
    pub fn handlers(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Runs around every handler; the first is the outermost.
    pub fn middleware(mut self, layer: impl Middleware) -> Self {
        self.middleware.push(Arc::new(layer));
        self
    }

    /// Another engine for this side, whatever the configuration says.
    pub fn engine(mut self, side: Side, engine: impl Engine + 'static) -> Self {
        self.engines.retain(|(other, _)| *other != side);
        self.engines.push((side, Arc::new(engine)));
        self
    }

    /// Another wall clock: for tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Runs when the engines are connected and the handlers are served. If it fails the app stops.
    pub fn on_start<F, Fut, E>(mut self, hook: F) -> Self
    where
        F: FnOnce(Producer) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.start_hooks.push(Box::new(move |producer| {
            let work = hook(producer);
            Box::pin(async move { work.await.map_err(Into::into) })
        }));
        self
    }

    /// Runs after the last message was settled and the engines are closed.
    pub fn on_stop<F, Fut>(mut self, hook: F) -> Self
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.stop_hooks.push(Box::new(move || Box::pin(hook())));
        self
    }

    /// The whole program: answers the command line (`run`, `check`, `handlers`, `send`, `completions`; `--help` lists them), logs to standard
    /// error unless a `tracing` subscriber is set, runs until SIGTERM or SIGINT, and stops in order. A second signal
    /// stops at once.
    ///
    /// # Errors
    /// See [`AppError`]; [`Exit`] turns it into an exit code.
    ///
    /// # Cancel safety
    /// Dropping the future ends handlers where they stand; the engines redeliver what they had.
    pub async fn run(self) -> Result<(), AppError> {
        self.run_command(std::env::args_os().collect()).await
    }

    /// As [`App::run`], with these arguments, of which the first is the program's name.
    ///
    /// # Errors
    /// As [`App::run`].
    ///
    /// # Cancel safety
    /// As [`App::run`].
    pub async fn run_command(mut self, args: Vec<std::ffi::OsString>) -> Result<(), AppError> {
        let arguments = match command::parse(args) {
            Ok(Some(arguments)) => arguments,
            Ok(None) => return Ok(()),
            Err(problem) => return Err(AppError::Usage(problem)),
        };
        if let Some(file) = arguments.file {
            self.config = ConfigSource::File(file);
        }
        self.set = arguments.set;
        match arguments.command {
            Command::Run { until_idle } => Box::pin(self.run_worker(until_idle)).await,
            Command::Check { schema: true } => {
                terminal::line(&crate::config::json_schema());
                Ok(())
            }
            Command::Completions { shell, program } => {
                let registry = self.registry.unwrap_or_else(Registry::global);
                command::completions(shell, &program, &registry);
                Ok(())
            }
            Command::Check { schema: false } => {
                let planned = self.plan()?;
                terminal::line(&table::render(&planned.plan));
                for remark in planned.plan.remark_lines() {
                    terminal::line(&remark);
                }
                terminal::line("The configuration and the handlers fit together.");
                Ok(())
            }
            Command::Handlers { json } => {
                let planned = self.plan()?;
                terminal::line(&if json {
                    table::json(&planned.plan)
                } else {
                    table::render(&planned.plan)
                });
                Ok(())
            }
            Command::Send(send) => Box::pin(command::send(self.plan()?, send)).await,
        }
    }

    async fn run_worker(self, until_idle: Option<Duration>) -> Result<(), AppError> {
        let planned = self.plan_after_logging()?;
        let mut signals = Signals::listen()
            .map_err(|error| AppError::failed("signals cannot be listened to", error))?;
        let deadline = planned.plan.shutdown_deadline();
        let (mut running, hooks) = tokio::select! {
            opened = planned.open() => opened?,
            // Nothing is served before everything is open, so there is nothing to drain.
            signal = signals.next() => {
                tracing::info!(signal, "stopped while starting");
                return Ok(());
            }
        };
        // Messages already run while the start hooks do, so every way out from here is a stop in order.
        let started = tokio::select! {
            started = hooks.run() => started.map(|()| true),
            signal = signals.next() => {
                tracing::info!(signal, ?deadline, "stopping while starting; a second signal stops at once");
                Ok(false)
            }
        };
        if matches!(started, Ok(true)) {
            serve_until_told(&mut running, &mut signals, until_idle, deadline).await;
        }
        let give_back = signals.give_back();
        let hurry = async move {
            let signal = signals.next().await;
            tracing::warn!(signal, "second signal: handing back what runs");
        };
        let result = running.shut_down(deadline, hurry).await;
        if running.is_stuck() {
            give_back.now();
        }
        tracing::info!("stopped");
        started.and(result)
    }

    /// Runs until this future ends, then stops in order within the configured deadline. For programs with a command line and
    /// signals of their own.
    ///
    /// # Errors
    /// As [`App::run`].
    ///
    /// # Cancel safety
    /// As [`App::run`].
    pub async fn run_until(self, until: impl Future<Output = ()>) -> Result<(), AppError> {
        let planned = self.plan()?;
        let deadline = planned.plan.shutdown_deadline();
        let mut running = Box::pin(planned.start()).await?;
        tokio::select! {
            () = until => {}
            () = running.failed() => {}
        }
        running.shut_down(deadline, std::future::pending()).await
    }

    /// Starts and returns as soon as the engines are open and the lanes go; [`Running::ready`] says when all of them are served.
    /// Installs neither signal handlers nor a `tracing` subscriber.
    ///
    /// # Errors
    /// [`AppError::Setup`] with every problem of the set-up, [`AppError::Failed`] if an engine cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future starts nothing that stays.
    pub async fn start(self) -> Result<Running, AppError> {
        Box::pin(self.plan()?.start()).await
    }

    /// Checks everything that can be checked without a connection.
    ///
    /// # Errors
    /// [`AppError::Setup`] with every problem of the set-up.
    pub fn check(self) -> Result<(), AppError> {
        self.plan().map(drop)
    }

    fn plan_after_logging(mut self) -> Result<Planned, AppError> {
        let config = self.load()?;
        terminal::log(&config.log);
        self.config = ConfigSource::Given(Box::new(config));
        self.plan()
    }

    fn load(&mut self) -> Result<Config, AppError> {
        let (config, problems) = self.load_all();
        ConfigErrors::check(config, problems).map_err(|errors| AppError::Setup(told(&errors)))
    }

    fn load_all(&mut self) -> (Config, Vec<ConfigError>) {
        let from = match std::mem::take(&mut self.config) {
            ConfigSource::Given(config) => return (*config, Vec::new()),
            ConfigSource::File(path) => LoadFrom {
                file: Some(path),
                set: std::mem::take(&mut self.set),
            },
            ConfigSource::Found => LoadFrom {
                file: None,
                set: std::mem::take(&mut self.set),
            },
        };
        Config::load_all(&from)
    }

    fn plan(mut self) -> Result<Planned, AppError> {
        let (config, mut wrong) = self.load_all();
        let producer = Producer::unconnected(self.clock.clone());
        self.env.insert(producer.clone());
        let registry = self.registry.take().unwrap_or_else(Registry::global);
        if !wrong.is_empty() {
            // The rest of a plan would follow from what was not read; the names of handlers do not.
            wrong.extend(plan::unknown_handlers(&config, &registry));
        }
        let config =
            ConfigErrors::check(config, wrong).map_err(|errors| AppError::Setup(told(&errors)))?;
        let mut problems: Vec<Problem> = self
            .doubled
            .drain(..)
            .map(|name| {
                Problem::new(format!("the app was given two states of type `{name}`"))
                    .remedy("wrap one of them in a type of its own")
            })
            .collect();
        let plan = AppPlan::new(
            config,
            &registry,
            &self.env,
            &self.middleware,
            &self.engines,
            &mut problems,
        );
        match plan {
            Some(plan) if problems.is_empty() => Ok(Planned {
                plan,
                app: self,
                producer,
            }),
            _ => Err(AppError::Setup(problems)),
        }
    }
}

/// The problems of a file as those of a start.
fn told(errors: &ConfigErrors) -> Vec<Problem> {
    errors
        .iter()
        .map(|error| Problem::new(error.to_string()))
        .collect()
}

/// Returns when a signal comes, something fails for good, or nothing is left to do.
async fn serve_until_told(
    running: &mut Running,
    signals: &mut Signals,
    until_idle: Option<Duration>,
    deadline: Duration,
) {
    let idle = until_idle.map(|horizon| running.idle(horizon));
    let idle = async {
        match idle {
            Some(idle) => idle.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        signal = signals.next() => tracing::info!(signal, ?deadline, "stopping: no new messages, finishing what runs; a second signal stops at once"),
        () = running.failed() => {}
        () = idle => tracing::info!("nothing left to do, stopping"),
    }
}

/// What the program does when its handlers are served.
struct Hooks {
    hooks: Vec<StartHook>,
    producer: Producer,
}

impl Hooks {
    async fn run(self) -> Result<(), AppError> {
        for hook in self.hooks {
            hook(self.producer.clone())
                .await
                .map_err(|error| AppError::failed("a start hook failed", error))?;
        }
        Ok(())
    }
}

/// An app whose set-up is right.
pub(super) struct Planned {
    plan: AppPlan,
    app: App,
    producer: Producer,
}

impl Planned {
    async fn start(self) -> Result<Running, AppError> {
        let deadline = self.plan.shutdown_deadline();
        let (mut running, hooks) = self.open().await?;
        if let Err(error) = hooks.run().await {
            let _ = running.shut_down(deadline, std::future::pending()).await;
            return Err(error);
        }
        Ok(running)
    }

    /// Opens the engines, then serves. The start hooks are still to run.
    async fn open(self) -> Result<(Running, Hooks), AppError> {
        let Self {
            plan,
            app,
            producer,
        } = self;
        plan.say_remarks();
        let mut engines = wiring::Engines::new(app.clock.clone(), app.engines);
        let result = wiring::open(&mut engines, &plan, &producer).await;
        let mut running = Running::new(
            producer.clone(),
            engines.opened(),
            app.clock,
            app.stop_hooks,
        );
        let pumps = match result {
            Ok(pumps) => pumps,
            Err(error) => {
                // What was opened is closed again; the first error is the one to tell.
                let _ = running
                    .shut_down(Duration::ZERO, std::future::pending())
                    .await;
                return Err(error);
            }
        };
        let control = running.control();
        for (subscription, ends) in plan.subscriptions.iter().zip(pumps) {
            let pumps = ends
                .into_iter()
                .map(|end| end.pump(control.clone()))
                .collect();
            running.serve(
                subscription.about.handler.clone(),
                subscription.about.source.clone(),
                pumps,
            );
        }
        table::log(&plan);
        let hooks = Hooks {
            hooks: app.start_hooks,
            producer,
        };
        Ok((running, hooks))
    }
}

impl Producer {
    /// A producer for a service that only sends, connected as this configuration file says.
    ///
    /// # Errors
    /// [`AppError::Setup`] if the configuration is wrong, [`AppError::Failed`] if an engine cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing open.
    pub async fn open(config: impl Into<ConfigSource>) -> Result<Self, AppError> {
        let mut app = App::new().config(config);
        let config = app.load()?;
        wiring::producer(config, app.clock).await
    }
}
