//! The task that serves one node: it owns the connection, and connects anew whenever that is lost.
//!
//! Everything that waits is encoded and leaves with one write; answers come in the order of the commands, and all that one read
//! brought are dealt out together. A node that misses a deadline is cut off: what it was asked is unknown, and nobody waits
//! longer for it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::codec::{Answer, Command, DecodeError, EncodeError, stat};
use super::copies::{Copies, Job, PutOutcome, Refusal};
use super::link::{Link, LinkError, Tubes};
use super::node::{AskError, DRAINING, FULL, Node, Reply, Work};
use crate::message::go_queue;
use crate::name::Name;
use crate::time::{Clock, WallTime};

/// So many answers may be outstanding: more would only wait at the node, where nobody can take them back.
const WINDOW: usize = 1024;

/// So many bytes are encoded ahead of the socket: what waits in the queue has no deadline yet, and can still go to another node.
const BURST: usize = 256 << 10;

/// The longest body in an answer: the server's own limit can be raised, and what it shows must still fit.
const MAX_BODY: usize = 64 << 20;

/// The first pause before connecting anew; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause. With the bound of connecting, a node that comes back is in use within two seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that held so long was a good one: the next pause is the first again.
const GOOD: Duration = Duration::from_secs(1);

/// What the driver needs of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) deadline: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) clock: Clock,
}

/// Serves a node until the engine closes.
pub(super) async fn run(node: Node, settings: Settings) {
    let mut pause = FIRST_PAUSE;
    while !node.is_closing() {
        let dialled = Link::dial(
            node.endpoint().clone(),
            Tubes::default(),
            settings.connect_timeout,
            MAX_BODY,
        );
        let dialled = tokio::select! {
            dialled = dialled => dialled,
            () = closing(&node) => break,
        };
        match dialled {
            Err(error) => {
                if matches!(error, LinkError::NotInTime { .. }) {
                    node.had_no_answer();
                }
                away(&node, &Arc::from(error.to_string()));
            }
            Ok(link) => {
                tracing::info!(node = %node.endpoint(), "connected to a beanstalkd node");
                node.up();
                let began = Instant::now();
                let mut driver = Driver::new(node.clone(), link, settings.clone());
                let Err(why) = poll_fn(|cx| driver.poll(cx)).await else {
                    break;
                };
                // Callers that hear of it choose other nodes.
                away(&node, &why);
                driver.abandon(&why);
                if began.elapsed() >= GOOD {
                    pause = FIRST_PAUSE;
                }
            }
        }
        // Many processes lose a node at the same moment; they must not come back at the same moment.
        let jittered = pause.mul_f64(0.5 + 0.5 * fastrand::f64());
        pause = (pause * 2).min(LONGEST_PAUSE);
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            () = closing(&node) => {}
        }
    }
    node.over();
}

async fn closing(node: &Node) {
    loop {
        let changed = node.changed().notified();
        if node.is_closing() {
            return;
        }
        changed.await;
    }
}

/// Notes that there is no connection; says so once for each outage.
fn away(node: &Node, why: &Arc<str>) {
    let first = !node.was_tried();
    if node.down(why) || first {
        tracing::warn!(node = %node.endpoint(), %why, "a beanstalkd node is away; connecting anew");
    }
}

/// Whose the next answers are.
enum Run {
    /// What the node is like.
    Greeting,
    /// The tube in use was changed.
    Use,
    /// A job that must not stay is removed.
    Discard,
    /// Jobs of a slice, in order.
    Put {
        copies: Arc<Copies>,
        next: u32,
        to: u32,
    },
    /// One answer for somebody.
    Ask(Reply),
}

/// One connection at work.
struct Driver {
    node: Node,
    link: Link<()>,
    settings: Settings,
    /// Taken from the inbox, not encoded yet.
    queue: VecDeque<Work>,
    /// Changes places with the buffer of the inbox.
    fresh: Vec<Work>,
    /// Encoded, not answered yet.
    runs: VecDeque<Run>,
    /// When how many of the next answers must be here.
    due: VecDeque<(Instant, usize)>,
    sleep: Pin<Box<Sleep>>,
    /// `sleep` is set to the first deadline, or an earlier one.
    armed: bool,
    /// The tube in use.
    used: Option<Name>,
    /// What the node said of the jobs of the first run.
    said: Vec<(u32, PutOutcome)>,
    /// Work is waiting, and the other tasks have had a turn to add to it.
    gathered: bool,
    life: Life,
}

