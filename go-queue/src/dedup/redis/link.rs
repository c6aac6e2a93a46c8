//! The connection of a process to Redis: made when it is first needed, given up at the first doubt, made again with a pause
//! that grows.
//!
//! While Redis is away nobody waits for it: requests are refused at once, without a system call, until the pause is over.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{Dialer, RedisConfig};
use super::fault::RedisFault;

/// The first pause after a failure, and the longest.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Who asks while a connection is made anew asks again after this time.
const SOON: Duration = Duration::from_millis(50);

/// How often the clock of Redis is compared.
const CLOCK_EVERY: Duration = Duration::from_secs(60);

/// A request had no answer.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    /// When to try again.
    pub(super) after: Duration,
    pub(super) fault: RedisFault,
}

/// An answer to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Nil,
    Ok,
    Int(i64),
    Text(Vec<u8>),
    List(Vec<Reply>),
    /// The script has to be sent whole.
    NoScript,
    /// `NX` and `GET` together need Redis 7.
    NoGet,
    /// Any other error.
    Refused(Arc<str>),
}

#[derive(Clone)]
enum Conn {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A connection that worked when last heard of.
#[derive(Clone)]
pub(super) struct Up {
    conn: Conn,
    generation: u64,
    clock: RedisClock,
    ended: CancellationToken,
}

/// The clock of Redis. It follows our monotonic clock, so that no step of a wall clock ends a claim.
#[derive(Clone, Copy, Debug)]
pub(super) struct RedisClock {
    /// What it said, in microseconds.
    said: u64,
    /// When the answer was here.
    at: Instant,
    /// How long before that it may have been read.
    age: Duration,
}

/// What the clock of Redis shows, in milliseconds: it lies between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) earliest: u64,
    pub(super) latest: u64,
}

impl RedisClock {
    pub(super) fn read(self) -> Reading {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let passed = self.at.elapsed();
        Reading {
            earliest: self.said.saturating_add(micros(passed)) / 1000,
            latest: self
                .said
                .saturating_add(micros(passed + self.age))
                .saturating_add(1)
                .div_ceil(1000),
        }
    }
}

impl Up {
    pub(super) fn clock(&self) -> RedisClock {
        self.clock
    }
}

/// Whether a request can be sent now.
pub(super) enum Access {
    Up(Up),
    /// The first connection is being made.
    Wait,
    Down(Outage),
}

enum State {
    /// Nothing was asked yet.
    Idle,
    /// Being made; the pause if it fails, and what was wrong with the one before.
    Dialing(Duration, Option<RedisFault>),
    Up(Up),
    /// The pause to come if it fails again.
    Down(Instant, Duration, RedisFault),
    Closed,
}

/// An outage that lasts is said again so often.
const REMIND: Duration = Duration::from_secs(60);

