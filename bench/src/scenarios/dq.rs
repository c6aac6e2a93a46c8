//! What the benches of tasks on beanstalkd share: the servers as a contender sees them, and our worker and producer, set up by YAML
//! as a user would.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use go_queue::app::{App, Running};
use go_queue::handlers;
use go_queue::prelude::*;
use tokio::sync::Notify;

use crate::beanstalkd::Connection;
use crate::figures::{Figures, Stopwatch, count};
use crate::serve::Parameters;

/// The tube of all these benches.
pub(super) const TUBE: &str = "bench";

/// Longer than anything here takes.
const A_MINUTE: Duration = Duration::from_secs(60);

/// The row of the peer.
pub(super) const GO: &str = "Go library";

/// The folder of the peer.
pub(super) const GO_PEER: &str = "go-queue";

/// CPU-seconds for a million tasks: of all nodes together, and of Redis.
pub(super) const SERVER_COLUMNS: [&str; 2] = ["nodes/M", "redis/M"];

/// The same work for everybody: about 100 bytes as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mail {
    user: u64,
    subject: String,
    text: String,
}

pub(super) const MAILS: Tube<Mail> = Tube::new(TUBE);

pub(super) fn mail(user: u64) -> Mail {
    Mail {
        user,
        subject: "Your order is on its way".to_owned(),
        text: "It will be there tomorrow morning.".to_owned(),
    }
}

/// How many tasks have run, and how many are to run.
static RAN: AtomicU64 = AtomicU64::new(0);
static WANTED: AtomicU64 = AtomicU64::new(0);
static ALL_RAN: Notify = Notify::const_new();

fn one_ran() {
    if RAN.fetch_add(1, Ordering::Relaxed) + 1 == WANTED.load(Ordering::Relaxed) {
        ALL_RAN.notify_one();
    }
}

#[dq_handler(tube = "bench")]
async fn nothing(mail: Mail) {
    std::hint::black_box(&mail);
    one_ran();
}

#[dq_handler(tube = "bench")]
async fn one_millisecond(mail: Mail) {
    std::hint::black_box(&mail);
    tokio::time::sleep(Duration::from_millis(1)).await;
    one_ran();
}

/// The servers that the driver has started for this run.
#[derive(Debug)]
pub(super) struct Cluster {
    nodes: Vec<String>,
    node_pids: Vec<u32>,
    redis: Option<String>,
    redis_pid: Vec<u32>,
}

impl Cluster {
    pub(super) fn of(parameters: &Parameters) -> Result<Self, String> {
        let nodes: Vec<String> = owned(&parameters.list("nodes"));
        if nodes.is_empty() {
            return Err("nodes=? was not said".to_owned());
        }
        let pids = |name: &str| -> Result<Vec<u32>, String> {
            let pids = parameters.list(name).into_iter().map(str::parse);
            pids.collect::<Result<_, _>>()
                .map_err(|_| format!("{name}: not a process"))
        };
        Ok(Self {
            nodes,
            node_pids: pids("node_pids")?,
            redis: owned(&parameters.list("redis")).pop(),
            redis_pid: pids("redis_pid")?,
        })
    }

    /// The endpoint of the first node.
    pub(super) fn node(&self) -> &str {
        &self.nodes[0]
    }

    /// Leaves the other nodes idle.
    pub(super) fn keep_one_node(&mut self) {
        self.nodes.truncate(1);
        self.node_pids.truncate(1);
    }

    /// The configuration of a program of ours; `dq` adds to its section, and `handlers` is another.
    fn config(&self, dq: &str, handlers: &str) -> String {
        let nodes = self.nodes.join("\", \"");
        let store = match &self.redis {
            Some(redis) => format!("redis: {{ host: \"{redis}\" }}"),
            None => "dedup: off".to_owned(),
        };
        format!(
            "name: bench\nlog: {{ level: warn }}\ndq:\n  beanstalks: [\"{nodes}\"]\n  {store}\n  {dq}\n{handlers}\n"
        )
    }

    /// A producer of ours; `dq` adds a line to its section.
    pub(super) async fn producer(&self, dq: &str) -> Result<Producer, String> {
        write("producer.yaml", &self.config(dq, ""))?;
        let producer = Producer::open("producer.yaml").await;
        producer.map_err(|error| format!("{error:?}"))
    }

    /// A worker of ours that is to run so many tasks, each for a millisecond or not at all; without a concurrency with the default.
    async fn worker(&self, sleeps: bool, concurrency: Option<u64>) -> Result<Running, String> {
        let (name, handlers) = if sleeps {
            ("one_millisecond", handlers![one_millisecond])
        } else {
            ("nothing", handlers![nothing])
        };
        let options = concurrency.map_or_else(String::new, |concurrency| {
            format!("handlers: {{ {name}: {{ concurrency: {concurrency} }} }}")
        });
        write("worker.yaml", &self.config("", &options))?;
        let app = App::new().config("worker.yaml").handlers(handlers);
        app.start().await.map_err(|error| format!("{error:?}"))
    }