/// How far the end of the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Work is taken.
    Open,
    /// The engine closes: what was taken is done first.
    Closing,
    /// This half of the connection is being closed.
    Leaving,
}

impl Driver {
    fn new(node: Node, link: Link<()>, settings: Settings) -> Self {
        let mut driver = Self {
            node,
            link,
            queue: VecDeque::new(),
            fresh: Vec::new(),
            runs: VecDeque::new(),
            due: VecDeque::new(),
            sleep: Box::pin(tokio::time::sleep(settings.deadline)),
            armed: false,
            used: None,
            said: Vec::new(),
            gathered: false,
            life: Life::Open,
            settings,
        };
        // A command without parameters is always valid.
        let _ = driver.push(&Command::Stats, || Run::Greeting);
        driver.promise(1);
        driver
    }

    fn push(
        &mut self,
        command: &Command<'_>,
        run: impl FnOnce() -> Run,
    ) -> Result<(), EncodeError> {
        self.link.push(command, ())?;
        self.runs.push_back(run());
        Ok(())
    }

    /// So many more answers must be here at the deadline from now.
    fn promise(&mut self, n: usize) {
        if n > 0 {
            self.due
                .push_back((Instant::now() + self.settings.deadline, n));
        }
    }

    /// `Ready(Ok)`: the engine was closed and everything is done. `Ready(Err)`: the connection is over, and why.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Arc<str>>> {
        match self.step(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(Arc::from(error))),
        }
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        self.read(cx)?;
        if self.life == Life::Open {
            if !self.gathered && self.node.has_work(cx.waker()) {
                // Whoever is ready to run may have more for the same write: the callers that the answers above have woken, for
                // example. This task goes to the end of the queue and is back when they have had their turn.
                self.gathered = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.gathered = false;
            if let Some(closing) = self.node.take(&mut self.fresh, cx.waker()) {
                if closing {
                    self.life = Life::Closing;
                }
                self.queue.extend(self.fresh.drain(..));
            }
        }
        loop {
            let more = !self.link.has_unwritten() && self.encode();
            if let Poll::Ready(Err(error)) = self.link.poll_flush(cx) {
                return Poll::Ready(Err(error.to_string()));
            }
            if !more || self.link.has_unwritten() {
                break;
            }
        }
        self.refuse_what_waits_too_long();
        if self.life != Life::Open && self.queue.is_empty() && self.runs.is_empty() {
            return self.leave(cx);
        }
        if self.watch(cx) {
            let within = self.settings.deadline;
            return Poll::Ready(Err(format!("no answer within {within:?}")));
        }
        Poll::Pending
    }

    /// Deals out every answer that is here.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        let ended = loop {
            match self.link.poll_answer(cx) {
                Poll::Pending => break Ok(()),
                Poll::Ready(Ok(((), answer))) => {
                    if let Err(error) = self.settle(answer) {
                        break Err(error.to_string());
                    }
                }
                // While closing, the node closes its half when it has answered everything.
                Poll::Ready(Err(LinkError::Closed))
                    if self.life != Life::Open && self.runs.is_empty() =>
                {
                    break Ok(());
                }
                Poll::Ready(Err(error)) => break Err(error.to_string()),
            }
        };
        self.report();
        ended
    }

    /// Tells a slice what the node has said of its jobs.
    fn report(&mut self) {
        if let (false, Some(Run::Put { copies, .. })) = (self.said.is_empty(), self.runs.front()) {
            copies.report(self.node.index(), self.said.drain(..));
        }
    }

    fn settle(&mut self, answer: Answer) -> Result<(), LinkError> {
        if let Some((_, n)) = self.due.front_mut() {
            *n -= 1;
            if *n == 0 {
                self.due.pop_front();
            }
        }
        self.learn(&answer);
        let done = match self.runs.front_mut() {
            Some(Run::Put { next, to, .. }) => {
                let job = *next;
                *next += 1;
                let last = next == to;
                let outcome = self.outcome(&answer)?;
                self.said.push((job, outcome));
                if last {
                    self.report();
                }
                last
            }
            _ => true,
        };
        if !done {
            return Ok(());
        }
        match (self.runs.pop_front(), answer) {
            (Some(Run::Ask(reply)), answer) => {
                // Whoever asked may have gone.
                let _ = reply.send(Ok(answer));
            }
            (Some(Run::Greeting), Answer::Stats(text)) => {
                if let Some(bytes) = stat(&text, "max-job-size").and_then(|n| n.parse().ok()) {
                    self.node.set_max_job(bytes);
                }
                if stat(&text, "draining") == Some("true") {
                    self.node.close_for_writes(DRAINING);
                }
            }
            // The puts that follow it would go to another tube.
            (Some(Run::Use), Answer::OutOfMemory) => {
                self.node.close_for_writes(FULL);
                return Err(wrong("OUT_OF_MEMORY"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes notice of what an answer says about the node itself.
    fn learn(&mut self, answer: &Answer) {
        match answer {
            Answer::Draining => self.node.close_for_writes(DRAINING),
            Answer::OutOfMemory | Answer::PutBuried(_) => self.node.close_for_writes(FULL),
            _ => {}
        }
    }

    fn outcome(&mut self, answer: &Answer) -> Result<PutOutcome, LinkError> {
        Ok(match *answer {
            Answer::Inserted(id) => PutOutcome::Stored(id),
            Answer::PutBuried(id) => {
                // It is there, but nobody would run it.
                self.push(&Command::Delete(id), || Run::Discard)?;
                self.promise(1);
                PutOutcome::Refused(Refusal::Full)
            }
            Answer::Draining => PutOutcome::Refused(Refusal::Draining),
            Answer::OutOfMemory => PutOutcome::Refused(Refusal::Full),
            Answer::JobTooBig => PutOutcome::Refused(Refusal::TooBig),
            _ => return Err(wrong("an answer to another command")),
        })
    }

    /// Encodes what waits, as far as the window goes. Whether it stopped for the socket's sake.
    fn encode(&mut self) -> bool {
        if self.queue.is_empty() {
            return false;
        }
        let now = self.settings.clock.now();
        let before = self.link.outstanding();
        let mut bytes = 0;
        while self.link.outstanding() < WINDOW && bytes < BURST {
            match self.queue.pop_front() {
                None => break,
                Some(Work::Ask { ask, reply, .. }) => self.encode_ask(&ask, reply),
                Some(Work::Put {
                    copies,
                    from,
                    to,
                    since,
                }) => {
                    let room = u32::try_from(WINDOW - self.link.outstanding()).unwrap_or(u32::MAX);
                    let most = to.min(from.saturating_add(room));
                    let mut until = from;
                    while until < most && bytes < BURST {
                        bytes += copies.jobs()[until as usize].body.len();
                        until += 1;
                    }
                    if until < to {
                        self.queue.push_front(Work::Put {
                            copies: copies.clone(),
                            from: until,
                            to,
                            since,
                        });
                    }
                    self.encode_puts(copies, from, until, now);
                }
            }
        }
        self.promise(self.link.outstanding() - before);
        bytes >= BURST
    }

    fn encode_puts(&mut self, copies: Arc<Copies>, from: u32, to: u32, now: WallTime) {
        let mut begin = from;
        for at in from..to {
            let job = &copies.jobs()[at as usize];
            let changes = self.used.as_ref() != Some(&job.tube);
            if changes {
                // The answers of the jobs before come before that of the change.
                self.run_of(&copies, begin, at);
                begin = at;
            }
            if self.encode_put(job, changes, now).is_err() {
                self.run_of(&copies, begin, at);
                begin = at + 1;
                let refused = PutOutcome::Refused(Refusal::TooBig);
                copies.report(self.node.index(), [(at, refused)]);
            }
        }
        if begin < to {
            self.runs.push_back(Run::Put {
                copies,
                next: begin,
                to,
            });
        }
    }

    fn run_of(&mut self, copies: &Arc<Copies>, next: u32, to: u32) {
        if next < to {
            self.runs.push_back(Run::Put {
                copies: copies.clone(),
                next,
                to,
            });
        }
    }

    fn encode_put(&mut self, job: &Job, changes: bool, now: WallTime) -> Result<(), EncodeError> {
        if changes {
            self.push(&Command::Use(&job.tube), || Run::Use)?;
            self.used = Some(job.tube.clone());
        }
        let command = Command::Put {
            priority: job.priority,
            delay: delay(job, now),
            ttr: job.ttr,
            body: &[&job.body],
            limit: self.node.max_job(),
        };
        self.link.push(&command, ())
    }

    fn encode_ask(&mut self, ask: &super::node::Ask, reply: Reply) {
        let pushed = match ask.used() {
            Some(tube) if self.used.as_ref() != Some(tube) => self
                .push(&Command::Use(tube), || Run::Use)
                .map(|()| self.used = Some(tube.clone())),
            _ => Ok(()),
        };
        let limit = self.node.max_job();
        let pushed =
            pushed.and_then(|()| ask.with_command(limit, |command| self.link.push(command, ())));
        match pushed {
            Ok(()) => self.runs.push_back(Run::Ask(reply)),
            Err(error) => {
                let _ = reply.send(Err(error.into()));
            }
        }
    }

    /// What could not be written in the time in which it should have been answered goes back: another node is faster.
    fn refuse_what_waits_too_long(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(Work::Put { since, .. } | Work::Ask { since, .. }) = self.queue.front()
            && now.saturating_duration_since(*since) > self.settings.deadline
            && let Some(work) = self.queue.pop_front()
        {
            self.node.refuse(work);
        }
    }

    /// Whether the next answer should be here and is not. One timer, set anew about once in a deadline.
    fn watch(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let Some(&(due, _)) = self.due.front() else {
                return false;
            };
            if !self.armed {
                self.sleep.as_mut().reset(due);
                self.armed = true;
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.armed = false;
            if due <= Instant::now() {
                return true;
            }
        }
    }

    /// Everything is done: this half is closed, and the node closes the other.
    fn leave(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        if self.life != Life::Leaving {
            self.life = Life::Leaving;
            self.sleep
                .as_mut()
                .reset(Instant::now() + self.settings.deadline);
        }
        let over = match self.link.poll_half_close(cx) {
            Poll::Pending => false,
            Poll::Ready(Err(_)) => true,
            Poll::Ready(Ok(())) => self.link.poll_answer(cx).is_ready(),
        };
        // A node that does not close its half is left to itself: it has answered everything.
        if over || self.sleep.as_mut().poll(cx).is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// The connection is over: what was written is unknown, what was not goes back.
    fn abandon(mut self, why: &Arc<str>) {
        self.report();
        for run in self.runs {
            match run {
                Run::Put { copies, next, to } => {
                    let unknown = (next..to).map(|job| (job, PutOutcome::Unknown));
                    copies.report(self.node.index(), unknown);
                }
                Run::Ask(reply) => {
                    let _ = reply.send(Err(AskError::Unknown {
                        endpoint: self.node.endpoint().clone(),
                        why: why.clone(),
                    }));
                }
                Run::Greeting | Run::Use | Run::Discard => {}
            }
        }
        for work in self.queue.into_iter().chain(self.fresh) {
            self.node.refuse(work);
        }
    }
}

/// Whole seconds until the job is due, rounded down: a consumer of this library holds the rest. Rounded up for consumers that do not
/// look.
fn delay(job: &Job, now: WallTime) -> u32 {
    if job.round_up {
        go_queue::delay(job.due, now)
    } else {
        u32::try_from(job.due.since(now).as_secs()).unwrap_or(u32::MAX)
    }
}

fn wrong(line: &str) -> LinkError {
    LinkError::Answer(DecodeError::Unexpected {
        expect: super::codec::Expect::Put,
        line: line.to_owned(),
    })
}
