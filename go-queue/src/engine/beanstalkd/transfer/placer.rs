//! What claim-and-transfer needs of the engine: an end of the private tube, and a place for records.

use std::sync::Arc;

use bytes::BytesMut;

use super::super::receive::{self, Framing};
use super::super::{ENGINE, Shared};
use super::{MixedFleet, Records, private_tube};
use crate::engine::{BoxFuture, EngineError, Outgoing, PublishError, Receive, Subscribe};
use crate::name::{Name, Place};

/// Opens one end of a tube that Go workers share.
///
/// # Errors
/// If there is no dedup store that knows the locks of the Go library, or the name of the tube is too long.
pub(in crate::engine::beanstalkd) fn open(
    engine: &Arc<Shared>,
    to: &Subscribe,
) -> Result<Box<dyn Receive>, EngineError> {
    let shared = to.place.name().clone();
    let locks = engine.marks.as_ref().and_then(|marks| marks.go_locks());
    let Some(locks) = locks else {
        return Err(EngineError::Unusable {
            engine: ENGINE,
            what: format!("share the tube `{shared}` with Go workers"),
            why: Arc::from(
                "they decide in Redis who runs a task; name theirs: `dq: { redis: { host: .. } }`",
            ),
        });
    };
    let private = Subscribe {
        place: Place::Tube(private_tube(&shared)?),
        ..to.clone()
    };
    let private = receive::open(engine.site.clone(), &private, Framing::Native)?;
    MixedFleet {
        shared,
        endpoints: engine.config.endpoints.clone(),
        connect_timeout: engine.config.connect_timeout,
        records: Arc::new(Placer(Arc::clone(engine))),
        locks,
        clock: engine.clock.clone(),
    }
    .open(private)
}

/// Stores records on the nodes.
#[derive(Debug)]
struct Placer(Arc<Shared>);

impl Records for Placer {
    fn store(&self, records: Vec<Outgoing>) -> BoxFuture<'_, Vec<Result<(), PublishError>>> {
        Box::pin(self.0.store_records(records))
    }
}

impl Shared {
    /// Stores records. Where the quorum is missed nothing is taken back and nothing is marked: the same record comes again, and
    /// a mark would stop that one as well.
    async fn store_records(&self, records: Vec<Outgoing>) -> Vec<Result<(), PublishError>> {
        let now = self.clock.now();
        let mut buffer = BytesMut::new();
        let mut answers = Vec::with_capacity(records.len());
        let mut jobs = Vec::with_capacity(records.len());
        let mut whose: Vec<(usize, Name, usize)> = Vec::with_capacity(records.len());
        for (at, record) in records.iter().enumerate() {
            match self.pack(record, now, &mut buffer) {
                Ok((_, job)) => {
                    whose.push((at, job.tube.clone(), job.body.len()));
                    jobs.push(job);
                    answers.push(Ok(()));
                }
                Err(error) => answers.push(Err(error)),
            }
        }
        if jobs.is_empty() {
            return answers;
        }
        match self.store(jobs, false).await {
            Err(why) => {
                for (at, ..) in whose {
                    answers[at] = Err(self.not_placed(why));
                }
            }
            Ok(placed) => {
                for (nth, (at, tube, size)) in whose.iter().enumerate() {
                    if placed.standing(nth).stored.len() < self.quorum {
                        answers[*at] = Err(self.failure(&placed, nth, tube, *size, true));
                    }
                }
            }
        }
        answers
    }
}