pub(super) struct Link {
    config: RedisConfig,
    hosts: Arc<str>,
    dialer: Dialer,
    state: Mutex<State>,
    generation: Mutex<u64>,
    changed: watch::Sender<()>,
    /// When it was said last that there is no connection.
    warned: Mutex<Option<Instant>>,
    closed: CancellationToken,
    /// What makes and keeps the connection.
    keepers: TaskTracker,
    /// Last words of ends that are gone.
    pub(super) farewells: TaskTracker,
    /// Whether Redis takes `NX` and `GET` together.
    pub(super) takes_get: AtomicBool,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(config: RedisConfig, dialer: Dialer) -> Arc<Self> {
        Arc::new(Self {
            hosts: Arc::from(config.hosts.join(",")),
            config,
            dialer,
            state: Mutex::new(State::Idle),
            generation: Mutex::new(0),
            changed: watch::channel(()).0,
            warned: Mutex::new(None),
            closed: CancellationToken::new(),
            keepers: TaskTracker::new(),
            farewells: TaskTracker::new(),
            takes_get: AtomicBool::new(true),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request can be sent. Begins to connect if it is time to.
    pub(super) fn access(self: &Arc<Self>) -> Access {
        let mut state = self.lock();
        match &*state {
            State::Up(up) => Access::Up(up.clone()),
            State::Dialing(_, None) => Access::Wait,
            State::Dialing(_, Some(fault)) => Access::Down(Outage {
                after: SOON,
                fault: fault.clone(),
            }),
            State::Closed => Access::Down(Outage {
                after: LONGEST_PAUSE,
                fault: RedisFault::Closed,
            }),
            State::Idle => {
                *state = State::Dialing(PAUSE, None);
                drop(state);
                self.dial();
                Access::Wait
            }
            State::Down(until, pause, fault) => {
                let left = until.saturating_duration_since(Instant::now());
                let after = if left.is_zero() { SOON } else { left };
                let outage = Outage {
                    after,
                    fault: fault.clone(),
                };
                if left.is_zero() {
                    *state = State::Dialing(*pause, Some(fault.clone()));
                    drop(state);
                    self.dial();
                }
                Access::Down(outage)
            }
        }
    }

    /// Waits while the first connection is made.
    pub(super) fn settled(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let link = Arc::clone(self);
        let mut changed = link.changed.subscribe();
        async move {
            loop {
                if !matches!(&*link.lock(), State::Idle | State::Dialing(..)) {
                    return;
                }
                if changed.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    fn dial(self: &Arc<Self>) {
        let link = Arc::clone(self);
        self.keepers.spawn(async move {
            let closed = link.closed.clone();
            tokio::select! {
                () = closed.cancelled() => {}
                () = link.keep() => {}
            }
        });
    }

    /// Makes a connection and follows the clock of Redis until the connection ends.
    async fn keep(self: &Arc<Self>) {
        let made = match timeout(self.config.connect_timeout, self.connect()).await {
            Ok(made) => made,
            Err(_) => Err(RedisFault::Silent {
                hosts: Arc::clone(&self.hosts),
                within: self.config.connect_timeout,
            }),
        };
        let up = match made {
            Ok(up) => up,
            Err(fault) => return self.not_made(fault),
        };
        {
            let mut state = self.lock();
            let State::Dialing(_, before) = &*state else {
                return;
            };
            if before.is_some() {
                tracing::info!(hosts = %self.hosts, "Redis is back");
            }
            *state = State::Up(up.clone());
        }
        let _ = self.changed.send(());
        loop {
            tokio::select! {
                () = up.ended.cancelled() => return,
                () = tokio::time::sleep(CLOCK_EVERY) => {}
            }
            let mut conn = up.conn.clone();
            match timeout(self.config.timeout, self.clock(&mut conn)).await {
                Ok(Ok(clock)) => {
                    if let State::Up(now) = &mut *self.lock()
                        && now.generation == up.generation
                    {
                        now.clock = clock;
                    }
                }
                Ok(Err(fault)) => return self.fail(up.generation, fault),
                Err(_) => return self.fail(up.generation, self.silent()),
            }
        }
    }

    async fn connect(&self) -> Result<Up, RedisFault> {
        // The time-outs are ours: one timer for each request instead of two.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let failed = |error: RedisError| self.fault(&error);
        let mut conn = match &self.dialer {
            Dialer::Node(client) => Conn::Node(
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await
                    .map_err(failed)?,
            ),
            Dialer::Cluster(client) => {
                Conn::Cluster(client.get_async_connection().await.map_err(failed)?)
            }
            Dialer::Sentinel(client) => Conn::Node(
                client
                    .lock()
                    .await
                    .get_async_connection_with_config(&config)
                    .await
                    .map_err(failed)?,
            ),
        };
        let clock = self.clock(&mut conn).await?;
        let mut generation = self
            .generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *generation += 1;
        Ok(Up {
            conn,
            generation: *generation,
            clock,
            ended: CancellationToken::new(),
        })
    }

    /// Reads the clock of Redis. When in the exchange it was read is not known, so a reading is two: who waits for a time goes by the
    /// earliest, who sets one by the latest. Nothing starts early, and no lease of others is thought to have ended that has not.
    async fn clock(&self, conn: &mut Conn) -> Result<RedisClock, RedisFault> {
        let command = redis::cmd("TIME");
        let asked = Instant::now();
        let answer = match conn {
            Conn::Node(conn) => conn.req_packed_command(&command).await,
            Conn::Cluster(conn) => conn.req_packed_command(&command).await,
        };
        let at = Instant::now();
        let (seconds, micros): (u64, u64) = answer
            .and_then(|value| Ok(redis::from_redis_value(value.extract_error()?)?))
            .map_err(|error| self.fault(&error))?;
        Ok(RedisClock {
            said: seconds.saturating_mul(1_000_000).saturating_add(micros),
            at,
            age: at.saturating_duration_since(asked),
        })
    }

    fn not_made(&self, fault: RedisFault) {
        let mut state = self.lock();
        let State::Dialing(pause, before) = &*state else {
            return;
        };
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let is_long_ago = warned.is_none_or(|at: Instant| at.elapsed() >= REMIND);
        if before.as_ref() != Some(&fault) || is_long_ago {
            *warned = Some(Instant::now());
            tracing::warn!(%fault, "no claims on Redis: tasks wait, but those with `dedup.on_outage: run`");
        }
        drop(warned);
        let jitter = fastrand::f64() * 0.25 + 0.875;
        *state = State::Down(
            Instant::now() + pause.mul_f64(jitter),
            (*pause * 2).min(LONGEST_PAUSE),
            fault,
        );
        drop(state);
        let _ = self.changed.send(());
    }

    /// Gives up a connection.
    fn fail(&self, generation: u64, fault: RedisFault) {
        let mut state = self.lock();
        let State::Up(up) = &*state else { return };
        if up.generation != generation {
            return;
        }
        up.ended.cancel();
        tracing::warn!(%fault, "the connection to Redis is given up");
        // One that was cut may be made again at once; one that was silent will be silent again.
        let wait = match fault {
            RedisFault::Silent { .. } => PAUSE,
            _ => Duration::ZERO,
        };
        *state = State::Down(Instant::now() + wait, PAUSE, fault);
        drop(state);
        let _ = self.changed.send(());
    }

    fn silent(&self) -> RedisFault {
        RedisFault::Silent {
            hosts: Arc::clone(&self.hosts),
            within: self.config.timeout,
        }
    }

    fn fault(&self, error: &RedisError) -> RedisFault {
        let hosts = Arc::clone(&self.hosts);
        let why: Arc<str> = self.config.redact(&error.to_string()).into();
        let code = error.code().unwrap_or_default();
        if error.kind() == ErrorKind::AuthenticationFailed
            || ["NOAUTH", "WRONGPASS", "NOPERM"].contains(&code)
        {
            RedisFault::Refused { hosts, why }
        } else if error.is_timeout() {
            self.silent()
        } else if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) {
            RedisFault::Answered { hosts, why }
        } else {
            RedisFault::Unreachable { hosts, why }
        }
    }

    /// Sends commands as one request. What fails here may have been done by Redis.
    pub(super) fn send(
        self: &Arc<Self>,
        mut up: Up,
        pipeline: Pipeline,
    ) -> impl Future<Output = Result<Vec<Reply>, Outage>> + Send + 'static {
        let link = Arc::clone(self);
        async move {
            let exchange = up.exchange(&pipeline);
            let fault = match timeout(link.config.timeout, exchange).await {
                Ok(Ok(values)) => return Ok(link.read(&up, values)),
                Ok(Err(error)) => link.fault(&error),
                Err(_) => link.silent(),
            };
            link.fail(up.generation, fault.clone());
            Err(Outage { after: SOON, fault })
        }
    }

    /// The same for who can wait for a connection.
    pub(super) async fn request(
        self: &Arc<Self>,
        build: impl FnOnce(Reading) -> Pipeline + Send,
    ) -> Result<Vec<Reply>, Outage> {
        loop {
            match self.access() {
                Access::Up(up) => {
                    let pipeline = build(up.clock.read());
                    return self.send(up, pipeline).await;
                }
                Access::Wait => self.settled().await,
                Access::Down(outage) => return Err(outage),
            }
        }
    }

    fn read(&self, up: &Up, values: Vec<Value>) -> Vec<Reply> {
        let mut moved = None;
        let replies = values
            .into_iter()
            .map(|value| self.reply(value, &mut moved))
            .collect();
        if let Some(fault) = moved {
            self.fail(up.generation, fault);
        }
        replies
    }

    fn reply(&self, value: Value, moved: &mut Option<RedisFault>) -> Reply {
        match value {
            Value::Nil => Reply::Nil,
            Value::Okay => Reply::Ok,
            Value::Int(number) => Reply::Int(number),
            Value::BulkString(text) => Reply::Text(text),
            Value::SimpleString(text) => Reply::Text(text.into_bytes()),
            Value::Array(values) => Reply::List(
                values
                    .into_iter()
                    .map(|value| self.reply(value, moved))
                    .collect(),
            ),
            Value::ServerError(error) => {
                let details = error.details().unwrap_or_default();
                match error.kind() {
                    Some(ServerErrorKind::NoScript) => return Reply::NoScript,
                    Some(ServerErrorKind::ResponseError) if details == "syntax error" => {
                        return Reply::NoGet;
                    }
                    _ => {}
                }
                let why: Arc<str> = self
                    .config
                    .redact(&format!("{} {details}", error.code()))
                    .into();
                // A server that is not the one to talk to any more.
                let codes = ["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH"];
                if codes.contains(&error.code()) {
                    *moved = Some(RedisFault::Answered {
                        hosts: Arc::clone(&self.hosts),
                        why: Arc::clone(&why),
                    });
                }
                Reply::Refused(why)
            }
            _ => Reply::Refused(Arc::from("an answer of a kind that was not asked for")),
        }
    }

    pub(super) fn no_get(&self) {
        if self.takes_get.swap(false, Ordering::Relaxed) {
            tracing::info!(hosts = %self.hosts, "Redis is older than 7.0: claims go through a script");
        }
    }

    /// What is wrong now, if anything. Makes a connection if there is none.
    pub(super) async fn check(self: &Arc<Self>) -> Result<(), RedisFault> {
        let ping = |_| {
            let mut pipeline = Pipeline::new();
            pipeline.cmd("PING");
            pipeline
        };
        match self.request(ping).await {
            Ok(replies) => match replies.into_iter().next() {
                Some(Reply::Refused(why)) => Err(RedisFault::Answered {
                    hosts: Arc::clone(&self.hosts),
                    why,
                }),
                _ => Ok(()),
            },
            Err(outage) => Err(outage.fault),
        }
    }

    /// Waits for the last words of ends that are gone, at most so long, and ends. Answers whether all were said.
    pub(super) async fn close(&self, within: Duration) -> bool {
        self.farewells.close();
        let said = timeout(within, self.farewells.wait()).await.is_ok();
        self.end();
        self.keepers.close();
        self.keepers.wait().await;
        said
    }

    /// Gives up the connection for good.
    pub(super) fn end(&self) {
        self.closed.cancel();
        *self.lock() = State::Closed;
        let _ = self.changed.send(());
    }
}

impl Up {
    async fn exchange(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        match &mut self.conn {
            Conn::Node(conn) => conn.req_packed_commands(pipeline, 0, pipeline.len()).await,
            Conn::Cluster(conn) => {
                // Keys lie on different nodes: the client routes each command, and pipelines by node.
                let sent: Vec<_> = pipeline
                    .cmd_iter()
                    .map(|command| {
                        let mut conn = conn.clone();
                        Box::pin(async move { conn.req_packed_command(command).await })
                    })
                    .collect();
                let mut values = Vec::with_capacity(sent.len());
                for answer in join(sent).await {
                    values.push(match answer {
                        Ok(value) => value,
                        Err(error) => as_value(error)?,
                    });
                }
                Ok(values)
            }
        }
    }
}

/// All of them at once, answers in order.
async fn join<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut answers: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut ready = true;
        for (future, answer) in futures.iter_mut().zip(&mut answers) {
            if answer.is_none() {
                match Pin::new(future).poll(cx) {
                    Poll::Ready(output) => *answer = Some(output),
                    Poll::Pending => ready = false,
                }
            }
        }
        if ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}

/// What the server said to one command is an answer, what happened on the way is an error.
fn as_value(error: RedisError) -> Result<Value, RedisError> {
    match error.clone().into_server_errors().as_deref() {
        Some([(_, said), ..]) => Ok(Value::ServerError(said.clone())),
        _ => Err(error),
    }
}