    /// Puts a backlog there, and returns when all its replicas are.
    pub(super) async fn fill(&self, tasks: u64) -> Result<(), String> {
        let replicas = self.nodes.len().min(3) as u64;
        // Whoever else is busy on this machine, the backlog is whole: the time is not measured.
        let all = format!("write_quorum: {replicas}\n  deadline: 10s");
        let producer = self.producer(&all).await?;
        let sent = producer
            .send_all((0..tasks).map(|user| MAILS.now(mail(user))))
            .await;
        for result in sent {
            result.map_err(|error| error.to_string())?;
        }
        self.until_jobs(tasks * replicas, A_MINUTE)
    }

    /// Runs a backlog that is there with a worker of ours. Ends when the last task has run and no node holds a replica any more.
    pub(super) async fn drain(
        &self,
        tasks: u64,
        sleeps: bool,
        concurrency: Option<u64>,
    ) -> Result<Figures, String> {
        RAN.store(0, Ordering::Relaxed);
        WANTED.store(tasks, Ordering::Relaxed);
        let watch = self.watch()?;
        let running = self.worker(sleeps, concurrency).await?;
        let all = tokio::time::timeout(2 * A_MINUTE, ALL_RAN.notified()).await;
        if all.is_err() {
            return Err(format!(
                "{tasks} tasks, but {} ran",
                RAN.load(Ordering::Relaxed)
            ));
        }
        tokio::task::block_in_place(|| self.until_jobs(0, A_MINUTE))?;
        let figures = watch.figures(tasks)?;
        let stopped = running.stop(Duration::from_secs(10)).await;
        stopped.map_err(|error| format!("{error:?}"))?;
        let again = RAN.load(Ordering::Relaxed) - tasks;
        Ok(figures.with("again", count(again)))
    }

    /// How many jobs all nodes hold together.
    pub(super) fn jobs(&self) -> Result<u64, String> {
        let jobs = |node: &String| Connection::open(node)?.jobs(TUBE);
        self.nodes.iter().map(jobs).sum()
    }

    /// Returns when the nodes hold so many jobs together; an error if they do not in time.
    pub(super) fn until_jobs(&self, wanted: u64, within: Duration) -> Result<(), String> {
        let mut nodes = Vec::new();
        for node in &self.nodes {
            nodes.push(Connection::open(node)?);
        }
        let began = Instant::now();
        loop {
            let mut jobs = 0;
            for node in &mut nodes {
                jobs += node.jobs(TUBE)?;
            }
            if jobs == wanted {
                return Ok(());
            }
            if began.elapsed() > within {
                return Err(format!("{jobs} jobs after {within:?}, not {wanted}"));
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// Measures from now on.
    pub(super) fn watch(&self) -> Result<ClusterWatch<'_>, String> {
        Ok(ClusterWatch {
            cluster: self,
            nodes: server_time(&self.node_pids)?,
            redis: server_time(&self.redis_pid)?,
            own: Stopwatch::start(),
        })
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn write(file: &str, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{file}: {error}"))
}

/// Measures this process and the servers.
#[derive(Debug)]
pub(super) struct ClusterWatch<'a> {
    cluster: &'a Cluster,
    nodes: Duration,
    redis: Duration,
    own: Stopwatch,
}

impl ClusterWatch<'_> {
    pub(super) fn figures(&self, messages: u64) -> Result<Figures, String> {
        let figures = self.own.figures(messages);
        let nodes = server_time(&self.cluster.node_pids)?.saturating_sub(self.nodes);
        let redis = server_time(&self.cluster.redis_pid)?.saturating_sub(self.redis);
        let per_million = |time: Duration| time.as_secs_f64() * 1e6 / count(messages).max(1.0);
        let figures = figures.with(SERVER_COLUMNS[0], per_million(nodes));
        Ok(figures.with(SERVER_COLUMNS[1], per_million(redis)))
    }
}

/// CPU time of the main threads of these processes; beanstalkd has no other, and those of Redis sleep.
fn server_time(pids: &[u32]) -> Result<Duration, String> {
    let time = |pid: &u32| {
        let file = format!("/proc/{pid}/schedstat");
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        let nanos = text.split(' ').next().and_then(|text| text.parse().ok());
        nanos
            .map(Duration::from_nanos)
            .ok_or_else(|| format!("{file}: not understood"))
    };
    pids.iter().map(time).sum()
}
